//! What libFuzzer says, in the words of the ring.
//!
//! In: the log of a run, the folder of the inputs that it failed on. Out: figures of a run that went well, and all that
//! is needed to see a failure again.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::Path;

/// Of a failed run's log so many lines are shown.
const SHOWN_LINES: usize = 40;
/// How what went wrong begins; the lines after it are its particulars.
const BEGINNINGS: [&str; 2] = ["panicked at", "ERROR: "];
/// Of an input that failed so many bytes are shown.
const MOST_BYTES: usize = 2048;

/// What a run has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Statistics {
    /// Inputs tried.
    executions: u64,
    /// Edges of the program reached.
    coverage: u64,
    /// Inputs kept, each of which reached something new.
    corpus: u64,
    /// Of these, found by this run.
    new: u64,
}

impl Statistics {
    /// From the log; `None` where the run did not come to its end.
    pub(super) fn parse(said: &str) -> Option<Self> {
        let statistic = |name: &str| {
            let line = said.lines().rev().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse().ok()
        };
        // `#1024 DONE   cov: 120 ft: 300 corp: 40/5Kb lim: 64 exec/s: 512 rss: 60Mb`
        let done = said.lines().rev().find(|line| line.starts_with('#') && line.contains("\tDONE"))?;
        let after = |name: &str| {
            let mut words = done.split_whitespace().skip_while(|word| *word != name);
            words.nth(1)?.split('/').next()?.parse().ok()
        };
        Some(Self {
            executions: statistic("stat::number_of_executed_units")?,
            coverage: after("cov:")?,
            corpus: after("corp:")?,
            new: statistic("stat::new_units_added")?,
        })
    }
}

impl fmt::Display for Statistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { executions, coverage, corpus, new } = self;
        write!(f, "{executions} executions, coverage {coverage}, corpus {corpus}, {new} new")
    }
}

/// A failed run: how it ended, what went wrong (else its last words), and each input it failed on, in hex, with its place.
pub(super) fn failure(test: &str, ended: &str, said: &str, found: &Path, log: &Path) -> String {
    // Writing to a String cannot fail.
    let mut out = format!("test {test} ... FAILED ({ended})");
    let lines: Vec<&str> = said.lines().collect();
    let begins = lines.iter().position(|line| BEGINNINGS.iter().any(|beginning| line.contains(beginning)));
    let from = begins.unwrap_or(lines.len().saturating_sub(SHOWN_LINES));
    for line in lines[from..].iter().take(SHOWN_LINES) {
        let _ = write!(out, "\n    {line}");
    }
    let mut inputs: Vec<_> =
        fs::read_dir(found).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    inputs.sort();
    for path in inputs {
        let bytes = fs::read(&path).unwrap_or_default();
        let shown = &bytes[..bytes.len().min(MOST_BYTES)];
        let cut = if shown.len() < bytes.len() { "..." } else { "" };
        let _ = write!(
            out,
            "\n    input {}, {} bytes, hex:\n    {}{cut}",
            path.display(),
            bytes.len(),
            hex(shown)
        );
    }
    let _ = write!(out, "\n    all of it: {}", log.display());
    out
}

fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: &str = "\
INFO: Running with entropic power schedule (0xFF, 100).
#2\tINITED cov: 100 ft: 101 corp: 1/1b exec/s: 0 rss: 40Mb
#1024\tDONE   cov: 120 ft: 300 corp: 40/5Kb lim: 64 exec/s: 512 rss: 60Mb
Done 1024 runs in 2 second(s)
stat::number_of_executed_units: 1024
stat::average_exec_per_sec:     512
stat::new_units_added:          39
stat::slowest_unit_time_sec:    0
stat::peak_rss_mb:              60
";

    #[test]
    fn a_run_that_went_well_has_figures() {
        let statistics = Statistics::parse(WELL).unwrap();
        assert_eq!(statistics, Statistics { executions: 1024, coverage: 120, corpus: 40, new: 39 });
        assert_eq!(statistics.to_string(), "1024 executions, coverage 120, corpus 40, 39 new");
        assert_eq!(Statistics::parse("thread panicked\nstat::number_of_executed_units: 7\n"), None);
    }

    #[test]
    fn a_failure_shows_the_input_and_where_it_lies() {
        let found = std::env::temp_dir().join(format!("imr-fuzz-report-{}", std::process::id()));
        fs::create_dir_all(&found).unwrap();
        fs::write(found.join("crash-1"), [0, 0xab, 7]).unwrap();
        let said = format!("thread 'x' panicked at y\nwhat went wrong\n{}", "a frame\n".repeat(99));
        let shown = failure("fuzz::list", "exit status: 77", &said, &found, Path::new("/l/log.txt"));
        fs::remove_dir_all(&found).unwrap();
        assert!(shown.starts_with("test fuzz::list ... FAILED (exit status: 77)"), "{shown}");
        assert!(
            shown.contains("what went wrong") && shown.contains("crash-1, 3 bytes, hex:\n    00ab07\n"),
            "{shown}"
        );
        assert!(shown.ends_with("all of it: /l/log.txt"), "{shown}");
    }
}
