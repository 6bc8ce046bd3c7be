//! How often what happened: the proof that a run tried what it is to try.

use std::fmt;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Count {
    Batches,
    Done,
    Abandoned,
    Revoked,
    Held,
    Cut,
    Redone,
    GivenBack,
    GivenUp,
    HostsKilled,
    Resets,
    Kexecs,
    Unloads,
    PagesLeaked,
    Rings,
    LostCalls,
    StaleCalls,
    Settled,
}

impl Count {
    const ALL: [(Self, &'static str); 18] = [
        (Self::Batches, "batches"),
        (Self::Done, "done"),
        (Self::Abandoned, "abandoned"),
        (Self::Revoked, "revoked"),
        (Self::Held, "withdrawn too late"),
        (Self::Cut, "cut off by a restart"),
        (Self::Redone, "redone by a successor"),
        (Self::GivenBack, "claimed after the withdrawal"),
        (Self::GivenUp, "given up by the host"),
        (Self::HostsKilled, "hosts killed"),
        (Self::Resets, "resets"),
        (Self::Kexecs, "kexecs"),
        (Self::Unloads, "unloads"),
        (Self::PagesLeaked, "pages given up"),
        (Self::Rings, "rings"),
        (Self::LostCalls, "calls lost"),
        (Self::StaleCalls, "calls too late"),
        (Self::Settled, "rings that were settled"),
    ];
    /// What a long run without has not tried.
    const EXPECTED: [Self; 11] = [
        Self::Done,
        Self::Abandoned,
        Self::Revoked,
        Self::Held,
        Self::Cut,
        Self::Redone,
        Self::GivenBack,
        Self::HostsKilled,
        Self::Resets,
        Self::Unloads,
        Self::LostCalls,
    ];
}

/// The numbers.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts([u64; Count::ALL.len()]);

impl Counts {
    pub(crate) fn add(&mut self, count: Count) {
        self.0[count as usize] += 1;
    }

    pub(crate) fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (mine, others) in self.0.iter_mut().zip(other.0) {
            *mine += others;
        }
    }

    /// What should have happened and did not.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let never = |(count, _): &&(Count, _)| Count::EXPECTED.contains(count) && self.get(*count) == 0;
        Count::ALL.iter().filter(never).map(|(_, name)| *name).collect()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, (count, name)) in Count::ALL.iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            write!(f, "{comma}{} {name}", self.get(*count))?;
        }
        Ok(())
    }
}
