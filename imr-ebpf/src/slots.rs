//! From a guest frame or a host virtual range to the blocks of a VM.
//!
//! Reads `SLOTS`; what is written into the blocks is in `blocks`. Loops over blocks and VMs go through `bpf_loop` (Linux
//! 5.17), which the verifier checks once instead of once a turn.

use core::ffi::c_void;

use aya_ebpf::helpers::bpf_loop;
use imr_common::host_abi::{
    BLOCK_ORDER, FRAMES_PER_BLOCK, MAX_SLOTS, MAX_UNMAP_BLOCKS, MAX_VMS, NO_VM, Slot, VmSlots, coarse,
};

use crate::{
    atomic, blocks, cpu,
    maps::{LIMIT, SEARCH, SLOTS, Search},
    vms::{self, field},
};

/// log2 of the bytes in a frame.
const FRAME_SHIFT: u64 = 12;
/// Frames in a bitmap word.
const WORD: u64 = u64::BITS as u64;

/// A run of frames within one slot.
#[repr(C)]
#[derive(Clone, Copy)]
struct Run {
    /// First frame.
    first: u64,
    /// One past the last frame.
    end: u64,
    /// `BLOCKS` index of guest-physical block zero, wrapping: the index of block `b` is this plus `b`.
    origin: u64,
    /// CLOCK_MONOTONIC, ns; zero where it is not needed.
    now: u64,
}

/// What is done with the blocks of a run.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Their frames were unmapped.
    Unmap,
    /// An idleness scan covers them.
    Age,
}

/// How a change ended.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Reached {
    /// The range lies in a followed slot.
    pub hit: bool,
    /// It was longer than what is followed.
    pub cut: bool,
    /// CLOCK_MONOTONIC, ns.
    pub now: u64,
}

impl Run {
    /// `BLOCKS` index of the block that holds `gfn`.
    #[inline(always)]
    fn index(&self, gfn: u64) -> u64 {
        self.origin.wrapping_add(gfn >> BLOCK_ORDER)
    }

    /// `BLOCKS` index of its block `turn`.
    #[inline(always)]
    fn turn(&self, turn: u64) -> u64 {
        self.index(self.first).wrapping_add(turn)
    }
}

#[inline(always)]
fn origin(slot: &Slot) -> u64 {
    slot.block_base.wrapping_sub(slot.base_gfn >> BLOCK_ORDER)
}

/// The frames of the leaf SPTE of `level` (1: 4 KiB, 2: 2 MiB, 3: 1 GiB) that maps `gfn`, where a slot is followed there.
#[inline(always)]
fn leaf(vm: u32, gfn: u64, level: u32) -> Option<Run> {
    let slots = SLOTS.get(vm)?;
    let frames = frames_of_level(level);
    let first = gfn & !(frames - 1);
    for index in 0..MAX_SLOTS {
        if index >= slots.count as usize {
            break;
        }
        let slot = &slots.slots[index];
        if gfn.wrapping_sub(slot.base_gfn) < slot.npages {
            return Some(Run { first, end: first + frames, origin: origin(slot), now: 0 });
        }
    }
    None
}

/// Notes that a leaf SPTE of `level` was installed for `gfn`. False: no followed slot.
#[inline(always)]
pub fn mark_mapped(vm: u32, gfn: u64, level: u32) -> bool {
    let Some(mut run) = leaf(vm, gfn, level) else { return false };
    match level {
        1 => blocks::map_frame(run.index(gfn), gfn % FRAMES_PER_BLOCK),
        2 => blocks::map_all(run.turn(0), cpu::now_ns()),
        _ => {
            run.now = cpu::now_ns();
            each_block(&mut run, map_one);
        }
    }
    true
}

/// Notes that the leaf SPTE of `level` for `gfn` was zapped.
#[inline(always)]
pub fn mark_zapped(vm: u32, gfn: u64, level: u32) {
    let Some(mut run) = leaf(vm, gfn, level) else { return };
    match level {
        1 => blocks::unmap_frame(run.index(gfn), gfn % FRAMES_PER_BLOCK),
        2 => blocks::unmap_all(run.turn(0)),
        _ => each_block(&mut run, zap_one),
    }
}

/// Notes that the leaf SPTE of `level` for `gfn` was found accessed.
#[inline(always)]
pub fn mark_young(vm: u32, gfn: u64, level: u32) {
    let Some(mut run) = leaf(vm, gfn, level) else { return };
    run.now = cpu::now_ns();
    if level <= 2 {
        blocks::set_young(run.index(gfn), coarse(run.now));
    } else {
        each_block(&mut run, young_one);
    }
}

