//! Runs of any shape: calls cover exactly what may be taken, end where pages can, and are booked to the right ranges.

use proptest::prelude::*;

use super::*;
use crate::model::backing::{Segment, VmaFlags};

const MIB: u64 = 1 << 20;
/// Frames of 1 MiB.
const FRAMES: u64 = MIB / FRAME_SIZE;
/// Where VMAs begin in these tests, apart from what is added.
const BASE: u64 = 1 << 40;

/// A VMA of `npages` frames from `base_gfn` on, mapped at `BASE + hva`, of a file at `file_offset` or of none.
fn segment(kind: BackingKind, base_gfn: u64, npages: u64, hva: u64, file_offset: u64, huge: bool) -> Segment {
    let file = u64::from(kind != BackingKind::Anonymous);
    Segment {
        base_gfn: Gfn::new(base_gfn),
        npages,
        hva: Hva::new(BASE + hva),
        vma_start: Hva::new(BASE + hva),
        vma_end: Hva::new(BASE + hva + npages * FRAME_SIZE),
        file_offset: file * file_offset,
        dev: file,
        inode: file,
        shared: kind != BackingKind::Anonymous,
        kind,
        writable: true,
        page_size: FRAME_SIZE,
        flags: VmaFlags { huge, ..VmaFlags::default() },
    }
}

/// The frames `skip..skip + npages` of a segment, as range `range` of an offer.
fn work(segment: &Segment, range: usize, skip: u64, npages: u64) -> Work<'_> {
    assert!(skip + npages <= segment.npages);
    let has_file = segment.kind != BackingKind::Anonymous;
    let piece = SegmentPiece {
        segment,
        base_gfn: Gfn::new(segment.base_gfn.get() + skip),
        npages,
        hva: Hva::new(segment.hva.get() + skip * FRAME_SIZE),
        file_offset: if has_file { segment.file_offset + skip * FRAME_SIZE } else { 0 },
        bytes: npages * FRAME_SIZE,
    };
    Work { range, piece }
}

/// All calls of all runs, each booked as taken, and what that makes of the ranges.
fn calls<'a>(work: &[Work<'a>], ranges: usize) -> (Vec<Call<'a>>, Vec<Tally>) {
    let mut tallies: Vec<Tally> = (0..ranges).map(|_| Tally::default()).collect();
    let mut calls = Vec::new();
    for pieces in work.chunk_by(|a, b| neighbours(&a.piece, &b.piece)) {
        let mut run = Run::new(pieces, &mut tallies);
        while let Some(call) = run.next_call() {
            run.credit(&call, &Ok(Effect::Taken), &mut tallies);
            calls.push(call);
        }
    }
    (calls, tallies)
}

#[test]
fn memory_without_a_file_is_followed_by_its_addresses() {
    let ram = segment(BackingKind::Anonymous, 0, 64 * FRAMES, 0, 0, true);
    let work = [
        work(&ram, 0, 0, 4 * FRAMES),
        work(&ram, 1, 4 * FRAMES, 20 * FRAMES),
        work(&ram, 2, 30 * FRAMES, 2 * FRAMES),
    ];
    let (calls, tallies) = calls(&work, 3);
    let at: Vec<_> = calls.iter().map(|call| (call.hva.get() - BASE, call.bytes, call.file_offset)).collect();
    assert_eq!(at, [(0, 16 * MIB, 0), (16 * MIB, 8 * MIB, 0), (30 * MIB, 2 * MIB, 0)]);
    let taken: Vec<_> = tallies.iter().map(|tally| (tally.taken, tally.trimmed)).collect();
    assert_eq!(taken, [(4 * MIB, 0), (20 * MIB, 0), (2 * MIB, 0)]);
}

