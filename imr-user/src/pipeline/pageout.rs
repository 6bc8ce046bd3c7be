//! One turn of a VM whose idle blocks are swapped out: what is idle, cold first, then out, and what really went.
//!
//! Input: the states of its blocks and the shared table. Output: [`Turn`], with what was measured: frames that left
//! memory by the VMM's page tables and files, never a return value. Runs where nothing waits for it: writing to swap takes its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{clock, look};
use crate::ingest::IngestError;
use crate::ingest::residency::ResidencyReader;
use crate::ingest::tables::Tables;
use crate::ingest::vmm::Vmm;
use crate::model::block::{HostFact, Residency};
use crate::model::blocks::BlockMap;
use crate::model::ids::{BlockId, FRAME_SIZE, FRAMES_PER_BLOCK, Gfn, VmId};
use crate::model::pageout::PageoutCounters;
use crate::policy::idle::pace::{Gone, Pace};
use crate::policy::idle::{self, IdleBlock, Pause, Run, Settings};
use crate::reclaim::guards::{Guard, SlotFacts};
use crate::reclaim::pageout::{self, Hindrance, PageoutError, Step, Stretch};

/// A VM in which there was nothing to do is looked at again after this, ns.
const QUIET_NS: u64 = 5_000_000_000;
/// Blocks that are advised to go out in one call, and measured together: so long does a stop wait, or somebody in the VMM
/// who wants to map or unmap something.
const OUT_BLOCKS: usize = 8;
/// The same for blocks that are called cold, which is a walk of page tables.
const COLD_BLOCKS: usize = 64;

/// What is remembered of a VM from turn to turn.
#[derive(Debug)]
pub struct Pager {
    settings: Settings,
    pace: Pace,
    marks: Vec<Marks>,
    layout: u64,
    reader: Option<ResidencyReader>,
    quiet_until_ns: u64,
}

/// What the engine keeps of a VM for this.
pub(super) struct Paging {
    /// Away while a turn is under way.
    pub(super) pager: Option<Pager>,
    /// Why nothing went out in the newest turn.
    pub(super) pause: Option<Pause>,
    /// Not told in records yet, and since when, ns.
    pub(super) untold: PageoutCounters,
    pub(super) untold_since_ns: Option<u64>,
}

impl Default for Paging {
    fn default() -> Self {
        Self {
            pager: Some(Pager::new(Settings::default())),
            // Until a scan was seen, nothing is known to be idle.
            pause: Some(Pause::NoScan),
            untold: PageoutCounters::default(),
            untold_since_ns: None,
        }
    }
}

/// Of the blocks of one slot, a bit each.
#[derive(Debug, Default)]
struct Marks {
    /// Called cold, and idle ever since.
    cooled: Bits,
    /// Advised to go out, and not known to be anything but idle since: the next baseline tells what became of it.
    gone: Bits,
}

#[derive(Debug, Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    fn put(&mut self, index: usize, value: bool) {
        if value && self.0.len() <= index / 64 {
            self.0.resize(index / 64 + 1, 0);
        }
        if let Some(word) = self.0.get_mut(index / 64) {
            *word = *word & !(1 << (index % 64)) | u64::from(value) << (index % 64);
        }
    }
}

/// All that a turn needs.
pub struct Order {
    /// The VM.
    pub vm: VmId,
    /// Number of its slot layout.
    pub layout: u64,
    /// Its VMM.
    pub vmm: Arc<Vmm>,
    /// A slot: what is behind it, its blocks, and where they begin in the shared table.
    pub slots: Vec<(SlotFacts, BlockMap, Option<u64>)>,
    /// The shared table.
    pub tables: Tables,
    /// Since when idleness scans are followed, ns; see [`look::reading`].
    pub young_since: u64,
    /// Bytes that may go into the host's swap.
    pub swap_room: u64,
    /// What is remembered of earlier turns.
    pub pager: Pager,
    /// Set when everything ends.
    pub stop: Arc<AtomicBool>,
}

/// What came of it.
pub struct Turn {
    /// The VM.
    pub vm: VmId,
    /// For its next turn.
    pub pager: Pager,
    /// What this turn did.
    pub counters: PageoutCounters,
    /// Why nothing goes out at present.
    pub pause: Option<Pause>,
    /// Something went wrong.
    pub trouble: Option<Trouble>,
}

/// What can go wrong.
#[derive(Debug)]
pub enum Trouble {
    /// What is known of the VMM's mappings is out of date.
    Stale,
    /// The VMM has ended.
    Gone,
    /// Anything else, for people.
    Other(String),
}

impl From<IngestError> for Trouble {
    fn from(error: IngestError) -> Self {
        match error {
            IngestError::MappingChanged { .. } => Self::Stale,
            error if error.is_vmm_gone() => Self::Gone,
            error => Self::Other(format!("pageout: {error}")),
        }
    }
}

impl From<PageoutError> for Trouble {
    fn from(error: PageoutError) -> Self {
        match error {
            PageoutError::Gone => Self::Gone,
            error => Self::Other(format!("pageout: {error}")),
        }
    }
}

