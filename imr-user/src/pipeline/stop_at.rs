//! A switch for tests: the process stops itself (SIGSTOP) at a given step of an offer, so that a test can do something
//! to it, to the VMM or to the guest at exactly that step. Absent, it costs a comparison a step.

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// How far a worker is with an offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The doorbell is heard, nothing is done yet.
    Heard,
    /// The offer is claimed, nothing of it is taken yet.
    Claimed,
    /// The first call that takes memory is done.
    Half,
    /// All calls are done, and the offer is not answered.
    Reclaimed,
    /// The offer is answered.
    Done,
}

const STEPS: [(&str, Step); 5] = [
    ("heard", Step::Heard),
    ("claimed", Step::Claimed),
    ("half", Step::Half),
    ("reclaimed", Step::Reclaimed),
    ("done", Step::Done),
];

/// At which step to stop, and at which time that it is reached. Once.
#[derive(Debug)]
pub struct StopAt {
    step: Step,
    nth: u32,
    reached: AtomicU32,
}

impl FromStr for StopAt {
    type Err = String;

    /// `STEP` or `STEP:N`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, nth) = text.split_once(':').unwrap_or((text, "1"));
        let step = STEPS.iter().find(|(known, _)| *known == name).map(|(_, step)| *step);
        let nth = nth.parse::<u32>().ok().filter(|nth| *nth > 0);
        match (step, nth) {
            (Some(step), Some(nth)) => Ok(Self { step, nth, reached: AtomicU32::new(0) }),
            _ => Err(format!(
                "{text:?} is no step; write one of {}, or such as half:3",
                STEPS.map(|step| step.0).join(", ")
            )),
        }
    }
}

impl StopAt {
    /// Stops the process if this is when; returns when it is continued.
    pub(super) fn reached(&self, step: Step) {
        if step == self.step && self.reached.fetch_add(1, Relaxed) + 1 == self.nth {
            // SAFETY: raise() takes a number and touches no memory of ours. It sends to this very thread, which
            // therefore stops before it returns; the rest of the process stops with it.
            unsafe { libc::raise(libc::SIGSTOP) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_and_perhaps_a_number() {
        let parse = |text: &str| text.parse::<StopAt>().map(|stop| (stop.step, stop.nth)).ok();
        assert_eq!(parse("claimed"), Some((Step::Claimed, 1)));
        assert_eq!(parse("half:12"), Some((Step::Half, 12)));
        for text in ["", "half:", "half:0", "half:x", ":1", "never"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
