//! Guest-physical memory as pieces without gaps: slots that follow each other, joined.
//!
//! Input: the slots of one VM. Output: regions, their blocks, the kinds of their cells. Visits only the blocks that
//! it is asked for.

use crate::model::block::{BlockState, GuestClaim, HostFact};
use crate::model::ids::{FRAME_SIZE, FRAMES_PER_BLOCK};
use crate::model::snapshot::SlotSnapshot;
use crate::view::cells::{CellKind, Tally};

/// Slots whose blocks follow each other without a gap: drawn as one piece. The first mebibyte of a PC is four
/// slots in one block, and four maps of one cell would say nothing.
#[derive(Debug)]
pub(crate) struct Region<'a> {
    /// Its slots, by address.
    pub(crate) slots: Vec<&'a SlotSnapshot>,
    /// Number of the first block.
    pub(crate) first: u64,
    /// Number of the block after the last.
    pub(crate) end: u64,
}

/// The regions of a VM, by address. Slots without block states (ROMs, devices) are not part of any.
pub(crate) fn regions(slots: &[SlotSnapshot]) -> Vec<Region<'_>> {
    let mut followed: Vec<&SlotSnapshot> = slots.iter().filter(|slot| !slot.blocks.is_empty()).collect();
    followed.sort_by_key(|slot| (slot.base_gfn, slot.id));
    let mut regions: Vec<Region<'_>> = Vec::new();
    for slot in followed {
        let (first, end) = span(slot);
        match regions.last_mut() {
            Some(region) if first <= region.end => {
                region.end = region.end.max(end);
                region.slots.push(slot);
            }
            _ => regions.push(Region { slots: vec![slot], first, end }),
        }
    }
    regions
}