/// Frames of a leaf SPTE.
#[inline(always)]
fn frames_of_level(level: u32) -> u64 {
    match level {
        1 => 1,
        2 => FRAMES_PER_BLOCK,
        _ => FRAMES_PER_BLOCK * FRAMES_PER_BLOCK,
    }
}

/// Calls `turn` for each block of a 1 GiB leaf.
#[inline(always)]
fn each_block(run: &mut Run, turn: extern "C" fn(u64, *mut c_void) -> i64) {
    // SAFETY: `turn` has the callback's prototype and `run` outlives the call.
    unsafe {
        bpf_loop(FRAMES_PER_BLOCK as u32, turn as *mut c_void, (&raw mut *run).cast(), 0);
    }
}

extern "C" fn map_one(turn: u64, run: *mut c_void) -> i64 {
    // SAFETY: the caller passes its own `Run`, which is alive while `bpf_loop` runs.
    let run = unsafe { &*run.cast::<Run>() };
    blocks::map_all(run.turn(turn), run.now);
    0
}

extern "C" fn zap_one(turn: u64, run: *mut c_void) -> i64 {
    // SAFETY: as in `map_one`.
    blocks::unmap_all(unsafe { &*run.cast::<Run>() }.turn(turn));
    0
}

extern "C" fn young_one(turn: u64, run: *mut c_void) -> i64 {
    // SAFETY: as in `map_one`.
    let run = unsafe { &*run.cast::<Run>() };
    blocks::set_young(run.turn(turn), coarse(run.now));
    0
}

/// The lowest `count` bits, all of them from 64 up.
#[inline(always)]
fn ones(count: u64) -> u64 {
    if count >= WORD { u64::MAX } else { (1 << count) - 1 }
}

/// One turn a bitmap word: a loop over words inside a loop over blocks has too many paths for the verifier.
extern "C" fn unmap_one(turn: u64, run: *mut c_void) -> i64 {
    // SAFETY: as in `map_one`.
    let run = unsafe { &*run.cast::<Run>() };
    let start = (run.first & !(WORD - 1)) + turn * WORD;
    let below = if run.first > start { ones(run.first - start) } else { 0 };
    let gone = ones(run.end - start) & !below;
    blocks::unmap_frames(run.index(start), (start % FRAMES_PER_BLOCK) / WORD, gone);
    0
}

extern "C" fn age_one(turn: u64, run: *mut c_void) -> i64 {
    // SAFETY: as in `map_one`.
    let run = unsafe { &*run.cast::<Run>() };
    blocks::set_age(run.turn(turn), coarse(run.now));
    0
}

/// The frames of `slot` that the host virtual range covers: first and one past the last.
#[inline(always)]
fn overlap(slot: &Slot, start: u64, end: u64) -> Option<(u64, u64)> {
    let slot_end = slot.userspace_addr + (slot.npages << FRAME_SHIFT);
    let from = if start > slot.userspace_addr { start } else { slot.userspace_addr };
    let to = if end < slot_end { end } else { slot_end };
    if from >= to {
        return None;
    }
    let first = slot.base_gfn + ((from - slot.userspace_addr) >> FRAME_SHIFT);
    let end = slot.base_gfn + ((to - slot.userspace_addr + (1 << FRAME_SHIFT) - 1) >> FRAME_SHIFT);
    Some((first, end))
}

/// A change of a host virtual range, on its way through a VM's slots.
#[repr(C)]
struct RangeChange {
    vm: u32,
    change: Change,
    start: u64,
    end: u64,
    now: u64,
    hit: u64,
    cut: u64,
}

/// Carries `change` out on every block of `vm` that lies in the host virtual range [`start`, `end`).
#[inline(always)]
pub fn change_hva(vm: u32, start: u64, end: u64, change: Change) -> Reached {
    let now = cpu::now_ns();
    let mut range = RangeChange { vm, change, start, end, now, hit: 0, cut: 0 };
    // SAFETY: `change_slot` matches the callback's prototype and `range` outlives the call.
    unsafe { bpf_loop(MAX_SLOTS as u32, change_slot as *mut c_void, (&raw mut range).cast(), 0) };
    Reached { hit: range.hit != 0, cut: range.cut != 0, now }
}

