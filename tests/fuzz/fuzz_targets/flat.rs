//! The flat record: a byte for each block, scanned between any two block numbers.
//!
//! In: a byte `flat_order`, then 4 bytes each of `blocks`, `first`, `last` and `count`, then the record (what is missing
//! is zero). Holds: the answer equals that of a second, simpler reading of the design, whether the record is at hand or
//! is copied from guest memory; no byte is copied twice, none outside the two numbers; an offer that is taken has `count`
//! ranges, in order, apart, each at a multiple of its size and of at most 1 GiB; written down again it reads the same.

#![no_main]

use std::cell::Cell;

use imr_common::guest_abi::{FLAT_RECORD_MAX, MAX_OFFER_ORDER, MAX_RANGES};
use imr_user::guest::flat::{FlatOffer, parse, read};
use imr_user::guest::memory::{MemoryError, PageMemory};
use imr_user::guest::record::OfferedRange;
use imr_user::model::ids::{Gfn, Gpa};
use libfuzzer_sys::{Corpus, fuzz_target};

/// Where the record is.
const RECORD: u64 = 0x10_0000;
/// So many blocks have a byte: more than two pieces of a copy, and not so many that a run takes long.
const MOST: u64 = 40 << 10;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some(([flat_order], rest)) = data.split_first_chunk::<1>() else { return Corpus::Reject };
    let Some((numbers, rest)) = rest.split_first_chunk::<16>() else { return Corpus::Reject };
    let [blocks, first, last, count] = std::array::from_fn(|index| {
        u32::from_le_bytes(numbers[index * 4..][..4].try_into().expect("four bytes"))
    });
    // Any number is tried as it is, and as one that has a chance. The order was checked before.
    let flat_order = u32::from(*flat_order) % (MAX_OFFER_ORDER + 1);
    check(rest, FlatOffer { blocks: u64::from(blocks), flat_order, first, last, count });
    let blocks = u64::from(blocks) % MOST + 1;
    let within = |number: u32| number % blocks as u32;
    let count = count % (MAX_RANGES as u32 + 1);
    check(rest, FlatOffer { blocks, flat_order, first: within(first), last: within(last), count });
    Corpus::Keep
});

fn check(given: &[u8], offer: FlatOffer) {
    let mut record = vec![0; offer.blocks.min(MOST) as usize];
    let given = &given[..given.len().min(record.len())];
    record[..given.len()].copy_from_slice(given);

    let expected = by_the_design(&record, offer);
    let found = parse(&record, offer);
    assert_eq!(found.as_ref().ok(), expected.as_ref(), "{offer:?}: {found:?}");
    let memory = Once { record: &record, next: Cell::new(u64::from(offer.first)), last: offer.last };
    match read(&memory, Gpa::new(RECORD), offer) {
        Ok(copied) => assert_eq!(copied.ok(), expected, "{offer:?}"),
        // There are more blocks than there is memory.
        Err(error) => assert!(offer.blocks > MOST && expected.is_none(), "{offer:?}: {error}"),
    }

    let Ok(ranges) = found else { return };
    assert!((1..=MAX_RANGES).contains(&ranges.len()) && ranges.len() == offer.count as usize);
    let mut from = u64::from(offer.first) << offer.flat_order;
    for range in &ranges {
        assert!(range.npages.is_power_of_two() && range.npages <= 1 << MAX_OFFER_ORDER);
        assert!(range.base_gfn.gpa().is_some() && range.base_gfn.get().is_multiple_of(range.npages));
        assert!(range.base_gfn.get() >= from, "ranges are apart, lowest first");
        from = range.base_gfn.get() + range.npages;
    }
    assert!(from <= (u64::from(offer.last) + 1) << offer.flat_order);
    let mut again = vec![0; record.len()];
    for range in &ranges {
        let block = range.base_gfn.get() >> offer.flat_order;
        again[block as usize] = range.npages.trailing_zeros() as u8 + 1;
    }
    assert_eq!(parse(&again, offer).as_deref(), Ok(ranges.as_slice()));
}

/// What the design says, found without regard to speed: take all that begins, judge afterwards.
fn by_the_design(record: &[u8], offer: FlatOffer) -> Option<Vec<OfferedRange>> {
    let FlatOffer { blocks, flat_order, first, last, count } = offer;
    let [first, last] = [first, last].map(u64::from);
    if first > last || last >= blocks || last >= FLAT_RECORD_MAX || last >= record.len() as u64 {
        return None;
    }
    let begins = (first..=last).filter(|block| record[*block as usize] != 0);
    let ranges: Vec<(u64, u32)> =
        begins.map(|block| (block, u32::from(record[block as usize]) - 1)).collect();
    if ranges.is_empty() || ranges.len() != count as usize || ranges.len() > MAX_RANGES {
        return None;
    }
    let is_one = |order: u32| (flat_order..=MAX_OFFER_ORDER).contains(&order);
    for (block, order) in &ranges {
        if !is_one(*order) {
            return None;
        }
        let covers = *block..block + (1 << (order - flat_order));
        let others = ranges.iter().filter(|(other, _)| covers.contains(other)).count() - 1;
        if block % (covers.end - block) != 0 || covers.end > last + 1 || others > 0 {
            return None;
        }
    }
    let range = |(block, order): (u64, u32)| OfferedRange {
        base_gfn: Gfn::new(block << flat_order),
        npages: 1 << order,
    };
    Some(ranges.into_iter().map(range).collect())
}

/// The record as guest memory that gives away each byte once, and none outside the two numbers.
struct Once<'a> {
    record: &'a [u8],
    next: Cell<u64>,
    last: u32,
}

impl PageMemory for Once<'_> {
    /// The blocks are; of the record, that is looked at where it is read.
    fn is_ram(&self, start: Gpa, _: u64) -> bool {
        start.get() < 1 << 52
    }

    fn read(&self, start: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let (from, len) = (start.get() - RECORD, buffer.len() as u64);
        assert_eq!(from, self.next.get(), "not where the copy before ended");
        assert!(from + len <= u64::from(self.last) + 1, "copied behind the last block");
        self.next.set(from + len);
        if from + len > self.record.len() as u64 {
            return Err(MemoryError::OutsideRam { start, len });
        }
        buffer.copy_from_slice(&self.record[from as usize..][..buffer.len()]);
        Ok(())
    }

    fn write(&self, start: Gpa, _: &[u8]) -> Result<(), MemoryError> {
        panic!("{start} is written");
    }

    fn fence(&self) {}
}
