//! The list record: a page of guest bytes, read as a chain from any head.
//!
//! In: 4 bytes `head`, 4 bytes `count`, then the record (what is missing is zero). Holds: the answer equals that of a
//! second, simpler reading of the design; a list that is taken has `count` ranges, each entry once, each a whole
//! number of frames of at most 1 GiB; written down again it reads the same.

#![no_main]

use imr_common::guest_abi::{LIST_END, LIST_RECORD_SIZE, MAX_OFFER_ORDER, MAX_RANGES};
use imr_user::guest::list::parse;
use imr_user::guest::record::OfferedRange;
use libfuzzer_sys::{Corpus, fuzz_target};

const RECORD: usize = LIST_RECORD_SIZE as usize;
const ENTRY: usize = 16;

fuzz_target!(|data: &[u8]| -> Corpus {
    let Some((head, rest)) = data.split_first_chunk::<4>() else { return Corpus::Reject };
    let Some((count, rest)) = rest.split_first_chunk::<4>() else { return Corpus::Reject };
    let (head, count) = (u32::from_le_bytes(*head), u32::from_le_bytes(*count));
    let mut record = [0; RECORD];
    let given = rest.len().min(RECORD);
    record[..given].copy_from_slice(&rest[..given]);
    // Any number is tried as it is, and as one that has a chance.
    check(&record, head, count);
    check(&record, head % 256, count % 257);
    Corpus::Keep
});

fn check(record: &[u8; RECORD], head: u32, count: u32) {
    let expected = by_the_design(record, head, count);
    let found = parse(record, head, count);
    assert_eq!(found.as_ref().ok(), expected.as_ref(), "head {head}, count {count}: {found:?}");
    let Ok(ranges) = found else { return };
    assert!((1..=MAX_RANGES).contains(&ranges.len()) && ranges.len() == count as usize);
    for range in &ranges {
        assert!(range.npages.is_power_of_two() && range.npages <= 1 << MAX_OFFER_ORDER);
        let start = range.base_gfn.gpa().expect("a frame number that came from an address has one").get();
        assert_eq!(start % 4096, 0);
    }
    // As many entries as ranges, in any places, the chain through all of them and no entry twice.
    assert_eq!(parse(&written_down(&ranges), 0, count).as_deref(), Ok(ranges.as_slice()));
}

/// The chain that the design describes, found without regard to speed: walk to the end first, judge afterwards.
fn by_the_design(record: &[u8; RECORD], head: u32, count: u32) -> Option<Vec<OfferedRange>> {
    let word = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("four bytes"));
    let mut chain = Vec::new();
    let mut index = head;
    while index != LIST_END {
        if index as usize >= MAX_RANGES || chain.contains(&index) {
            return None;
        }
        chain.push(index);
        index = word(index as usize * ENTRY + 12);
    }
    if chain.is_empty() || chain.len() != count as usize {
        return None;
    }
    let entries = chain.into_iter().map(|index| {
        let at = index as usize * ENTRY;
        let gpa = u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let order = word(at + 8);
        (gpa % 4096 == 0 && order <= MAX_OFFER_ORDER)
            .then(|| OfferedRange { base_gfn: imr_user::model::ids::Gpa::new(gpa).gfn(), npages: 1 << order })
    });
    entries.collect()
}

fn written_down(ranges: &[OfferedRange]) -> Box<[u8; RECORD]> {
    let mut record = Box::new([0xff; RECORD]);
    for (index, range) in ranges.iter().enumerate() {
        let at = index * ENTRY;
        let gpa = range.base_gfn.gpa().expect("checked before").get();
        let next = if index + 1 == ranges.len() { LIST_END } else { index as u32 + 1 };
        record[at..at + 8].copy_from_slice(&gpa.to_le_bytes());
        record[at + 8..at + 12].copy_from_slice(&range.npages.trailing_zeros().to_le_bytes());
        record[at + 12..at + 16].copy_from_slice(&next.to_le_bytes());
    }
    record
}
