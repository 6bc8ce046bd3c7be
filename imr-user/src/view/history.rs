//! What the samples of a working day said of the host and of each VM: bounded, for the timeline.
//!
//! Input: every snapshot, shown or not. Output: points, oldest first. Knows the time from the snapshots only.

mod tiers;

use std::collections::BTreeMap;
use std::collections::vec_deque::Iter;
use std::time::Duration;

pub(crate) use self::tiers::{Sample, Series};
use crate::model::ids::VmId;
use crate::model::snapshot::{Snapshot, VmSnapshot};

/// Twice the slowest rate that keys choose: without a sample for longer than that, and than three times what was usual,
/// nothing is known of the time between.
const GAP_MOST_MS: u64 = 20_000;

/// A sample of a VM or of all of them, or several merged: then amounts are means.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Point {
    /// Time of the newest sample, milliseconds since 1970-01-01 UTC.
    pub(crate) unix_ms: u64,
    /// The time before it for which the point stands as well, milliseconds.
    pub(crate) over_ms: u32,
    /// Samples merged.
    pub(crate) samples: u32,
    /// Bytes with memory of their own, and not called free by the guest.
    pub(crate) resident_in_use: u64,
    /// Bytes with memory of their own in blocks that the guest calls free.
    pub(crate) resident_free: u64,
    /// Bytes of blocks that are reclaimed.
    pub(crate) reclaimed: u64,
    /// Bytes in swap.
    pub(crate) swapped: u64,
    /// Bytes that share KSM pages.
    pub(crate) merged: u64,
    /// Bytes that refaulted since the start, by the newest sample; of all VMs together, those of VMs that have ended
    /// included.
    pub(crate) refaulted_total: u64,
}

/// A sample of the host's own memory, or several merged.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct HostPoint {
    /// Time of the newest sample, milliseconds since 1970-01-01 UTC.
    pub(crate) unix_ms: u64,
    /// The time before it for which the point stands as well, milliseconds.
    pub(crate) over_ms: u32,
    /// Samples merged.
    pub(crate) samples: u32,
    /// Swap in use, bytes; the mean.
    pub(crate) swap_used: u64,
    /// `some avg10` of /proc/pressure/memory, percent; `None` where the kernel has no PSI. The greatest: over minutes, a
    /// mean would hide the seconds for which somebody looks.
    pub(crate) pressure: Option<f32>,
}

/// The newest day of samples. A VM costs 58 KiB at most.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    sequence: u64,
    /// How far the clock has been set back since the first sample, milliseconds.
    set_back_ms: u64,
    uptime: Duration,
    host: Series<HostPoint>,
    all: Series<Point>,
    vms: BTreeMap<VmId, Series<Point>>,
}

impl History {
    /// Takes a sample. The same sample again changes nothing; VMs that have ended are forgotten.
    pub(crate) fn note(&mut self, snapshot: &Snapshot) {
        if snapshot.sequence <= self.sequence {
            return;
        }
        let (unix_ms, over_ms) = self.next_time(snapshot);
        (self.sequence, self.uptime) = (snapshot.sequence, snapshot.uptime);
        let host = &snapshot.host;
        self.host.push(HostPoint {
            unix_ms,
            over_ms,
            samples: 1,
            swap_used: host.swap_used,
            pressure: host.pressure_some_avg10.filter(|pressure| pressure.is_finite()),
        });
        let before = self.all.newest().map_or(0, |all| all.refaulted_total);
        let mut all = Point { unix_ms, over_ms, samples: 1, refaulted_total: before, ..Point::default() };
        for vm in &snapshot.vms {
            let series = self.vms.entry(vm.id).or_default();
            let known = series.newest().map(|point| point.refaulted_total);
            let over_ms = if known.is_some() { over_ms } else { 0 };
            let point = Point { unix_ms, over_ms, samples: 1, ..Point::of(vm) };
            all.add(&point);
            // The sum of the totals would fall when a VM ends, and hide what the others refault in that moment.
            all.refaulted_total += point.refaulted_total.saturating_sub(known.unwrap_or(0));
            series.push(point);
        }
        self.all.push(all);
        self.vms.retain(|_, series| series.newest().is_some_and(|point| point.unix_ms == unix_ms));
    }

