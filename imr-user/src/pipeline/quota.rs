//! How many records one VM's guest may give cause for, so that a hostile one fills neither a log nor the list of decisions.
//!
//! Input: reports, times. Output: whether a report is told, and how many were not since the last one that was. Counters
//! count all of them. What brought memory back is always told: that cost the guest memory.

use super::worker::Report;
use crate::guest::session::HelloKind;
use crate::policy::bucket::Bucket;

/// So many at once.
const BURST: u64 = 1000;
/// So many a second later on.
const PER_SECOND: u64 = 10;

/// One VM's.
#[derive(Debug)]
pub(super) struct Quota {
    bucket: Bucket,
    held_back: u64,
    held_back_in_all: u64,
}

impl Quota {
    pub(super) fn new(now_ns: u64) -> Self {
        Self { bucket: Bucket::new(PER_SECOND, BURST, now_ns), held_back: 0, held_back_in_all: 0 }
    }

    /// Whether what this report means is told.
    pub(super) fn admits(&mut self, report: &Report, now_ns: u64) -> bool {
        self.bucket.fill(now_ns);
        let told = match report {
            Report::Claimed(_) => !self.bucket.is_empty(),
            report => !is_cheap(report) || self.bucket.take(1),
        };
        if !told {
            self.held_back += 1;
            self.held_back_in_all += 1;
        }
        told
    }

    /// Whether one more is told that is not a report's.
    pub(super) fn has_room(&mut self, now_ns: u64) -> bool {
        self.bucket.fill(now_ns);
        self.bucket.take(1)
    }

    /// How many were not told since this was asked last; `None` while it goes on, or there were none.
    pub(super) fn held_back(&mut self, now_ns: u64) -> Option<u64> {
        self.bucket.fill(now_ns);
        (self.held_back > 0 && self.bucket.take(1)).then(|| std::mem::take(&mut self.held_back))
    }

    /// How many were not told in all.
    pub(super) fn held_back_in_all(&self) -> u64 {
        self.held_back_in_all
    }
}

/// Whether a guest can have it as often as it calls, at no cost of its own.
fn is_cheap(report: &Report) -> bool {
    match report {
        Report::Malformed { .. } | Report::Abandoned { .. } | Report::Detached { .. } => true,
        Report::Hello { kind, .. } => *kind != HelloKind::Repeated,
        // Also where ranges count as reclaimed: what it has not touched since it gave it, it can offer again and again.
        Report::Done(done) => done.taken.outcome.freed_bytes == 0,
        // Told nowhere, or with what follows.
        Report::Claimed(_) | Report::Stale | Report::Settled | Report::Limited | Report::VmmGone => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::model::ids::{BLOCK_SIZE, Gfn, VmId};
    use crate::pipeline::worker::{Done, Taken};
    use crate::reclaim::outcome::{Measured, Outcome, RangeOutcome, RangeResult};

    const SECOND_NS: u64 = 1_000_000_000;

    /// One block, reclaimed, of which so much came back.
    fn done(freed_bytes: u64) -> Report {
        let measured = if freed_bytes == 0 { Measured::NothingResident } else { Measured::Agrees };
        let outcome = Outcome {
            vm: VmId::new(1),
            offer_seq: 1,
            backend: "punch",
            ranges: vec![RangeOutcome { result: RangeResult::Reclaimed, done_bytes: BLOCK_SIZE }],
            calls: 1,
            asked_bytes: BLOCK_SIZE,
            freed_bytes,
            measured,
            left_bytes: 0,
            unnotified_calls: 0,
        };
        let taken = Taken { ranges: vec![(Gfn::new(0), 512)], outcome, taken_in_all: 0, reclaimed_ns: 0 };
        Report::Done(Done { taken, rung_ns: 0, heard_ns: 0, claimed_ns: 0, notified_ns: 0, done_ns: 0 })
    }

    #[test]
    fn what_brings_nothing_back_is_cheap_and_what_does_is_always_told() {
        let mut quota = Quota::new(0);
        let told = (0..3 * BURST).filter(|_| quota.admits(&done(0), 0)).count() as u64;
        assert_eq!((told, quota.held_back_in_all()), (BURST, 2 * BURST));
        let told = (0..3 * BURST).filter(|_| quota.admits(&done(BLOCK_SIZE), 0)).count() as u64;
        assert_eq!((told, quota.held_back_in_all()), (3 * BURST, 2 * BURST));
    }

    #[test]
    fn a_flood_is_told_at_first_and_then_counted() {
        let mut quota = Quota::new(0);
        let refused = || Report::Malformed { why: "x".into() };
        let told = (0..10 * BURST).filter(|_| quota.admits(&refused(), 0)).count() as u64;
        assert_eq!((told, quota.held_back(0)), (BURST, None), "it goes on");
        assert!(quota.admits(&Report::Stale, 0), "tells nothing anyway");
        assert_eq!(quota.held_back(SECOND_NS), Some(9 * BURST));
        assert_eq!(quota.held_back(SECOND_NS), None, "told");
        let told = (0..BURST).filter(|_| quota.admits(&refused(), SECOND_NS)).count() as u64;
        assert_eq!((told, quota.held_back_in_all()), (PER_SECOND - 1, 10 * BURST - PER_SECOND + 1));
    }
}