/// Position of the region that holds `block`, and `block`; where no region does, of the nearest block that one has.
pub(crate) fn nearest(regions: &[Region<'_>], block: u64) -> Option<(usize, u64)> {
    let after = regions.partition_point(|region| region.end <= block);
    let below = after.checked_sub(1).and_then(|at| Some((at, regions.get(at)?.end - 1)));
    let above = regions.get(after).map(|region| (after, block.max(region.first)));
    match (below, above) {
        (Some(below), Some(above)) if block - below.1 < above.1 - block => Some(below),
        (below, above) => above.or(below),
    }
}

impl<'a> Region<'a> {
    /// Blocks.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.first
    }

    /// Cells of `per_cell` blocks each, the last perhaps of fewer.
    pub(crate) fn cells(&self, per_cell: u64) -> u64 {
        self.len().div_ceil(per_cell.max(1))
    }

    /// Bytes of guest RAM in its slots.
    pub(crate) fn bytes(&self) -> u64 {
        self.slots.iter().fold(0u64, |sum, slot| sum.saturating_add(slot.npages.saturating_mul(FRAME_SIZE)))
    }

    /// The slots that have a part of `block`.
    pub(crate) fn slots_of(&self, block: u64) -> impl Iterator<Item = &'a SlotSnapshot> + '_ {
        self.slots.iter().copied().filter(move |slot| {
            let (first, end) = span(slot);
            first <= block && block < end
        })
    }

    /// Frames of guest memory in `block`, at most 512: at the edges of slots perhaps fewer.
    pub(crate) fn frames_of(&self, block: u64) -> u64 {
        let start = block.saturating_mul(FRAMES_PER_BLOCK);
        let end = start.saturating_add(FRAMES_PER_BLOCK);
        let frames = self.slots_of(block).map(|slot| {
            let first = slot.base_gfn.get();
            first.saturating_add(slot.npages).min(end).saturating_sub(first.max(start))
        });
        frames.sum::<u64>().min(FRAMES_PER_BLOCK)
    }

    /// The state of `block`.
    pub(crate) fn state(&self, block: u64) -> Option<BlockState> {
        let mut found = None;
        self.for_each(block, block.saturating_add(1), |_, state| found = Some(state));
        found
    }

    /// The first block from `from` to before `to` that shows this kind.
    pub(crate) fn first_of(&self, kind: CellKind, from: u64, to: u64) -> Option<u64> {
        let mut found = None;
        self.for_each(from, to, |id, state| {
            if found.is_none() && CellKind::of(state) == kind {
                found = Some(id);
            }
        });
        found
    }

    /// What the blocks from `from` to before `to` add up to.
    pub(crate) fn tally(&self, from: u64, to: u64) -> Tally {
        let mut tally = Tally::default();
        self.for_each(from, to, |_, state| tally.add(state));
        tally
    }

    /// The kinds of `count` cells of `per_cell` blocks, from cell `first` on, as far as there are any.
    pub(crate) fn kinds(&self, per_cell: u64, first: u64, count: u64) -> Vec<CellKind> {
        let per_cell = per_cell.max(1);
        let count = count.min(self.cells(per_cell).saturating_sub(first));
        let from = self.first.saturating_add(first.saturating_mul(per_cell));
        let to = from.saturating_add(count.saturating_mul(per_cell)).min(self.end);
        let mut kinds = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
        let mut tally = Tally::default();
        let mut left = per_cell;
        self.for_each(from, to, |_, state| {
            tally.add(state);
            left -= 1;
            if left == 0 {
                kinds.push(std::mem::take(&mut tally).kind());
                left = per_cell;
            }
        });
        if left < per_cell {
            kinds.push(tally.kind());
        }
        kinds
    }

    /// Calls `visit` with each block from `from` to before `to`, in order and once, blocks of two slots joined.
    fn for_each(&self, from: u64, to: u64, mut visit: impl FnMut(u64, BlockState)) {
        let mut pending: Option<(u64, BlockState)> = None;
        for slot in &self.slots {
            let (first, end) = span(slot);
            let (from, to) = (from.max(first), to.min(end));
            if from >= to {
                continue;
            }
            let skipped = usize::try_from(from - first).unwrap_or(usize::MAX);
            let count = usize::try_from(to - from).unwrap_or(usize::MAX);
            for (id, state) in (from..).zip(slot.blocks.range(skipped, count)) {
                match &mut pending {
                    // Slots never overlap, so only the block at the seam can come twice.
                    Some((last, joined)) if id == *last => *joined = join(*joined, state),
                    Some((last, _)) if id < *last => {}
                    _ => {
                        if let Some((last, joined)) = pending.replace((id, state)) {
                            visit(last, joined);
                        }
                    }
                }
            }
        }
        if let Some((last, joined)) = pending {
            visit(last, joined);
        }
    }
}

/// The first block of a slot and the one after its last.
fn span(slot: &SlotSnapshot) -> (u64, u64) {
    let first = slot.first_block().get();
    (first, first.saturating_add(slot.blocks.len() as u64))
}

