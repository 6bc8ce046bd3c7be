//! Flat records: honest ones in any layout, any bytes, and a guest that is read a piece at a time.

use std::os::unix::fs::FileExt as _;

use proptest::prelude::*;

use super::*;
use crate::guest::memory::{GuestMemory, RamRange};
const RECORD: u64 = 0x10_0000;
/// All frames that blocks can have.
const EVERYWHERE: (u64, u64) = (0, 1 << 40);

fn offer(blocks: u64, flat_order: u32, window: (u32, u32), count: u32) -> FlatOffer {
    FlatOffer { blocks, flat_order, first: window.0, last: window.1, count }
}

fn range(gfn: u64, npages: u64) -> OfferedRange {
    OfferedRange { base_gfn: Gfn::new(gfn), npages }
}

/// Guest memory of `frames` that is there and cannot be read, with `record` in the middle of it.
fn memory(record: &[u8], (from, npages): (u64, u64)) -> GuestMemory {
    let file = tempfile::tempfile().unwrap();
    let frames = (record.len() as u64).div_ceil(FRAME_SIZE);
    file.set_len(frames * FRAME_SIZE).unwrap();
    file.write_all_at(record, 0).unwrap();
    let record = RamRange::from_frames(RECORD / FRAME_SIZE, frames, 0).unwrap();
    GuestMemory::new(file, vec![record, RamRange::from_frames(from, npages, 1 << 63).unwrap()])
}

/// Both ways to read have to agree.
fn both(record: &[u8], offer: FlatOffer) -> Result<Vec<OfferedRange>, FlatError> {
    let copied = read(&memory(record, EVERYWHERE), Gpa::new(RECORD), offer).unwrap();
    assert_eq!(copied, parse(record, offer));
    copied
}

#[test]
fn the_order_is_that_of_the_blocks() {
    let mut record = [0; 100];
    (record[97], record[2], record[4]) = (10, 11, 12);
    let ranges = both(&record, offer(100, 9, (2, 97), 3)).unwrap();
    assert_eq!(ranges, [range(0x400, 1024), range(0x800, 2048), range(97 << 9, 512)]);
}

#[test]
fn refuses_what_is_no_flat_record() {
    let mut record = [0; 64];
    let with = |at: usize, byte: u8, record: &mut [u8; 64]| record[at] = byte;
    with(8, 12, &mut record);
    let whole = |count| both(&record, offer(64, 9, (0, 63), count));
    assert_eq!(whole(0), Err(FlatError::Count(0)));
    assert_eq!(whole(257), Err(FlatError::Count(257)));
    assert_eq!(whole(2), Err(FlatError::Length { found: 1, expected: 2 }));
    let window = |first, last| both(&record, offer(64, 9, (first, last), 1));
    assert_eq!(window(0, 64), Err(FlatError::Window { first: 0, last: 64, blocks: 64 }));
    assert_eq!(window(9, 8), Err(FlatError::Window { first: 9, last: 8, blocks: 64 }));
    assert_eq!(window(0, u32::MAX), Err(FlatError::Window { first: 0, last: u32::MAX, blocks: 64 }));
    assert_eq!(
        window(9, 63),
        Err(FlatError::Length { found: 0, expected: 1 }),
        "it begins before the window"
    );
    assert_eq!(window(8, 10), Err(FlatError::Beyond { block: 8, order: 11 }));
    assert_eq!(window(8, 11), Ok(vec![range(8 << 9, 2048)]));
    with(11, 10, &mut record);
    let whole = |flat_order, count| both(&record, offer(64, flat_order, (0, 63), count));
    assert_eq!(whole(9, 1), Err(FlatError::Length { found: 2, expected: 1 }));
    assert_eq!(whole(9, 2), Err(FlatError::Overlap { block: 11 }));
    assert_eq!(whole(12, 2), Err(FlatError::Order { block: 8, byte: 12, flat_order: 12 }));
    with(8, 20, &mut record);
    assert_eq!(
        both(&record, offer(64, 9, (0, 63), 2)),
        Err(FlatError::Order { block: 8, byte: 20, flat_order: 9 })
    );
    with(8, 14, &mut record);
    assert_eq!(both(&record, offer(64, 9, (0, 63), 2)), Err(FlatError::Unaligned { block: 8, order: 13 }));
}

