//! The blocks of one memslot: how looks, offers, outcomes and baselines change each, and what follows for the sums.
//!
//! Input: readings of the shared table and of the VMM's page tables. Output: changed states. Whoever calls keeps
//! the sums: every change passes through [`SlotBlocks::put`].

use super::block::{BlockState, Change, GuestClaim, HostFact, IDLE_NS, Residency};
use super::blocks::BlockMap;
use super::ids::{BlockId, FRAME_SIZE, FRAMES_PER_BLOCK, Gfn};
use super::life::{Life, LifeStep};
use super::regret::{FreeHeld, Refaults};
use super::snapshot::DriftCounters;
use super::sums::CrossTable;
use super::vm::SlotDescription;

/// What the shared table says of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockReading {
    /// Frames with a leaf SPTE, 0 to 512.
    pub mapped_frames: u16,
    /// The newest SPTE maps 2 MiB or more.
    pub large: bool,
    /// When the newest SPTE was installed, ns; 0: never seen.
    pub last_map_ns: u64,
    /// When an idleness scan last found that the guest had touched it, ns.
    pub last_young_ns: u64,
    /// When an idleness scan last covered it, ns.
    pub last_age_ns: u64,
}

impl BlockReading {
    /// Whether there is a mapping whose making was seen: `large` is about that one.
    #[must_use]
    pub fn knows_a_mapping(&self) -> bool {
        self.last_map_ns > 0 && self.mapped_frames > 0
    }

    /// Whether two idleness scans [`IDLE_NS`] apart found it untouched in between.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.last_age_ns >= self.last_map_ns.max(self.last_young_ns).saturating_add(IDLE_NS)
    }
}

/// What only the model needs to know of a block.
#[derive(Debug, Clone, Copy, Default)]
struct Private {
    /// When it was last offered or reclaimed, ns. What was mapped later was touched since.
    answered_ns: u64,
    life: Life,
    /// What the newest baseline found; nothing after a reclaim.
    baseline: Baseline,
    /// Frames counted as refaulted since the last reclaim.
    refaulted: u16,
}

/// Of a block at a baseline: how many frames have memory of their own, and, in the highest bit, whether the VMM maps
/// them by a huge page. One field, as a block has no room for another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Baseline(u16);

impl Baseline {
    const HUGE: u16 = 1 << 15;

    /// `truth` is clamped.
    fn of(truth: Residency) -> Self {
        Self(truth.resident | if truth.huge { Self::HUGE } else { 0 })
    }

    /// 0 to 512.
    fn frames(self) -> u16 {
        self.0 & !Self::HUGE
    }

    fn is_huge(self) -> bool {
        self.0 & Self::HUGE != 0
    }
}

/// Bytes that the model keeps of each block; a picture that has not changed shares [`BlockState`] with it.
pub const BLOCK_BYTES: usize = size_of::<Private>() + size_of::<BlockState>();

// With 80 bytes and a bit in the shared table, and one older picture of a block that changed: 120.1 bytes.
const _: () = assert!(BLOCK_BYTES == 32);

/// The blocks of one slot.
#[derive(Debug, Clone)]
pub(super) struct SlotBlocks {
    pub(super) description: SlotDescription,
    states: BlockMap,
    private: Vec<Private>,
    /// The part of it that is being read for a baseline.
    window: Option<Window>,
    /// Blocks from the start that a baseline has covered: what differs later is drift.
    known: usize,
}

/// Blocks that are being read, and what happened to each meanwhile.
#[derive(Debug, Clone)]
struct Window {
    first: usize,
    happened: Vec<Happened>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happened {
    Nothing,
    Changed,
    TakenBack,
}

/// What a slot's changes add up to, outside of it.
pub(super) struct Ledger<'a> {
    pub(super) cross: &'a mut CrossTable,
    pub(super) refaults: &'a mut Refaults,
    pub(super) now_ns: u64,
}

impl SlotBlocks {
    /// Blocks that nobody has touched, entered into the sums.
    pub(super) fn new(description: SlotDescription, cross: &mut CrossTable) -> Self {
        let count = if description.followed { blocks_of(&description) } else { 0 };
        let slot = Self {
            description,
            states: BlockMap::untouched(count),
            private: vec![Private::default(); count],
            window: None,
            known: 0,
        };
        for index in 0..count {
            cross.enter(BlockState::default(), slot.frames_of(index));
        }
        slot
    }

    /// The same memory under another description.
    pub(super) fn described(self, description: SlotDescription) -> Self {
        Self { description, window: None, ..self }
    }

    /// Takes its blocks out of the sums: the slot is no more.
    pub(super) fn leave(&self, cross: &mut CrossTable) {
        for (index, state) in self.states.iter().enumerate() {
            cross.leave(state, self.frames_of(index));
        }
    }

