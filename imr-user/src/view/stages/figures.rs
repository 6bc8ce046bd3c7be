//! What the stages are, what the figures of several VMs come to, and bars on a logarithmic scale.
//!
//! Input: summaries. Output: names, summaries, text. Pure.

use ratatui::text::Span;

use crate::model::latency::{LatencySummary, StageSummaries};
use crate::model::snapshot::VmSnapshot;
use crate::view::theme::{Role, Theme};

/// Powers of ten microseconds that a bar shows: to 10 s.
const DECADES: usize = 7;

/// One stage.
pub(super) struct Stage {
    pub(super) name: &'static str,
    /// Its name where there is little room: at most seven columns.
    pub(super) short: &'static str,
    /// What it is, for people: no full stop.
    pub(super) text: &'static str,
    /// Its figures.
    pub(super) of: fn(&StageSummaries) -> LatencySummary,
    /// It is not a part but the whole.
    pub(super) whole: bool,
}

/// All stages in their order, the whole at the end.
pub(super) const STAGES: [Stage; 6] = [
    Stage {
        name: "offer",
        short: "offer",
        text: "from the guest's call until its worker on the host takes it up",
        of: |all| all.offer,
        whole: false,
    },
    Stage {
        name: "claim",
        short: "claim",
        text: "from there until the offer is claimed, copied and checked",
        of: |all| all.claim,
        whole: false,
    },
    Stage {
        name: "reclaim call",
        short: "reclaim",
        text: "the plan, and the calls that give the memory back",
        of: |all| all.reclaim,
        whole: false,
    },
    Stage {
        name: "notifier seen",
        short: "notif.",
        text: "from the claim to KVM's last invalidation those calls caused",
        of: |all| all.notifier,
        whole: false,
    },
    Stage {
        name: "done",
        short: "done",
        text: "from the end of the calls until the guest can see the answer",
        of: |all| all.done,
        whole: false,
    },
    Stage {
        name: "total",
        short: "total",
        text: "from the guest's call to the answer: how long its pages are held back",
        of: |all| all.total,
        whole: true,
    },
];

/// The figures of all VMs: samples added up, the middle of the medians, the worst of the rest. Percentiles of percentiles
/// would look exact and mean nothing.
pub(super) fn of_all(vms: &[VmSnapshot]) -> StageSummaries {
    let all = |of: fn(&StageSummaries) -> LatencySummary| {
        let summaries = vms.iter().map(|vm| of(&vm.latency)).filter(|summary| summary.count > 0);
        let mut medians = Vec::new();
        let mut sum = LatencySummary::default();
        for summary in summaries {
            medians.push(summary.p50_us);
            sum.count += summary.count;
            sum.p99_us = sum.p99_us.max(summary.p99_us);
            sum.max_us = sum.max_us.max(summary.max_us);
        }
        let middle = medians.len().saturating_sub(1) / 2;
        if !medians.is_empty() {
            sum.p50_us = *medians.select_nth_unstable(middle).1;
        }
        sum
    };
    StageSummaries {
        offer: all(|stages| stages.offer),
        claim: all(|stages| stages.claim),
        reclaim: all(|stages| stages.reclaim),
        notifier: all(|stages| stages.notifier),
        done: all(|stages| stages.done),
        total: all(|stages| stages.total),
    }
}

/// Which column of `columns` a duration has; 1 us and less is the first.
fn column(us: u64, columns: usize) -> usize {
    let decades = (us.max(1) as f64).log10() / DECADES as f64;
    ((decades * columns as f64) as usize).min(columns.saturating_sub(1))
}

/// Up to the median, up to the 99th percentile, and the largest.
pub(super) fn bar(theme: Theme, summary: LatencySummary, columns: usize) -> Vec<Span<'static>> {
    if summary.count == 0 {
        return vec![Span::raw(" ".repeat(columns))];
    }
    let (full, empty) = theme.gauge();
    let [p50, p99, max] = [summary.p50_us, summary.p99_us, summary.max_us].map(|us| column(us, columns));
    let to_p50: String = std::iter::repeat_n(full, p50 + 1).collect();
    let to_p99: String = std::iter::repeat_n(empty, p99.saturating_sub(p50)).collect();
    let mut spans =
        vec![Span::styled(to_p50, theme.style(Role::Good)), Span::styled(to_p99, theme.style(Role::Warn))];
    let taken = p50.max(p99) + 1;
    // Where the largest falls into the same column as the percentile, it has nothing to add.
    if max >= taken {
        spans.push(Span::raw(format!("{:>1$}", "|", max + 1 - taken)));
    }
    let taken = taken.max(max + 1);
    spans.push(Span::raw(" ".repeat(columns - taken)));
    spans
}

/// Where the powers of ten are in a bar of so many columns.
pub(super) fn scale(columns: usize) -> String {
    let names = ["1us", "10us", ".1ms", "1ms", "10ms", ".1s", "1s"];
    let mut text = String::new();
    for (decade, name) in names.into_iter().enumerate() {
        let at = (columns * decade).div_ceil(DECADES);
        if (text.is_empty() || at > text.len()) && at + name.len() <= columns {
            text = format!("{text:<at$}{name}");
        }
    }
    format!("{text:<columns$}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::history::testing::{ASCII, busy};

    fn summary(count: u64, p50_us: u64, p99_us: u64, max_us: u64) -> LatencySummary {
        LatencySummary { count, p50_us, p99_us, max_us }
    }

    fn text(summary: LatencySummary, columns: usize) -> String {
        bar(ASCII, summary, columns).iter().map(|span| span.content.to_string()).collect()
    }

    #[test]
    fn bars_are_logarithmic() {
        // Two columns a power of ten.
        assert_eq!(text(summary(9, 1, 10, 1000), 14), "=..   |       ");
        assert_eq!(text(summary(9, 100, 100, 100), 14), "=====         ");
        assert_eq!(text(summary(9, 0, 0, u64::MAX), 14), "=            |");
        assert_eq!(text(summary(0, 5, 5, 5), 14), " ".repeat(14));
        assert_eq!(scale(35), "1us  10us .1ms 1ms  10ms .1s  1s   ");
    }

    #[test]
    fn bars_have_their_width_whatever_the_figures() {
        for columns in 1..50 {
            assert_eq!(scale(columns).len(), columns);
            for us in [0, 1, 999, 1000, 1_000_000, u64::MAX] {
                for other in [0, 7, 70_000, u64::MAX] {
                    assert_eq!(text(summary(1, us, other, us.max(other)), columns).len(), columns);
                }
            }
        }
    }

    #[test]
    fn all_vms_add_up_and_keep_the_worst() {
        let snapshot = busy();
        let all = of_all(&snapshot.vms);
        // The second VM has answered nothing and does not count.
        let (first, third) = (snapshot.vms[0].latency, snapshot.vms[2].latency);
        assert_eq!(all.total.count, first.total.count + third.total.count);
        assert_eq!((all.total.p50_us, all.total.p99_us), (first.total.p50_us, third.total.p99_us));
        assert_eq!(all.notifier.max_us, third.notifier.max_us);
        assert_eq!(of_all(&[]), StageSummaries::default());
    }
}