#[test]
fn memory_without_a_file_is_not_merged_over_the_end_of_a_vma() {
    let low = segment(BackingKind::Anonymous, 0, 4 * FRAMES, 0, 0, false);
    let high = segment(BackingKind::Anonymous, 4 * FRAMES, 4 * FRAMES, 4 * MIB, 0, false);
    let far = segment(BackingKind::Anonymous, 8 * FRAMES, 4 * FRAMES, 64 * MIB, 0, false);
    let work = [work(&low, 0, 0, 4 * FRAMES), work(&high, 0, 0, 4 * FRAMES), work(&far, 0, 0, 4 * FRAMES)];
    let (calls, tallies) = calls(&work, 1);
    assert_eq!(calls.len(), 3);
    for (call, segment) in calls.iter().zip([&low, &high, &far]) {
        assert!(std::ptr::eq(call.segment, segment));
    }
    assert_eq!(tallies[0].taken, 12 * MIB);
    // Of one file, contiguous in every respect, it is one hole whatever the number of VMAs.
    let low = segment(BackingKind::Memfd, 0, 4 * FRAMES, 0, 0, false);
    let high = segment(BackingKind::Memfd, 4 * FRAMES, 4 * FRAMES, 4 * MIB, 4 * MIB, false);
    let other =
        Segment { inode: 2, ..segment(BackingKind::Memfd, 8 * FRAMES, 4 * FRAMES, 8 * MIB, 8 * MIB, false) };
    let work = [
        self::work(&low, 0, 0, 4 * FRAMES),
        self::work(&high, 0, 0, 4 * FRAMES),
        self::work(&other, 0, 0, 4 * FRAMES),
    ];
    assert_eq!(self::calls(&work, 1).0.len(), 2);
}

/// The VMM's mapping begins 1 MiB after a 2 MiB boundary: a block of the guest is two halves of huge pages.
#[test]
fn halves_of_huge_pages_are_left_whole() {
    let far = 64 * FRAMES;
    for kind in [BackingKind::Anonymous, BackingKind::Memfd] {
        let ram = segment(kind.clone(), 0, far, MIB, MIB, true);
        let of = |work: &[Work<'_>], ranges| {
            let (calls, tallies) = calls(work, ranges);
            let calls: Vec<_> = calls.iter().map(|call| (call.base_gfn.get(), call.bytes / MIB)).collect();
            let booked: Vec<_> =
                tallies.iter().map(|tally| (tally.taken / MIB, tally.trimmed / MIB)).collect();
            (calls, booked)
        };
        // One block alone has no whole huge page; of three neighbours the two in the middle are whole.
        assert_eq!(of(&[work(&ram, 0, 2 * FRAMES, 2 * FRAMES)], 1), (vec![], vec![(0, 2)]));
        let three = [
            work(&ram, 0, 2 * FRAMES, 2 * FRAMES),
            work(&ram, 1, 4 * FRAMES, 2 * FRAMES),
            work(&ram, 2, 6 * FRAMES, 2 * FRAMES),
        ];
        assert_eq!(of(&three, 3), (vec![(3 * FRAMES, 4)], vec![(1, 1), (2, 0), (1, 1)]));
        // No huge page can be there: nothing is left out.
        let plain = segment(kind, 0, far, MIB, MIB, false);
        assert_eq!(of(&[work(&plain, 0, 2 * FRAMES, 2 * FRAMES)], 1).1, [(2, 0)]);
    }
    // Without a file no huge page reaches over the VMA's ends.
    let ram = segment(BackingKind::Anonymous, 0, 5 * FRAMES, MIB, 0, true);
    let (calls, tallies) = calls(&[work(&ram, 0, 0, 5 * FRAMES)], 1);
    assert_eq!((calls.len(), tallies[0].taken, tallies[0].trimmed), (1, 5 * MIB, 0));
}

