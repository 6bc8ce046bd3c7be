//! A day of samples in bounded memory: the newest one by one, older ones merged by spans of time.
//!
//! Input: samples in order of time. Output: points, oldest first, in which every sample counts once. The spans are fixed
//! by the clock, each a whole part of the next, whatever the rate of the samples was: a point never changes once it is there.

use std::collections::VecDeque;
use std::collections::vec_deque::Iter;

/// Kept of each tier: every sample, then spans of [`SPANS_MS`]: at one sample a second about 4 min, 16 min, 96 min, and
/// 24 hours whatever the rate.
pub(super) const KEPT: [usize; 4] = [256, 192, 192, 288];
/// What a point of each tier but the first stands for, milliseconds.
pub(super) const SPANS_MS: [u64; 3] = [5_000, 30_000, 300_000];

/// A sample, or several merged.
pub(crate) trait Sample: Copy {
    /// Time of the newest of them, milliseconds since 1970-01-01 UTC.
    fn unix_ms(&self) -> u64;

    /// The time before it for which it stands as well, milliseconds; 0 where nothing is known of that time.
    fn over_ms(&self) -> u32;

    /// One for all of these, of which there is at least one: oldest first.
    fn merged(of: Iter<'_, Self>) -> Self;

    /// From when on it stands, milliseconds since 1970-01-01 UTC.
    fn since_ms(&self) -> u64 {
        self.unix_ms().saturating_sub(self.over_ms().into())
    }
}

/// What is kept of one subject.
#[derive(Debug, Clone)]
pub(crate) struct Series<S> {
    tiers: [Tier<S>; KEPT.len()],
}

#[derive(Debug, Clone)]
struct Tier<S> {
    points: VecDeque<S>,
    /// Whether it has had more points than it keeps.
    lost: bool,
}

impl<S> Default for Series<S> {
    fn default() -> Self {
        Self { tiers: [(); KEPT.len()].map(|()| Tier { points: VecDeque::new(), lost: false }) }
    }
}

impl<S: Sample> Series<S> {
    /// Takes a sample, newer than all before it.
    pub(super) fn push(&mut self, sample: S) {
        self.push_to(0, sample);
    }

    fn push_to(&mut self, at: usize, point: S) {
        let points = &self.tiers[at].points;
        if let (Some(span), Some(newest)) = (SPANS_MS.get(at), points.back())
            && newest.unix_ms() / span != point.unix_ms() / span
        {
            // What has come to its end is merged while it is still here: at the fastest rate, ten samples a second, 50
            // of the 256.
            let begin = newest.unix_ms() / span * span;
            let first = points.partition_point(|point| point.unix_ms() < begin);
            let merged = S::merged(points.range(first..));
            self.push_to(at + 1, merged);
        }
        let tier = &mut self.tiers[at];
        let (len, kept) = (tier.points.len(), KEPT[at]);
        if len == kept {
            tier.points.pop_front();
            tier.lost = true;
        } else if len == tier.points.capacity() {
            // Not left to the deque, which would make room for more than is ever kept.
            tier.points.reserve_exact(len.max(8).min(kept - len));
        }
        tier.points.push_back(point);
    }

    /// The newest sample.
    pub(super) fn newest(&self) -> Option<&S> {
        self.tiers[0].points.back()
    }

    /// The points, oldest first: every sample as far as they go, before that the shortest spans that there are.
    pub(crate) fn points(&self) -> impl Iterator<Item = &S> {
        // Of each tier, from when to when it is asked; and the tiers that are asked at all, finest first.
        let mut asked = [(0, 0); KEPT.len()];
        asked[0] = (0, u64::MAX);
        let mut used = vec![0];
        for (coarser, span) in (1..).zip(SPANS_MS) {
            while let Some(&finer) = used.last() {
                let [Some(first), Some(oldest), Some(newest)] = [
                    self.tiers[finer].points.front(),
                    self.tiers[coarser].points.front(),
                    self.tiers[coarser].points.back(),
                ] else {
                    break;
                };
                // Where samples are farther apart than spans, a coarser tier may well end before a finer one. One that
                // ends with it may still have more: the very first sample stands for no time.
                if !self.tiers[finer].lost || oldest.since_ms() > first.since_ms() {
                    break;
                }
                // The span of the first has lost some of its points. Never cut inside a span: what it says would
                // change with each point that goes.
                let cut = ((first.unix_ms() / span).min(newest.unix_ms() / span) + 1) * span;
                if cut < asked[finer].1 {
                    asked[finer].0 = cut;
                    asked[coarser] = (0, cut);
                    used.push(coarser);
                    break;
                }
                // It goes back hardly any farther than a finer one, and nothing is left to ask it for.
                asked[finer] = (0, 0);
                used.pop();
            }
        }
        asked.into_iter().enumerate().rev().flat_map(|(at, (from, until))| {
            let points = &self.tiers[at].points;
            let end = points.partition_point(|point| point.unix_ms() < until);
            let begin = points.partition_point(|point| point.unix_ms() < from);
            points.range(begin.min(end)..end)
        })
    }

    /// How far apart the newest samples are, milliseconds; `None` before there are two. One late sample does not count.
    pub(crate) fn apart_ms(&self) -> Option<u64> {
        let newest = self.tiers[0].points.iter().rev().take(9);
        let mut apart: Vec<_> = newest.map(Sample::over_ms).filter(|over| *over > 0).collect();
        apart.sort_unstable();
        apart.get(apart.len() / 2).map(|ms| u64::from(*ms))
    }

    /// Points for which there is room in each tier.
    #[cfg(test)]
    pub(super) fn room(&self) -> [usize; KEPT.len()] {
        [0, 1, 2, 3].map(|at: usize| self.tiers[at].points.capacity())
    }
}
