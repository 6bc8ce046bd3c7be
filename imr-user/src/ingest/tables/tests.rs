//! On tables in memory: what is told of changes, by whom and how often.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::thread;

use imr_common::host_abi::COARSE_SHIFT;

use super::*;

fn changed(tables: &Tables, blocks: Range<u64>) -> Vec<u64> {
    let mut found = Vec::new();
    tables.take_changed(blocks, |index, _| found.push(index));
    found
}

#[test]
fn a_change_is_told_once_with_what_it_left() {
    let tables = Tables::in_memory(1000).unwrap();
    assert!(changed(&tables, 0..1000).is_empty());
    tables.note_mapped(77, 65, 5001);
    tables.note_mapped(77, 511, 6000);
    let mut told = Vec::new();
    tables.take_changed(0..1000, |index, record| told.push((index, record)));
    let [(77, record)] = told[..] else { panic!("{told:?}") };
    assert_eq!(record.mapped, [0, 2, 0, 0, 0, 0, 0, 1 << 63]);
    assert_eq!((record.last_map_ns(), record.is_large(), record.mapped_frames()), (6000, false, 2));
    assert_eq!(record, tables.block(77));
    assert!(changed(&tables, 0..1000).is_empty());

    tables.note_unmapped(77, 65);
    assert_eq!(changed(&tables, 0..1000), [77]);
    tables.note_unmapped(77, 65);
    assert!(changed(&tables, 0..1000).is_empty(), "nothing was there to unmap");

    tables.note_mapped_large(77, 7001);
    let record = tables.block(77);
    assert_eq!((record.last_map_ns(), record.is_large(), record.mapped_frames()), (7000, true, 512));
}

#[test]
fn scans_are_told_once_a_unit_of_time() {
    let tables = Tables::in_memory(64).unwrap();
    let unit = 1 << COARSE_SHIFT;
    tables.note_aged(3, 9 * unit);
    tables.note_young(3, 9 * unit + 5);
    assert_eq!(changed(&tables, 0..64), [3]);
    tables.note_aged(3, 10 * unit - 1);
    assert!(changed(&tables, 0..64).is_empty());
    tables.note_aged(3, 10 * unit);
    assert_eq!(changed(&tables, 0..64), [3]);
    let record = tables.block(3);
    assert_eq!((record.last_young, record.last_age), (9, 10));
    assert_eq!((record.last_young_ns(), record.last_age_ns()), (9 * unit, 10 * unit));
}

#[test]
fn blocks_outside_the_range_stay_changed() {
    let tables = Tables::in_memory(300).unwrap();
    for index in 0..300 {
        tables.note_mapped(index, 0, 1);
    }
    assert_eq!(changed(&tables, 70..75), (70..75).collect::<Vec<_>>());
    assert_eq!(changed(&tables, 60..130), (60..70).chain(75..130).collect::<Vec<_>>());
    assert!(changed(&tables, 128..128).is_empty() && changed(&tables, 5000..6000).is_empty());
    assert_eq!(changed(&tables, 192..256), (192..256).collect::<Vec<_>>());
    assert_eq!(changed(&tables, 0..u64::MAX), (0..60).chain(130..192).chain(256..300).collect::<Vec<_>>());
}

#[test]
fn a_new_owner_finds_its_blocks_empty_and_unchanged() {
    let tables = Tables::in_memory(200).unwrap();
    for index in 0..200 {
        tables.note_mapped_large(index, 1);
    }
    tables.reset_blocks(10..150);
    assert_eq!(changed(&tables, 0..200), (0..10).chain(150..200).collect::<Vec<_>>());
    assert_eq!(tables.block(10), BlockRecord::default());
    assert_eq!(tables.block(149), BlockRecord::default());
    assert_eq!(tables.block(9).mapped_frames(), 512);
    assert_eq!(tables.block(150).mapped_frames(), 512);
}

#[test]
fn two_mappings_of_a_file_are_the_same_tables() {
    let fd = rustix::fs::memfd_create("imr-test-tables", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let one = Tables::on_file(fd.try_clone().unwrap(), 100).unwrap();
    let other = Tables::on_file(fd, 100).unwrap();
    one.note_mapped(99, 3, 8);
    assert_eq!(changed(&other, 0..100), [99]);
    assert_eq!(other.block(99).last_map_ns(), 8);
    assert_eq!(other.totals().page_faults, 0);
    other.reset_vm(1, 5);
    assert_eq!((one.reset_generation(1), one.vm(1).memslots_generation), (1, 5));
    // Past the table nothing is there, and nothing happens.
    one.note_mapped(100, 0, 8);
    assert_eq!(one.block(100), BlockRecord::default());
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// Ten changes of any kind and place, now and then with a rest in between.
fn write(tables: &Tables, blocks: u64, now: u64, random: &mut u64) {
    for _ in 0..10 {
        let dice = next(random);
        let (index, frame) = (dice % blocks, (dice >> 32) as u32 % 512);
        match dice >> 60 {
            0..=6 => tables.note_mapped(index, frame, 2 * now),
            7..=11 => tables.note_unmapped(index, frame),
            12 => tables.note_mapped_large(index, 2 * now),
            13 => tables.note_young(index, now << COARSE_SHIFT),
            14 => tables.note_aged(index, now << COARSE_SHIFT),
            _ => thread::yield_now(),
        }
    }
}

/// What was told last of each block is how it ended, whatever the moment it was looked at. Many short rounds: what is lost
/// shows only where nothing happens to the block afterwards.
#[test]
fn no_change_is_lost_among_writers_and_a_taker() {
    const BLOCKS: u64 = 4;
    const WRITERS: u64 = 2;
    /// Rounds in which something was told while the writers were at it.
    const OVERLAPS: u64 = 2000;
    let tables = Tables::in_memory(BLOCKS).unwrap();
    let [round, finished] = [AtomicU64::new(0), AtomicU64::new(0)];
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 1..=WRITERS {
            let (tables, round, finished, enough) = (tables.clone(), &round, &finished, &enough);
            scope.spawn(move || {
                let mut random = writer;
                let mut seen = 0;
                while !enough.load(Ordering::SeqCst) {
                    let now = round.load(Ordering::SeqCst);
                    if now == seen {
                        thread::yield_now();
                        continue;
                    }
                    seen = now;
                    write(&tables, BLOCKS, now, &mut random);
                    finished.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut told = HashMap::new();
        let (mut overlaps, mut lost) = (0, Vec::new());
        while overlaps < OVERLAPS && lost.is_empty() {
            let now = round.fetch_add(1, Ordering::SeqCst) + 1;
            let mut met = false;
            while finished.load(Ordering::SeqCst) < now * WRITERS {
                tables.take_changed(0..BLOCKS, |index, record| {
                    told.insert(index, record);
                    met = true;
                });
            }
            overlaps += u64::from(met);
            tables.take_changed(0..BLOCKS, |index, record| {
                told.insert(index, record);
            });
            lost.extend(
                (0..BLOCKS)
                    .filter(|index| told.get(index).copied().unwrap_or_default() != tables.block(*index)),
            );
        }
        // Before anything can fail: the writers wait for it.
        enough.store(true, Ordering::SeqCst);
        assert!(lost.is_empty(), "blocks {lost:?} changed unseen in round {}", round.load(Ordering::SeqCst));
    });
}
