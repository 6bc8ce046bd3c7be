//! What ran in a machine under the emulator and failed by the emulator's fault is run again, twice at most, and that is said
//! aloud.
//!
//! In: what to run. Out: how it ended, with a line about it; what each lost try has left is kept.
//! Must not hide anything: a lost try is shown as a failure is.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cache;
use crate::testbed::outcome::{Outcome, Problem};

/// How much of a failure's output is shown.
const LAST_LINES: usize = 60;
/// The status of a host script whose guest did not come up, so that nothing was tested yet, or lost its interrupts for good
/// (EX_TEMPFAIL; `boot` and `is_deaf` in tests/vm/lib.sh).
const HUNG: i32 = 75;
/// In imr's record of a reset that the guest's CPU brought about.
const SHUTDOWN: &str = r#""event":"reset","cause":"shutdown""#;

/// How often a test is tried, at most.
pub(crate) const TRIES: usize = 3;

/// How a test ended, and what it took.
#[derive(Debug)]
pub(crate) struct Tried {
    /// Of the last try.
    pub(crate) outcome: Outcome,
    /// Tries before it, which do not count.
    pub(crate) lost: usize,
    /// How long they took.
    pub(crate) seconds_lost: f64,
}

/// Runs the test `name`, and again where [`lost`] says so; `run` is told whether it is again, so that it may ask less of the
/// emulator then. `logs` is where it leaves its own, and is removed before. `boots_again` is how often it has a guest boot
/// again on purpose, at most.
///
/// # Errors
/// As of `run`; when it was interrupted by a signal, or a lost try's logs cannot be kept.
pub(crate) fn run(
    name: &str,
    logs: &Path,
    boots_again: u32,
    run: impl Fn(bool) -> Result<Outcome>,
) -> Result<Tried> {
    let try_it = |again| {
        cache::remove_tree(logs)?;
        run(again)
    };
    for nth in 1..TRIES {
        cache::remove_tree(&kept_logs(logs, nth))?;
    }
    let mut outcome = try_it(false)?;
    let mut again = String::new();
    let (mut tries, mut seconds_lost) = (1, 0.0);
    while tries < TRIES
        && let Some(what) = lost(boots_again, &outcome)
    {
        show_failure(&format!("test {name} ... {what}; once more"), &outcome, logs)?;
        seconds_lost += outcome.elapsed.as_secs_f64();
        // What it left is evidence.
        fs::rename(logs, kept_logs(logs, tries))
            .with_context(|| format!("cannot keep {}", logs.display()))?;
        again.push_str(&format!(", {what} at try {tries}"));
        tries += 1;
        outcome = try_it(true)?;
    }
    if outcome.retries > 0 {
        again.push_str(", L1 hung at boot and was booted again");
    }
    if let Some(Problem::Interrupted(signal)) = outcome.problem {
        bail!("interrupted by signal {signal} during {name}");
    }
    let seconds = outcome.elapsed.as_secs_f64();
    if outcome.problem == Some(Problem::NoTimeLeft) {
        println!("test {name} ... left out: no time was left ({seconds:.1} s{again})");
    } else if outcome.success() {
        println!("test {name} ... ok ({seconds:.1} s{again})");
    } else {
        show_failure(&format!("test {name} ... FAILED ({seconds:.1} s{again})"), &outcome, logs)?;
    }
    Ok(Tried { outcome, lost: tries - 1, seconds_lost })
}

/// Where the logs of a lost try are kept.
fn kept_logs(logs: &Path, nth: usize) -> PathBuf {
    logs.with_extension(format!("try-{nth}"))
}

