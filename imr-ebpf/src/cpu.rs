//! What this CPU keeps for itself: the counters that belong to no VM, a clock that costs little, whose the newest event was.
//!
//! Nobody else on this CPU has the record while a program runs, since tracepoint and kprobe programs run with preemption
//! off: plain loads and stores are enough. User space sums the counters up.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_ns};
use imr_common::host_abi::{CpuRecord, Totals};

use crate::maps::CPUS;

/// This CPU's record.
#[inline(always)]
pub fn record() -> Option<&'static mut CpuRecord> {
    // SAFETY: the map lives as long as the program, and the rest is said above. No caller keeps it while another takes it.
    CPUS.get_ptr_mut(0).map(|record| unsafe { &mut *record })
}

/// Lets `update` change this CPU's counters.
#[inline(always)]
pub fn count(update: impl FnOnce(&mut Totals)) {
    if let Some(record) = record() {
        update(&mut record.totals);
    }
}

/// CLOCK_MONOTONIC, ns.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: the helper takes no argument.
    unsafe { bpf_ktime_get_ns() }
}

/// CLOCK_MONOTONIC at some time since the last tick of the kernel, ns: reading the clock itself takes ten times as long.
///
/// The kernel's own coarse clock (`bpf_ktime_get_coarse_ns`) is not for tracing programs: they could interrupt its writer.
#[inline(always)]
pub fn tick_ns() -> u64 {
    // SAFETY: the helper takes no argument.
    let jiffies = unsafe { bpf_jiffies64() };
    let Some(record) = record() else { return now_ns() };
    if record.jiffies != jiffies {
        record.jiffies = jiffies;
        record.jiffy_ns = now_ns();
    }
    record.jiffy_ns
}
