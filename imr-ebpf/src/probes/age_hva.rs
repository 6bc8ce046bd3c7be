//! The host looks whether the guest has used a page (reclaim's rmap walk, DAMON, page_idle).
//!
//! kprobes kvm_mmu_notifier_clear_flush_young and _clear_young (mn, mm, start, end): the notifier inside `struct kvm`
//! says whose page it is. Where kprobes are missing, raw_tp kvm_age_hva(start, end), which both of them call: matched by
//! address like `unmap_hva`, and without effect where processes use the same addresses, as large ones soon do.
//!
//! An SPTE that loses its accessed bit does so inside these calls and in their thread (virt/kvm/kvm_main.c, 6.1 to
//! 6.18), so `AGING` needs no end: the thread's next look replaces it. kvm_test_age_hva changes nothing and is not used.

use aya_ebpf::{
    EbpfContext,
    macros::{kprobe, raw_tracepoint},
    programs::{ProbeContext, RawTracePointContext},
};

use super::notifier;
use crate::{
    cpu,
    maps::AGING,
    slots::{self, Change, Owner},
};

#[kprobe]
fn clear_flush_young(ctx: ProbeContext) -> u32 {
    age_notified(&ctx);
    0
}

#[kprobe]
fn clear_young(ctx: ProbeContext) -> u32 {
    age_notified(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "kvm_age_hva")]
fn kvm_age_hva(ctx: RawTracePointContext) -> i32 {
    let start = ctx.arg::<u64>(0);
    let end = ctx.arg::<u64>(1);
    let vm = match slots::owner_of_hva(start, end) {
        Owner::One(vm) => Some(vm),
        Owner::None | Owner::Ambiguous => None,
    };
    age(ctx.pid(), vm, start, end);
    0
}

#[inline(always)]
fn age_notified(ctx: &ProbeContext) {
    if let (Some(start), Some(end)) = (ctx.arg::<u64>(2), ctx.arg::<u64>(3)) {
        age(ctx.pid(), notifier::notified_vm(ctx), start, end);
    }
}

#[inline(always)]
fn age(tid: u32, vm: Option<u32>, start: u64, end: u64) {
    cpu::count(|t| t.ages += 1);
    // SAFETY: a u32 read in one load, of this thread's own element.
    let before = unsafe { AGING.get(tid) }.copied();
    let Some(vm) = vm else {
        if before.is_some() {
            // Fails when the map has just dropped it by itself.
            let _ = AGING.remove(tid);
        }
        return;
    };
    if before != Some(vm) && AGING.insert(tid, vm, 0).is_err() {
        cpu::count(|t| t.table_full += 1);
    }
    slots::change_hva(vm, start, end, Change::Age);
}
