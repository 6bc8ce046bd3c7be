//! Tests that share no state run two at a time.
//!
//! In: the tests, and what runs one. Out: the sum of their counts.
//! Must not go on with the tests that wait when one could not be run.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::Result;

use super::tally::Tally;

/// Tests that run at the same time.
const AT_ONCE: usize = 2;

/// Runs each of `tests`, and returns what all of them counted.
///
/// # Errors
/// The first of `run`; those that run meanwhile are waited for, others are not begun.
pub(super) fn run<T: Send>(
    tests: impl IntoIterator<Item = T>,
    run: impl Fn(T) -> Result<Tally> + Sync,
) -> Result<Tally> {
    let queue = Mutex::new(tests.into_iter().collect::<VecDeque<_>>());
    let waiting = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let next = || waiting().pop_front();
    let work = || -> Result<Tally> {
        let mut tally = Tally::default();
        while let Some(test) = next() {
            tally += run(test).inspect_err(|_| waiting().clear())?;
        }
        Ok(tally)
    };
    let tallies = thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.map(|tally| tally.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect::<Vec<_>>()
    });
    let mut sum = Tally::default();
    for tally in tallies {
        sum += tally?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use anyhow::bail;

    use super::*;

    const PASSED: Tally = Tally { passed: 1, failed: 0, skipped: 0, left_out: 0 };

    #[test]
    fn two_run_at_once_and_all_are_counted() {
        let both = Barrier::new(AT_ONCE);
        let counted = run(0..6, |_| {
            both.wait();
            Ok(PASSED)
        });
        assert_eq!(counted.unwrap(), Tally { passed: 6, ..Tally::default() });
    }

    #[test]
    fn none_is_begun_after_an_error() {
        let begun = Mutex::new(Vec::new());
        let both = Barrier::new(AT_ONCE);
        let error = run(0..6, |test| {
            begun.lock().unwrap().push(test);
            both.wait();
            bail!("{test} cannot be run")
        });
        assert!(error.unwrap_err().to_string().ends_with("cannot be run"));
        assert_eq!(begun.lock().unwrap().len(), AT_ONCE);
    }
}
