//! Counts of tests, and how they are read from what a test program prints.
//!
//! In: lines such as libtest's `test result: ok. 3 passed; 0 failed; 1 ignored; ...`. Out: a `Tally`.

use std::fmt;
use std::ops::AddAssign;
use std::time::Instant;

use crate::testbed::outcome::{Outcome, Problem};

/// How many tests ended in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Held.
    pub(super) passed: u32,
    /// Did not hold.
    pub(super) failed: u32,
    /// Could not run here; each has said why.
    pub(super) skipped: u32,
    /// Were not run, or not to their end, as no time was left (`--within`).
    pub(super) left_out: u32,
}

impl Tally {
    /// Reads libtest's summary line; `None` for any other line.
    pub(super) fn parse(line: &str) -> Option<Self> {
        let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
        let mut tally = Self::default();
        for count in counts.split(';') {
            let mut words = count.split_whitespace();
            let (Some(number), Some(what)) = (words.next().and_then(|word| word.parse().ok()), words.next())
            else {
                continue;
            };
            match what {
                "passed" => tally.passed = number,
                "failed" => tally.failed = number,
                "ignored" => tally.skipped = number,
                _ => {}
            }
        }
        Some(tally)
    }
}

impl Tally {
    /// Of one test that was run in a machine.
    pub(super) fn of(outcome: &Outcome) -> Self {
        let mut tally = Self::default();
        let ended = match &outcome.problem {
            Some(Problem::NoTimeLeft) => &mut tally.left_out,
            _ if outcome.success() => &mut tally.passed,
            _ => &mut tally.failed,
        };
        *ended = 1;
        tally
    }

    /// A test that cannot run here.
    pub(super) fn skip(&mut self, name: &str, why: &dyn fmt::Display) {
        println!("test {name} ... skipped: {why:#}");
        self.skipped += 1;
    }

    /// A test that has run since `start`: what it has seen, or why it failed.
    pub(super) fn count(&mut self, name: &str, start: Instant, seen: anyhow::Result<String>) {
        match seen {
            Ok(seen) => {
                println!("test {name} ... ok ({:.0} s, {seen})", start.elapsed().as_secs_f64());
                self.passed += 1;
            }
            Err(error) => {
                println!("test {name} ... FAILED\n{error:#}");
                self.failed += 1;
            }
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.left_out += other.left_out;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)?;
        match self.left_out {
            0 => Ok(()),
            left_out => write!(f, ", {left_out} left out, as no time was left"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtests_summary_is_understood() {
        let line = "test result: FAILED. 13 passed; 1 failed; 2 ignored; 0 measured; 5 filtered out; finished in 0.57s";
        let mut tally = Tally::parse(line).unwrap();
        assert_eq!(tally, Tally { passed: 13, failed: 1, skipped: 2, left_out: 0 });
        tally += Tally::parse("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out")
            .unwrap();
        assert_eq!(tally.to_string(), "14 passed, 1 failed, 2 skipped");
        tally.left_out = 3;
        assert!(tally.to_string().ends_with(" 2 skipped, 3 left out, as no time was left"));
        assert_eq!(Tally::parse("test json::tests::filters ... ok"), None);
    }
}
