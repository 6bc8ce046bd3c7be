//! The list record: a chain of descriptors in guest memory, copied once, bounded and cycle-checked.

use imr_common::guest_abi::{LIST_END, LIST_RECORD_SIZE, MAX_OFFER_ORDER, MAX_RANGES};
use thiserror::Error;

use crate::guest::memory::{MemoryError, PageMemory};
use crate::guest::record::OfferedRange;
use crate::model::ids::{FRAME_SIZE, Gpa};

/// Bytes of one entry.
const ENTRY_SIZE: usize = size_of::<imr_common::guest_abi::ListEntry>();

/// Why a list is not one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ListError {
    /// The offer names no range, or more than fit.
    #[error("an offer of {0} ranges; 1 to {MAX_RANGES} are possible")]
    Count(u32),
    /// An index outside the record.
    #[error("list entry {at} leads to index {index}, outside the record")]
    Index {
        /// Position in the chain, from 0.
        at: u32,
        /// Where it leads.
        index: u32,
    },
    /// An entry is reached twice.
    #[error("list entry {at} leads back to index {index}")]
    Cycle {
        /// Position in the chain, from 0.
        at: u32,
        /// The index reached twice.
        index: u32,
    },
    /// The chain does not end after the number of ranges that the offer names.
    #[error("the list ends after {found} entries, the offer names {expected}")]
    Length {
        /// Entries in the chain (one more than expected when it goes on).
        found: u32,
        /// `offer_count`.
        expected: u32,
    },
    /// A size that no range has.
    #[error("list entry {at}: order {order}, at most {MAX_OFFER_ORDER}")]
    Order {
        /// Position in the chain, from 0.
        at: u32,
        /// What it says.
        order: u32,
    },
    /// An address that is no frame's.
    #[error("list entry {at}: address {gpa} is not page-aligned")]
    Unaligned {
        /// Position in the chain, from 0.
        at: u32,
        /// What it says.
        gpa: Gpa,
    },
}

/// Copies the record at `record_gpa` into `bytes`, whole, once.
///
/// # Errors
/// [`MemoryError`] when it cannot be read.
pub fn copy(
    memory: &impl PageMemory,
    record_gpa: Gpa,
) -> Result<Box<[u8; LIST_RECORD_SIZE as usize]>, MemoryError> {
    let mut bytes = Box::new([0; LIST_RECORD_SIZE as usize]);
    memory.read(record_gpa, bytes.as_mut_slice())?;
    Ok(bytes)
}

/// Follows the chain from `head` through the copy.
///
/// # Errors
/// [`ListError`], by the first thing that is wrong. The whole offer is then worth nothing.
pub fn parse(
    bytes: &[u8; LIST_RECORD_SIZE as usize],
    head: u32,
    count: u32,
) -> Result<Vec<OfferedRange>, ListError> {
    if count == 0 || count as usize > MAX_RANGES {
        return Err(ListError::Count(count));
    }
    let mut seen = [false; MAX_RANGES];
    let mut ranges = Vec::with_capacity(count as usize);
    let mut index = head;
    for at in 0..count {
        if index == LIST_END {
            return Err(ListError::Length { found: at, expected: count });
        }
        let slot = index as usize;
        if slot >= MAX_RANGES {
            return Err(ListError::Index { at, index });
        }
        if std::mem::replace(&mut seen[slot], true) {
            return Err(ListError::Cycle { at, index });
        }
        let (range, next) = entry(&bytes[slot * ENTRY_SIZE..][..ENTRY_SIZE], at)?;
        ranges.push(range);
        index = next;
    }
    if index == LIST_END { Ok(ranges) } else { Err(ListError::Length { found: count + 1, expected: count }) }
}

