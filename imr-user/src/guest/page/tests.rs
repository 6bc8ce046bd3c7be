//! Any bytes as a control page, any numbers as its place.

use std::fs::File;

use imr_common::guest_abi::ABI_VERSION;
use proptest::prelude::*;

use super::*;
use crate::guest::memory::{GuestMemory, RamRange};

const FRAME: u64 = FRAME_SIZE;

/// Guest memory in a file: frames `gfn..gfn + npages` lie in it from frame `at` on.
fn memory(slots: &[(u64, u64, u64)], frames: u64) -> (GuestMemory, File) {
    let file = tempfile::tempfile().unwrap();
    file.set_len(frames * FRAME).unwrap();
    let ranges =
        slots.iter().map(|(gfn, npages, at)| RamRange::from_frames(*gfn, *npages, at * FRAME).unwrap());
    (GuestMemory::new(file.try_clone().unwrap(), ranges.collect()), file)
}

fn encode(fields: &GuestFields) -> [u8; HALF_SIZE] {
    let mut bytes = [0; HALF_SIZE];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(offset_of!(GuestHalf, magic), &fields.magic.to_le_bytes());
    put(offset_of!(GuestHalf, abi_version), &fields.abi_version.to_le_bytes());
    put(offset_of!(GuestHalf, record_kind), &fields.record_kind.to_le_bytes());
    put(offset_of!(GuestHalf, cookie), &fields.cookie.to_le_bytes());
    put(offset_of!(GuestHalf, own_gpa), &fields.own_gpa.get().to_le_bytes());
    put(offset_of!(GuestHalf, record_gpa), &fields.record_gpa.get().to_le_bytes());
    put(offset_of!(GuestHalf, record_size), &fields.record_size.to_le_bytes());
    put(offset_of!(GuestHalf, flat_order), &fields.flat_order.to_le_bytes());
    put(offset_of!(GuestHalf, offer_seq), &fields.offer_seq.to_le_bytes());
    put(offset_of!(GuestHalf, offer_count), &fields.offer_count.to_le_bytes());
    put(offset_of!(GuestHalf, offer_head), &fields.offer_head.to_le_bytes());
    put(offset_of!(GuestHalf, offer_last), &fields.offer_last.to_le_bytes());
    put(offset_of!(GuestHalf, revoke_seq), &fields.revoke_seq.to_le_bytes());
    put(offset_of!(GuestHalf, total_pages), &fields.statistics.total_pages.to_le_bytes());
    put(offset_of!(GuestHalf, free_pages), &fields.statistics.free_pages.to_le_bytes());
    put(offset_of!(GuestHalf, reserve_pages), &fields.statistics.reserve_pages.to_le_bytes());
    for (order, blocks) in fields.statistics.free_blocks.iter().enumerate() {
        put(offset_of!(GuestHalf, free_blocks) + order * 8, &blocks.to_le_bytes());
    }
    for (zone, orders) in fields.statistics.zone_free_blocks.iter().enumerate() {
        for (order, blocks) in orders.iter().enumerate() {
            put(
                offset_of!(GuestHalf, zone_free_blocks) + (zone * FREE_ORDERS + order) * 4,
                &blocks.to_le_bytes(),
            );
        }
    }
    put(offset_of!(GuestHalf, offer_order), &fields.statistics.offer_order.to_le_bytes());
    for (zone, pages) in fields.statistics.zone_kept_pages.iter().enumerate() {
        put(offset_of!(GuestHalf, zone_kept_pages) + zone * 8, &pages.to_le_bytes());
    }
    put(offset_of!(GuestHalf, compacts), &u32::from(fields.statistics.compacts).to_le_bytes());
    put(offset_of!(GuestHalf, compacted_blocks), &fields.statistics.compacted_blocks.to_le_bytes());
    bytes
}

/// Mostly the number that is right.
fn mostly<T: Clone + std::fmt::Debug + 'static>(
    right: T,
    any: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = T> {
    prop_oneof![6 => Just(right), 1 => any]
}

