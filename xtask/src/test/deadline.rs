//! When a run of tests has to be over (`--within`).
//!
//! In: for how long it may go on. Out: whether and for how long there is time for one test more.
//! Must not decide which tests that are.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::testbed::outcome::{Outcome, Problem};

/// Even on a fast machine no scenario takes less: one is not begun with less time left.
const LEAST: Duration = Duration::from_secs(40);

/// The end of a run, if it has to have one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// From now on.
    pub(super) fn within(time: Option<Duration>) -> Self {
        Self(time.map(|time| Instant::now() + time))
    }

    /// Has `session`, which may take `limit`, end in time: it gets what it may take. What is not begun, or did not end
    /// before, has [`Problem::NoTimeLeft`].
    ///
    /// # Errors
    /// As of `session`.
    pub(super) fn keep(
        self,
        limit: Duration,
        session: impl FnOnce(Duration) -> Result<Outcome>,
    ) -> Result<Outcome> {
        let Self(Some(end)) = self else { return session(limit) };
        let left = end.saturating_duration_since(Instant::now());
        if left < LEAST {
            return Ok(Outcome { problem: Some(Problem::NoTimeLeft), ..Outcome::default() });
        }
        let mut outcome = session(limit.min(left))?;
        if left < limit && matches!(outcome.problem, Some(Problem::TimedOut(_))) {
            outcome.problem = Some(Problem::NoTimeLeft);
        }
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn ends(deadline: Deadline, limit: Duration) -> (Option<Duration>, Option<Problem>) {
        let mut given = None;
        let outcome = deadline.keep(limit, |limit| {
            given = Some(limit);
            Ok(Outcome { problem: Some(Problem::TimedOut(limit)), ..Outcome::default() })
        });
        (given, outcome.unwrap().problem)
    }

    #[test]
    fn what_does_not_end_in_time_is_left_out_and_what_takes_too_long_by_itself_fails() {
        let (given, problem) = ends(Deadline::within(None), 9 * MINUTE);
        assert_eq!((given, problem), (Some(9 * MINUTE), Some(Problem::TimedOut(9 * MINUTE))));
        let (given, problem) = ends(Deadline::within(Some(5 * MINUTE)), 2 * MINUTE);
        assert_eq!((given, problem), (Some(2 * MINUTE), Some(Problem::TimedOut(2 * MINUTE))));
        let (given, problem) = ends(Deadline::within(Some(5 * MINUTE)), 9 * MINUTE);
        assert!(given.is_some_and(|given| given <= 5 * MINUTE && given > 4 * MINUTE));
        assert_eq!(problem, Some(Problem::NoTimeLeft));
        let (given, problem) = ends(Deadline::within(Some(LEAST / 2)), MINUTE);
        assert_eq!((given, problem), (None, Some(Problem::NoTimeLeft)));
    }
}
