//! The flat record: a byte for each block of guest memory, scanned between two block numbers. Each byte is copied once,
//! a piece at a time, and judged as copied; what a scan takes is bounded by the record's size and by the guest's memory.

use std::ops::RangeInclusive;

use imr_common::guest_abi::{FLAT_RECORD_MAX, MAX_OFFER_ORDER, MAX_RANGES};
use thiserror::Error;

use crate::guest::memory::{MemoryError, PageMemory};
use crate::guest::record::OfferedRange;
use crate::model::ids::{FRAME_SIZE, Gfn, Gpa};

/// Bytes that are copied at a time.
const PIECE: usize = 16 << 10;
/// Bytes that are looked at together for not being zero.
const WORDS: usize = 64;

/// Why a flat record is none, or none for this offer.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FlatError {
    /// The offer names no range, or more than fit.
    #[error("an offer of {0} ranges; 1 to {MAX_RANGES} are possible")]
    Count(u32),
    /// Nothing lies between the two numbers, or what does is outside the record.
    #[error("blocks {first} to {last} of a record of {blocks}")]
    Window {
        /// Where the scan should begin.
        first: u32,
        /// Where it should end.
        last: u32,
        /// Blocks of the record.
        blocks: u64,
    },
    /// The last block is no memory of the guest. To scan up to there would take time for nothing.
    #[error("block {last}, the last one, is at {gpa}, not inside a RAM slot")]
    NoRam {
        /// Its number.
        last: u32,
        /// Where it would be.
        gpa: Gpa,
    },
    /// Not as many ranges begin between the two numbers as the offer names.
    #[error("{found} ranges begin there, the offer names {expected}")]
    Length {
        /// Ranges found (one more than expected when there are more).
        found: u32,
        /// `offer_count`.
        expected: u32,
    },
    /// A size that no range has, or one below a block.
    #[error(
        "block {block}: its byte is {byte}, which is no order plus one from {flat_order} to {MAX_OFFER_ORDER}"
    )]
    Order {
        /// Its number.
        block: u64,
        /// Its byte.
        byte: u8,
        /// Order of a block.
        flat_order: u32,
    },
    /// A range that does not begin at a multiple of its size.
    #[error("block {block}: a range of order {order} does not begin there")]
    Unaligned {
        /// Its number.
        block: u64,
        /// What it says.
        order: u32,
    },
    /// A range begins inside another.
    #[error("block {block} belongs to the range before it and has a byte of its own")]
    Overlap {
        /// Its number.
        block: u64,
    },
    /// A range goes on behind the last block.
    #[error("block {block}: a range of order {order} goes on behind the last block")]
    Beyond {
        /// Its number.
        block: u64,
        /// What it says.
        order: u32,
    },
}

/// What an offer says of the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlatOffer {
    /// Bytes of the record, at most [`FLAT_RECORD_MAX`]: its blocks.
    pub blocks: u64,
    /// Order of a block, at most [`MAX_OFFER_ORDER`].
    pub flat_order: u32,
    /// Number of the first block to look at.
    pub first: u32,
    /// Number of the last one.
    pub last: u32,
    /// Ranges that begin between them.
    pub count: u32,
}

impl FlatOffer {
    /// The numbers of the blocks to look at.
    fn window(&self) -> Result<RangeInclusive<u64>, FlatError> {
        let Self { blocks, first, last, count, .. } = *self;
        if count == 0 || count as usize > MAX_RANGES {
            return Err(FlatError::Count(count));
        }
        if first > last || u64::from(last) >= blocks.min(FLAT_RECORD_MAX) {
            return Err(FlatError::Window { first, last, blocks });
        }
        Ok(u64::from(first)..=u64::from(last))
    }

    /// Where the last block is: below 2^52, for a window that is one.
    fn last_gpa(&self) -> Gpa {
        Gpa::new((u64::from(self.last) * FRAME_SIZE) << self.flat_order)
    }
}

