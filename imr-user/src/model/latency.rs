//! Durations of one stage: bounded memory, percentiles over the newest samples.

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
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
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
