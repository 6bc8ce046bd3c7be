//! raw_tp kvm_page_fault(vcpu, fault_address, error_code), Linux 6.1 and later: counts faults, notices VMs that are
//! not registered yet and slots that have changed.
//!
//! It attributes nothing to blocks: under shadow paging the address is a guest virtual one. `set_spte` does that.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use imr_common::host_abi::EVENT_SLOTS_CHANGED;

use crate::{
    atomic, cpu,
    emit::{self, SeenBy},
    kernel::{self, layout},
    vms::{self, field},
};

#[raw_tracepoint(tracepoint = "kvm_page_fault")]
fn kvm_page_fault(ctx: RawTracePointContext) -> i32 {
    cpu::count(|t| t.page_faults += 1);
    if attribute(&ctx).is_none() {
        cpu::count(|t| t.page_faults_unattributed += 1);
    }
    0
}

#[inline(always)]
fn attribute(ctx: &RawTracePointContext) -> Option<()> {
    let vcpu = kernel::argument(ctx, layout!(arg_fault_vcpu))?;
    let kvm = kernel::kvm_of_vcpu(vcpu)?;
    let Some(vm) = vms::of_kvm(kvm) else {
        emit::vm_seen(kvm, SeenBy::Fault);
        return None;
    };
    atomic::add64(field!(vm, page_faults), 1);

    let generation = kernel::generation_of(kernel::memslots_of(kvm)?)?;
    let seen = field!(vm, memslots_generation);
    // The exchange makes one of the vCPUs that see the change at once the one that tells.
    if atomic::load64(seen) != generation && atomic::exchange64(seen, generation) != generation {
        let vm = vms::index(vm);
        aya_log_ebpf::debug!(ctx, "vm {}: memslots generation {}", vm, generation);
        emit::event(EVENT_SLOTS_CHANGED, vm, kvm, [generation, 0, 0, 0, 0]);
    }
    Some(())
}
