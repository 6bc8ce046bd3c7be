//! Durations of one stage: bounded memory, percentiles over the newest samples.

use schemars::JsonSchema;
use serde::Serialize;

/// Samples kept; percentiles are of these.
const WINDOW: usize = 512;

/// The newest durations of one stage.
#[derive(Debug, Clone, Default)]
pub struct LatencyWindow {
    samples_us: Vec<u64>,
    next: usize,
    count: u64,
    max_us: u64,
}

/// Percentiles of the newest samples, and the extremes since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LatencySummary {
    /// Samples since the start.
    pub count: u64,
    /// Median of the newest samples, microseconds.
    pub p50_us: u64,
    /// 99th percentile of the newest samples, microseconds.
    pub p99_us: u64,
    /// Largest since the start, microseconds.
    pub max_us: u64,
}

impl LatencyWindow {
    /// Adds a duration, ns.
    pub fn add_ns(&mut self, duration_ns: u64) {
        let us = duration_ns / 1000;
        if self.samples_us.len() < WINDOW {
            self.samples_us.push(us);
        } else {
            self.samples_us[self.next] = us;
        }
        self.next = (self.next + 1) % WINDOW;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    /// The summary now.
    #[must_use]
    pub fn summary(&self) -> LatencySummary {
        let mut sorted = self.samples_us.clone();
        sorted.sort_unstable();
        let rank = |percent: usize| match sorted.len() {
            0 => 0,
            len => sorted[((len * percent).div_ceil(100)).clamp(1, len) - 1],
        };
        LatencySummary { count: self.count, p50_us: rank(50), p99_us: rank(99), max_us: self.max_us }
    }
}

/// How long each stage of an offer took, one after the other, and all of them.
#[derive(Debug, Clone, Default)]
pub struct Stages {
    /// From the guest's call to when its worker takes it up.
    pub offer: LatencyWindow,
    /// From there until the offer is claimed, copied and checked.
    pub claim: LatencyWindow,
    /// The plan and the calls that give the memory back.
    pub reclaim: LatencyWindow,
    /// From the claim to the last mmu-notifier invalidation that those calls caused.
    pub notifier: LatencyWindow,
    /// From the end of the calls until the guest can see the answer.
    pub done: LatencyWindow,
    /// From the guest's call to the answer.
    pub total: LatencyWindow,
}

/// Percentiles of each stage of an offer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct StageSummaries {
    /// From the guest's call to when its worker takes it up.
    pub offer: LatencySummary,
    /// From there until the offer is claimed, copied and checked.
    pub claim: LatencySummary,
    /// The plan and the calls that give the memory back.
    pub reclaim: LatencySummary,
    /// From the claim to the last mmu-notifier invalidation that those calls caused; none where nothing was mapped.
    pub notifier: LatencySummary,
    /// From the end of the calls until the guest can see the answer.
    pub done: LatencySummary,
    /// From the guest's call to the answer.
    pub total: LatencySummary,
}

impl Stages {
    /// The summaries now.
    #[must_use]
    pub fn summary(&self) -> StageSummaries {
        StageSummaries {
            offer: self.offer.summary(),
            claim: self.claim.summary(),
            reclaim: self.reclaim.summary(),
            notifier: self.notifier.summary(),
            done: self.done.summary(),
            total: self.total.summary(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank_of_the_window() {
        let mut window = LatencyWindow::default();
        assert_eq!(window.summary(), LatencySummary::default());
        for us in 1..=100 {
            window.add_ns(us * 1000);
        }
        assert_eq!(window.summary(), LatencySummary { count: 100, p50_us: 50, p99_us: 99, max_us: 100 });
    }

    #[test]
    fn old_samples_leave_the_window_but_not_the_maximum() {
        let mut window = LatencyWindow::default();
        window.add_ns(9_000_000);
        for _ in 0..WINDOW {
            window.add_ns(1000);
        }
        assert_eq!(
            window.summary(),
            LatencySummary { count: WINDOW as u64 + 1, p50_us: 1, p99_us: 1, max_us: 9000 }
        );
    }
}
