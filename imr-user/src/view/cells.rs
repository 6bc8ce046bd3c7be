//! What a cell of the heatmap stands for: the blocks of a VM's slots, joined into regions and summed into cells.
//!
//! Input: the slots of one VM. Output: regions, cells, totals. Knows nothing of colours or of the screen.

use crate::model::block::{BlockState, GuestClaim, HostFact};
use crate::model::ids::{BLOCK_SIZE, FRAME_SIZE, FRAMES_PER_BLOCK};
use crate::model::snapshot::SlotSnapshot;

/// What a cell shows: host fact, and the one case in which the guest's claim says something of value to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CellKind {
    /// No memory, and none seen.
    Untouched,
    /// Memory behind at least half of the frames.
    Resident,
    /// Memory behind some, but less than half, of the frames.
    Partly,
    /// The host holds memory for what the guest says is free.
    FreeHeld,
    /// Taken back and not touched since.
    Reclaimed,
    /// Taken back and touched again.
    Refaulted,
}

impl CellKind {
    /// All, in the order of the legend.
    pub const ALL: [Self; 6] =
        [Self::Resident, Self::Partly, Self::FreeHeld, Self::Reclaimed, Self::Refaulted, Self::Untouched];
}

/// Blocks summed up, by state. Resident and partly resident blocks are one class until they are shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    untouched: u64,
    resident: u64,
    free_held: u64,
    reclaimed: u64,
    refaulted: u64,
    resident_frames: u64,
    free_held_frames: u64,
    refaulted_frames: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, state: BlockState) {
        let frames = u64::from(state.resident_frames).min(FRAMES_PER_BLOCK);
        match (state.fact, state.claim) {
            (fact, GuestClaim::Free) if fact.is_held() => {
                self.free_held += 1;
                self.free_held_frames += frames;
            }
            (
                HostFact::Resident4k
                | HostFact::Resident2m
                | HostFact::Idle
                | HostFact::Swapped
                | HostFact::Merged,
                _,
            ) => {
                self.resident += 1;
                self.resident_frames += frames;
            }
            (HostFact::Refaulted, _) => {
                self.refaulted += 1;
                self.refaulted_frames += frames;
            }
            (HostFact::Reclaimed, _) => self.reclaimed += 1,
            (HostFact::Untouched, _) => self.untouched += 1,
        }
    }

    /// What most of the blocks are; among equals the one that says more about a decision.
    pub(crate) fn kind(&self) -> CellKind {
        let resident = if self.resident_frames * 2 < self.resident * FRAMES_PER_BLOCK {
            CellKind::Partly
        } else {
            CellKind::Resident
        };
        let rising = [
            (self.untouched, CellKind::Untouched),
            (self.resident, resident),
            (self.reclaimed, CellKind::Reclaimed),
            (self.free_held, CellKind::FreeHeld),
            (self.refaulted, CellKind::Refaulted),
        ];
        let mut best = rising[0];
        for candidate in rising {
            if candidate.0 >= best.0 && candidate.0 > 0 {
                best = candidate;
            }
        }
        best.1
    }

    /// Bytes of a kind: held memory for what is resident, address space for what is not. `None` for
    /// [`CellKind::Partly`], which is counted with [`CellKind::Resident`].
    pub(crate) fn bytes(&self, kind: CellKind) -> Option<u64> {
        match kind {
            CellKind::Untouched => Some(self.untouched * BLOCK_SIZE),
            CellKind::Resident => Some(self.resident_frames * FRAME_SIZE),
            CellKind::Partly => None,
            CellKind::FreeHeld => Some(self.free_held_frames * FRAME_SIZE),
            CellKind::Reclaimed => Some(self.reclaimed * BLOCK_SIZE),
            CellKind::Refaulted => Some(self.refaulted_frames * FRAME_SIZE),
        }
    }
}

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

impl Region<'_> {
    /// Blocks.
    pub(crate) fn len(&self) -> u64 {
        self.end - self.first
    }

    /// Bytes of guest RAM in its slots.
    pub(crate) fn bytes(&self) -> u64 {
        self.slots.iter().fold(0u64, |sum, slot| sum.saturating_add(slot.npages.saturating_mul(FRAME_SIZE)))
    }

    /// Calls `visit` with each block, in order and once, blocks of two slots joined.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(u64, BlockState)) {
        let mut pending: Option<(u64, BlockState)> = None;
        for slot in &self.slots {
            let mut id = slot.first_block().get();
            for state in slot.blocks.iter() {
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
                id = id.saturating_add(1);
            }
        }
        if let Some((last, joined)) = pending {
            visit(last, joined);
        }
    }

    /// The cells of `per_cell` blocks each.
    pub(crate) fn cells(&self, per_cell: u64) -> Vec<CellKind> {
        let per_cell = per_cell.max(1);
        let mut tallies = vec![Tally::default(); usize::try_from(self.len().div_ceil(per_cell)).unwrap_or(0)];
        self.for_each(|id, state| {
            let index = usize::try_from((id - self.first) / per_cell).unwrap_or(usize::MAX);
            if let Some(tally) = tallies.get_mut(index) {
                tally.add(state);
            }
        });
        tallies.iter().map(Tally::kind).collect()
    }
}

