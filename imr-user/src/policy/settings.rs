//! What policy pressure goes by: thresholds, floor, rate and regret, with defaults that suit a host for many guests.
//!
//! Numbers are whole (hundredths of a percent, bytes), so that settings compare exactly and a file says what counts.

use std::fmt;
use std::time::Duration;

use crate::model::ids::BLOCK_SIZE;

/// The lowest rate: one range of page reporting (order 10) has to fit into a second of it.
pub const RATE_LEAST: u64 = 2 * BLOCK_SIZE;

/// Hundredths of a percent; more than 10,000 is more than all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Percent(u32);

impl Percent {
    /// All of it.
    pub const ALL: Self = Self(10_000);

    /// From hundredths of a percent.
    #[must_use]
    pub const fn hundredths(value: u32) -> Self {
        Self(value)
    }

    /// From percent; what is negative or no number is 0.
    #[must_use]
    pub fn new(percent: f32) -> Self {
        // The conversion saturates.
        Self((percent * 100.0).round() as u32)
    }

    /// `part` of `whole`, at most 100 %; 0 of nothing.
    #[must_use]
    pub fn share(part: f64, whole: f64) -> Self {
        if whole <= 0.0 {
            Self(0)
        } else {
            Self((part / whole * 10_000.0).round().clamp(0.0, 10_000.0) as u32)
        }
    }

    /// So much of `whole`, rounded down.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        // Less than `whole` times 430,000: the cast cuts nothing of what a `u64` percentage can be.
        u64::try_from(u128::from(whole) * u128::from(self.0) / 10_000).unwrap_or(u64::MAX)
    }

    /// In percent.
    #[must_use]
    pub fn get(self) -> f32 {
        self.0 as f32 / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole} %"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{} %", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02} %"),
        }
    }
}

/// Memory: so many bytes, or a share of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// Bytes.
    Bytes(u64),
    /// A share.
    Share(Percent),
}

impl Amount {
    /// In bytes, of `whole`; never more than that.
    #[must_use]
    pub fn of(self, whole: u64) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.min(whole),
            Self::Share(percent) => percent.of(whole).min(whole),
        }
    }
}

/// Settings of policy pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// PSI `some avg10` of memory at which the host is pressed.
    pub psi_above: Percent,
    /// PSI at or below which it is calm again.
    pub psi_below: Percent,
    /// MemAvailable below which the host is pressed, of MemTotal.
    pub available_low: Amount,
    /// MemAvailable from which on it is calm again, of MemTotal.
    pub available_high: Amount,
    /// Free guest memory with memory of the host behind it that every VM keeps, of its RAM.
    pub floor: Amount,
    /// What is taken of one VM in a second at most, bytes; for a moment, a second's worth at once.
    pub rate: u64,
    /// Recent regret over which a VM is left alone.
    pub regret_limit: Percent,
    /// Time after a reclaim within which a refault is regret.
    pub regret_within: Duration,
    /// For how long a VM is left alone the first time; twice as long each time soon after, up to 16 times.
    pub left_alone: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            psi_above: Percent::hundredths(1000),
            psi_below: Percent::hundredths(200),
            available_low: Amount::Share(Percent::hundredths(1000)),
            available_high: Amount::Share(Percent::hundredths(1500)),
            floor: Amount::Share(Percent::hundredths(500)),
            rate: 512 << 20,
            regret_limit: Percent::hundredths(2500),
            regret_within: Duration::from_secs(30),
            left_alone: Duration::from_secs(60),
        }
    }
}

/// Settings of compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactSettings {
    /// Stranded free memory over which a guest is asked, of its RAM; `None`: never.
    pub over: Option<Amount>,
    /// Between two requests to a guest.
    pub every: Duration,
}

impl Default for CompactSettings {
    fn default() -> Self {
        Self { over: None, every: Duration::from_secs(60) }
    }
}

/// Bytes in MiB, for reasons.
pub(super) fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// A duration in ns, as far as a `u64` goes (584 years).
pub(super) fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_and_amounts() {
        assert_eq!(Percent::new(12.345).of(1 << 40), (1 << 40) / 10_000 * 1235 + 7776 * 1235 / 10_000);
        assert_eq!((Percent::new(-1.0), Percent::new(f32::NAN)), (Percent::default(), Percent::default()));
        assert_eq!(Percent::share(1.0, 3.0).to_string(), "33.33 %");
        assert_eq!(
            (Percent::share(9.0, 3.0), Percent::share(1.0, 0.0)),
            (Percent::new(100.0), Percent::default())
        );
        let said: Vec<_> = [1000, 1050, 5].map(|value| Percent::hundredths(value).to_string()).into();
        assert_eq!(said, ["10 %", "10.5 %", "0.05 %"]);
        assert_eq!(Amount::Bytes(9).of(5), 5);
        assert_eq!(Amount::Share(Percent::new(50.0)).of(1 << 62), 1 << 61);
        assert_eq!(Percent::hundredths(u32::MAX).of(u64::MAX), u64::MAX);
    }
}
