//! The harness of a ring: runs its tests one after the other and prints what libtest prints, so that both are
//! counted by one parser. libtest itself has no word for "skipped, because".
//!
//! In: the tests, the command line that cargo passes on. Out: a line a test, a summary, an exit code.
//! Must not hide a skip: each prints its reason, and with `IMR_NO_SKIP` set it is a failure.

use std::env;
use std::panic::{self, UnwindSafe};
use std::process::ExitCode;
use std::time::Instant;

/// How a test ended that did not fail. It fails by panicking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It could not run here, because of what is said.
    Skipped(String),
}

/// One test of a ring.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Its name.
    pub name: &'static str,
    /// The test itself.
    pub run: fn() -> Verdict,
}

/// Where this is set, a skip counts as a failure.
pub const NO_SKIP: &str = "IMR_NO_SKIP";

/// Runs the tests whose names contain one of the command line's words, or all.
#[must_use]
pub fn main(tests: &[Test]) -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        for test in tests {
            println!("{}: test", test.name);
        }
        return ExitCode::SUCCESS;
    }
    let words: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|argument| !argument.starts_with('-')).collect();
    let chosen: Vec<&Test> = tests
        .iter()
        .filter(|test| words.is_empty() || words.iter().any(|word| test.name.contains(word)))
        .collect();
    println!("\nrunning {} tests", chosen.len());
    let counts = run_all(&chosen, env::var_os(NO_SKIP).is_some());
    let verdict = if counts.failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {} passed; {} failed; {} ignored; 0 measured; {} filtered out\n",
        counts.passed,
        counts.failed,
        counts.skipped,
        tests.len() - chosen.len()
    );
    if counts.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

fn run_all(tests: &[&Test], no_skip: bool) -> Counts {
    let mut counts = Counts::default();
    for test in tests {
        let start = Instant::now();
        let said = match caught(test.run) {
            Some(Verdict::Passed) => {
                counts.passed += 1;
                "ok".to_owned()
            }
            Some(Verdict::Skipped(why)) if no_skip => {
                counts.failed += 1;
                format!("FAILED: it was skipped, and {NO_SKIP} is set: {why}")
            }
            Some(Verdict::Skipped(why)) => {
                counts.skipped += 1;
                format!("ignored, {why}")
            }
            None => {
                counts.failed += 1;
                "FAILED".to_owned()
            }
        };
        println!("test {} ... {said} ({:.2} s)", test.name, start.elapsed().as_secs_f64());
    }
    counts
}

/// `None` when the test panicked; its message went to standard error.
fn caught(run: impl FnOnce() -> Verdict + UnwindSafe) -> Option<Verdict> {
    panic::catch_unwind(run).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TESTS: [Test; 3] = [
        Test { name: "passes", run: || Verdict::Passed },
        Test { name: "skips", run: || Verdict::Skipped("no such machine".into()) },
        Test { name: "fails", run: || panic!("on purpose, to see the harness count it") },
    ];

    #[test]
    fn every_end_is_counted() {
        let all: Vec<&Test> = TESTS.iter().collect();
        assert_eq!(run_all(&all, false), Counts { passed: 1, failed: 1, skipped: 1 });
    }

    #[test]
    fn a_skip_is_a_failure_where_none_is_allowed() {
        assert_eq!(run_all(&[&TESTS[1]], true), Counts { passed: 0, failed: 1, skipped: 0 });
    }
}
