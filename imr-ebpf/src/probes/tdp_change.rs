//! raw_tp kvm_tdp_mmu_spte_changed(as_id, gfn, level, old, new): a leaf SPTE that goes from present to not present was
//! zapped, by whatever. Installing is `set_spte`'s.
//!
//! The VM is that of the notifier invalidation the thread is running (it may be any process: kswapd, ksmd, the process
//! that punches), else that of the process. Address space 1 is SMM and shows the same frames again: ignored.

use aya_ebpf::{EbpfContext, macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    atomic, kernel,
    maps::{NOTIFYING, VMS},
    slots, totals,
};

/// SPTE_MMU_PRESENT_MASK (arch/x86/kvm/mmu/spte.h, 5.13 and later). The "removed"/"frozen" marker 0x5a0 lacks it.
const SPTE_MMU_PRESENT: u64 = 1 << 11;
/// PT_PAGE_SIZE_MASK: a leaf above level 1.
const SPTE_LARGE: u64 = 1 << 7;

#[raw_tracepoint(tracepoint = "kvm_tdp_mmu_spte_changed")]
fn kvm_tdp_mmu_spte_changed(ctx: RawTracePointContext) -> i32 {
    let address_space = ctx.arg::<u32>(0);
    let gfn = ctx.arg::<u64>(1);
    let level = ctx.arg::<u32>(2);
    let old = ctx.arg::<u64>(3);
    let new = ctx.arg::<u64>(4);
    let was_leaf = old & SPTE_MMU_PRESENT != 0 && (level == 1 || old & SPTE_LARGE != 0);
    if address_space != 0 || !was_leaf || new & SPTE_MMU_PRESENT != 0 {
        return 0;
    }
    totals::count(|t| t.sptes_zapped += 1);
    // SAFETY: a u32 read in one load; a recycled element can only be another thread's VM index.
    let notifying = unsafe { NOTIFYING.get(ctx.pid()) }.copied();
    let Some(vm) = notifying.or_else(|| kernel::vm_of_tgid(ctx.tgid())) else {
        totals::count(|t| t.sptes_zapped_unattributed += 1);
        return 0;
    };
    if let Some(record) = VMS.get_ptr_mut(vm) {
        // SAFETY: a field of a map value that the verifier has seen to be there.
        atomic::add64(unsafe { &raw mut (*record).sptes_zapped }, 1);
    }
    slots::mark_zapped(vm, gfn, level);
    0
}
