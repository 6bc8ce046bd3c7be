//! How a run ended: status, what went wrong, what was said.
//!
//! In: what the session saw. Out: a value for tests, text for people, an exit code.
//! Must not print.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use super::relay::{Channel, Line};

/// How much of a stream is kept to explain a failure.
const TAIL_LINES: usize = 25;

/// Why a run ended before its scripts did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The time the run may take was over.
    TimedOut(Duration),
    /// No time was left for it, of all that a run of tests may take.
    NoTimeLeft,
    /// L1 did not come up, and not at the second try either.
    BootHung(Duration),
    /// L1 was up and has stopped: nothing came from it for so long.
    HostHung(Duration),
    /// L1's QEMU ended by itself.
    QemuEnded(String),
    /// L1's kernel panicked.
    HostPanicked,
    /// A guest's kernel panicked.
    GuestPanicked(u32),
    /// L1's init could not do its part.
    Failed(String),
    /// This process was asked to end, by this signal.
    Interrupted(i32),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TimedOut(limit) => {
                write!(f, "not done after {} s (--timeout): killed", limit.as_secs())
            }
            Self::NoTimeLeft => f.write_str("no time was left for it"),
            Self::BootHung(limit) => {
                write!(f, "L1 was not up within {} s, twice: given up", limit.as_secs())
            }
            Self::HostHung(silence) => {
                write!(f, "L1 hung: not even a sign of life for {} s: killed", silence.as_secs())
            }
            Self::QemuEnded(how) => write!(f, "L1's QEMU ended before the run did ({how})"),
            Self::HostPanicked => f.write_str("L1's kernel panicked"),
            Self::GuestPanicked(n) => write!(f, "the kernel of guest {n} panicked"),
            Self::Failed(what) => f.write_str(what),
            Self::Interrupted(signal) => write!(f, "interrupted by signal {signal}"),
        }
    }
}

/// The last lines of one stream.
#[derive(Debug, Clone)]
pub(crate) struct Tail {
    /// Which stream, as people call it.
    pub(crate) name: String,
    /// Its last lines.
    pub(crate) lines: VecDeque<String>,
}

/// How a run ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The host script's status; 1 where it was 0 and a guest's script failed.
    pub(crate) status: i32,
    /// What ended the run early, if anything did.
    pub(crate) problem: Option<Problem>,
    /// How often L1 was booted again because it hung.
    pub(crate) retries: u32,
    /// Guests whose script failed, with its status; a guest that is reset may be here more than once.
    pub(crate) guest_failures: Vec<(u32, i32)>,
    /// How long L1 took to come up, from the start of its QEMU.
    pub(crate) host_up: Option<Duration>,
    /// How long each guest took until its userspace was up the first time, from the start of L1's QEMU.
    pub(crate) guests_up: Vec<(u32, Duration)>,
    /// How often a guest came up again: it was reset.
    pub(crate) guest_resets: u32,
    /// How long all took.
    pub(crate) elapsed: Duration,
    /// What scripts and testbed said, in the order of arrival.
    pub(crate) lines: Vec<Line>,
    /// The last lines of the kernels and of QEMU.
    pub(crate) tails: Vec<Tail>,
}

impl Outcome {
    /// Whether everything ran and nothing failed.
    pub(crate) fn success(&self) -> bool {
        self.problem.is_none() && self.status == 0
    }

    /// The exit code of a command that shows this outcome.
    pub(crate) fn exit_code(&self) -> u8 {
        match &self.problem {
            // As a shell says it of a program that was ended by a signal.
            Some(Problem::Interrupted(signal)) => u8::try_from(128 + signal).unwrap_or(1),
            Some(_) => 1,
            None => u8::try_from(self.status).unwrap_or(1),
        }
    }

    /// For a person who has to find out why it failed: the last words of kernels and QEMU.
    pub(crate) fn last_words(&self) -> String {
        let mut text = String::new();
        for tail in self.tails.iter().filter(|tail| !tail.lines.is_empty()) {
            text.push_str(&format!("--- {}, last lines:\n", tail.name));
            for line in &tail.lines {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }

    pub(super) fn keep_tail(&mut self, channel: Channel, line: String) {
        let name = channel.to_string();
        let tail = match self.tails.iter_mut().position(|tail| tail.name == name) {
            Some(index) => &mut self.tails[index],
            None => {
                self.tails.push(Tail { name, lines: VecDeque::new() });
                let last = self.tails.len() - 1;
                &mut self.tails[last]
            }
        };
        if tail.lines.len() == TAIL_LINES {
            tail.lines.pop_front();
        }
        tail.lines.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_script_the_signal_or_one() {
        let mut outcome = Outcome { status: 7, ..Outcome::default() };
        assert_eq!(outcome.exit_code(), 7);
        outcome.problem = Some(Problem::TimedOut(Duration::from_secs(9)));
        assert_eq!(outcome.exit_code(), 1);
        outcome.problem = Some(Problem::Interrupted(2));
        assert_eq!(outcome.exit_code(), 130);
        assert!(!outcome.success());
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        let mut outcome = Outcome::default();
        for n in 0..100 {
            outcome.keep_tail(Channel::HostConsole, n.to_string());
            outcome.keep_tail(Channel::GuestConsole(2), format!("g{n}"));
        }
        assert_eq!(outcome.tails.len(), 2);
        assert_eq!(outcome.tails[0].lines.len(), TAIL_LINES);
        let words = outcome.last_words();
        assert!(words.contains("console of guest 2") && words.ends_with("g99\n"), "{words}");
    }
}
