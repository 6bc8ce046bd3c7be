//! Atomic updates of table fields that several CPUs and user space share.
//!
//! Inline assembly, because rustc's BPF target has no atomic read-modify-write (`atomic_cas: false`). Needs
//! `-Ctarget-cpu=v3` and Linux 5.12. The caller guarantees that the pointer is into a map value; the verifier
//! checks it. On x86, the only architecture this is for, each read-modify-write is also a full memory barrier.

use core::arch::asm;

/// `*field += value`.
#[inline(always)]
pub fn add64(field: *mut u64, value: u64) {
    // SAFETY: `field` points into a map value; the verifier refuses the program otherwise.
    unsafe {
        asm!("lock *(u64 *)({field} + 0) += {value}", field = in(reg) field, value = in(reg) value, options(nostack));
    }
}

/// `*field += value`; returns what was there before.
#[inline(always)]
pub fn fetch_add64(field: *mut u64, value: u64) -> u64 {
    let mut register = value;
    // SAFETY: as in `add64`.
    unsafe {
        asm!("{value} = atomic_fetch_add((u64 *)({field} + 0), {value})",
            field = in(reg) field, value = inout(reg) register, options(nostack));
    }
    register
}

/// `*field |= bits`.
#[inline(always)]
pub fn or64(field: *mut u64, bits: u64) {
    // SAFETY: as in `add64`.
    unsafe {
        asm!("lock *(u64 *)({field} + 0) |= {bits}", field = in(reg) field, bits = in(reg) bits, options(nostack));
    }
}

/// `*field &= bits`.
#[inline(always)]
pub fn and64(field: *mut u64, bits: u64) {
    // SAFETY: as in `add64`.
    unsafe {
        asm!("lock *(u64 *)({field} + 0) &= {bits}", field = in(reg) field, bits = in(reg) bits, options(nostack));
    }
}

/// `*field = value`; returns what was there before.
#[inline(always)]
pub fn exchange64(field: *mut u64, value: u64) -> u64 {
    let mut register = value;
    // SAFETY: as in `add64`.
    unsafe {
        asm!("{value} = xchg_64({field} + 0, {value})",
            field = in(reg) field, value = inout(reg) register, options(nostack));
    }
    register
}

/// `*field = value`; returns what was there before.
#[inline(always)]
pub fn exchange32(field: *mut u32, value: u32) -> u32 {
    let mut register = value;
    // SAFETY: as in `add64`.
    unsafe {
        asm!("{value} = xchg32_32({field} + 0, {value})",
            field = in(reg) field, value = inout(wreg) register, options(nostack));
    }
    register
}

/// `*field = value` in one store, visible to user space as a whole.
#[inline(always)]
pub fn store64(field: *mut u64, value: u64) {
    // SAFETY: as in `add64`; an aligned 64-bit store is one instruction.
    unsafe { field.write_volatile(value) };
}

/// One load of `*field`.
#[inline(always)]
pub fn load32(field: *const u32) -> u32 {
    // SAFETY: as in `add64`; an aligned 32-bit load is one instruction.
    unsafe { field.read_volatile() }
}

/// One load of `*field`.
#[inline(always)]
pub fn load64(field: *const u64) -> u64 {
    // SAFETY: as in `add64`; an aligned 64-bit load is one instruction.
    unsafe { field.read_volatile() }
}
