//! What the newest samples said of the host and of each VM: bounded, for the timeline.
//!
//! Input: every snapshot, shown or not. Output: points, oldest first. Knows the time from the snapshots only.

use std::collections::{BTreeMap, VecDeque};

use crate::model::block::GuestClaim;
use crate::model::ids::VmId;
use crate::model::snapshot::{GuestStatus, Snapshot, VmSnapshot};

/// Points kept for the host and for each VM.
pub(crate) const POINTS: usize = 600;

/// One sample of a VM, or of all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Point {
    /// Number of the snapshot.
    pub(crate) sequence: u64,
    /// Wall-clock time, milliseconds since 1970-01-01 UTC.
    pub(crate) unix_ms: u64,
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
    /// Bytes that the guest's own statistics call free.
    pub(crate) guest_free: u64,
    /// Bytes that refaulted since the start; of all VMs together, those of VMs that have ended included.
    pub(crate) refaulted_total: u64,
    /// Page faults a second.
    pub(crate) faults_per_s: f64,
}

/// One sample of the host's own memory.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct HostPoint {
    /// Number of the snapshot.
    pub(crate) sequence: u64,
    /// Wall-clock time, milliseconds since 1970-01-01 UTC.
    pub(crate) unix_ms: u64,
    /// MemTotal - MemAvailable, bytes.
    pub(crate) mem_used: u64,
    /// Swap in use, bytes.
    pub(crate) swap_used: u64,
    /// `some avg10` of /proc/pressure/memory, percent; `None` where the kernel has no PSI.
    pub(crate) pressure: Option<f32>,
}

/// The newest samples.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    sequence: u64,
    host: VecDeque<HostPoint>,
    all: VecDeque<Point>,
    vms: BTreeMap<VmId, VecDeque<Point>>,
}

impl History {
    /// Takes a sample. The same sample again changes nothing; VMs that have ended are forgotten.
    pub(crate) fn note(&mut self, snapshot: &Snapshot) {
        if snapshot.sequence <= self.sequence {
            return;
        }
        self.sequence = snapshot.sequence;
        push(&mut self.host, host_point(snapshot));
        let before = self.all.back().map_or(0, |all| all.refaulted_total);
        let mut all = Point {
            sequence: snapshot.sequence,
            unix_ms: snapshot.unix_ms,
            refaulted_total: before,
            ..Point::default()
        };
        for vm in &snapshot.vms {
            let point = point(snapshot, vm);
            let points = self.vms.entry(vm.id).or_default();
            let known = points.back().map_or(0, |point| point.refaulted_total);
            all.add(&point, known);
            push(points, point);
        }
        push(&mut self.all, all);
        self.vms.retain(|_, points| points.back().is_some_and(|point| point.sequence == snapshot.sequence));
    }

    /// The host's samples, oldest first.
    pub(crate) fn host(&self) -> &VecDeque<HostPoint> {
        &self.host
    }

    /// All VMs together, oldest first.
    pub(crate) fn all(&self) -> &VecDeque<Point> {
        &self.all
    }

    /// A VM's samples, oldest first; none of a VM that is not known.
    pub(crate) fn vm(&self, id: VmId) -> Option<&VecDeque<Point>> {
        self.vms.get(&id)
    }
}

impl Point {
    /// Adds a VM's sample, of whose refaults `known` were added before.
    fn add(&mut self, other: &Self, known: u64) {
        self.resident_in_use += other.resident_in_use;
        self.resident_free += other.resident_free;
        self.reclaimed += other.reclaimed;
        self.swapped += other.swapped;
        self.merged += other.merged;
        self.guest_free += other.guest_free;
        // The sum of the totals would fall when a VM ends, and hide what the others refault in that moment.
        self.refaulted_total += other.refaulted_total.saturating_sub(known);
        self.faults_per_s += other.faults_per_s;
    }
}

fn push<T>(points: &mut VecDeque<T>, point: T) {
    if points.len() == POINTS {
        points.pop_front();
    }
    points.push_back(point);
}

fn host_point(snapshot: &Snapshot) -> HostPoint {
    let host = &snapshot.host;
    HostPoint {
        sequence: snapshot.sequence,
        unix_ms: snapshot.unix_ms,
        mem_used: host.mem_total.saturating_sub(host.mem_available),
        swap_used: host.swap_used,
        pressure: host.pressure_some_avg10,
    }
}

fn point(snapshot: &Snapshot, vm: &VmSnapshot) -> Point {
    let free = vm.cross.sum(|claim, _| claim == GuestClaim::Free).resident_bytes();
    let attached = matches!(vm.guest, GuestStatus::Attached { .. });
    Point {
        sequence: snapshot.sequence,
        unix_ms: snapshot.unix_ms,
        resident_in_use: vm.resident_bytes.saturating_sub(free),
        resident_free: free,
        reclaimed: vm.reclaimed_now_bytes,
        swapped: vm.swapped_bytes,
        merged: vm.merged_bytes,
        guest_free: if attached { vm.guest_free_bytes } else { 0 },
        refaulted_total: vm.refaulted_bytes,
        faults_per_s: if vm.faults_per_s.is_finite() { vm.faults_per_s } else { 0.0 },
    }
}

#[cfg(test)]
pub(crate) mod testing;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{snapshot, vm};

    #[test]
    fn samples_are_kept_once_bounded_and_only_of_vms_that_are_there() {
        let mut history = History::default();
        let mut sample = snapshot(vec![vm(1, "a"), vm(2, "b")]);
        for at in 1..=POINTS as u64 + 5 {
            sample.sequence = at;
            sample.unix_ms = at * 1000;
            history.note(&sample);
            history.note(&sample);
        }
        let first = history.all().front().unwrap();
        assert_eq!((history.all().len(), history.host().len(), first.unix_ms), (POINTS, POINTS, 6000));
        assert_eq!(first.reclaimed, 2 * sample.vms[0].reclaimed_now_bytes);
        assert_eq!(history.vm(sample.vms[1].id).unwrap().len(), POINTS);
        let gone = sample.vms.pop().unwrap().id;
        sample.sequence += 1;
        sample.unix_ms += 1000;
        history.note(&sample);
        assert!(history.vm(gone).is_none());
    }

    #[test]
    fn refaults_of_all_go_on_when_a_vm_ends() {
        let mut history = History::default();
        let mut sample = snapshot(vec![vm(1, "stays"), vm(2, "ends")]);
        let each = sample.vms[0].refaulted_bytes;
        history.note(&sample);
        assert_eq!(history.all()[0].refaulted_total, 2 * each);
        sample.vms.pop();
        sample.vms[0].refaulted_bytes += 5;
        sample.sequence += 1;
        history.note(&sample);
        assert_eq!(history.all()[1].refaulted_total, 2 * each + 5);
    }
}
