//! What is wrong, and what is worth knowing: one sentence each, the worst first.
//!
//! Input: a snapshot. Output: sentences, safe to print. Says what it means and what to do, where there is something to do.

use crate::model::snapshot::{
    EventCounters, OfferCounters, ProbeState, ReturnCounters, Snapshot, VmSnapshot,
};
use crate::view::format;
use crate::view::theme::Theme;

/// Share of one core that reading page tables may take, percent.
const BASELINE_MOST: f32 = 1.0;
/// VMs named in one sentence.
const NAMED: usize = 3;

/// How bad it is; the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    /// What is shown is not complete, or something cannot be done.
    Bad,
    /// Somebody should look at it.
    Warn,
    /// As it should be, and worth knowing.
    Note,
}

/// One sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) severity: Severity,
    pub(super) text: String,
}

/// One counter of events, what it counts, and how bad it is when it is not zero.
pub(super) struct Counter {
    pub(super) name: &'static str,
    pub(super) value: fn(&EventCounters) -> u64,
    /// How bad; `None`: it only counts what there was.
    pub(super) severity: Option<Severity>,
    pub(super) text: &'static str,
}

impl Counter {
    /// How bad its value is; `None`: not at all.
    pub(super) fn severity(&self, counters: &EventCounters) -> Option<Severity> {
        let value = (self.value)(counters);
        let severity = self.severity.filter(|_| value > 0)?;
        // Every VM that starts while we look has a few events before it is found.
        let seen =
            counters.page_faults.saturating_add(counters.sptes_set).saturating_add(counters.sptes_zapped);
        let few = self.name == UNATTRIBUTED && value <= seen / 100;
        Some(if few { Severity::Note } else { severity })
    }
}

/// Name of the counter of events without a VM.
const UNATTRIBUTED: &str = "unattributed";

/// Every counter, losses first.
pub(super) const COUNTERS: [Counter; 11] = [
    Counter {
        name: "lost",
        value: |counters| counters.lost,
        severity: Some(Severity::Bad),
        text: "events dropped because the ring buffer was full; the next baseline puts the blocks right",
    },
    Counter {
        name: "undecodable",
        value: |counters| counters.undecodable,
        severity: Some(Severity::Bad),
        text: "events of an unknown kind or length: object and program do not belong together",
    },
    Counter {
        name: "table full",
        value: |counters| counters.table_full,
        severity: Some(Severity::Bad),
        text: "entries for which an eBPF table had no room; what they were about is not followed",
    },
    Counter {
        name: UNATTRIBUTED,
        value: |counters| counters.unattributed,
        severity: Some(Severity::Warn),
        text: "events that belong to no known VM, such as one that was just found or has just ended",
    },
    Counter {
        name: "unproven",
        value: |counters| counters.unproven,
        severity: Some(Severity::Warn),
        text: "calls not proven to be of a guest kernel: not heard",
    },
    Counter {
        name: "ambiguous",
        value: |counters| counters.ambiguous,
        severity: Some(Severity::Warn),
        text: "unmaps that match several VMs by address; the next baseline tells whose they were",
    },
    Counter {
        name: "faults",
        value: |counters| counters.page_faults,
        severity: None,
        text: "page faults of guests (kvm_page_fault)",
    },
    Counter {
        name: "hypercalls",
        value: |counters| counters.hypercalls,
        severity: None,
        text: "hypercalls of guests, ours and others",
    },
    Counter {
        name: "unmaps",
        value: |counters| counters.unmaps,
        severity: None,
        text: "invalidations that KVM was told of (mmu notifier)",
    },
    Counter {
        name: "sptes set",
        value: |counters| counters.sptes_set,
        severity: None,
        text: "mappings made (kvm_mmu_set_spte)",
    },
    Counter {
        name: "sptes zapped",
        value: |counters| counters.sptes_zapped,
        severity: None,
        text: "mappings taken away by the TDP MMU, leaves only",
    },
];

