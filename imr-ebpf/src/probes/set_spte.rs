//! raw_tp kvm_mmu_set_spte(level, gfn, sptep): a leaf SPTE was installed, by the shadow MMU or the TDP MMU. The frame
//! is guest-physical in both. The VM is the one of the running process: KVM installs SPTEs in vCPU threads.

use aya_ebpf::{EbpfContext, macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    atomic, cpu, slots,
    vms::{self, field},
};

#[raw_tracepoint(tracepoint = "kvm_mmu_set_spte")]
fn kvm_mmu_set_spte(ctx: RawTracePointContext) -> i32 {
    cpu::count(|t| t.sptes_set += 1);
    let level = ctx.arg::<u32>(0);
    let gfn = ctx.arg::<u64>(1);
    let Some(vm) = vms::of_process(ctx.tgid()) else {
        cpu::count(|t| t.sptes_set_unattributed += 1);
        return 0;
    };
    atomic::add64(field!(vm, sptes_set), 1);
    let vm = vms::index(vm);
    if !slots::mark_mapped(vm, gfn, level) {
        aya_log_ebpf::debug!(&ctx, "vm {}: gfn {:x} level {} is in no followed slot", vm, gfn, level);
    }
    0
}