/// Two slots' views of the block they share: its memory is the sum, its story the more telling one.
fn join(a: BlockState, b: BlockState) -> BlockState {
    let weight = |fact: HostFact| match fact {
        HostFact::Untouched => 0,
        HostFact::Reclaimed => 1,
        HostFact::Merged => 2,
        HostFact::Swapped => 3,
        HostFact::Idle => 4,
        HostFact::Resident2m => 5,
        HostFact::Resident4k => 6,
        HostFact::Refaulted => 7,
    };
    BlockState {
        // The block is free only if both parts are.
        claim: if a.claim == b.claim { a.claim } else { GuestClaim::Unknown },
        fact: if weight(a.fact) >= weight(b.fact) { a.fact } else { b.fact },
        resident_frames: a.resident_frames.saturating_add(b.resident_frames),
        swapped_frames: a.swapped_frames.saturating_add(b.swapped_frames),
        merged_frames: a.merged_frames.saturating_add(b.merged_frames),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ids::Gfn;
    use crate::view::testing::{block, slot};

    const R: BlockState = block(GuestClaim::Unknown, HostFact::Resident4k, 512);
    const U: BlockState = block(GuestClaim::Unknown, HostFact::Untouched, 0);

    #[test]
    fn neighbouring_slots_join_and_holes_part() {
        let mut low = slot(0, 0, &[block(GuestClaim::Unknown, HostFact::Resident4k, 160)]);
        low.npages = 160;
        let mut high = slot(3, 0, &[block(GuestClaim::Unknown, HostFact::Resident4k, 256), U, R]);
        (high.base_gfn, high.npages) = (Gfn::new(256), 3 * 512 - 256);
        let far = slot(4, 2048, &[R]);
        let rom = slot(5, 1000, &[]);
        let slots = [far, high, rom, low];
        let regions = regions(&slots);
        assert_eq!(regions.len(), 2);
        assert_eq!((regions[0].first, regions[0].len(), regions[0].slots.len()), (0, 3, 2));
        assert_eq!((regions[1].first, regions[1].len()), (2048, 1));
        let resident = |block| regions[0].state(block).map(|state| state.resident_frames);
        assert_eq!([0, 1, 2, 3].map(resident), [Some(416), Some(0), Some(512), None]);
        assert_eq!([0, 1, 2, 3].map(|block| regions[0].frames_of(block)), [416, 512, 512, 0]);
        assert_eq!(
            regions[0].kinds(1, 0, 9),
            [CellKind::Resident4k, CellKind::Untouched, CellKind::Resident4k]
        );
        assert_eq!(regions[0].kinds(2, 0, 9), [CellKind::Resident4k; 2]);
        assert_eq!(regions[0].kinds(2, 1, 9), [CellKind::Resident4k]);
    }

    #[test]
    fn a_block_that_is_gone_leads_to_the_nearest_that_is_there() {
        let slots = [slot(0, 10, &[R; 5]), slot(1, 30, &[R; 5])];
        let regions = regions(&slots);
        let cases = [(0, 0, 10), (12, 0, 12), (20, 0, 14), (23, 1, 30), (34, 1, 34), (u64::MAX, 1, 34)];
        for (asked, region, block) in cases {
            assert_eq!(nearest(&regions, asked), Some((region, block)), "{asked}");
        }
        assert_eq!(nearest(&[], 7), None);
    }

    fn slots() -> impl Strategy<Value = Vec<SlotSnapshot>> {
        // Gaps, seams, slots that overlap, that share a block, and one that ends the address space.
        proptest::collection::vec((0..60_u64, 0..30_usize, 0..512_u64), 0..6).prop_map(|shapes| {
            let last = slot(9, u64::MAX / 512 - 1, &[R, R, R, R]);
            let mut slots: Vec<SlotSnapshot> = (0..)
                .zip(shapes)
                .map(|(id, (first, count, into))| {
                    let mut slot = slot(id, first, &vec![R; count]);
                    slot.base_gfn = Gfn::new(first * 512 + into);
                    slot
                })
                .collect();
            slots.push(last);
            slots
        })
    }

    proptest! {
        #[test]
        fn every_block_is_in_exactly_one_cell(slots in slots(), per_cell in 1..9_u64, row in 1..7_u64) {
            let regions = regions(&slots);
            for slot in slots.iter().filter(|slot| !slot.blocks.is_empty()) {
                let (first, end) = span(slot);
                for block in first..end {
                    prop_assert_eq!(regions.iter().filter(|r| r.first <= block && block < r.end).count(), 1);
                    prop_assert_eq!(nearest(&regions, block).map(|(_, nearest)| nearest), Some(block));
                }
            }
            for region in &regions {
                let mut visited = Vec::new();
                region.for_each(0, u64::MAX, |id, _| visited.push(id));
                prop_assert!(visited.iter().copied().eq(region.first..region.end));
                // Row by row gives what all at once gives, and as many cells as were announced.
                let all = region.kinds(per_cell, 0, u64::MAX);
                prop_assert_eq!(all.len() as u64, region.cells(per_cell));
                let mut rows = Vec::new();
                let mut first = 0;
                while first < region.cells(per_cell) {
                    rows.extend(region.kinds(per_cell, first, row));
                    first += row;
                }
                prop_assert_eq!(rows, all);
                prop_assert_eq!(region.tally(0, u64::MAX).total(), region.len());
            }
        }
    }
}
