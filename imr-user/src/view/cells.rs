//! What a cell of a map of guest memory shows: one kind for a block, and one kind for many.
//!
//! Input: the states of blocks. Output: kinds, and how much there is of each. Knows nothing of colours or of the
//! screen; the symbols are in [`style`].

mod style;

use crate::model::block::{BlockState, GuestClaim, HostFact};
use crate::model::ids::FRAMES_PER_BLOCK;
use crate::model::sums::CrossTable;

/// What a cell shows: the host fact, and the one case in which the guest's claim outranks it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CellKind {
    /// The host holds memory for what the guest says is free.
    FreeHeld,
    /// Taken back and touched again.
    Refaulted,
    /// Mostly in the host's swap.
    Swapped,
    /// Reached through a mapping of 2 MiB or more.
    Resident2m,
    /// Memory behind at least half of the frames, in small pages.
    Resident4k,
    /// Memory behind some, but less than half, of the frames.
    Partly,
    /// Memory that the guest did not touch for a while.
    Idle,
    /// Mostly shared by KSM.
    Merged,
    /// Taken back and not touched since.
    Reclaimed,
    /// No memory, and none taken back.
    Untouched,
}

/// Kinds that a quarter of a cell's blocks is enough for, the first of them first: what the operator is here for.
const REMARKABLE: [CellKind; 3] = [CellKind::FreeHeld, CellKind::Refaulted, CellKind::Swapped];

impl CellKind {
    /// All, in the order of the legend: among equals the earlier one says more about a decision.
    pub const ALL: [Self; 10] = [
        Self::FreeHeld,
        Self::Refaulted,
        Self::Swapped,
        Self::Resident2m,
        Self::Resident4k,
        Self::Partly,
        Self::Idle,
        Self::Merged,
        Self::Reclaimed,
        Self::Untouched,
    ];

    /// What a single block shows.
    #[must_use]
    pub fn of(state: BlockState) -> Self {
        let under_half = u64::from(state.resident_frames) * 2 < FRAMES_PER_BLOCK;
        match (state.claim, state.fact) {
            (GuestClaim::Free, fact) if fact.is_held() => Self::FreeHeld,
            (_, HostFact::Resident2m | HostFact::Resident4k) if under_half => Self::Partly,
            (_, HostFact::Untouched) => Self::Untouched,
            (_, HostFact::Resident4k) => Self::Resident4k,
            (_, HostFact::Resident2m) => Self::Resident2m,
            (_, HostFact::Idle) => Self::Idle,
            (_, HostFact::Swapped) => Self::Swapped,
            (_, HostFact::Merged) => Self::Merged,
            (_, HostFact::Reclaimed) => Self::Reclaimed,
            (_, HostFact::Refaulted) => Self::Refaulted,
        }
    }

    /// Whether it is worth a jump of the cursor: free and still held, refaulted, swapped.
    #[must_use]
    pub fn is_remarkable(self) -> bool {
        REMARKABLE.contains(&self)
    }

    /// For the legend, at most 16 characters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::FreeHeld => "free, still held",
            Self::Refaulted => "refaulted",
            Self::Swapped => "swapped",
            Self::Resident2m => "resident 2M",
            Self::Resident4k => "resident 4K",
            Self::Partly => "under half",
            Self::Idle => "idle",
            Self::Merged => "merged",
            Self::Reclaimed => "reclaimed",
            Self::Untouched => "untouched",
        }
    }

    /// For the help, at most 60 characters.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::FreeHeld => "the guest says free, and the host still holds it",
            Self::Refaulted => "refaulted: reclaimed, and touched again",
            Self::Swapped => "swapped: most of what it holds is in the host's swap",
            Self::Resident2m => "resident, mapped by 2 MiB or more",
            Self::Resident4k => "resident in 4 KiB pages, at least half of it",
            Self::Partly => "resident, but less than half of it",
            Self::Idle => "idle: resident, and not touched for 10 s or more",
            Self::Merged => "merged: most of what it holds is shared by KSM",
            Self::Reclaimed => "reclaimed, and not touched since",
            Self::Untouched => "untouched: no memory, and none taken back",
        }
    }

    /// How much of this kind a VM has, bytes: memory of their own behind blocks that are held, swap and shared
    /// pages behind those that are not, address space where there is nothing. `None` for [`CellKind::Partly`], which
    /// is counted with the resident blocks.
    #[must_use]
    pub fn bytes(self, cross: &CrossTable) -> Option<u64> {
        let of = |wanted: HostFact| {
            cross.sum(|claim, fact| fact == wanted && !(claim == GuestClaim::Free && fact.is_held()))
        };
        match self {
            Self::FreeHeld => {
                let held = cross.sum(|claim, fact| claim == GuestClaim::Free && fact.is_held());
                Some(held.resident_bytes())
            }
            Self::Refaulted => Some(of(HostFact::Refaulted).resident_bytes()),
            Self::Swapped => Some(of(HostFact::Swapped).swapped_bytes()),
            Self::Resident2m => Some(of(HostFact::Resident2m).resident_bytes()),
            Self::Resident4k => Some(of(HostFact::Resident4k).resident_bytes()),
            Self::Partly => None,
            Self::Idle => Some(of(HostFact::Idle).resident_bytes()),
            Self::Merged => Some(of(HostFact::Merged).merged_bytes()),
            Self::Reclaimed => Some(of(HostFact::Reclaimed).bytes()),
            Self::Untouched => Some(of(HostFact::Untouched).bytes()),
        }
    }
}