    pub(super) fn states(&self) -> &BlockMap {
        &self.states
    }

    pub(super) fn life(&self, index: usize, now_ns: u64) -> Vec<LifeStep> {
        self.private.get(index).map(|private| private.life.steps(now_ns).collect()).unwrap_or_default()
    }

    /// Adds what the guest says is free and the host still holds. Looks at every block.
    pub(super) fn add_free_held(&self, now_ns: u64, sum: &mut FreeHeld) {
        let mut run = 0;
        for (index, state) in self.states.iter().enumerate() {
            if state.claim != GuestClaim::Free || !state.fact.is_held() {
                run = 0;
                continue;
            }
            run += u64::from(state.resident_frames) * FRAME_SIZE;
            sum.bytes += u64::from(state.resident_frames) * FRAME_SIZE;
            sum.longest_run_bytes = sum.longest_run_bytes.max(run);
            if let Some(private) = self.private.get(index) {
                let free_ms = private.life.so_far(now_ns, |step| step.claim == GuestClaim::Free);
                sum.longest_free_ms = sum.longest_free_ms.max(free_ms.unwrap_or(0));
            }
        }
    }

    /// Position of a block in the slot.
    pub(super) fn index_of(&self, block: BlockId) -> Option<usize> {
        let first = self.description.base_gfn.block().get();
        usize::try_from(block.get().checked_sub(first)?).ok().filter(|index| *index < self.states.len())
    }

    /// Frames of guest memory that the slot has in block `index`: 512, at its edges perhaps fewer.
    pub(super) fn frames_of(&self, index: usize) -> u16 {
        let base = self.description.base_gfn.get();
        let start = (base / FRAMES_PER_BLOCK + index as u64) * FRAMES_PER_BLOCK;
        let end = (start + FRAMES_PER_BLOCK).min(base + self.description.npages);
        end.saturating_sub(start.max(base)) as u16
    }

    /// Takes over what the shared table says of a block.
    pub(super) fn look(&mut self, index: usize, reading: BlockReading, ledger: &mut Ledger<'_>) {
        self.happens(index, Happened::Changed);
        self.see(index, reading, ledger);
    }

    fn see(&mut self, index: usize, reading: BlockReading, ledger: &mut Ledger<'_>) {
        let (Some(old), Some(private)) = (self.states.get(index), self.private.get(index)) else { return };
        let mut new = old;
        let touched = reading.last_map_ns > private.answered_ns;
        if old.claim == GuestClaim::Free && touched {
            new.claim = GuestClaim::InUse;
        }
        // Right after a reclaim the zap may not have reached the table: older mappings are no refault.
        let mapped = if old.fact == HostFact::Reclaimed && !touched { 0 } else { reading.mapped_frames };
        let residency = Residency {
            resident: private.baseline.frames().max(mapped.saturating_sub(old.merged_frames)),
            swapped: old.swapped_frames,
            merged: old.merged_frames,
            huge: private.baseline.is_huge(),
        }
        .clamped();
        new.hold(residency);
        // A mapping that the table did not see made is as large as the VMM's own.
        let large = if reading.knows_a_mapping() { reading.large } else { private.baseline.is_huge() };
        let sight = residency.sight(large, reading.is_idle());
        new.fact = old.fact.after(Change::Seen(sight));
        self.put(index, new, ledger);
    }

    /// The guest said that the frames of block `index` are free.
    pub(super) fn offer(&mut self, index: usize, ledger: &mut Ledger<'_>) {
        let (Some(mut state), Some(private)) = (self.states.get(index), self.private.get_mut(index)) else {
            return;
        };
        state.claim = GuestClaim::Free;
        // A block that is still reclaimed keeps the time of that: what maps it later is its refault.
        if state.fact != HostFact::Reclaimed {
            private.answered_ns = ledger.now_ns;
        }
        self.put(index, state, ledger);
    }

    /// The memory of block `index` was given back to the host, not later than `at_ns`.
    pub(super) fn take_back(&mut self, index: usize, at_ns: u64, ledger: &mut Ledger<'_>) {
        self.happens(index, Happened::TakenBack);
        let (Some(mut state), Some(private)) = (self.states.get(index), self.private.get_mut(index)) else {
            return;
        };
        private.answered_ns = at_ns;
        private.baseline = Baseline::default();
        private.refaulted = 0;
        state.hold(Residency::default());
        state.fact = state.fact.after(Change::TakenBack);
        self.put(index, state, ledger);
    }

    /// What the guest said counts for nothing any more.
    pub(super) fn forget_claims(&mut self, ledger: &mut Ledger<'_>) {
        for index in 0..self.states.len() {
            let Some(state) = self.states.get(index) else { return };
            self.put(index, BlockState { claim: GuestClaim::Unknown, ..state }, ledger);
        }
    }

