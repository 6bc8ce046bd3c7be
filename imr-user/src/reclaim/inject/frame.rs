//! What a thread needs to put itself back: a signal frame on its own stack, as rt_sigreturn(2) reads it on x86-64.
//!
//! Input: registers, signal mask and XSAVE area of a stopped thread. Output: bytes and where they belong. Pure.
//! Layout: arch/x86/include/asm/sigframe.h (struct rt_sigframe), arch/x86/include/uapi/asm/{ucontext,sigcontext}.h
//! and arch/x86/kernel/fpu/signal.c (check_xstate_in_sigframe), the same in 6.1 and 6.12.

use std::arch::x86_64::__cpuid_count;

use libc::user_regs_struct;

/// Below its stack pointer a function may keep this much without saying so (System V ABI, AMD64, 3.2.2).
const RED_ZONE: u64 = 128;
/// pretcode, struct ucontext, siginfo_t.
const FRAME_HEAD: usize = 8 + 304 + 128;
/// What follows the XSAVE area.
const MAGIC2_SIZE: usize = 4;
const FP_XSTATE_MAGIC1: u32 = 0x4650_5853;
const FP_XSTATE_MAGIC2: u32 = 0x4650_5845;
const UC_FP_XSTATE: u64 = 1;
const UC_SIGCONTEXT_SS: u64 = 2;
const UC_STRICT_RESTORE_SS: u64 = 4;
/// A mode that sigaltstack(2) does not have: restore_altstack() ignores the error and leaves the alternative stack as it
/// is (kernel/signal.c, do_sigaltstack, 6.1 and 6.12). It cannot be asked for from outside.
const NO_SUCH_MODE: u32 = 3;

/// Offsets in the frame. From `R8` on it is struct sigcontext.
const UC_FLAGS: usize = 8;
const ALTSTACK_FLAGS: usize = 8 + 16 + 8;
const R8: usize = 8 + 40;
const SEGMENTS: usize = R8 + 18 * 8;
const FPSTATE: usize = R8 + 184;
const SIGMASK: usize = R8 + 256;
/// Offsets in the XSAVE area: where debuggers find the mask of features, and signal frames their own description.
const SOFTWARE: usize = 464;
const XSTATE_BV: usize = 512;
/// The legacy area and the header.
const MIN_XSTATE: usize = 576;
/// Tile data of AMX: in a signal frame only where the process was permitted to use it.
const DYNAMIC_FEATURES: u64 = 1 << 18;

/// The kernel's own codes for "interrupted, to be begun again" (include/linux/errno.h).
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
pub(super) const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
/// Length of the instruction `syscall`.
pub(super) const SYSCALL_LENGTH: u64 = 2;

/// A frame, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    /// Address of its first byte, where the address of the restorer is: the stack pointer with which a function must
    /// return for the restorer to find the frame.
    pub(super) address: u64,
    pub(super) bytes: Vec<u8>,
}

/// Whether a stopped thread would begin its system call again when it goes on.
pub(super) fn restarts(registers: &user_regs_struct) -> bool {
    let result = registers.rax.cast_signed();
    registers.orig_rax.cast_signed() >= 0
        && matches!(result, ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK)
}

/// The registers with which it does so.
///
/// With ERESTART_RESTARTBLOCK (nanosleep, poll, futex with a time-out) the kernel would go on with the time that is left;
/// but rt_sigreturn makes it forget that (restore_sigcontext, 6.12) and would return EINTR without a signal. So the
/// call begins anew: exact for a point in time, longer by what has passed for a duration.
fn resumed(registers: &user_regs_struct) -> user_regs_struct {
    let mut resumed = *registers;
    if restarts(registers) {
        resumed.rip = registers.rip.wrapping_sub(SYSCALL_LENGTH);
        resumed.rax = registers.orig_rax;
    }
    resumed
}

/// Builds the frame. `None` where the XSAVE area is none, or the stack pointer no address.
pub(super) fn build(registers: &user_regs_struct, mask: u64, xstate: &[u8], restorer: u64) -> Option<Frame> {
    let features = u64_at(xstate, SOFTWARE)? & !DYNAMIC_FEATURES | u64_at(xstate, XSTATE_BV)?;
    let xstate_size = xstate_size(features);
    let xstate = xstate.get(..xstate_size)?;
    let room = (FRAME_HEAD + 64 + 16 + xstate_size + MAGIC2_SIZE) as u64;
    let top = registers.rsp.checked_sub(RED_ZONE)?;
    // So that nothing below wraps.
    top.checked_sub(room)?;
    let fp_address = (top - (xstate_size + MAGIC2_SIZE) as u64) & !63;
    // As the kernel has it: where a function begins, the stack is 8 off a multiple of 16.
    let address = ((fp_address - FRAME_HEAD as u64) & !15) - 8;
    let fp_offset = usize::try_from(fp_address - address).ok()?;

    let mut frame = Frame { address, bytes: vec![0; fp_offset + xstate_size + MAGIC2_SIZE] };
    frame.put(0, &restorer.to_le_bytes());
    frame.put(UC_FLAGS, &(UC_FP_XSTATE | UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS).to_le_bytes());
    frame.put(ALTSTACK_FLAGS, &NO_SUCH_MODE.to_le_bytes());
    let r = resumed(registers);
    let general = [
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
        r.rcx, r.rsp, r.rip, r.eflags,
    ];
    for (index, value) in general.iter().enumerate() {
        frame.put(R8 + index * 8, &value.to_le_bytes());
    }
    // cs, gs, fs, ss; the middle two are not read back.
    for (index, selector) in [r.cs, r.gs, r.fs, r.ss].into_iter().enumerate() {
        frame.put(SEGMENTS + index * 2, &(selector as u16).to_le_bytes());
    }
    frame.put(FPSTATE, &fp_address.to_le_bytes());
    frame.put(SIGMASK, &mask.to_le_bytes());

    frame.put(fp_offset, xstate);
    let size = xstate_size as u32;
    let described = fp_offset + SOFTWARE;
    frame.put(described, &[0; 48]);
    frame.put(described, &FP_XSTATE_MAGIC1.to_le_bytes());
    frame.put(described + 4, &(size + MAGIC2_SIZE as u32).to_le_bytes());
    frame.put(described + 8, &features.to_le_bytes());
    frame.put(described + 16, &size.to_le_bytes());
    frame.put(fp_offset + xstate_size, &FP_XSTATE_MAGIC2.to_le_bytes());
    Some(frame)
}

impl Frame {
    fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// The address after its last byte.
    pub(super) fn end(&self) -> u64 {
        self.address + self.bytes.len() as u64
    }
}

/// Bytes of an XSAVE area in standard format with these features. Not more: the kernel takes an area larger than what it
/// has set aside for the thread for one without extended features.
fn xstate_size(features: u64) -> usize {
    (2..63)
        .filter(|feature| features >> feature & 1 == 1)
        .map(|feature| {
            let leaf = __cpuid_count(0xd, feature);
            leaf.eax as usize + leaf.ebx as usize
        })
        .fold(MIN_XSTATE, usize::max)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..offset + 8)?.try_into().ok().map(u64::from_le_bytes)
}