/// One turn a slot. Non-zero ends the loop.
extern "C" fn change_slot(turn: u64, range: *mut c_void) -> i64 {
    // SAFETY: `change_hva` passes its own `RangeChange`, which is alive while `bpf_loop` runs.
    let range = unsafe { &mut *range.cast::<RangeChange>() };
    let Some(slots) = SLOTS.get(range.vm) else { return 1 };
    if turn >= u64::from(slots.count) {
        return 1;
    }
    let Some(slot) = slots.slots.get(turn as usize) else { return 1 };
    let Some((first, end)) = overlap(slot, range.start, range.end) else { return 0 };
    range.hit = 1;
    let mut run = Run { first, end, origin: origin(slot), now: range.now };
    let mut blocks = ((end - 1) >> BLOCK_ORDER) - (first >> BLOCK_ORDER) + 1;
    if blocks > MAX_UNMAP_BLOCKS {
        blocks = MAX_UNMAP_BLOCKS;
        run.end = ((first >> BLOCK_ORDER) + blocks) << BLOCK_ORDER;
        range.cut = 1;
    }
    if range.change == Change::Unmap {
        let words = (run.end - 1) / WORD - first / WORD + 1;
        // SAFETY: `unmap_one` matches the callback's prototype and `run` outlives the call.
        unsafe { bpf_loop(words as u32, unmap_one as *mut c_void, (&raw mut run).cast(), 0) };
    } else {
        // SAFETY: as above, with `age_one`.
        unsafe { bpf_loop(blocks as u32, age_one as *mut c_void, (&raw mut run).cast(), 0) };
    }
    0
}

/// Applies an unmap to a VM's blocks and counts it there. True: a followed slot was hit.
#[inline(always)]
pub fn unmap(vm: u32, start: u64, end: u64) -> bool {
    let reached = change_hva(vm, start, end, Change::Unmap);
    if reached.hit
        && let Some(vm) = vms::at(vm)
    {
        atomic::add64(field!(vm, unmaps), 1);
        if reached.cut {
            atomic::add64(field!(vm, long_unmaps), 1);
        }
        // Two CPUs at once: the earlier time may be the one that stays.
        atomic::store64(field!(vm, last_unmap_ns), reached.now);
    }
    reached.hit
}

/// What a search by address gave.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// No registered VM.
    None,
    /// This VM.
    One(u32),
    /// More than one: processes may well use the same addresses.
    Ambiguous,
}

/// Whose the host virtual range [`start`, `end`) is, by address alone.
#[inline(always)]
pub fn owner_of_hva(start: u64, end: u64) -> Owner {
    let Some(limit) = LIMIT.get(0) else { return Owner::None };
    let limit = if *limit > MAX_VMS { MAX_VMS } else { *limit };
    let Some(search) = SEARCH.get_ptr_mut(0) else { return Owner::None };
    // SAFETY: this CPU's element; see `maps::SEARCH`.
    let search = unsafe { &mut *search };
    *search = Search { start, end, found: NO_VM, matches: 0 };
    // SAFETY: `search_one` matches the callback's prototype and uses no context.
    unsafe { bpf_loop(limit, search_one as *mut c_void, core::ptr::null_mut(), 0) };
    // Volatile: the compiler sees nobody who could have changed them.
    let matches = atomic::load32(&raw const search.matches);
    match matches {
        0 => Owner::None,
        1 => Owner::One(atomic::load32(&raw const search.found)),
        _ => Owner::Ambiguous,
    }
}

extern "C" fn search_one(turn: u64, _context: *mut c_void) -> i64 {
    let Some(search) = SEARCH.get_ptr_mut(0) else { return 1 };
    // SAFETY: as in `owner_of_hva`, which does not touch it while `bpf_loop` runs.
    let search = unsafe { &mut *search };
    let Some(slots) = SLOTS.get(turn as u32) else { return 1 };
    if covers(slots, search.start, search.end) {
        search.found = turn as u32;
        search.matches += 1;
    }
    0
}

#[inline(always)]
fn covers(slots: &VmSlots, start: u64, end: u64) -> bool {
    for index in 0..MAX_SLOTS {
        if index >= slots.count as usize {
            break;
        }
        let slot = &slots.slots[index];
        if start < slot.userspace_addr + (slot.npages << FRAME_SHIFT) && end > slot.userspace_addr {
            return true;
        }
    }
    false
}