fn entry(bytes: &[u8], at: u32) -> Result<(OfferedRange, u32), ListError> {
    let gpa = u64::from_le_bytes(std::array::from_fn(|byte| bytes[byte]));
    let order = u32::from_le_bytes(std::array::from_fn(|byte| bytes[8 + byte]));
    let next = u32::from_le_bytes(std::array::from_fn(|byte| bytes[12 + byte]));
    if order > MAX_OFFER_ORDER {
        return Err(ListError::Order { at, order });
    }
    if !gpa.is_multiple_of(FRAME_SIZE) {
        return Err(ListError::Unaligned { at, gpa: Gpa::new(gpa) });
    }
    Ok((OfferedRange { base_gfn: Gpa::new(gpa).gfn(), npages: 1 << order }, next))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ids::Gfn;

    fn record(entries: &[(u64, u32, u32)]) -> Box<[u8; LIST_RECORD_SIZE as usize]> {
        let mut bytes = Box::new([0; LIST_RECORD_SIZE as usize]);
        for (index, (gpa, order, next)) in entries.iter().enumerate() {
            let at = index * ENTRY_SIZE;
            bytes[at..at + 8].copy_from_slice(&gpa.to_le_bytes());
            bytes[at + 8..at + 12].copy_from_slice(&order.to_le_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&next.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn follows_the_chain_not_the_array() {
        let bytes = record(&[(0x20_0000, 9, LIST_END), (0x40_0000, 10, 0)]);
        let ranges = parse(&bytes, 1, 2).unwrap();
        assert_eq!(
            ranges,
            [
                OfferedRange { base_gfn: Gfn::new(0x400), npages: 1024 },
                OfferedRange { base_gfn: Gfn::new(0x200), npages: 512 }
            ]
        );
    }

    #[test]
    fn refuses_what_is_no_list() {
        let bytes = record(&[(0, 9, 1), (0x1000, 0, 0), (1, 0, LIST_END), (0, 19, LIST_END), (0, 0, 256)]);
        assert_eq!(parse(&bytes, 0, 0), Err(ListError::Count(0)));
        assert_eq!(parse(&bytes, 0, 257), Err(ListError::Count(257)));
        assert_eq!(parse(&bytes, 0, 3), Err(ListError::Cycle { at: 2, index: 0 }));
        assert_eq!(parse(&bytes, 0, 1), Err(ListError::Length { found: 2, expected: 1 }));
        assert_eq!(parse(&bytes, LIST_END, 1), Err(ListError::Length { found: 0, expected: 1 }));
        assert_eq!(parse(&bytes, 2, 1), Err(ListError::Unaligned { at: 0, gpa: Gpa::new(1) }));
        assert_eq!(parse(&bytes, 3, 1), Err(ListError::Order { at: 0, order: 19 }));
        assert_eq!(parse(&bytes, 4, 2), Err(ListError::Index { at: 1, index: 256 }));
        assert_eq!(parse(&bytes, 300, 1), Err(ListError::Index { at: 0, index: 300 }));
    }

    proptest! {
        #[test]
        fn a_chain_in_any_order_is_read_in_its_order(
            entries in proptest::collection::vec((0..1_u64 << 40, 0..=MAX_OFFER_ORDER), 1..=MAX_RANGES),
            places in Just((0..MAX_RANGES as u32).collect::<Vec<_>>()).prop_shuffle(),
        ) {
            let mut bytes = Box::new([0xff; LIST_RECORD_SIZE as usize]);
            for (number, (gfn, order)) in entries.iter().enumerate() {
                let at = places[number] as usize * ENTRY_SIZE;
                let next = if number + 1 == entries.len() { LIST_END } else { places[number + 1] };
                bytes[at..at + 8].copy_from_slice(&(gfn * FRAME_SIZE).to_le_bytes());
                bytes[at + 8..at + 12].copy_from_slice(&order.to_le_bytes());
                bytes[at + 12..at + 16].copy_from_slice(&next.to_le_bytes());
            }
            let count = u32::try_from(entries.len()).unwrap();
            let expected: Vec<OfferedRange> = entries
                .iter()
                .map(|(gfn, order)| OfferedRange { base_gfn: Gfn::new(*gfn), npages: 1 << order })
                .collect();
            prop_assert_eq!(parse(&bytes, places[0], count), Ok(expected));
            prop_assert!(parse(&bytes, places[0], count + 1).is_err());
            prop_assert!(parse(&bytes, places[0], count - 1).is_err());
        }

        #[test]
        fn any_bytes_end_in_a_bounded_answer(
            bytes in proptest::collection::vec(any::<u8>(), LIST_RECORD_SIZE as usize),
            head: u32,
            count in 0_u32..300,
        ) {
            let bytes: Box<[u8; LIST_RECORD_SIZE as usize]> = bytes.into_boxed_slice().try_into().unwrap();
            for head in [head, head % 256] {
                if let Ok(ranges) = parse(&bytes, head, count) {
                    prop_assert_eq!(ranges.len(), count as usize);
                    prop_assert!(ranges.iter().all(|range| range.npages <= 1 << MAX_OFFER_ORDER));
                }
            }
        }
    }
}