/// What is counted of a VM's calls, and the counter.
pub(super) type Misuse = (&'static str, fn(&OfferCounters) -> u64);

/// Calls of a guest that were not answered, with what each means, the worst first.
pub(super) const MISUSES: [Misuse; 4] = [
    ("denied (not from the guest kernel)", |offers| offers.denied_calls),
    ("malformed (a page or list that makes no sense)", |offers| offers.malformed),
    ("limited (too many a second)", |offers| offers.limited_calls),
    ("stale (too old to act on)", |offers| offers.stale_calls),
];

/// What is counted of memory that was taken and did not come back as it should, and the counter.
pub(super) type Shortfall = (&'static str, fn(&ReturnCounters) -> u64);

/// Each with what it means, the worst first.
pub(super) const SHORTFALLS: [Shortfall; 3] = [
    ("offers after which there was memory where it had been taken, still or again", |returns| returns.left),
    ("reclaim calls that took mapped memory without KVM being told of it", |returns| {
        returns.unnotified_calls
    }),
    ("offers of which nobody could measure what came back", |returns| returns.unmeasured),
];

/// Everything there is to say.
pub(super) fn findings(snapshot: &Snapshot, theme: Theme) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut say = |severity: Severity, text: String| {
        all.push(Finding { severity, text: format::printable(&text, theme.ascii()) });
    };
    if snapshot.sequence == 0 {
        return all;
    }
    let host = &snapshot.host;
    for counter in &COUNTERS {
        let value = (counter.value)(&host.counters);
        if let Some(severity) = counter.severity(&host.counters) {
            say(severity, format!("{value} {}: {}", counter.name, counter.text));
        }
    }
    for probe in &host.probes {
        match &probe.state {
            ProbeState::Failed(why) => {
                say(
                    Severity::Bad,
                    format!("{} is not attached and nothing does its work: {why}", probe.hook),
                );
            }
            ProbeState::StoodIn { reason, by } => {
                say(Severity::Warn, format!("{} is not attached; {by} does its work: {reason}", probe.hook));
            }
            ProbeState::Attached | ProbeState::NotNeeded(_) => {}
        }
    }
    for (what, count) in MISUSES {
        if let Some(text) = of_vms(snapshot, |vm| count(&vm.offers)) {
            say(Severity::Warn, format!("calls {what}: {text}"));
        }
    }
    for (what, count) in SHORTFALLS {
        if let Some(text) = of_vms(snapshot, |vm| count(&vm.returns)) {
            say(Severity::Warn, format!("{what}: {text}"));
        }
    }
    if host.baseline.cpu_percent > BASELINE_MOST {
        let text = format!("reading page tables takes {:.2} % of a core", host.baseline.cpu_percent);
        say(Severity::Warn, format!("{text}, more than the {BASELINE_MOST} % it may"));
    }
    if host.baseline.rounds == 0 && !snapshot.vms.is_empty() {
        say(Severity::Note, "no baseline yet: what VMs had before they were found shows soon".to_owned());
    }
    if let Some(text) = of_vms(snapshot, |vm| vm.offers.resets) {
        say(Severity::Note, format!("resets and restores: {text}"));
    }
    all.sort_by_key(|finding| finding.severity);
    all
}

/// A count of several VMs: the sum, and those that have the most of it.
fn of_vms(snapshot: &Snapshot, count: impl Fn(&VmSnapshot) -> u64) -> Option<String> {
    let mut having: Vec<_> = snapshot.vms.iter().filter(|vm| count(vm) > 0).collect();
    if having.is_empty() {
        return None;
    }
    having.sort_by_key(|vm| std::cmp::Reverse(count(vm)));
    let sum: u64 = having.iter().map(|vm| count(vm)).sum();
    let mut names: Vec<_> =
        having.iter().take(NAMED).map(|vm| format!("{} {}", vm.name, count(vm))).collect();
    if having.len() > NAMED {
        names.push(format!("and {} more VMs", having.len() - NAMED));
    }
    Some(format!("{sum} ({})", names.join(", ")))
}
