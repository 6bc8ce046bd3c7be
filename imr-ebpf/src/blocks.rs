//! What is written into a block's record, and how user space learns of it. Every change of `BLOCKS` is made here.
//!
//! A change ends with an atomic read-modify-write and only then looks at the block's bit in `DIRTY`, setting it where it
//! is not set. User space clears the bit, atomically, and then reads the record. No change can be lost: the
//! read-modify-write is a full barrier, so a program that finds the bit set has looked before user space cleared it and
//! after its change was visible to everybody, and user space's read comes later. A program that looks after the bit was
//! cleared sets it again, and user space comes back. A block that changes all the time costs one load for this.

use imr_common::host_abi::{BLOCKS_PER_DIRTY_WORD, BlockRecord, LAST_MAP_LARGE, last_map};

use crate::{
    atomic, cpu,
    maps::{BLOCKS, DIRTY},
};

/// Words of a block's bitmap.
const WORDS: u64 = 8;

#[inline(always)]
fn block(index: u64) -> Option<*mut BlockRecord> {
    BLOCKS.get_ptr_mut(u32::try_from(index).ok()?)
}

/// `field` of a block record, for the atomics.
macro_rules! field {
    ($record:expr, $field:ident) => {
        // SAFETY: a field of a map value that the verifier has seen to be there.
        unsafe { &raw mut (*$record).$field }
    };
}

/// Word `index` of a block's bitmap.
#[inline(always)]
fn word(record: *mut BlockRecord, index: u64) -> *mut u64 {
    let words = field!(record, mapped).cast::<u64>();
    // SAFETY: the mask keeps the index within the eight words.
    unsafe { words.add((index & (WORDS - 1)) as usize) }
}

/// Tells user space of a change. The caller's last change of the record was an atomic read-modify-write.
#[inline(always)]
fn changed(index: u64) {
    // `index` is that of a record, so the cut takes nothing away.
    if let Some(word) = DIRTY.get_ptr_mut((index / BLOCKS_PER_DIRTY_WORD) as u32) {
        let bit = 1 << (index % BLOCKS_PER_DIRTY_WORD);
        if atomic::load64(word) & bit == 0 {
            atomic::or64(word, bit);
        }
    }
}

/// Frame `frame` of block `index` got a 4 KiB SPTE. The clock is read for the first of a word and after a large one, so that
/// a block that comes back is told from one that is still there; for the others the last tick is enough.
#[inline(always)]
pub fn map_frame(index: u64, frame: u64) {
    if let Some(record) = block(index) {
        let word = word(record, frame / 64);
        let before = atomic::load64(field!(record, last_map));
        let first = atomic::load64(word) == 0 || before & LAST_MAP_LARGE != 0;
        let now = if first { cpu::now_ns() } else { cpu::tick_ns() };
        if before < now {
            atomic::store64(field!(record, last_map), last_map(now, false));
        }
        atomic::or64(word, 1 << (frame % 64));
        changed(index);
    }
}

/// Block `index` got a large SPTE.
#[inline(always)]
pub fn map_all(index: u64, now: u64) {
    if let Some(record) = block(index) {
        atomic::store64(field!(record, last_map), last_map(now, true));
        for index in 0..WORDS - 1 {
            atomic::store64(word(record, index), u64::MAX);
        }
        atomic::or64(word(record, WORDS - 1), u64::MAX);
        changed(index);
    }
}

/// The 4 KiB SPTE of frame `frame` of block `index` is gone.
#[inline(always)]
pub fn unmap_frame(index: u64, frame: u64) {
    unmap_frames(index, frame / 64, 1 << (frame % 64));
}

/// The SPTEs of these frames are gone: bits of word `at` of the bitmap of block `index`.
#[inline(always)]
pub fn unmap_frames(index: u64, at: u64, frames: u64) {
    if let Some(record) = block(index) {
        let word = word(record, at);
        // Most of an invalidation has been told already, SPTE by SPTE: nothing changes then, nothing is written. KVM's
        // mmu_lock orders the load after whatever was installed before the invalidation.
        if atomic::load64(word) & frames != 0 {
            atomic::and64(word, !frames);
            changed(index);
        }
    }
}

/// The large SPTE of block `index` is gone.
#[inline(always)]
pub fn unmap_all(index: u64) {
    if let Some(record) = block(index) {
        for index in 0..WORDS - 1 {
            atomic::store64(word(record, index), 0);
        }
        atomic::and64(word(record, WORDS - 1), 0);
        changed(index);
    }
}

/// A scan found a frame of block `index` accessed.
#[inline(always)]
pub fn set_young(index: u64, coarse: u32) {
    if let Some(record) = block(index) {
        set_coarse(index, field!(record, last_young), coarse);
    }
}

/// A scan covered a frame of block `index`.
#[inline(always)]
pub fn set_age(index: u64, coarse: u32) {
    if let Some(record) = block(index) {
        set_coarse(index, field!(record, last_age), coarse);
    }
}

/// A scan comes by 512 times within one unit of time, and changes the record once.
#[inline(always)]
fn set_coarse(index: u64, field: *mut u32, coarse: u32) {
    if atomic::load32(field) != coarse {
        atomic::exchange32(field, coarse);
        changed(index);
    }
}
