//! Where the running kernel keeps the few fields that are read, and how they are read.
//!
//! The loader finds the offsets in BTF and overwrites `KERNEL` before loading; rustc emits no CO-RE relocations. A
//! field that was not found makes every read of it fail: nothing is guessed.

use core::arch::asm;

use aya_ebpf::{EbpfContext, helpers::bpf_probe_read_kernel, programs::RawTracePointContext};
use imr_common::host_abi::{KernelLayout, NO_OFFSET};

/// Replaced by the loader.
#[unsafe(no_mangle)]
static KERNEL: KernelLayout = KernelLayout::UNKNOWN;

/// The bit that KVM sets in `generation` while it swaps slots (include/linux/kvm_host.h,
/// KVM_MEMSLOT_GEN_UPDATE_IN_PROGRESS).
const GENERATION_UPDATING: u64 = 1 << 63;

/// The loader's layout; volatile, because the compiler sees only the placeholder.
macro_rules! layout {
    ($field:ident) => {
        // SAFETY: a field of a static that the loader has frozen before the program runs.
        unsafe { core::ptr::read_volatile(&raw const $crate::kernel::layout_ref().$field) }
    };
}
pub(crate) use layout;

/// The static behind [`layout`].
#[inline(always)]
pub fn layout_ref() -> &'static KernelLayout {
    &KERNEL
}

/// The `T` at `base + offset` in kernel memory; `None` when the offset is unknown or the read faults.
#[inline(always)]
pub fn read<T: Copy>(base: u64, offset: u32) -> Option<T> {
    if offset == NO_OFFSET || base == 0 {
        return None;
    }
    let address = base.wrapping_add(u64::from(offset)) as *const T;
    // SAFETY: the helper checks the address and fails instead of faulting.
    unsafe { bpf_probe_read_kernel(address) }.ok()
}

/// `struct kvm *` of a vCPU.
#[inline(always)]
pub fn kvm_of_vcpu(vcpu: u64) -> Option<u64> {
    read(vcpu, layout!(vcpu_kvm))
}

/// The vCPU's RAX as KVM has it between two entries.
#[inline(always)]
pub fn rax_of_vcpu(vcpu: u64) -> Option<u64> {
    read(vcpu, layout!(vcpu_rax))
}

/// `struct kvm_memslots *` of address space 0.
#[inline(always)]
pub fn memslots_of(kvm: u64) -> Option<u64> {
    read(kvm, layout!(kvm_memslots))
}

/// The generation of a set of memslots, without the mark of an update under way.
#[inline(always)]
pub fn generation_of(memslots: u64) -> Option<u64> {
    let generation: u64 = read(memslots, layout!(memslots_generation))?;
    Some(generation & !GENERATION_UPDATING)
}

/// Argument `position` of a raw tracepoint; `None` when the loader has not found it.
///
/// A match over fixed loads: the verifier refuses a context access at a computed offset, and inline assembly keeps
/// the compiler from merging the arms into one.
#[inline(always)]
pub fn argument(ctx: &RawTracePointContext, position: u32) -> Option<u64> {
    let args = ctx.as_ptr();
    let value: u64;
    match position {
        // SAFETY: every tracepoint of KVM that is used has at least one argument.
        0 => unsafe {
            asm!("{v} = *(u64 *)({c} + 0)", v = out(reg) value, c = in(reg) args, options(nostack))
        },
        // SAFETY: the position comes from the tracepoint's own prototype; the verifier bounds the access.
        1 => unsafe {
            asm!("{v} = *(u64 *)({c} + 8)", v = out(reg) value, c = in(reg) args, options(nostack))
        },
        // SAFETY: as above.
        2 => unsafe {
            asm!("{v} = *(u64 *)({c} + 16)", v = out(reg) value, c = in(reg) args, options(nostack))
        },
        _ => return None,
    }
    Some(value)
}
