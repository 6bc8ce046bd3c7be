//! raw_tp kvm_age_hva(start, end): the host looks whether the guest has used a page (reclaim's rmap walk). It carries
//! no VM; matched by address like `unmap_hva`.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    slots::{self, Change, Owner},
    totals,
};

#[raw_tracepoint(tracepoint = "kvm_age_hva")]
fn kvm_age_hva(ctx: RawTracePointContext) -> i32 {
    totals::count(|t| t.ages += 1);
    let start = ctx.arg::<u64>(0);
    let end = ctx.arg::<u64>(1);
    if let Owner::One(vm) = slots::owner_of_hva(start, end) {
        slots::change_hva(vm, start, end, Change::Age);
    }
    0
}
