//! What a process has locked, pinned and open, as one number that changes when any of it does.
//!
//! In: the current task, a VMM's vCPU thread. Out: the number; 0: not known. It tells that something changed, never what: user
//! space looks then. A descriptor that was closed and given to another file in between looks the same.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_get_current_task, generated::bpf_probe_read_kernel};

use crate::kernel::{self, layout};

/// Words of the bitmap of open descriptors that are looked at; a process with more gets no fingerprint.
const MAX_WORDS: usize = 32;
/// Bytes of such a word.
const WORD_BYTES: u32 = 8;
/// 2^64 divided by the golden ratio.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Of the current task's process; 0 where it cannot be told.
#[inline(always)]
pub fn of_current() -> u64 {
    // SAFETY: the helper takes no argument.
    let task = unsafe { bpf_get_current_task() };
    of(task).unwrap_or(0)
}

#[inline(always)]
fn of(task: u64) -> Option<u64> {
    let mm: u64 = kernel::read(task, layout!(task_mm))?;
    let locked: u64 = kernel::read(mm, layout!(mm_locked_vm))?;
    let pinned: u64 = kernel::read(mm, layout!(mm_pinned_vm))?;
    let mut mixed = mix(mix(0, locked), pinned);
    let files: u64 = kernel::read(task, layout!(task_files))?;
    // Both are freed after a grace period of RCU only (fs/file.c, 6.1 and 6.12), and programs run inside one.
    let table: u64 = kernel::read(files, layout!(files_fdt))?;
    let descriptors: u32 = kernel::read(table, layout!(fdt_max_fds))?;
    let open: u64 = kernel::read(table, layout!(fdt_open_fds))?;
    let words = descriptors.div_ceil(u64::BITS);
    if words == 0 || words > MAX_WORDS as u32 {
        return None;
    }
    let mut bitmap = [0_u64; MAX_WORDS];
    // In a form in which the verifier sees that it fits; one read, as a loop of reads takes kernel 6.1 minutes to verify.
    let bytes = ((words - 1) * WORD_BYTES & (MAX_WORDS as u32 - 1) * WORD_BYTES) + WORD_BYTES;
    // SAFETY: so many bytes are in `bitmap`; the helper checks the other address and fails instead of faulting.
    if unsafe { bpf_probe_read_kernel(bitmap.as_mut_ptr().cast(), bytes, open as *const c_void) } != 0 {
        return None;
    }
    for word in bitmap {
        mixed = mix(mixed, word);
    }
    Some(mixed)
}

#[inline(always)]
fn mix(before: u64, word: u64) -> u64 {
    let mixed = (before ^ word).wrapping_mul(MIX);
    mixed ^ (mixed >> 32)
}