impl Pager {
    /// A VM that had no turn yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let pace = Pace::new(settings);
        Self { settings, pace, marks: Vec::new(), layout: 0, reader: None, quiet_until_ns: 0 }
    }

    /// Bytes that go into swap in one turn at most.
    pub(super) fn most(&self) -> u64 {
        self.settings.rate
    }

    /// Whether it is time for a turn.
    pub(super) fn is_due(&self, now_ns: u64) -> bool {
        now_ns >= self.quiet_until_ns
    }
}

/// Does it, on a host with swap and for a VM that no guard forbids it of. Blocks for as long as the swap takes, a few calls at most after `stop`.
pub fn turn(order: Order) -> Turn {
    let Order { vm, layout, vmm, slots, tables, young_since, swap_room, pager, stop } = order;
    let mut work =
        Work { vmm, slots, tables, young_since, pager, stop, counters: PageoutCounters::default() };
    if work.pager.layout != layout {
        work.pager.layout = layout;
        work.pager.pace.forget_blocks();
        work.pager.marks = work.slots.iter().map(|_| Marks::default()).collect();
    }
    let (pause, trouble) = match work.run(swap_room) {
        Ok(pause) => (pause, None),
        Err(trouble @ Trouble::Other(_)) => {
            work.pager.pace.refused(clock::monotonic_ns());
            work.counters.rests += 1;
            (Some(Pause::Refused), Some(trouble))
        }
        Err(trouble) => (None, Some(trouble)),
    };
    Turn { vm, pager: work.pager, counters: work.counters, pause, trouble }
}

struct Work {
    vmm: Arc<Vmm>,
    slots: Vec<(SlotFacts, BlockMap, Option<u64>)>,
    tables: Tables,
    young_since: u64,
    pager: Pager,
    stop: Arc<AtomicBool>,
    counters: PageoutCounters,
}

