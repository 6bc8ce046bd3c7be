//! kprobes kvm_mmu_notifier_invalidate_range_start and _end (mn, range): the host is taking memory from a VM, and the
//! notifier inside `struct kvm` says from which one. The bare tracepoint kvm_unmap_hva_range does not.
//!
//! Blocks are cleared at the end: from start to end KVM lets no vCPU map the range again
//! (virt/kvm/kvm_main.c, mmu_invalidate_in_progress), so a fault that was under way at the start cannot be missed.

use aya_ebpf::{EbpfContext, macros::kprobe, programs::ProbeContext};
use imr_common::host_abi::NO_OFFSET;

use crate::{
    cpu,
    kernel::{self, layout},
    maps::NOTIFYING,
    slots, vms,
};

#[kprobe]
fn notifier_start(ctx: ProbeContext) -> u32 {
    cpu::count(|t| t.unmaps += 1);
    if let Some(vm) = notified_vm(&ctx)
        && NOTIFYING.insert(ctx.pid(), vm, 0).is_err()
    {
        cpu::count(|t| t.table_full += 1);
    }
    0
}

#[kprobe]
fn notifier_end(ctx: ProbeContext) -> u32 {
    // Fails when the VM is not registered, which is the rule on a host that runs other VMs.
    let _ = NOTIFYING.remove(ctx.pid());
    let (Some(vm), Some(range)) = (notified_vm(&ctx), ctx.arg::<u64>(1)) else { return 0 };
    let start: Option<u64> = kernel::read(range, layout!(range_start));
    let end: Option<u64> = kernel::read(range, layout!(range_end));
    if let (Some(start), Some(end)) = (start, end) {
        slots::unmap(vm, start, end);
    }
    0
}

/// The registered VM whose notifier is called; argument 0 is the `struct mmu_notifier` inside its `struct kvm`.
#[inline(always)]
pub(super) fn notified_vm(ctx: &ProbeContext) -> Option<u32> {
    let offset = layout!(kvm_mmu_notifier);
    if offset == NO_OFFSET {
        return None;
    }
    let notifier = ctx.arg::<u64>(0)?;
    vms::of_kvm(notifier.wrapping_sub(u64::from(offset))).map(vms::index)
}