prop_compose! {
    fn pages()(
        magic in mostly(MAGIC, any::<u64>()),
        abi_version in mostly(ABI_VERSION, any::<u32>()),
        record_kind in prop_oneof![6 => Just(RECORD_LIST), 6 => Just(RECORD_FLAT), 1 => any::<u32>()],
        cookie in mostly(7, 0..9_u64),
        own_gpa in mostly(0x1000, any::<u64>()),
        record_gpa in prop_oneof![Just(0x1000), Just(0x2000), Just(0x3000), 0x1000..0x4000_u64, any::<u64>()],
        record_size in prop_oneof![
            6 => Just(LIST_RECORD_SIZE),
            4 => 0..=3 * LIST_RECORD_SIZE,
            1 => FLAT_RECORD_MAX - 1..FLAT_RECORD_MAX + 2,
            1 => any::<u64>(),
        ],
        flat_order in prop_oneof![3 => 8..=MAX_OFFER_ORDER + 1, 1 => any::<u32>()],
        numbers in any::<[u64; 4]>(),
        small in any::<[u32; 3]>(),
        free_blocks in any::<[u64; FREE_ORDERS]>(),
        zone_free_blocks in any::<[[u32; FREE_ORDERS]; FREE_ZONES]>(),
        zone_kept_pages in any::<[u64; FREE_ZONES]>(),
        (offer_order, compacts, compacted_blocks) in any::<(u32, bool, u64)>(),
    ) -> GuestFields {
        let [offer_seq, revoke_seq, total_pages, free_pages] = numbers;
        let reserve_pages = !free_pages;
        let statistics =
            GuestStatistics {
                total_pages, free_pages, reserve_pages, free_blocks, zone_free_blocks, offer_order, zone_kept_pages,
                compacts, compacted_blocks,
            };
        GuestFields {
            magic, abi_version, record_kind, cookie, own_gpa: Gpa::new(own_gpa), record_gpa: Gpa::new(record_gpa),
            record_size, flat_order, offer_seq, offer_count: small[0], offer_head: small[1], offer_last: small[2],
            revoke_seq, statistics,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_only_a_page_that_is_right_in_all_passes(page in pages()) {
        prop_assert_eq!(&GuestFields::decode(&encode(&page)), &page);
        let here = Gpa::new(0x1000);
        let is_it = page.magic == MAGIC && page.abi_version == ABI_VERSION && page.own_gpa == here && page.cookie == 7;
        prop_assert_eq!(page.check_identity(here, 7).is_ok(), is_it);
        prop_assert!(page.check_identity(here, 0).is_err(), "nobody has the cookie 0");

        // Frames 1 to 3 are RAM.
        let (memory, _) = memory(&[(1, 3, 0)], 3);
        let shape = match page.record_kind {
            RECORD_LIST => page.record_size == LIST_RECORD_SIZE,
            RECORD_FLAT => (1..=FLAT_RECORD_MAX).contains(&page.record_size) && (9..=MAX_OFFER_ORDER).contains(&page.flat_order),
            _ => false,
        };
        let bytes = |gpa: Gpa, size| u128::from(gpa.get())..u128::from(gpa.get()) + u128::from(size);
        let (record, own) = (bytes(page.record_gpa, page.record_size), bytes(page.own_gpa, FRAME));
        let apart = record.end <= own.start || own.end <= record.start;
        let place = page.record_gpa.get() % FRAME == 0 && record.start >= 0x1000 && record.end <= 0x4000;
        // An own address that is none is for check_identity() to find.
        if page.own_gpa.get() % FRAME == 0 {
            prop_assert_eq!(page.check_record(&memory).is_ok(), shape && place && apart);
        }
    }

    #[test]
    fn any_bytes_are_given_names(bytes in proptest::collection::vec(any::<u8>(), HALF_SIZE)) {
        let bytes: [u8; HALF_SIZE] = bytes.try_into().unwrap();
        let page = GuestFields::decode(&bytes);
        prop_assert_eq!(GuestFields::decode(&encode(&page)), page);
    }

    #[test]
    fn a_page_is_where_memory_is(
        gpa in prop_oneof![any::<u64>(), 0..0x6000_u64, (0..8_u64).prop_map(|frame| frame * FRAME), Just(!0xfff)],
    ) {
        let (memory, _) = memory(&[(1, 2, 0), (4, 1, 2)], 3);
        let expected = [0x1000, 0x2000, 0x4000].contains(&gpa);
        prop_assert_eq!(check_place(&memory, Gpa::new(gpa)).is_ok(), expected);
    }

    #[test]
    fn the_host_writes_the_field_it_means_and_no_other_byte(
        field in proptest::sample::select(vec![
            offset_of!(HostHalf, attach_id),
            offset_of!(HostHalf, heartbeat),
            offset_of!(HostHalf, claim_seq),
            offset_of!(HostHalf, done_seq),
            offset_of!(HostHalf, abandon_seq),
            offset_of!(HostHalf, want_pages),
            offset_of!(HostHalf, want_seq),
            offset_of!(HostHalf, compact_pages),
            offset_of!(HostHalf, compact_seq),
        ]),
        value in 1..=u64::MAX,
        mode in 1..=u32::MAX,
        results in proptest::collection::vec(1..=u8::MAX, 0..=MAX_RANGES),
    ) {
        use std::os::unix::fs::FileExt;
        let (memory, file) = memory(&[(1, 1, 1)], 3);
        let page = Gpa::new(FRAME);
        write_host_u64(&memory, page, field, value).unwrap();
        write_mode(&memory, page, mode).unwrap();
        write_results(&memory, page, &results).unwrap();
        let host = FRAME as usize + HALF_SIZE;
        let mut expected = vec![0; 3 * FRAME as usize];
        expected[host + field..][..8].copy_from_slice(&value.to_le_bytes());
        expected[host + offset_of!(HostHalf, mode)..][..4].copy_from_slice(&mode.to_le_bytes());
        expected[host + offset_of!(HostHalf, results)..][..results.len()].copy_from_slice(&results);
        let mut found = vec![0; expected.len()];
        file.read_exact_at(&mut found, 0).unwrap();
        prop_assert_eq!(found, expected);
    }
}