#[test]
fn what_is_no_ram_is_not_read() {
    // The one frame besides the record that is RAM is the first of block 4096.
    let memory = memory(&[0; 4096], (4096 << 9, 1));
    let beyond = offer(4097, 9, (0, 4096), 1);
    assert!(matches!(read(&memory, Gpa::new(RECORD), beyond), Err(MemoryError::OutsideRam { .. })));
    assert!(matches!(read(&memory, Gpa::new(!0xfff), beyond), Err(MemoryError::OutsideRam { .. })));
    for last in [0, 4095, 4097] {
        let none = read(&memory, Gpa::new(RECORD), FlatOffer { last, blocks: 5000, ..beyond });
        assert!(matches!(none, Ok(Err(FlatError::NoRam { .. }))), "{last}: {none:?}");
    }
    // Numbers that cannot be are refused before anything is read.
    let nowhere = offer(FLAT_RECORD_MAX * 2, 9, (0, FLAT_RECORD_MAX as u32), 1);
    assert!(matches!(read(&memory, Gpa::new(!0xfff), nowhere), Ok(Err(FlatError::Window { .. }))));
}

/// A layout: gaps before ranges, and their sizes, in blocks of `flat_order`.
fn layouts() -> impl Strategy<Value = (u32, Vec<(u64, u32)>)> {
    (0..=MAX_OFFER_ORDER).prop_flat_map(|flat_order| {
        let most = (MAX_OFFER_ORDER - flat_order).min(4);
        let gap = prop_oneof![8 => 0..40_u64, 1 => 0..20_000_u64];
        (Just(flat_order), proptest::collection::vec((gap, 0..=most), 1..=MAX_RANGES))
    })
}

proptest! {
    #[test]
    fn a_record_is_read_lowest_address_first((flat_order, layout) in layouts(), stale in 1..=u8::MAX) {
        // A byte before the window and one behind it are none of this offer's.
        let mut record = vec![stale];
        let mut expected = Vec::new();
        for (gap, above) in &layout {
            let blocks = 1_u64 << above;
            let at = (record.len() as u64 + gap).next_multiple_of(blocks);
            record.resize((at + blocks) as usize, 0);
            record[at as usize] = (flat_order + above + 1) as u8;
            expected.push(range(at << flat_order, 1 << (flat_order + above)));
        }
        let last = record.len() as u32 - 1;
        record.push(stale);
        let count = layout.len() as u32;
        let offer = offer(record.len() as u64, flat_order, (1, last), count);
        prop_assert_eq!(both(&record, offer), Ok(expected));
        let others = [
            FlatOffer { count: count + 1, ..offer },
            FlatOffer { count: count - 1, ..offer },
            FlatOffer { last: last - 1, ..offer },
            FlatOffer { blocks: u64::from(last), ..offer },
        ];
        for other in others {
            prop_assert!(both(&record, other).is_err(), "{:?}", other);
        }
    }

    #[test]
    fn any_bytes_end_in_a_bounded_answer(
        bytes in proptest::collection::vec(prop_oneof![5 => Just(0), 2 => 0..=20_u8, 1 => any::<u8>()], 1..300),
        blocks in prop_oneof![Just(0_u64), 0..400_u64, any::<u64>()],
        flat_order in 0..=MAX_OFFER_ORDER,
        window in prop_oneof![(0..300_u32, 0..300_u32), any::<(u32, u32)>()],
        count in 0_u32..300,
    ) {
        let offer = offer(blocks, flat_order, window, count);
        if let Ok(ranges) = parse(&bytes, offer) {
            prop_assert_eq!(ranges.len(), count as usize);
            let mut from = u64::from(window.0) << flat_order;
            for range in ranges {
                prop_assert!(range.npages <= 1 << MAX_OFFER_ORDER && range.npages >= 1 << flat_order);
                let gfn = range.base_gfn.get();
                prop_assert!(gfn >= from && gfn.is_multiple_of(range.npages));
                from = gfn + range.npages;
            }
            prop_assert!(from <= (u64::from(window.1) + 1) << flat_order);
        }
        // What is not there is not read, whatever the guest says of the size.
        let _ = read(&memory(&bytes, EVERYWHERE), Gpa::new(RECORD), offer);
    }
}