    /// When the next sample was taken, and how much of the time before it it stands for. Time only goes on here: where
    /// the clock has been set back, the pipeline's own time bridges it.
    fn next_time(&mut self, snapshot: &Snapshot) -> (u64, u32) {
        let Some(newest) = self.host.newest() else { return (snapshot.unix_ms, 0) };
        if snapshot.unix_ms + self.set_back_ms <= newest.unix_ms {
            let passed = snapshot.uptime.saturating_sub(self.uptime).as_millis().max(1) as u64;
            self.set_back_ms = newest.unix_ms + passed - snapshot.unix_ms;
        }
        let unix_ms = snapshot.unix_ms + self.set_back_ms;
        let passed = unix_ms - newest.unix_ms;
        let known = passed <= GAP_MOST_MS.max(u64::from(newest.over_ms) * 3);
        (unix_ms, if known { u32::try_from(passed).unwrap_or(u32::MAX) } else { 0 })
    }

    /// When, in the time of the points, a sample was taken: that of the wall clock until that is set back.
    pub(crate) fn time_of(&self, snapshot: &Snapshot) -> u64 {
        snapshot.unix_ms + self.set_back_ms
    }

    /// The host.
    pub(crate) fn host(&self) -> &Series<HostPoint> {
        &self.host
    }

    /// All VMs together.
    pub(crate) fn all(&self) -> &Series<Point> {
        &self.all
    }

    /// A VM; nothing of one that is not known.
    pub(crate) fn vm(&self, id: VmId) -> Option<&Series<Point>> {
        self.vms.get(&id)
    }
}

impl Point {
    /// What a VM has now.
    pub(crate) fn of(vm: &VmSnapshot) -> Self {
        Self {
            resident_in_use: vm.resident_bytes.saturating_sub(vm.free_held_bytes),
            resident_free: vm.free_held_bytes,
            reclaimed: vm.reclaimed_now_bytes,
            swapped: vm.swapped_bytes,
            merged: vm.merged_bytes,
            refaulted_total: vm.refaulted_bytes,
            ..Self::default()
        }
    }

    /// Adds the amounts of another.
    pub(crate) fn add(&mut self, other: &Self) {
        self.resident_in_use += other.resident_in_use;
        self.resident_free += other.resident_free;
        self.reclaimed += other.reclaimed;
        self.swapped += other.swapped;
        self.merged += other.merged;
    }
}

impl Sample for Point {
    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    fn over_ms(&self) -> u32 {
        self.over_ms
    }

    fn merged(of: Iter<'_, Self>) -> Self {
        let newest = of.clone().next_back().copied().unwrap_or_default();
        let samples = of.clone().map(|point| point.samples).sum();
        let mean =
            |amount: fn(&Self) -> u64| mean(of.clone().map(|point| (amount(point), point.samples)), samples);
        Self {
            unix_ms: newest.unix_ms,
            over_ms: over_ms(of.clone(), newest.unix_ms),
            samples,
            resident_in_use: mean(|point| point.resident_in_use),
            resident_free: mean(|point| point.resident_free),
            reclaimed: mean(|point| point.reclaimed),
            swapped: mean(|point| point.swapped),
            merged: mean(|point| point.merged),
            refaulted_total: newest.refaulted_total,
        }
    }
}

impl Sample for HostPoint {
    fn unix_ms(&self) -> u64 {
        self.unix_ms
    }

    fn over_ms(&self) -> u32 {
        self.over_ms
    }

    fn merged(of: Iter<'_, Self>) -> Self {
        let newest = of.clone().next_back().copied().unwrap_or_default();
        let samples = of.clone().map(|point| point.samples).sum();
        Self {
            unix_ms: newest.unix_ms,
            over_ms: over_ms(of.clone(), newest.unix_ms),
            samples,
            swap_used: mean(of.clone().map(|point| (point.swap_used, point.samples)), samples),
            pressure: of.filter_map(|point| point.pressure).reduce(f32::max),
        }
    }
}

/// The mean of amounts, each of so many samples, rounded.
fn mean(of: impl Iterator<Item = (u64, u32)>, samples: u32) -> u64 {
    let sum: u128 = of.map(|(amount, samples)| u128::from(amount) * u128::from(samples)).sum();
    let samples = u128::from(samples.max(1));
    // No more than the greatest of them.
    u64::try_from((sum + samples / 2) / samples).unwrap_or(u64::MAX)
}

/// From when the oldest stands on to the newest.
fn over_ms<S: Sample>(mut of: Iter<'_, S>, newest_ms: u64) -> u32 {
    let since = of.next().map_or(newest_ms, Sample::since_ms);
    u32::try_from(newest_ms.saturating_sub(since)).unwrap_or(u32::MAX)
}

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
