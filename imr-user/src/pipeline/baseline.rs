//! When the VMMs' page tables and files are read: every VM when it is found, all of them in rounds, never for more than
//! a hundredth of a core on average, large VMs in slices.
//!
//! Input: VMs, the time, what each reading cost. Output: the slice to read next, or when there may be one.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::ingest::IngestError;
use crate::ingest::residency::ResidencyReader;
use crate::ingest::vmm::Vmm;
use crate::model::backing::Segment;
use crate::model::block::Residency;
use crate::model::ids::{BlockId, VmId};
use crate::model::snapshot::BaselineStatus;

/// A round begins this long after the one before it began, or when that is done.
pub(super) const INTERVAL: Duration = Duration::from_secs(5);
/// Blocks of a slice: 2 GiB of guest memory, about 10 ms.
const SLICE_BLOCKS: usize = 1024;
/// One part of so many of a core may be spent on reading.
const SHARE: u64 = 100;
/// Unused time is saved up for a slice or two, not more.
const MOST_SAVED_NS: i64 = 50_000_000;

/// Blocks that are read in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) vm: VmId,
    /// Layout of the VM's slots that it is of.
    pub(super) layout: u64,
    /// Position of the slot.
    pub(super) slot: usize,
    /// First block, by its number in the slot.
    pub(super) first: usize,
    pub(super) count: usize,
    /// The VM was found just now: what it has must show at once, and is paid for afterwards.
    at_once: bool,
}

/// What reading a slice gave.
pub(super) struct Reading {
    pub(super) slice: Slice,
    pub(super) truth: Result<Vec<Residency>, IngestError>,
    /// For the next slice of the VM; `None` after an error.
    pub(super) reader: Option<ResidencyReader>,
    /// CPU time it took, ns.
    pub(super) cost_ns: u64,
}

/// Slices that are to be read, and the time there is for it.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    queue: VecDeque<Slice>,
    reading: bool,
    /// VMs of which not everything was read yet.
    unknown: BTreeSet<VmId>,
    /// Time that may be spent, ns; negative: spent already.
    saved_ns: i64,
    earned_at_ns: Option<u64>,
    first_ns: Option<u64>,
    spent_ns: u64,
    round_began_ns: Option<u64>,
    rounds: u64,
    round_ms: u64,
}

impl Schedule {
    /// A VM was found, or its slots changed: it is read before all others. `blocks` has the number of blocks of each
    /// slot.
    pub(super) fn add_now(&mut self, vm: VmId, layout: u64, blocks: impl Iterator<Item = usize>) {
        self.forget(vm);
        self.unknown.insert(vm);
        for slice in slices(vm, layout, blocks, true).into_iter().rev() {
            self.queue.push_front(slice);
        }
    }

    /// A VM has ended.
    pub(super) fn forget(&mut self, vm: VmId) {
        self.queue.retain(|slice| slice.vm != vm);
        self.unknown.remove(&vm);
    }

    /// Whether there are VMs of which not everything was read yet.
    pub(super) fn is_behind(&self) -> bool {
        !self.unknown.is_empty()
    }

    /// Time for a round, unless one is under way.
    pub(super) fn is_round_due(&self) -> bool {
        self.queue.is_empty() && !self.reading
    }

    /// Adds a VM to the round that begins.
    pub(super) fn add(&mut self, vm: VmId, layout: u64, blocks: impl Iterator<Item = usize>, now_ns: u64) {
        self.round_began_ns.get_or_insert(now_ns);
        self.queue.extend(slices(vm, layout, blocks, false));
    }

    /// The slice to read now, if there is one and time for it. The caller reads it and calls [`Self::done`].
    pub(super) fn next(&mut self, now_ns: u64) -> Option<Slice> {
        self.earn(now_ns);
        if self.reading || self.queue.front().is_none_or(|slice| !slice.at_once && self.saved_ns < 0) {
            return None;
        }
        self.reading = true;
        self.queue.pop_front()
    }

    /// How long to wait until [`Self::next`] has something; `None`: until something else happens.
    pub(super) fn wait(&self, now_ns: u64) -> Option<Duration> {
        let waiting = !self.reading && self.queue.front().is_some_and(|slice| !slice.at_once);
        let since_ns = now_ns.saturating_sub(self.earned_at_ns.unwrap_or(now_ns));
        let debt_ns = u64::try_from(-self.saved_ns).unwrap_or(0).saturating_mul(SHARE);
        (waiting && self.saved_ns < 0).then(|| Duration::from_nanos(debt_ns.saturating_sub(since_ns)))
    }

    /// A slice was read, for so much CPU time.
    pub(super) fn done(&mut self, slice: &Slice, cost_ns: u64, now_ns: u64) {
        self.earn(now_ns);
        self.reading = false;
        self.spent_ns = self.spent_ns.saturating_add(cost_ns);
        self.saved_ns = self.saved_ns.saturating_sub(i64::try_from(cost_ns).unwrap_or(i64::MAX));
        if !self.queue.iter().any(|other| other.vm == slice.vm) {
            self.unknown.remove(&slice.vm);
        }
        if self.queue.is_empty()
            && let Some(began_ns) = self.round_began_ns.take()
        {
            self.rounds += 1;
            self.round_ms = now_ns.saturating_sub(began_ns) / 1_000_000;
        }
    }

    /// How it goes.
    pub(super) fn status(&self, now_ns: u64) -> BaselineStatus {
        let since_ns = now_ns.saturating_sub(self.first_ns.unwrap_or(now_ns));
        let share = if since_ns == 0 { 0.0 } else { self.spent_ns as f64 * 100.0 / since_ns as f64 };
        BaselineStatus { rounds: self.rounds, round_ms: self.round_ms, cpu_percent: share as f32 }
    }