/// The regions of a VM, by address. Slots without block states (ROMs, devices) are not part of any.
pub(crate) fn regions(slots: &[SlotSnapshot]) -> Vec<Region<'_>> {
    let mut followed: Vec<&SlotSnapshot> = slots.iter().filter(|slot| !slot.blocks.is_empty()).collect();
    followed.sort_by_key(|slot| (slot.base_gfn, slot.id));
    let mut regions: Vec<Region<'_>> = Vec::new();
    for slot in followed {
        let first = slot.first_block().get();
        let end = first.saturating_add(slot.blocks.len() as u64);
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

/// Sums over all blocks of the regions.
pub(crate) fn totals(regions: &[Region<'_>]) -> Tally {
    let mut tally = Tally::default();
    for region in regions {
        region.for_each(|_, state| tally.add(state));
    }
    tally
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
    use super::*;
    use crate::view::testing::{block, slot};

    const R: BlockState = block(GuestClaim::Unknown, HostFact::Resident4k, 512);
    const U: BlockState = block(GuestClaim::Unknown, HostFact::Untouched, 0);
    const T: BlockState = block(GuestClaim::Free, HostFact::Reclaimed, 0);
    const B: BlockState = block(GuestClaim::InUse, HostFact::Refaulted, 100);
    const H: BlockState = block(GuestClaim::Free, HostFact::Resident4k, 256);

    fn kind(states: &[BlockState]) -> CellKind {
        let mut tally = Tally::default();
        states.iter().for_each(|state| tally.add(*state));
        tally.kind()
    }

    #[test]
    fn a_cell_shows_what_most_of_its_blocks_are() {
        assert_eq!(kind(&[]), CellKind::Untouched);
        assert_eq!(kind(&[U, U, R]), CellKind::Untouched);
        assert_eq!(kind(&[R, R, T]), CellKind::Resident);
        assert_eq!(kind(&[R, B]), CellKind::Refaulted);
        assert_eq!(kind(&[U, T]), CellKind::Reclaimed);
        assert_eq!(kind(&[H, R]), CellKind::FreeHeld);
        assert_eq!(kind(&[block(GuestClaim::Unknown, HostFact::Resident4k, 255)]), CellKind::Partly);
        assert_eq!(kind(&[block(GuestClaim::Free, HostFact::Refaulted, 9)]), CellKind::FreeHeld);
    }

    #[test]
    fn totals_count_held_memory_and_address_space() {
        let slots = [slot(0, 0, &[R, R, U, T, B, H])];
        let tally = totals(&regions(&slots));
        assert_eq!(tally.bytes(CellKind::Resident), Some(2 * BLOCK_SIZE));
        assert_eq!(tally.bytes(CellKind::Partly), None);
        assert_eq!(tally.bytes(CellKind::Untouched), Some(BLOCK_SIZE));
        assert_eq!(tally.bytes(CellKind::Reclaimed), Some(BLOCK_SIZE));
        assert_eq!(tally.bytes(CellKind::Refaulted), Some(100 * FRAME_SIZE));
        assert_eq!(tally.bytes(CellKind::FreeHeld), Some(256 * FRAME_SIZE));
    }

    #[test]
    fn neighbouring_slots_join_and_holes_part() {
        let mut low = slot(0, 0, &[block(GuestClaim::Unknown, HostFact::Resident4k, 160)]);
        low.npages = 160;
        let mut high = slot(3, 0, &[block(GuestClaim::Unknown, HostFact::Resident4k, 256), U, R]);
        high.base_gfn = crate::model::ids::Gfn::new(256);
        let far = slot(4, 2048, &[R]);
        let rom = slot(5, 1000, &[]);
        let slots = [far, high, rom, low];
        let regions = regions(&slots);
        assert_eq!(regions.len(), 2);
        assert_eq!((regions[0].first, regions[0].len(), regions[0].slots.len()), (0, 3, 2));
        assert_eq!((regions[1].first, regions[1].len()), (2048, 1));
        let mut seen = Vec::new();
        regions[0].for_each(|id, state| seen.push((id, state.resident_frames)));
        assert_eq!(seen, [(0, 416), (1, 0), (2, 512)]);
        assert_eq!(regions[0].cells(1), [CellKind::Resident, CellKind::Untouched, CellKind::Resident]);
        assert_eq!(regions[0].cells(2), [CellKind::Resident, CellKind::Resident]);
    }

    #[test]
    fn slots_that_overlap_or_end_the_address_space_do_no_harm() {
        let slots = [slot(0, 10, &[R, R, R]), slot(1, 11, &[T]), slot(2, u64::MAX / 512 - 1, &[R, R, R, R])];
        for region in regions(&slots) {
            assert_eq!(region.cells(1).len() as u64, region.len());
        }
    }
}
