//! raw_tp kvm_unmap_hva_range(start, end): stands in where the notifier kprobes are missing. It carries no VM, so the
//! range is matched by address over all registered VMs; a range that matches several changes nothing and is counted.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};

use crate::{
    cpu,
    slots::{self, Owner},
};

#[raw_tracepoint(tracepoint = "kvm_unmap_hva_range")]
fn kvm_unmap_hva_range(ctx: RawTracePointContext) -> i32 {
    cpu::count(|t| t.unmaps += 1);
    let start = ctx.arg::<u64>(0);
    let end = ctx.arg::<u64>(1);
    match slots::owner_of_hva(start, end) {
        Owner::One(vm) => {
            slots::unmap(vm, start, end);
        }
        Owner::Ambiguous => cpu::count(|t| t.unmaps_ambiguous += 1),
        Owner::None => {}
    }
    0
}
