//! What shows that a VM was reset, restored or shut down: its VMM writes a vCPU's system registers (KVM_SET_SREGS or
//! KVM_SET_SREGS2), or KVM leaves to the VMM for a shutdown or system event. Each raises the VM's reset generation.
//!
//! QEMU's reset does not pass through kvm_vcpu_reset. Several vCPUs raise it several times; too often is safe. Of written
//! registers, which a guest can bring about at will, an event is sent now and then only; user space looks at the generation.

use aya_ebpf::{
    EbpfContext,
    macros::{kprobe, raw_tracepoint},
    programs::{ProbeContext, RawTracePointContext},
};
use imr_common::host_abi::{
    EVENT_RESET, RESET_EVENT_INTERVAL_NS, RESET_SET_SREGS, RESET_SET_SREGS2, RESET_SHUTDOWN,
    RESET_SYSTEM_EVENT,
};

use crate::{
    atomic, cpu, emit,
    kernel::{self, layout},
    vms::{self, Vm, field},
};

/// `_IOW(KVMIO, 0xcd, struct kvm_sregs2)` (include/uapi/linux/kvm.h, x86).
const KVM_SET_SREGS2: u32 = 0x4140_aecd;
/// KVM_EXIT_SHUTDOWN: triple fault.
const KVM_EXIT_SHUTDOWN: u32 = 8;
/// KVM_EXIT_SYSTEM_EVENT.
const KVM_EXIT_SYSTEM_EVENT: u32 = 24;

#[kprobe]
fn set_sregs(ctx: ProbeContext) -> u32 {
    if let Some(vcpu) = ctx.arg::<u64>(0) {
        reset_of_vcpu(vcpu, RESET_SET_SREGS);
    }
    0
}

/// kvm_arch_vcpu_ioctl(filp, ioctl, arg); the file's private data is the vCPU.
#[kprobe]
fn vcpu_ioctl(ctx: ProbeContext) -> u32 {
    if ctx.arg::<u32>(1) != Some(KVM_SET_SREGS2) {
        return 0;
    }
    if let Some(file) = ctx.arg::<u64>(0)
        && let Some(vcpu) = kernel::read::<u64>(file, layout!(file_private_data))
    {
        reset_of_vcpu(vcpu, RESET_SET_SREGS2);
    }
    0
}

#[raw_tracepoint(tracepoint = "kvm_userspace_exit")]
fn kvm_userspace_exit(ctx: RawTracePointContext) -> i32 {
    let cause = match ctx.arg::<u32>(0) {
        KVM_EXIT_SHUTDOWN => RESET_SHUTDOWN,
        KVM_EXIT_SYSTEM_EVENT => RESET_SYSTEM_EVENT,
        _ => return 0,
    };
    if let Some(vm) = vms::of_process(ctx.tgid()) {
        reset(vm, 0, cause);
    }
    0
}

#[inline(always)]
fn reset_of_vcpu(vcpu: u64, cause: u64) {
    if let Some(kvm) = kernel::kvm_of_vcpu(vcpu)
        && let Some(vm) = vms::of_kvm(kvm)
    {
        reset(vm, kvm, cause);
    }
}

#[inline(always)]
fn reset(vm: Vm, kvm: u64, cause: u64) {
    let before = atomic::fetch_add64(field!(vm, reset_generation), 1);
    if cause == RESET_SET_SREGS || cause == RESET_SET_SREGS2 {
        let told_ns = field!(vm, reset_told_ns);
        let now = cpu::now_ns();
        // Two CPUs may both send one.
        if now.wrapping_sub(atomic::load64(told_ns)) < RESET_EVENT_INTERVAL_NS {
            return;
        }
        atomic::store64(told_ns, now);
    }
    emit::event(EVENT_RESET, vms::index(vm), kvm, [before + 1, cause, 0, 0, 0]);
}