/// The blocks of a cell, by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    blocks: [u32; CellKind::ALL.len()],
    /// Frames with memory in blocks that are resident, whether by half, 4K or 2M.
    resident_frames: u64,
}

impl Tally {
    /// Counts a block.
    pub(crate) fn add(&mut self, state: BlockState) {
        let kind = CellKind::of(state);
        self.blocks[kind as usize] += 1;
        if matches!(kind, CellKind::Resident2m | CellKind::Resident4k | CellKind::Partly) {
            self.resident_frames += u64::from(state.resident_frames);
        }
    }

    /// Blocks of a kind.
    pub(crate) fn blocks(&self, kind: CellKind) -> u64 {
        u64::from(self.blocks[kind as usize])
    }

    /// Blocks in all.
    pub(crate) fn total(&self) -> u64 {
        self.blocks.iter().copied().map(u64::from).sum()
    }

    /// What the cell shows: the first of [`REMARKABLE`] that makes a quarter of it, else what most of its blocks
    /// are. Resident blocks count together, whatever their pages, so that memory is not outvoted by its own kinds.
    pub(crate) fn kind(&self) -> CellKind {
        let total = self.total();
        let enough = |kind: &CellKind| self.blocks(*kind) > 0 && self.blocks(*kind) * 4 >= total;
        if let Some(kind) = REMARKABLE.into_iter().find(enough) {
            return kind;
        }
        let large = self.blocks(CellKind::Resident2m);
        let resident = large + self.blocks(CellKind::Resident4k) + self.blocks(CellKind::Partly);
        let mut best = (0, CellKind::Untouched);
        for kind in CellKind::ALL {
            let candidate = match kind {
                CellKind::Resident2m if self.resident_frames * 2 < resident * FRAMES_PER_BLOCK => {
                    (resident, CellKind::Partly)
                }
                CellKind::Resident2m if large * 2 < resident => (resident, CellKind::Resident4k),
                CellKind::Resident2m => (resident, CellKind::Resident2m),
                CellKind::Resident4k | CellKind::Partly => continue,
                other => (self.blocks(other), other),
            };
            if candidate.0 > best.0 {
                best = candidate;
            }
        }
        best.1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::view::testing::block;

    const FULL: BlockState = block(GuestClaim::Unknown, HostFact::Resident4k, 512);
    const LARGE: BlockState = block(GuestClaim::InUse, HostFact::Resident2m, 512);
    const THIN: BlockState = block(GuestClaim::Unknown, HostFact::Resident4k, 255);
    const NONE: BlockState = block(GuestClaim::Unknown, HostFact::Untouched, 0);
    const TAKEN: BlockState = block(GuestClaim::Free, HostFact::Reclaimed, 0);
    const BACK: BlockState = block(GuestClaim::InUse, HostFact::Refaulted, 100);
    const HELD: BlockState = block(GuestClaim::Free, HostFact::Resident4k, 256);

    fn kind(states: &[BlockState]) -> CellKind {
        let mut tally = Tally::default();
        states.iter().for_each(|state| tally.add(*state));
        tally.kind()
    }

    #[test]
    fn every_fact_shows_as_itself_unless_the_guest_calls_held_memory_free() {
        for fact in HostFact::ALL {
            for claim in GuestClaim::ALL {
                let shown = CellKind::of(block(claim, fact, 512));
                let expected = match fact {
                    _ if claim == GuestClaim::Free && fact.is_held() => CellKind::FreeHeld,
                    HostFact::Untouched => CellKind::Untouched,
                    HostFact::Resident4k => CellKind::Resident4k,
                    HostFact::Resident2m => CellKind::Resident2m,
                    HostFact::Idle => CellKind::Idle,
                    HostFact::Swapped => CellKind::Swapped,
                    HostFact::Merged => CellKind::Merged,
                    HostFact::Reclaimed => CellKind::Reclaimed,
                    HostFact::Refaulted => CellKind::Refaulted,
                };
                assert_eq!(shown, expected, "{claim:?} {fact:?}");
            }
        }
        assert_eq!(CellKind::of(THIN), CellKind::Partly);
        assert_eq!(CellKind::of(block(GuestClaim::Free, HostFact::Refaulted, 9)), CellKind::FreeHeld);
    }

    #[test]
    fn a_cell_shows_what_most_of_its_blocks_are() {
        assert_eq!(kind(&[]), CellKind::Untouched);
        assert_eq!(kind(&[NONE, NONE, FULL]), CellKind::Untouched);
        assert_eq!(kind(&[FULL, FULL, TAKEN]), CellKind::Resident4k);
        assert_eq!(kind(&[NONE, TAKEN]), CellKind::Reclaimed, "the one that says more among equals");
        assert_eq!(kind(&[FULL, TAKEN]), CellKind::Resident4k);
    }

    #[test]
    fn resident_blocks_count_together() {
        assert_eq!(kind(&[NONE, NONE, LARGE, FULL, THIN]), CellKind::Resident4k);
        assert_eq!(kind(&[LARGE, LARGE, FULL, THIN]), CellKind::Resident2m, "a tie is of the larger pages");
        assert_eq!(kind(&[THIN, THIN, FULL]), CellKind::Resident4k, "well over half of their frames");
        assert_eq!(kind(&[THIN, THIN]), CellKind::Partly);
    }

    #[test]
    fn a_quarter_is_enough_for_what_is_remarkable() {
        assert_eq!(kind(&[FULL, FULL, FULL, HELD]), CellKind::FreeHeld);
        assert_eq!(kind(&[FULL, FULL, FULL, FULL, HELD]), CellKind::Resident4k);
        assert_eq!(kind(&[TAKEN, TAKEN, TAKEN, BACK]), CellKind::Refaulted);
        assert_eq!(kind(&[BACK, BACK, BACK, HELD]), CellKind::FreeHeld, "the headline first");
    }

    #[test]
    fn amounts_are_held_memory_swap_or_address_space() {
        const MIB: u64 = 1 << 20;
        let swapped = BlockState { swapped_frames: 256, ..block(GuestClaim::Free, HostFact::Swapped, 10) };
        let merged = BlockState { merged_frames: 512, ..block(GuestClaim::Unknown, HostFact::Merged, 0) };
        let mut cross = CrossTable::default();
        for state in [FULL, THIN, LARGE, NONE, TAKEN, TAKEN, BACK, HELD, swapped, merged] {
            cross.enter(state, 512);
        }
        let bytes = CellKind::ALL.map(|kind| kind.bytes(&cross));
        let kib = |frames: u64| Some(frames * 4096);
        let expected = [
            kib(256),
            kib(100),
            Some(MIB),
            Some(2 * MIB),
            kib(767),
            None,
            Some(0),
            Some(2 * MIB),
            Some(4 * MIB),
            Some(2 * MIB),
        ];
        assert_eq!(bytes, expected);
    }

    proptest! {
        #[test]
        fn a_cell_shows_a_kind_that_it_has(
            states in proptest::collection::vec((0..3_usize, 0..8_usize, 0..513_u16), 1..40),
        ) {
            let mut tally = Tally::default();
            let mut held = 0;
            for (claim, fact, frames) in &states {
                let state = block(GuestClaim::ALL[*claim], HostFact::ALL[*fact], *frames);
                held += usize::from(CellKind::of(state) == CellKind::FreeHeld);
                tally.add(state);
            }
            let shown = tally.kind();
            let resident = [CellKind::Resident2m, CellKind::Resident4k, CellKind::Partly];
            let has = if resident.contains(&shown) {
                resident.iter().any(|kind| tally.blocks(*kind) > 0)
            } else {
                tally.blocks(shown) > 0
            };
            prop_assert!(has, "{shown:?} of {tally:?}");
            prop_assert!(shown == CellKind::FreeHeld || held * 4 < states.len() || held == 0);
            prop_assert_eq!(tally.total(), states.len() as u64);
        }
    }
}
