//! The backend without a second process: which mappings it takes for what they were, and the frame it leaves.

mod puppet;
mod stuck;

use std::os::fd::AsFd as _;

use libc::user_regs_struct;
use rustix::mm::MapFlags;

use super::*;
use crate::reclaim::testing::{MIB, Ram, proc_dir};

/// Registers of a thread that waits in ppoll.
fn waiting() -> user_regs_struct {
    // SAFETY: integers only, for which zeros are valid.
    let mut registers = unsafe { std::mem::zeroed::<user_regs_struct>() };
    registers.rsp = 0x7fff_0000_1238;
    registers.rip = 0x5555_0002;
    registers.rax = (-514_i64).cast_unsigned();
    registers.orig_rax = libc::SYS_ppoll.cast_unsigned();
    registers.cs = 0x33;
    registers
}

/// An XSAVE area with x87 and SSE, as a debugger sees it.
fn xstate(supported: u64, in_use: u64) -> Vec<u8> {
    let mut bytes = vec![0; 12 << 10];
    bytes[464..472].copy_from_slice(&supported.to_le_bytes());
    bytes[512..520].copy_from_slice(&in_use.to_le_bytes());
    bytes
}

fn word(frame: &frame::Frame, offset: usize) -> u64 {
    u64::from_le_bytes(frame.bytes[offset..offset + 8].try_into().unwrap())
}

#[test]
fn the_frame_lies_below_the_red_zone_as_the_kernel_wants_it() {
    let registers = waiting();
    let frame = frame::build(&registers, 0x4000, &xstate(3, 3), 0xabcd).unwrap();
    assert!(frame.end() <= registers.rsp - 128);
    assert_eq!(frame.address % 16, 8);
    assert_eq!(word(&frame, 0), 0xabcd, "what madvise returns to");
    let fpstate = word(&frame, 48 + 184);
    assert_eq!(fpstate % 64, 0);
    let at = (fpstate - frame.address) as usize;
    assert_eq!(frame.bytes[at + 464..at + 468], *b"SXPF");
    assert_eq!(frame.bytes[at + 576..], *b"EXPF", "after 576 bytes: neither AVX nor more");
    assert_eq!(word(&frame, 48 + 256), 0x4000, "signal mask");
}

#[test]
fn an_interrupted_call_begins_anew() {
    let mut registers = waiting();
    let rip_and_rax = |registers: &user_regs_struct| {
        let frame = frame::build(registers, 0, &xstate(3, 3), 0).unwrap();
        (word(&frame, 48 + 16 * 8), word(&frame, 48 + 13 * 8).cast_signed())
    };
    assert_eq!(rip_and_rax(&registers), (0x5555_0000, libc::SYS_ppoll));
    registers.rax = (-516_i64).cast_unsigned();
    assert_eq!(rip_and_rax(&registers), (0x5555_0000, libc::SYS_ppoll));
    registers.rax = 7;
    assert_eq!(rip_and_rax(&registers), (0x5555_0002, 7), "it had returned");
    registers.rax = (-514_i64).cast_unsigned();
    registers.orig_rax = u64::MAX;
    assert_eq!(rip_and_rax(&registers), (0x5555_0002, -514), "a number, not a result");
}

#[test]
fn no_frame_without_room_or_state() {
    let mut registers = waiting();
    assert_eq!(frame::build(&registers, 0, &[0; 256], 0), None);
    registers.rsp = 300;
    assert_eq!(frame::build(&registers, 0, &xstate(3, 3), 0), None);
}

#[test]
fn amx_tiles_are_left_out_unless_in_use() {
    let registers = waiting();
    let frame = frame::build(&registers, 0, &xstate(3 | 1 << 18, 3), 0).unwrap();
    let at = (word(&frame, 48 + 184) - frame.address) as usize;
    assert_eq!(word(&frame, at + 472), 3);
}

#[test]
fn only_the_mapping_that_it_was_is_prepared() {
    let ram = Ram::anonymous(4 * MIB, MapFlags::PRIVATE);
    ram.fill();
    let good = ram.slot(0).segments.remove(0);
    let proc_dir = proc_dir(std::process::id());
    let mut inject = Inject::new(proc_dir.as_fd(), Pid::new(std::process::id()));
    let stale = [
        Segment { vma_end: Hva::new(good.vma_end.get() - FRAME_SIZE), ..good.clone() },
        Segment { vma_start: Hva::new(good.vma_start.get() + FRAME_SIZE), ..good.clone() },
        Segment { shared: true, ..good.clone() },
        Segment { kind: BackingKind::Tmpfs, ..good.clone() },
        Segment { page_size: BLOCK_SIZE, ..good.clone() },
    ];
    for segment in &stale {
        assert_eq!(inject.prepare(segment), Err(Obstacle::Guard(Guard::StaleMapping)), "{segment:?}");
    }
    assert_eq!(inject.prepare(&good), Ok(()));
    assert_eq!(inject.held_bytes(), Ok(good.vma_end.get() - good.vma_start.get()));

    let shared = Ram::anonymous(MIB, MapFlags::SHARED).slot(0).segments.remove(0);
    let posing = Segment { kind: BackingKind::Anonymous, shared: false, ..shared };
    assert_eq!(inject.prepare(&posing), Err(Obstacle::Guard(Guard::StaleMapping)), "unmapped meanwhile");
    inject.finish();
    assert_eq!(inject.held_bytes(), Ok(0));
    assert!(ram.is_filled(0, 4 * MIB));
}

#[test]
fn a_call_beyond_what_was_prepared_is_refused() {
    let ram = Ram::anonymous(4 * MIB, MapFlags::PRIVATE);
    ram.fill();
    let segment = ram.slot(0).segments.remove(0);
    let proc_dir = proc_dir(std::process::id());
    let mut inject = Inject::new(proc_dir.as_fd(), Pid::new(std::process::id()));
    let call =
        |hva, bytes| Call { segment: &segment, base_gfn: segment.base_gfn, hva, file_offset: 0, bytes };
    let errno = |result: Result<Effect, Failure>| result.unwrap_err().errno;
    assert_eq!(errno(inject.reclaim(&call(segment.hva, MIB))), Errno::BADF, "not prepared");
    inject.prepare(&segment).unwrap();
    let past = Hva::new(segment.vma_end.get() - FRAME_SIZE);
    assert_eq!(errno(inject.reclaim(&call(past, 2 * FRAME_SIZE))), Errno::BADF, "half of it elsewhere");
    assert_eq!(errno(inject.reclaim(&call(Hva::new(u64::MAX), MIB))), Errno::INVAL);
    assert!(ram.is_filled(0, 4 * MIB));
}