/// Why a failed try does not count, if so: what failed was a machine under the emulator, before anything was tested or with
/// nobody having asked for it.
///
/// Under TCG both L1 and its guests triple-fault now and then: a CPU that re-enters a guest finds the top of its page
/// tables not present, while those tables are whole in the guest's memory.
pub(crate) fn lost(boots_again: u32, outcome: &Outcome) -> Option<&'static str> {
    if outcome.success() {
        return None;
    }
    if outcome.problem.is_none() && outcome.status == HUNG {
        return Some("a guest hung");
    }
    if matches!(outcome.problem, Some(Problem::HostHung(_))) {
        return Some("L1 hung");
    }
    if matches!(outcome.problem, Some(Problem::QemuEnded(_) | Problem::HostPanicked)) {
        return Some("L1 died");
    }
    // A guest that shuts its CPU down has triple-faulted; a test resets guests in other ways.
    let shutdown = outcome.lines.iter().any(|line| line.text.contains(SHUTDOWN));
    let reset = outcome.guest_resets > boots_again;
    (reset || shutdown).then_some("a guest reset itself")
}

/// In one piece: another test may be about to say something.
fn show_failure(what: &str, outcome: &Outcome, logs: &Path) -> Result<()> {
    let from = outcome.lines.len().saturating_sub(LAST_LINES);
    let mut text = format!("{what}\n");
    for line in &outcome.lines[from..] {
        writeln!(text, "    {:8.3} {line}", line.at.as_secs_f64())?;
    }
    if let Some(problem) = &outcome.problem {
        writeln!(text, "    {problem}")?;
        for line in outcome.last_words().lines() {
            writeln!(text, "    {line}")?;
        }
    }
    println!("{text}    all of it: {}", logs.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::testbed::relay::{Line, Source};

    fn outcome(status: i32, guest_resets: u32) -> Outcome {
        Outcome { status, guest_resets, ..Outcome::default() }
    }

    #[test]
    fn only_what_the_guest_did_by_itself_is_tried_again() {
        assert!(lost(0, &outcome(1, 1)).is_some());
        assert!(lost(0, &outcome(HUNG, 0)).is_some());
        assert!(lost(0, &outcome(1, 0)).is_none(), "it failed by itself");
        assert!(lost(0, &outcome(0, 1)).is_none(), "it did not fail");
        assert!(lost(1, &outcome(1, 1)).is_none(), "it was reset on purpose");
        assert!(lost(1, &outcome(1, 2)).is_some(), "once, and not twice");
        let dead = |problem| Outcome { problem: Some(problem), ..Outcome::default() };
        assert!(lost(0, &dead(Problem::HostPanicked)).is_some());
        assert!(lost(0, &dead(Problem::HostHung(Duration::ZERO))).is_some());
        assert!(lost(0, &dead(Problem::TimedOut(Duration::ZERO))).is_none());
        assert!(lost(0, &dead(Problem::GuestPanicked(1))).is_none());
        let mut shut_down = outcome(1, 2);
        let text = r#"{"unix_ms":1,"vm":{"id":1},"event":"reset","cause":"shutdown"}"#.to_owned();
        shut_down.lines.push(Line { source: Source::Host, at: Duration::ZERO, text });
        assert!(lost(2, &shut_down).is_some());
    }

    #[test]
    fn it_is_run_three_times_at_most_and_the_lost_tries_logs_are_kept() {
        let logs = std::env::temp_dir().join(format!("imr-tries-{}", std::process::id()));
        let tries = Cell::new(0);
        let told = Cell::new(0);
        let fails = |again| {
            told.set(told.get() + usize::from(again));
            tries.set(tries.get() + 1);
            fs::create_dir_all(&logs)?;
            fs::write(logs.join("try"), tries.get().to_string())?;
            Ok(outcome(1, 1))
        };
        let tried = run("x", &logs, 0, fails).unwrap();
        assert!(!tried.outcome.success());
        assert_eq!((tries.get(), tried.lost, told.get()), (3, 2, 2));
        for (folder, nth) in [(kept_logs(&logs, 1), "1"), (kept_logs(&logs, 2), "2"), (logs, "3")] {
            assert_eq!(fs::read_to_string(folder.join("try")).unwrap(), nth);
            fs::remove_dir_all(folder).unwrap();
        }
    }
}
