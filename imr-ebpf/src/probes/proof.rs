//! Who made a hypercall with our number: KVM answers -KVM_ENOSYS to a guest kernel and -KVM_EPERM to anybody else, and
//! leaves the answer in the vCPU's RAX.
//!
//! kprobe and kretprobe kvm_emulate_hypercall(vcpu); where kprobes are missing, raw_tp kvm_entry(vcpu, ...), the next
//! thing that happens to the vCPU. Only a proven call becomes an event. A thread runs one call at a time, so an entry
//! of `PENDING` that is left over from a missed return is cleared by the next entry and never proves anything.

use aya_ebpf::{
    EbpfContext,
    macros::{kprobe, kretprobe, raw_tracepoint},
    programs::{ProbeContext, RawTracePointContext, RetProbeContext},
};
use imr_common::{
    guest_abi::{HYPERCALL_NR, RET_ENOSYS, RET_EPERM},
    host_abi::{CALLS_PER_SECOND, EVENT_CALL},
};

use crate::{
    atomic, cpu,
    emit::{self, SeenBy},
    fingerprint,
    kernel::{self, layout},
    maps::{PENDING, Pending},
    vms::{self, Vm, field},
};

/// Length of the rate limit's window, ns.
const SECOND_NS: u64 = 1_000_000_000;

#[kprobe]
fn hypercall_entry(ctx: ProbeContext) -> u32 {
    let tid = ctx.pid();
    let Some(vcpu) = ctx.arg::<u64>(0) else { return 0 };
    if kernel::rax_of_vcpu(vcpu) != Some(HYPERCALL_NR) {
        // Fails when there is nothing left over, which is the rule.
        let _ = PENDING.remove(tid);
        return 0;
    }
    let pending = Pending { vcpu, op: 0, a1: 0, a2: 0, armed: 0 };
    if PENDING.insert(tid, pending, 0).is_err() {
        cpu::count(|t| t.table_full += 1);
    }
    0
}

#[kretprobe]
fn hypercall_return(ctx: RetProbeContext) -> u32 {
    let tid = ctx.pid();
    // SAFETY: the element is this thread's, copied before it is removed.
    let Some(pending) = (unsafe { PENDING.get(tid) }).copied() else { return 0 };
    let _ = PENDING.remove(tid);
    if pending.armed == 1 {
        decide(pending.vcpu, &pending);
    } else {
        // Answered by the Xen or Hyper-V emulation, which has numbers of its own.
        cpu::count(|t| t.calls_unproven += 1);
    }
    0
}

#[raw_tracepoint(tracepoint = "kvm_entry")]
fn kvm_entry(ctx: RawTracePointContext) -> i32 {
    let tid = ctx.pid();
    // SAFETY: as in `hypercall_return`.
    let Some(pending) = (unsafe { PENDING.get(tid) }).copied() else { return 0 };
    let _ = PENDING.remove(tid);
    match kernel::argument(&ctx, layout!(arg_entry_vcpu)) {
        Some(vcpu) => decide(vcpu, &pending),
        None => cpu::count(|t| t.calls_unproven += 1),
    }
    0
}

/// Reads KVM's answer and acts on it.
#[inline(always)]
fn decide(vcpu: u64, call: &Pending) {
    let (Some(answer), Some(kvm)) = (kernel::rax_of_vcpu(vcpu), kernel::kvm_of_vcpu(vcpu)) else {
        cpu::count(|t| t.calls_unproven += 1);
        return;
    };
    let vm = vms::of_kvm(kvm);
    if answer == RET_ENOSYS as u64 {
        match vm {
            Some(vm) => report(vm, kvm, call),
            None => {
                cpu::count(|t| t.calls_unattributed += 1);
                emit::vm_seen(kvm, SeenBy::Call);
            }
        }
    } else if answer as u32 == RET_EPERM as u32 {
        // The upper half is cut off for a caller in 32-bit mode.
        if let Some(vm) = vm {
            atomic::add64(field!(vm, denied_calls), 1);
        }
    } else {
        cpu::count(|t| t.calls_unproven += 1);
    }
}

/// Sends a proven call, unless the VM has had its share of this second.
#[inline(always)]
fn report(vm: Vm, kvm: u64, call: &Pending) {
    atomic::add64(field!(vm, calls), 1);
    let start = field!(vm, window_start_ns);
    let count = field!(vm, window_calls);
    let now = cpu::now_ns();
    if now.wrapping_sub(atomic::load64(start)) >= SECOND_NS {
        // Two vCPUs may both begin the window: at worst it lets one call too many through.
        atomic::store64(start, now);
        atomic::store64(count, 0);
    }
    if atomic::fetch_add64(count, 1) >= CALLS_PER_SECOND {
        atomic::add64(field!(vm, limited_calls), 1);
        return;
    }
    let generation = atomic::load64(field!(vm, reset_generation));
    let fingerprint = fingerprint::of_current();
    emit::event(EVENT_CALL, vms::index(vm), kvm, [call.op, call.a1, call.a2, generation, fingerprint]);
}
