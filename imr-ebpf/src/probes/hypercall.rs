//! raw_tp kvm_hypercall(nr, a0, a1, a2, a3): counts hypercalls and keeps the arguments of ours until `proof` knows who
//! made the call. KVM traces before it checks the privilege level (arch/x86/kvm/x86.c, kvm_emulate_hypercall), so
//! nothing is believed here.

use aya_ebpf::{EbpfContext, macros::raw_tracepoint, programs::RawTracePointContext};
use imr_common::guest_abi::HYPERCALL_NR;

use crate::{
    atomic, cpu,
    kernel::layout,
    maps::{PENDING, Pending},
    vms::{self, field},
};

#[raw_tracepoint(tracepoint = "kvm_hypercall")]
fn kvm_hypercall(ctx: RawTracePointContext) -> i32 {
    cpu::count(|t| t.hypercalls += 1);
    if let Some(vm) = vms::of_process(ctx.tgid()) {
        atomic::add64(field!(vm, hypercalls), 1);
    }
    if ctx.arg::<u64>(0) != HYPERCALL_NR {
        return 0;
    }
    let tid = ctx.pid();
    let mut pending = Pending { vcpu: 0, op: ctx.arg(1), a1: ctx.arg(2), a2: ctx.arg(3), armed: 1 };
    if layout!(proof_by_return) == 1 {
        // The kprobe at the entry of the function has left the vCPU; without it the return proves nothing.
        // SAFETY: the element is this thread's; LRU eviction in between loses this call, which the guest repeats.
        let Some(entry) = (unsafe { PENDING.get(tid) }) else {
            cpu::count(|t| t.calls_unproven += 1);
            return 0;
        };
        pending.vcpu = entry.vcpu;
    }
    if PENDING.insert(tid, pending, 0).is_err() {
        cpu::count(|t| t.table_full += 1);
    }
    0
}
