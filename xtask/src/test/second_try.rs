//! What ran in a machine under the emulator and failed by the emulator's fault is run once more, and that is said aloud.
//!
//! In: what to run. Out: how it ended, with a line about it; what the first try has left is kept.
//! Must not hide anything: the first try is shown as a failure is.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::cache;
use crate::testbed::outcome::{Outcome, Problem};

/// How much of a failure's output is shown.
const LAST_LINES: usize = 60;
/// The status of a host script whose guest did not come up (EX_TEMPFAIL): nothing was tested yet.
const NOT_BOOTED: i32 = 75;
/// In imr's record of a reset that the guest's CPU brought about.
const SHUTDOWN: &str = r#""event":"reset","cause":"shutdown""#;

/// How a test ended, after one try or two.
#[derive(Debug)]
pub(crate) struct Tried {
    /// Of the last try.
    pub(crate) outcome: Outcome,
    /// How long a first try took that does not count.
    pub(crate) seconds_lost: Option<f64>,
}

/// Runs the test `name`, and once more where [`once_more`] says so; `logs` is where it leaves its own, and is removed before.
///
/// # Errors
/// As of `run`; when it was interrupted by a signal, or the first try's logs cannot be kept.
pub(crate) fn run(
    name: &str,
    logs: &Path,
    resets_guests: bool,
    run: impl Fn() -> Result<Outcome>,
) -> Result<Tried> {
    let try_it = || {
        cache::remove_tree(logs)?;
        run()
    };
    let mut outcome = try_it()?;
    let mut again = if outcome.retries > 0 { ", L1 hung at boot and was booted again" } else { "" };
    let mut seconds_lost = None;
    if let Some((what, tag)) = once_more(resets_guests, &outcome) {
        println!("test {name} ... {what}; once more");
        show_failure(&outcome, logs);
        again = tag;
        seconds_lost = Some(outcome.elapsed.as_secs_f64());
        // What the first try left is evidence.
        let kept = logs.with_extension("first-try");
        fs::remove_dir_all(&kept).ok();
        fs::rename(logs, &kept).with_context(|| format!("cannot keep {}", logs.display()))?;
        outcome = try_it()?;
    }
    if let Some(Problem::Interrupted(signal)) = outcome.problem {
        bail!("interrupted by signal {signal} during {name}");
    }
    let seconds = outcome.elapsed.as_secs_f64();
    if outcome.success() {
        println!("test {name} ... ok ({seconds:.1} s{again})");
    } else {
        println!("test {name} ... FAILED ({seconds:.1} s{again})");
        show_failure(&outcome, logs);
    }
    Ok(Tried { outcome, seconds_lost })
}

/// Why a failed test is run once more, if so: what failed was a machine under the emulator, before anything was
/// tested or with nobody having asked for it. Once only, said aloud, and with the first try's logs kept.
///
/// Under TCG both L1 and its guests triple-fault now and then: a CPU that re-enters a guest finds the top of its page
/// tables not present, while those tables are whole in the guest's memory.
fn once_more(resets_guests: bool, outcome: &Outcome) -> Option<(&'static str, &'static str)> {
    if outcome.success() {
        return None;
    }
    if outcome.problem.is_none() && outcome.status == NOT_BOOTED {
        return Some(("a guest hung at boot", ", at the second try: a guest hung at boot"));
    }
    if matches!(outcome.problem, Some(Problem::QemuEnded(_) | Problem::HostPanicked)) {
        return Some(("L1 died", ", at the second try: L1 died at the first"));
    }
    // A test resets guests by QMP; a guest that shuts its CPU down has triple-faulted.
    let shutdown = outcome.lines.iter().any(|line| line.text.contains(SHUTDOWN));
    let reset = outcome.guest_resets > 0 && !resets_guests;
    (reset || shutdown)
        .then_some(("a guest reset itself", ", at the second try: a guest reset itself at the first"))
}

fn show_failure(outcome: &Outcome, logs: &Path) {
    let from = outcome.lines.len().saturating_sub(LAST_LINES);
    for line in &outcome.lines[from..] {
        println!("    {:8.3} {line}", line.at.as_secs_f64());
    }
    if let Some(problem) = &outcome.problem {
        println!("    {problem}");
        for line in outcome.last_words().lines() {
            println!("    {line}");
        }
    }
    println!("    all of it: {}", logs.display());
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::*;
    use crate::testbed::relay::{Line, Source};

    const RESETS_NONE: bool = false;
    const RESETS_GUESTS: bool = true;

    fn outcome(status: i32, guest_resets: u32) -> Outcome {
        Outcome { status, guest_resets, ..Outcome::default() }
    }

    #[test]
    fn only_what_the_guest_did_by_itself_is_tried_again() {
        assert!(once_more(RESETS_NONE, &outcome(1, 1)).is_some());
        assert!(once_more(RESETS_NONE, &outcome(NOT_BOOTED, 0)).is_some());
        assert!(once_more(RESETS_NONE, &outcome(1, 0)).is_none(), "it failed by itself");
        assert!(once_more(RESETS_NONE, &outcome(0, 1)).is_none(), "it did not fail");
        assert!(once_more(RESETS_GUESTS, &outcome(1, 1)).is_none(), "it was reset on purpose");
        let dead = |problem| Outcome { problem: Some(problem), ..Outcome::default() };
        assert!(once_more(RESETS_NONE, &dead(Problem::HostPanicked)).is_some());
        assert!(once_more(RESETS_NONE, &dead(Problem::GuestPanicked(1))).is_none());
        let mut shut_down = outcome(1, 2);
        let text = r#"{"unix_ms":1,"vm":{"id":1},"event":"reset","cause":"shutdown"}"#.to_owned();
        shut_down.lines.push(Line { source: Source::Host, at: Duration::ZERO, text });
        assert!(once_more(RESETS_GUESTS, &shut_down).is_some());
    }

    #[test]
    fn it_is_run_twice_at_most_and_the_first_trys_logs_are_kept() {
        let logs = std::env::temp_dir().join(format!("imr-second-try-{}", std::process::id()));
        let tries = Cell::new(0);
        let fails = || {
            tries.set(tries.get() + 1);
            fs::create_dir_all(&logs)?;
            fs::write(logs.join("try"), tries.get().to_string())?;
            Ok(outcome(1, 1))
        };
        let tried = run("x", &logs, RESETS_NONE, fails).unwrap();
        assert!(!tried.outcome.success() && tried.seconds_lost.is_some());
        assert_eq!(tries.get(), 2);
        let kept = logs.with_extension("first-try");
        assert_eq!(fs::read_to_string(kept.join("try")).unwrap(), "1");
        assert_eq!(fs::read_to_string(logs.join("try")).unwrap(), "2");
        for folder in [kept, logs] {
            fs::remove_dir_all(folder).unwrap();
        }
    }
}