impl Work {
    fn run(&mut self, swap_room: u64) -> Result<Option<Pause>, Trouble> {
        let now_ns = clock::monotonic_ns();
        self.look_back(now_ns);
        if self.pager.pace.judge(now_ns).is_some() {
            self.counters.rests += 1;
        }
        let (blocks, scanned) = self.idle_blocks(now_ns);
        if let Some(pause) = self.pager.pace.resting(now_ns) {
            self.pager.quiet_until_ns = now_ns + QUIET_NS;
            return Ok(Some(pause));
        }
        let room = self.pager.pace.room(now_ns).min(swap_room);
        let plan = idle::plan(&blocks, room, &self.pager.settings);
        if plan.cold.is_empty() && plan.out.is_empty() {
            self.pager.quiet_until_ns = now_ns + QUIET_NS;
        }
        for run in parts(&plan.cold, COLD_BLOCKS) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            self.cool(run)?;
        }
        for run in parts(&plan.out, OUT_BLOCKS) {
            if self.stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
            self.send_out(run)?;
        }
        Ok((!scanned).then_some(Pause::NoScan))
    }

    fn look_back(&mut self, now_ns: u64) {
        let Self { slots, tables, pager, counters, .. } = self;
        // By SPTEs made since: what the VMM itself touches (its devices' buffers) does not show there.
        let back = |gone: &Gone| {
            let base = slots.get(gone.slot).and_then(|slot| slot.2);
            let record = base.map(|base| tables.block(base + gone.index as u64));
            record
                .filter(|record| record.last_map_ns() > gone.at_ns)
                .map_or(0, |record| record.mapped_frames())
        };
        counters.back_bytes += pager.pace.look_back(now_ns, back);
    }

    /// The blocks that may go out, and whether any block was scanned of late.
    fn idle_blocks(&mut self, now_ns: u64) -> (Vec<IdleBlock>, bool) {
        let Self { slots, tables, young_since, pager: Pager { settings, marks, .. }, .. } = self;
        let read =
            |base: u64, index: usize| look::reading(&tables.block(base + index as u64), Some(*young_since));
        let mut found = Vec::new();
        for (slot, ((_, blocks, base), marks)) in slots.iter().zip(marks).enumerate() {
            let Some(base) = *base else { continue };
            for (index, state) in blocks.iter().enumerate() {
                let reading = if state.fact == HostFact::Idle { Some(read(base, index)) } else { None };
                let Some(reading) = reading.filter(|reading| reading.is_idle()) else {
                    marks.cooled.put(index, false);
                    marks.gone.put(index, false);
                    continue;
                };
                let cooled = marks.cooled.has(index);
                let block = idle::idle_block((slot, index), state, &reading, cooled, now_ns, settings);
                found.extend(block.filter(|_| !marks.gone.has(index)));
            }
        }
        let mut all = slots.iter().filter_map(|(_, blocks, base)| base.map(|base| (blocks.len(), base)));
        let scanned = !found.is_empty()
            || all.any(|(count, base)| {
                (0..count).any(|index| idle::is_scanned(&read(base, index), now_ns, settings))
            });
        (found, scanned)
    }

    /// The addresses of a run; `None` where it must not be touched, which is counted.
    fn stretches(&mut self, run: Run) -> Result<Option<(BlockId, Vec<Stretch>)>, Trouble> {
        let Some((facts, ..)) = self.slots.get(run.slot) else { return Ok(None) };
        let first = BlockId::new(facts.base_gfn.block().get() + run.first as u64);
        let base_gfn = Gfn::new(first.get() * FRAMES_PER_BLOCK);
        match pageout::stretches(facts, base_gfn, run.count as u64 * FRAMES_PER_BLOCK) {
            Ok(stretches) => Ok(Some((first, stretches))),
            Err(Hindrance::Guard(Guard::StaleMapping)) => Err(Trouble::Stale),
            Err(_) => {
                self.counters.skipped_bytes += run.bytes;
                Ok(None)
            }
        }
    }

    fn cool(&mut self, run: Run) -> Result<(), Trouble> {
        if let Some((_, stretches)) = self.stretches(run)? {
            let advised = pageout::advise(self.vmm.pidfd(), Step::Cold, &stretches)?;
            self.counters.skipped_bytes += advised.skipped_bytes;
            self.counters.cold_bytes += run.bytes.min(advised.bytes);
        }
        self.mark(run, |marks| &mut marks.cooled);
        Ok(())
    }

    fn send_out(&mut self, run: Run) -> Result<(), Trouble> {
        // Whatever comes of it, it is not asked again before it was something else than idle.
        self.mark(run, |marks| &mut marks.gone);
        let Some((first, stretches)) = self.stretches(run)? else { return Ok(()) };
        if stretches.is_empty() {
            self.counters.skipped_bytes += run.bytes;
            return Ok(());
        }
        let before = self.residency(run, first)?;
        let at_ns = clock::monotonic_ns();
        let advised = pageout::advise(self.vmm.pidfd(), Step::Out, &stretches)?;
        let after = self.residency(run, first)?;
        self.counters.skipped_bytes += advised.skipped_bytes;
        let (mut asked, mut out) = (0, 0);
        for ((index, before), after) in (run.first..).zip(before).zip(after) {
            let asked_frames = before.resident;
            // Not by what is in swap now: of a huge page that is split on its way, what holds zeroes only is dropped
            // (mm/huge_memory.c, __split_huge_page, RMP_USE_SHARED_ZEROPAGE, 6.12).
            let out_frames = asked_frames.saturating_sub(after.resident);
            asked += u64::from(asked_frames) * FRAME_SIZE;
            out += u64::from(out_frames) * FRAME_SIZE;
            let gone = Gone { slot: run.slot, index, at_ns, asked_frames, out_frames, back_frames: 0 };
            self.pager.pace.advised(gone);
        }
        // Huge pages that the run has a part of are not among it.
        let asked = asked.min(advised.bytes);
        self.counters.asked_bytes += asked;
        self.counters.out_bytes += out;
        self.counters.mismatches += u64::from(out * 10 < asked * 9);
        Ok(())
    }

    fn mark(&mut self, run: Run, which: fn(&mut Marks) -> &mut Bits) {
        if let Some(marks) = self.pager.marks.get_mut(run.slot) {
            (run.first..run.first + run.count).for_each(|index| which(marks).put(index, true));
        }
    }

    fn residency(&mut self, run: Run, first: BlockId) -> Result<Vec<Residency>, Trouble> {
        let Some((facts, ..)) = self.slots.get(run.slot) else { return Ok(Vec::new()) };
        let mut reader = match self.pager.reader.take() {
            Some(reader) => reader,
            None => ResidencyReader::open(&self.vmm)?,
        };
        let mut found = vec![Residency::default(); run.count];
        reader.read(&facts.segments, first, &mut found)?;
        self.pager.reader = Some(reader);
        Ok(found)
    }
}

/// The runs, in order, none longer than `most` blocks. The bytes are shared out evenly.
fn parts(runs: &[Run], most: usize) -> impl Iterator<Item = Run> + use<> {
    let runs = runs.to_vec();
    runs.into_iter().flat_map(move |run| {
        (0..run.count).step_by(most).map(move |at| {
            let count = most.min(run.count - at);
            let bytes = run.bytes / run.count as u64 * count as u64;
            Run { first: run.first + at, count, bytes, ..run }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_put_and_taken() {
        let mut bits = Bits::default();
        bits.put(700, false);
        assert!(bits.0.is_empty(), "nothing is kept for what was never set");
        for index in [0, 63, 64, 700] {
            assert!(!bits.has(index));
            bits.put(index, true);
        }
        bits.put(64, false);
        let set: Vec<usize> = (0..2000).filter(|index| bits.has(*index)).collect();
        assert_eq!(set, [0, 63, 700]);
    }

    #[test]
    fn long_runs_go_in_parts() {
        let runs = [
            Run { slot: 1, first: 5, count: 19, bytes: 19 << 21 },
            Run { slot: 2, first: 0, count: 1, bytes: 9 },
        ];
        let parts: Vec<_> = parts(&runs, 8).map(|run| (run.slot, run.first, run.count, run.bytes)).collect();
        assert_eq!(parts, [(1, 5, 8, 8 << 21), (1, 13, 8, 8 << 21), (1, 21, 3, 3 << 21), (2, 0, 1, 9)]);
    }
}