/// Copies what `offer` names of the record at `record_gpa`, and finds its ranges, lowest address first.
///
/// # Errors
/// The outer error when it cannot be read; the inner one by the first thing that is wrong, and the whole offer is then
/// worth nothing.
pub fn read(
    memory: &impl PageMemory,
    record_gpa: Gpa,
    offer: FlatOffer,
) -> Result<Result<Vec<OfferedRange>, FlatError>, MemoryError> {
    let window = match offer.window() {
        Ok(window) => window,
        Err(error) => return Ok(Err(error)),
    };
    if !memory.is_ram(offer.last_gpa(), FRAME_SIZE) {
        return Ok(Err(FlatError::NoRam { last: offer.last, gpa: offer.last_gpa() }));
    }
    let mut scan = Scan::new(offer);
    let mut piece = vec![0; PIECE.min((window.end() - window.start() + 1) as usize)];
    let mut block = *window.start();
    while block <= *window.end() {
        let length = PIECE.min((window.end() - block + 1) as usize);
        let bytes = &mut piece[..length];
        // Outside RAM in any case where the sum does not fit.
        memory.read(Gpa::new(record_gpa.get().saturating_add(block)), bytes)?;
        if let Err(error) = scan.look(block, bytes) {
            return Ok(Err(error));
        }
        block += length as u64;
    }
    Ok(scan.end())
}

/// Finds the ranges of `offer` in a copy of its record.
///
/// # Errors
/// [`FlatError`], by the first thing that is wrong.
pub fn parse(record: &[u8], offer: FlatOffer) -> Result<Vec<OfferedRange>, FlatError> {
    let offer = FlatOffer { blocks: offer.blocks.min(record.len() as u64), ..offer };
    let window = offer.window()?;
    let mut scan = Scan::new(offer);
    scan.look(*window.start(), &record[*window.start() as usize..=*window.end() as usize])?;
    scan.end()
}

/// A scan that is under way.
struct Scan {
    offer: FlatOffer,
    ranges: Vec<OfferedRange>,
    /// The first block behind the newest range.
    free_from: u64,
}

impl Scan {
    fn new(offer: FlatOffer) -> Self {
        Self { offer, ranges: Vec::with_capacity(offer.count as usize), free_from: 0 }
    }

    /// Takes the bytes of the blocks from `first` on; each piece begins where the one before ended.
    fn look(&mut self, first: u64, bytes: &[u8]) -> Result<(), FlatError> {
        // Most of a large record is zero.
        for (index, some) in bytes.chunks(WORDS).enumerate() {
            if some.iter().fold(0, |any, byte| any | byte) == 0 {
                continue;
            }
            let at = first + (index * WORDS) as u64;
            for (block, byte) in (at..).zip(some).filter(|(_, byte)| **byte != 0) {
                self.begin(block, *byte)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, block: u64, byte: u8) -> Result<(), FlatError> {
        let FlatOffer { flat_order, last, count, .. } = self.offer;
        if self.ranges.len() == count as usize {
            return Err(FlatError::Length { found: count + 1, expected: count });
        }
        if block < self.free_from {
            return Err(FlatError::Overlap { block });
        }
        let order = u32::from(byte) - 1;
        if order > MAX_OFFER_ORDER || order < flat_order {
            return Err(FlatError::Order { block, byte, flat_order });
        }
        let blocks = 1 << (order - flat_order);
        if !block.is_multiple_of(blocks) {
            return Err(FlatError::Unaligned { block, order });
        }
        if block + blocks - 1 > u64::from(last) {
            return Err(FlatError::Beyond { block, order });
        }
        self.free_from = block + blocks;
        // Block numbers have 22 bits and orders are at most 18: no address is lost.
        self.ranges.push(OfferedRange { base_gfn: Gfn::new(block << flat_order), npages: 1 << order });
        Ok(())
    }

    fn end(self) -> Result<Vec<OfferedRange>, FlatError> {
        let (found, expected) = (self.ranges.len() as u32, self.offer.count);
        if found == expected { Ok(self.ranges) } else { Err(FlatError::Length { found, expected }) }
    }
}

#[cfg(test)]
mod tests;
