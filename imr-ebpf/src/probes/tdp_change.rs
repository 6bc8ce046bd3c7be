//! raw_tp kvm_tdp_mmu_spte_changed(as_id, gfn, level, old, new): a leaf SPTE that goes from present to not present was
//! zapped, by whatever; one that stays and loses its accessed bit was found accessed by an idleness scan. Installing is
//! `set_spte`'s.
//!
//! The VM of a zap is that of the notifier invalidation the thread is running (it may be any process: kswapd, ksmd, the
//! process that punches), else that of the process; of a scan, that of `age_hva`. Address space 1 is SMM and shows the
//! same frames again: ignored.
//!
//! With shadow page tables a scan goes by the rmaps, which trace nothing (mmu.c, kvm_age_rmap, all versions): whether a
//! block is idle shows there by its `last_map` only.

use aya_ebpf::{EbpfContext, macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    atomic, cpu,
    maps::{AGING, NOTIFYING},
    slots,
    vms::{self, field},
};

/// SPTE_MMU_PRESENT_MASK (arch/x86/kvm/mmu/spte.h, 5.13 and later). The "removed"/"frozen" marker 0x5a0 lacks it.
const SPTE_MMU_PRESENT: u64 = 1 << 11;
/// PT_PAGE_SIZE_MASK: a leaf above level 1.
const SPTE_LARGE: u64 = 1 << 7;
/// SPTE_BASE_ADDR_MASK, the frame that is mapped, as far as addresses reach.
const SPTE_FRAME: u64 = 0x000f_ffff_ffff_f000;
/// Bits of which a scan clears one while frame and presence stay (tdp_mmu.c: age_gfn_range, through __handle_changed_spte
/// in 6.1, tracing by itself in 6.12; kvm_tdp_mmu_age_spte in 6.18). 5: Accessed of x86 page tables and NPT; 8:
/// Accessed of EPT; 0: Readable of EPT without accessed bits, where mark_spte_for_access_track takes all access away.
/// The one that this host uses, shadow_accessed_mask, cannot be read here. In the other formats bit 8 is Global, which
/// KVM never sets, and bit 5 part of the memory type, which does not change in place.
const SPTE_ACCESSED: u64 = 1 << 5 | 1 << 8 | 1;

#[raw_tracepoint(tracepoint = "kvm_tdp_mmu_spte_changed")]
fn kvm_tdp_mmu_spte_changed(ctx: RawTracePointContext) -> i32 {
    let address_space = ctx.arg::<u32>(0);
    let gfn = ctx.arg::<u64>(1);
    let level = ctx.arg::<u32>(2);
    let old = ctx.arg::<u64>(3);
    let new = ctx.arg::<u64>(4);
    let was_leaf = old & SPTE_MMU_PRESENT != 0 && (level == 1 || old & SPTE_LARGE != 0);
    if address_space != 0 || !was_leaf {
        return 0;
    }
    if new & SPTE_MMU_PRESENT != 0 {
        let same_leaf = (old ^ new) & (SPTE_FRAME | SPTE_LARGE) == 0;
        if same_leaf && old & !new & SPTE_ACCESSED != 0 {
            young(&ctx, gfn, level);
        }
        return 0;
    }
    cpu::count(|t| t.sptes_zapped += 1);
    // SAFETY: a u32 read in one load; a recycled element can only be another thread's VM index.
    let notifying = unsafe { NOTIFYING.get(ctx.pid()) }.copied();
    let vm = match notifying {
        Some(index) => vms::at(index),
        None => vms::of_process(ctx.tgid()),
    };
    let Some(vm) = vm else {
        cpu::count(|t| t.sptes_zapped_unattributed += 1);
        return 0;
    };
    atomic::add64(field!(vm, sptes_zapped), 1);
    slots::mark_zapped(vms::index(vm), gfn, level);
    0
}

#[inline(always)]
fn young(ctx: &RawTracePointContext, gfn: u64, level: u32) {
    // SAFETY: a u32 read in one load; a recycled element can only be another thread's VM index.
    if let Some(vm) = unsafe { AGING.get(ctx.pid()) }.copied() {
        slots::mark_young(vm, gfn, level);
    }
}