    /// `count` blocks from `first` on are read from now on: what happens to them meanwhile is noted.
    pub(super) fn begin_baseline(&mut self, first: usize, count: usize) {
        self.window = Some(Window { first, happened: vec![Happened::Nothing; count] });
    }

    /// Takes over what the VMM's page tables and files say of the blocks that were announced. `read` gives the
    /// shared table's word on a block; `stale` gets each block that the table calls mapped though nothing is there.
    pub(super) fn end_baseline(
        &mut self,
        truth: &[Residency],
        mut read: impl FnMut(usize) -> BlockReading,
        mut stale: impl FnMut(usize),
        drift: &mut DriftCounters,
        ledger: &mut Ledger<'_>,
    ) {
        let Some(Window { first, happened }) = self.window.take() else { return };
        for ((index, truth), happened) in (first..).zip(truth).zip(happened) {
            // It was read before the outcome, and says so.
            if happened == Happened::TakenBack || index >= self.states.len() {
                continue;
            }
            let truth = truth.clamped();
            let mut reading = read(index);
            let in_memory = truth.resident + truth.merged;
            if happened == Happened::Nothing && reading.mapped_frames > in_memory {
                if index < self.known {
                    drift.stale_frames += u64::from(reading.mapped_frames - in_memory);
                }
                stale(index);
                reading.mapped_frames = in_memory;
            }
            self.correct(index, truth, happened == Happened::Nothing, drift, ledger);
            self.see(index, reading, ledger);
        }
        if first <= self.known {
            self.known = self.known.max(first + truth.len());
        }
    }

    /// Puts the truth in the place of what was believed.
    fn correct(
        &mut self,
        index: usize,
        truth: Residency,
        quiet: bool,
        drift: &mut DriftCounters,
        ledger: &mut Ledger<'_>,
    ) {
        let (Some(mut state), Some(private)) = (self.states.get(index), self.private.get_mut(index)) else {
            return;
        };
        let believed = state.resident_frames + state.merged_frames;
        let unseen = (truth.resident + truth.merged).saturating_sub(believed);
        if quiet && index < self.known {
            drift.unseen_frames += u64::from(unseen);
        }
        private.baseline = Baseline::of(truth);
        if state.fact == HostFact::Reclaimed && truth != Residency::default() {
            // Somebody in the VMM's process touched it: it is back, without an SPTE.
            private.answered_ns = 0;
        }
        state.hold(truth);
        self.put(index, state, ledger);
    }

    fn happens(&mut self, index: usize, what: Happened) {
        if let Some(window) = &mut self.window
            && let Some(at) = index.checked_sub(window.first)
            && let Some(happened) = window.happened.get_mut(at)
            && *happened != Happened::TakenBack
        {
            *happened = what;
        }
    }

    /// The one place where a block's state changes.
    fn put(&mut self, index: usize, new: BlockState, ledger: &mut Ledger<'_>) {
        let frames = self.frames_of(index);
        let (Some(old), Some(private)) = (self.states.get(index), self.private.get_mut(index)) else {
            return;
        };
        let was_taken = matches!(old.fact, HostFact::Reclaimed | HostFact::Refaulted);
        if was_taken && new.fact != HostFact::Reclaimed {
            let back = new.resident_frames + new.swapped_frames + new.merged_frames;
            let more = back.saturating_sub(private.refaulted);
            private.refaulted += more;
            ledger.refaults.refaulted_frames += u64::from(more);
            // By the steps before this one: `answered_ns` is that of an offer, if there was one since.
            let ago_ms = private.life.since(ledger.now_ns, |step| step.fact == HostFact::Reclaimed);
            if ago_ms.is_some_and(|ago_ms| ago_ms <= ledger.refaults.soon_ms) {
                ledger.refaults.soon_frames += u64::from(more);
            }
        }
        if new.fact == HostFact::Reclaimed && old.fact != HostFact::Reclaimed {
            ledger.refaults.taken_frames += u64::from(frames);
        }
        if (old.claim, old.fact) != (new.claim, new.fact) {
            private.life.note(new.claim, new.fact, ledger.now_ns);
        }
        if old != new {
            ledger.cross.leave(old, frames);
            ledger.cross.enter(new, frames);
            self.states.set(index, new);
        }
    }
}

impl BlockState {
    fn hold(&mut self, residency: Residency) {
        self.resident_frames = residency.resident;
        self.swapped_frames = residency.swapped;
        self.merged_frames = residency.merged;
    }
}

/// Blocks that a slot touches, the first and last perhaps in part.
fn blocks_of(slot: &SlotDescription) -> usize {
    let last = Gfn::new(slot.base_gfn.get() + slot.npages.max(1) - 1).block();
    usize::try_from(last.get() - slot.base_gfn.block().get() + 1).unwrap_or(0)
}