/// Adjoining VMAs of one kind, cut into ranges with gaps, as `(segments, [(segment, skip, npages)])`.
fn layouts() -> impl Strategy<Value = (Vec<Segment>, Vec<(usize, u64, u64)>)> {
    let kinds = prop_oneof![Just(BackingKind::Anonymous), Just(BackingKind::Memfd)];
    let vma = (1..6000_u64, any::<bool>());
    let cuts = prop::collection::vec((0..700_u64, 1..3000_u64), 1..12);
    (kinds, prop::collection::vec(vma, 1..4), 0..1024_u64, 0..1024_u64, 0..1024_u64, cuts).prop_map(
        |(kind, vmas, gfn, hva, offset, cuts)| {
            let mut at = 0;
            let mut segments = Vec::new();
            for (npages, huge) in vmas {
                let start = (hva + at) * FRAME_SIZE;
                segments.push(segment(
                    kind.clone(),
                    gfn + at,
                    npages,
                    start,
                    (offset + at) * FRAME_SIZE,
                    huge,
                ));
                at += npages;
            }
            let mut pieces = Vec::new();
            let (mut index, mut skip) = (0, 0);
            for (gap, npages) in cuts {
                skip += gap;
                while let Some(segment) = segments.get(index).filter(|segment| skip >= segment.npages) {
                    skip -= segment.npages;
                    index += 1;
                }
                let Some(segment) = segments.get(index) else { break };
                let npages = npages.min(segment.npages - skip);
                pieces.push((index, skip, npages));
                skip += npages;
            }
            (segments, pieces)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn no_huge_page_is_split_and_every_byte_is_booked((segments, pieces) in layouts()) {
        let work: Vec<_> =
            pieces.iter().enumerate().map(|(range, (of, skip, npages))| work(&segments[*of], range, *skip, *npages)).collect();
        let (calls, tallies) = calls(&work, work.len());
        let offered = |place: u64| work.iter().any(|item| (item.piece.place()..item.piece.place() + item.piece.bytes).contains(&place));
        let called = |place: u64| calls.iter().any(|call| {
            let start = call.segment.place(call.hva, call.file_offset);
            (start..start + call.bytes).contains(&place)
        });
        for call in &calls {
            prop_assert!(call.bytes > 0 && call.bytes <= MAX_CALL_BYTES);
            let start = call.segment.place(call.hva, call.file_offset);
            let end = start + call.bytes;
            // Inside what was offered, at both ends and in between.
            for place in [start, end - FRAME_SIZE].into_iter().chain((start..end).step_by(MIB as usize)) {
                prop_assert!(offered(place), "{place:#x} was not offered");
            }
            prop_assert!(call.hva >= call.segment.vma_start && call.hva < call.segment.vma_end);
            if call.segment.kind == BackingKind::Anonymous {
                prop_assert!(call.hva.get() + call.bytes <= call.segment.vma_end.get());
                prop_assert_eq!(call.file_offset, 0);
            }
            // Where huge pages can be, each is taken whole or not at all, if all of it is in the VMA.
            let vma = (call.segment.vma_start.get(), call.segment.vma_end.get());
            for edge in [start, end].into_iter().filter(|edge| edge % BLOCK_SIZE != 0 && call.segment.flags.huge) {
                let at_vma_end = call.segment.kind == BackingKind::Anonymous && (edge == vma.0 || edge == vma.1);
                let page = edge / BLOCK_SIZE * BLOCK_SIZE;
                let whole = (page..page + BLOCK_SIZE).step_by(FRAME_SIZE as usize).all(called);
                prop_assert!(at_vma_end || whole, "{edge:#x} is inside a huge page");
            }
        }
        let mut left = &calls[..];
        while !left.is_empty() {
            let (now, later) = left.split_at(stride(left));
            prop_assert!(!now.is_empty() && now.iter().map(|call| call.bytes).sum::<u64>() <= MAX_CALL_BYTES);
            left = later;
        }
        for (item, tally) in work.iter().zip(&tallies) {
            prop_assert_eq!(tally.covered, tally.taken);
            prop_assert_eq!(tally.covered + tally.trimmed, item.piece.bytes);
            prop_assert!(tally.trimmed == 0 || segments.iter().any(|segment| segment.flags.huge));
        }
        let sum: u64 = calls.iter().map(|call| call.bytes).sum();
        prop_assert_eq!(sum, tallies.iter().map(|tally| tally.taken).sum::<u64>());
    }
}