    fn earn(&mut self, now_ns: u64) {
        self.first_ns.get_or_insert(now_ns);
        let before_ns = self.earned_at_ns.replace(now_ns).unwrap_or(now_ns);
        let earned = i64::try_from(now_ns.saturating_sub(before_ns) / SHARE).unwrap_or(i64::MAX);
        self.saved_ns = self.saved_ns.saturating_add(earned).min(MOST_SAVED_NS);
    }
}

fn slices(vm: VmId, layout: u64, blocks: impl Iterator<Item = usize>, at_once: bool) -> Vec<Slice> {
    let of_slot = |(slot, blocks): (usize, usize)| {
        (0..blocks).step_by(SLICE_BLOCKS).map(move |first| {
            let count = SLICE_BLOCKS.min(blocks - first);
            Slice { vm, layout, slot, first, count, at_once }
        })
    };
    blocks.enumerate().flat_map(of_slot).collect()
}

/// Reads a slice. Blocks: call it where nothing waits for it.
pub(super) fn read(
    slice: Slice,
    vmm: &Arc<Vmm>,
    reader: Option<ResidencyReader>,
    segments: &[Segment],
    first: BlockId,
) -> Reading {
    let before_ns = super::clock::thread_cpu_ns();
    let mut truth = vec![Residency::default(); slice.count];
    let read = reader.map_or_else(|| ResidencyReader::open(vmm), Ok).and_then(|mut reader| {
        reader.read(segments, first, &mut truth)?;
        Ok(reader)
    });
    let cost_ns = super::clock::thread_cpu_ns().saturating_sub(before_ns);
    match read {
        Ok(reader) => Reading { slice, truth: Ok(truth), reader: Some(reader), cost_ns },
        Err(error) => Reading { slice, truth: Err(error), reader: None, cost_ns },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// Reads all that may be read until `until_ns`, each slice for `cost_ns`; returns the slices and the time.
    fn work(schedule: &mut Schedule, mut now_ns: u64, until_ns: u64, cost_ns: u64) -> (Vec<Slice>, u64) {
        let mut read = Vec::new();
        while now_ns < until_ns {
            match schedule.next(now_ns) {
                Some(slice) => {
                    now_ns += cost_ns;
                    schedule.done(&slice, cost_ns, now_ns);
                    read.push(slice);
                }
                None => match schedule.wait(now_ns) {
                    Some(wait) => now_ns += u64::try_from(wait.as_nanos()).unwrap().max(1),
                    None => break,
                },
            }
        }
        (read, now_ns)
    }

    #[test]
    fn every_block_is_in_one_slice() {
        let mut schedule = Schedule::default();
        schedule.add(VmId::new(1), 3, [5, 0, 2500].into_iter(), 0);
        let (read, _) = work(&mut schedule, 0, SECOND, 10);
        let parts: Vec<_> = read.iter().map(|slice| (slice.slot, slice.first, slice.count)).collect();
        assert_eq!(parts, [(0, 0, 5), (2, 0, 1024), (2, 1024, 1024), (2, 2048, 452)]);
        assert!(read.iter().all(|slice| slice.layout == 3));
        assert_eq!(schedule.status(SECOND).rounds, 1);
    }

    #[test]
    fn it_costs_a_hundredth_of_a_core_on_average() {
        let mut schedule = Schedule::default();
        let mut now_ns = 0;
        let cost_ns = 12_000_000;
        while now_ns < 600 * SECOND {
            if schedule.is_round_due() {
                schedule.add(VmId::new(1), 1, std::iter::once(1 << 20), now_ns);
            }
            now_ns = work(&mut schedule, now_ns, 600 * SECOND, cost_ns).1.max(now_ns + 1);
        }
        let percent = schedule.status(now_ns).cpu_percent;
        assert!((0.95..=1.05).contains(&percent), "{percent}");
    }

    #[test]
    fn whoever_asks_often_waits_no_longer() {
        let mut schedule = Schedule::default();
        schedule.add(VmId::new(1), 1, std::iter::once(2048), 0);
        let slice = schedule.next(0).unwrap();
        schedule.done(&slice, 10_000_000, 0);
        assert_eq!(schedule.wait(0), Some(Duration::from_secs(1)));
        assert_eq!(schedule.wait(900_000_000), Some(Duration::from_millis(100)));
        assert_eq!((schedule.wait(SECOND), schedule.next(SECOND).is_some()), (Some(Duration::ZERO), true));
    }

    #[test]
    fn a_vm_that_was_just_found_is_read_at_once_and_paid_for_later() {
        let mut schedule = Schedule::default();
        schedule.add(VmId::new(1), 1, std::iter::once(4096), 0);
        schedule.add_now(VmId::new(2), 1, std::iter::once(4096));
        assert!(schedule.is_behind());
        let (read, now_ns) = work(&mut schedule, 0, SECOND / 2, 50_000_000);
        let order: Vec<_> = read.iter().map(|slice| slice.vm.get()).collect();
        assert_eq!(order, [2, 2, 2, 2], "one after the other, before the round");
        assert!(now_ns >= 20 * SECOND, "then nothing until 200 ms are paid for: {now_ns}");
        assert!(!schedule.is_behind() && !schedule.is_round_due());
        schedule.forget(VmId::new(1));
        assert!(schedule.is_round_due());
    }
}
