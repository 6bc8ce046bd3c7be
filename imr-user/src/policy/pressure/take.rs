//! What a VM's worker takes of an offer while the host is short of memory: within floor and rate, the best first.
//!
//! Input: the newest [`Allowance`], an offer, the time. Output: a verdict a range. It never waits; an allowance that is
//! not renewed lapses, so that nothing is taken on word of an engine that is stuck.

use std::cmp::Reverse;

use crate::model::ids::{BlockId, FRAME_SIZE, Gfn};
use crate::policy::bucket::Bucket;
use crate::policy::free_since::{FreeFor, FreeSince, Seen};
use crate::policy::plan::Verdict;
use crate::policy::settings::{Settings, mib};

/// What may be taken from a VM now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Allowance {
    /// Nothing: the host is not short of memory.
    #[default]
    Calm,
    /// Nothing: what was taken from it came back too soon.
    LeftAlone,
    /// Up to the floor.
    Pressed {
        /// Sum of all that was ever taken from the VM that must not be passed, bytes ([`Taker::taken`]). A sum, as then
        /// nothing counts twice, however old the engine's knowledge was.
        up_to: u64,
        /// The floor, bytes.
        floor: u64,
        /// When this allows nothing any more, ns.
        lapses_ns: u64,
    },
}

/// The most that a [`Taker`] takes at once, bytes, and what it can take again a second later.
pub(super) fn most_at_once(settings: &Settings) -> u64 {
    settings.rate
}

/// Answers the offers of one VM.
#[derive(Debug, Clone)]
pub struct Taker {
    allowance: Allowance,
    settings: Settings,
    bucket: Bucket,
    taken: u64,
    free: FreeSince,
}

impl Taker {
    /// One that may take nothing yet.
    #[must_use]
    pub fn new(settings: Settings, now_ns: u64) -> Self {
        Self {
            allowance: Allowance::Calm,
            settings,
            bucket: Bucket::new(settings.rate, most_at_once(&settings), now_ns),
            taken: 0,
            free: FreeSince::default(),
        }
    }

    /// Goes by this from now on.
    pub fn allow(&mut self, allowance: Allowance) {
        self.allowance = allowance;
    }

    /// All that was ever taken from the VM, under whichever policy, bytes.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// What the guest said before counts for nothing.
    pub fn forget_claims(&mut self) {
        self.free.clear();
    }

    /// Notes that these ranges are free, and says for how long each.
    pub fn note_free(
        &mut self,
        now_ns: u64,
        ranges: &[(Gfn, u64)],
        seen: impl Fn(BlockId) -> Seen,
    ) -> Vec<FreeFor> {
        ranges.iter().map(|range| self.free.note(now_ns, *range, &seen)).collect()
    }

    /// A verdict for each range, in the order of the offer. What it would take counts as taken until [`Taker::settle`].
    pub fn judge(&mut self, now_ns: u64, ranges: &[(Gfn, u64)], free: &[FreeFor]) -> Vec<Verdict> {
        let keep_all = |why: &str| vec![keep(why); ranges.len()];
        let (up_to, floor) = match self.allowance {
            Allowance::Calm => return keep_all("the host is not short of memory"),
            Allowance::LeftAlone => return keep_all("left alone, as what was taken came back too soon"),
            Allowance::Pressed { lapses_ns, .. } if now_ns > lapses_ns => {
                return keep_all("how the host's memory is now is not known");
            }
            Allowance::Pressed { up_to, floor, .. } => (up_to, floor),
        };
        self.bucket.fill(now_ns);
        let mut verdicts = vec![Verdict::Reclaim; ranges.len()];
        let mut planned = self.taken;
        let mut over_rate = false;
        for index in best_first(ranges, free) {
            let bytes = ranges[index].1.saturating_mul(FRAME_SIZE);
            if planned.saturating_add(bytes) > up_to {
                let floor = mib(floor);
                verdicts[index] =
                    keep(&format!("it is of the last {floor} of free memory that the VM keeps"));
            } else if over_rate || !self.bucket.take(bytes) {
                // Not a smaller one that comes later either: it would be taken before a better one, again and again.
                over_rate = true;
                let rate = mib(self.settings.rate);
                verdicts[index] = keep(&format!("more than {rate} within a second"));
            } else {
                planned += bytes;
            }
        }
        verdicts
    }

    /// What became of ranges that were to be taken: `done_bytes` of each were. To be told once for every offer, whatever
    /// the policy; `rate_limited` where [`Taker::judge`] had allowed it.
    pub fn settle(&mut self, rate_limited: bool, ranges: impl IntoIterator<Item = ((Gfn, u64), u64)>) {
        for ((base_gfn, npages), done_bytes) in ranges {
            self.taken = self.taken.saturating_add(done_bytes);
            if done_bytes > 0 {
                self.free.forget(base_gfn, npages);
            }
            if rate_limited {
                let planned = npages.saturating_mul(FRAME_SIZE);
                self.bucket.give_back(planned.saturating_sub(done_bytes));
            }
        }
    }
}

fn keep(why: &str) -> Verdict {
    Verdict::Keep(format!("policy pressure: {why}"))
}

/// The release priority: longest free (by doubling times, so that a second does not outrank a size), then the longest,
/// then the one that came back longest ago.
fn best_first(ranges: &[(Gfn, u64)], free: &[FreeFor]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&index| {
        let free = free.get(index).copied().unwrap_or_default();
        (Reverse((free.seconds + 1).ilog2()), Reverse(ranges[index].1), free.touched_ns)
    });
    order
}
