//! The only writer of the ring buffer. Whatever does not fit is counted in `Totals::events_lost`.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use imr_common::host_abi::{EVENT_VM_SEEN, Event, NO_VM};

use crate::{
    cpu,
    maps::{EVENTS, SEEN},
};

/// At most one `EVENT_VM_SEEN` a VM in this time on account of faults, ns.
const SEEN_FAULT_INTERVAL_NS: u64 = 1_000_000_000;
/// At most one in this time on account of calls, ns: prompt, and still no way for a guest to fill the buffer.
const SEEN_CALL_INTERVAL_NS: u64 = 10_000_000;

/// Why an unregistered VM was noticed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum SeenBy {
    /// A page fault.
    Fault,
    /// A proven call.
    Call,
}

/// Sends an event of the current task.
#[inline(always)]
pub fn event(kind: u32, vm: u32, kvm: u64, args: [u64; 5]) {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        cpu::count(|t| t.events_lost += 1);
        return;
    };
    let id = bpf_get_current_pid_tgid();
    entry.write(Event {
        kind,
        vm,
        time_ns: cpu::now_ns(),
        kvm,
        tgid: (id >> 32) as u32,
        tid: id as u32,
        args,
    });
    entry.submit(0);
}

/// Sends `EVENT_VM_SEEN`, unless one has just been sent for this VM.
#[inline(always)]
pub fn vm_seen(kvm: u64, by: SeenBy) {
    // `struct kvm` is at least 8-byte aligned, so that bit 0 tells the two rates apart.
    let (key, interval) = match by {
        SeenBy::Fault => (kvm, SEEN_FAULT_INTERVAL_NS),
        SeenBy::Call => (kvm | 1, SEEN_CALL_INTERVAL_NS),
    };
    let now = cpu::now_ns();
    // SAFETY: the value is a u64 read in one load; a recycled element at worst delays one event.
    let last = unsafe { SEEN.get(key) }.copied();
    if let Some(last) = last
        && now.wrapping_sub(last) < interval
    {
        return;
    }
    if SEEN.insert(key, now, 0).is_err() {
        cpu::count(|t| t.table_full += 1);
    }
    event(EVENT_VM_SEEN, NO_VM, kvm, [0; 5]);
}
