//! Whether a guest is still there in the middle of an offer: while it waits it rings again and again.
//!
//! Input: the time, and the number of calls that it was seen to make. Output: yes, and when, or no. It is asked only when so much
//! time went by since the last yes that something is wrong: this process was stopped or starved, or a call takes long.

use std::thread;
use std::time::Duration;

/// Without doubt for so long after it was heard, ns.
const DOUBT_NS: u64 = 1_000_000_000;
/// For a guest that is there to ring once more, ns: ten times what lies between two rings.
const LIMIT_NS: u64 = 10 * imr_common::guest_abi::RING_INTERVAL_MS * 1_000_000;
/// Between two looks. The eBPF side counts calls in shared memory and can wake nobody who is not reading its ring.
const LOOK: Duration = Duration::from_millis(5);

/// When a guest was heard last, while an offer is being dealt with.
#[derive(Debug)]
pub(super) struct Pulse {
    heard_ns: u64,
    silent: bool,
}

impl Pulse {
    /// It was heard at this time, ns of CLOCK_MONOTONIC.
    pub(super) fn new(heard_ns: u64) -> Self {
        Self { heard_ns, silent: false }
    }

    /// The time, if it is there; waits for one more ring where that is in doubt. Once no, always no. `calls` is how many
    /// proven calls it has made so far.
    pub(super) fn beats(&mut self, now_ns: impl Fn() -> u64, calls: impl Fn() -> u64) -> Option<u64> {
        let start = now_ns();
        if self.silent {
            return None;
        }
        if start.saturating_sub(self.heard_ns) < DOUBT_NS {
            return Some(start);
        }
        let before = calls();
        while calls() == before {
            if now_ns().saturating_sub(start) >= LIMIT_NS {
                self.silent = true;
                return None;
            }
            thread::sleep(LOOK);
        }
        self.heard_ns = now_ns();
        Some(self.heard_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_guest_that_was_heard_lately_is_not_waited_for() {
        let mut pulse = Pulse::new(5);
        assert_eq!(pulse.beats(|| 4 + DOUBT_NS, || panic!("nobody has to ask")), Some(4 + DOUBT_NS));
    }

    #[test]
    fn after_a_long_time_it_has_to_ring_once_more() {
        let mut pulse = Pulse::new(0);
        let calls = Cell::new(7);
        let ring = || calls.replace(calls.get() + 1);
        assert!(pulse.beats(|| 2 * DOUBT_NS, ring).is_some());
        assert!(pulse.beats(|| 3 * DOUBT_NS - 1, || panic!("it was heard just now")).is_some());
    }

    #[test]
    fn one_that_is_silent_stays_so() {
        let mut pulse = Pulse::new(0);
        let now = Cell::new(2 * DOUBT_NS);
        assert_eq!(pulse.beats(|| now.replace(now.get() + LIMIT_NS / 3), || 7), None);
        let calls = Cell::new(7);
        assert_eq!(pulse.beats(|| now.get(), || calls.replace(calls.get() + 1)), None);
    }
}
