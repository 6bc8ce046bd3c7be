//! The counters that belong to no VM. Per CPU, so a plain add is enough; user space sums them up.

use imr_common::host_abi::Totals;

use crate::maps::TOTALS;

/// Lets `update` change this CPU's counters.
#[inline(always)]
pub fn count(update: impl FnOnce(&mut Totals)) {
    if let Some(totals) = TOTALS.get_ptr_mut(0) {
        // SAFETY: the map has one element a CPU, and tracepoint and kprobe programs run with preemption off, so
        // nobody else on this CPU has it.
        update(unsafe { &mut *totals });
    }
}
