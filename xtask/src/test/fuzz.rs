//! The ring fuzz: each target of `tests/fuzz` for a time, two at once, on its committed corpus.
//!
//! In: a filter, the time for each target. Out: a line a target with what it has done; of a crash the last words, the
//! input that caused it, and where that lies. What is found grows a corpus in the target directory; the committed one
//! is only read (`tests/fuzz/README.md` says how to change it).

mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use self::report::Statistics;
use super::tally::Tally;
use super::workers;
use crate::setup::{self, MissingPrerequisite, Need};
use crate::{cache, process};

/// Time for each target, unless another is asked for.
pub(super) const DEFAULT_TIME: Duration = Duration::from_secs(60);
/// An input that takes longer is a failure, seconds.
const LONGEST_INPUT_S: u32 = 10;
/// So is one that takes more memory, MiB.
const MOST_MEMORY_MIB: u32 = 2048;

/// Runs the targets whose names contain `filter`, each for `time`.
///
/// # Errors
/// When they do not build, or a program cannot be started.
pub(super) fn run(filter: Option<&str>, time: Duration) -> Result<Tally> {
    let project = cache::workspace().join("tests/fuzz");
    let mut targets = targets(&project)?;
    targets.retain(|target| filter.is_none_or(|filter| target.test_name().contains(filter)));
    let mut tally = Tally::default();
    if targets.is_empty() {
        return Ok(tally);
    }
    match setup::ensure(&[Need::Fuzz]) {
        Err(error) if error.is::<MissingPrerequisite>() => {
            targets.iter().for_each(|target| tally.skip(&target.test_name(), &error));
            return Ok(tally);
        }
        other => other?,
    }
    let programs = build(&project)?;
    workers::run(targets, |target| target.run(&programs, &project, time))
}

/// Builds all targets; returns the folder of the programs.
fn build(project: &Path) -> Result<PathBuf> {
    let cargo_fuzz = setup::cargo_fuzz().context("cargo-fuzz was there a moment ago")?;
    let target_dir = cache::target_dir().join("fuzz");
    let sanitizer = if setup::has_sanitizer("asan") { "address" } else { "none" };
    if sanitizer == "none" {
        println!("fuzz: this toolchain has no AddressSanitizer; the targets run without");
    }
    let mut command = Command::new(cargo_fuzz);
    // One codegen unit, as is cargo-fuzz' habit, takes several times as long to build.
    process::forget_calling_cargo(&mut command)
        .args(["build", "--codegen-units", "16", "--sanitizer", sanitizer, "--fuzz-dir"])
        .arg(project)
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(project)
        .env("CARGO", process::cargo())
        // What the sanitizer and the coverage need is called unstable; the compiler is the usual one.
        .env("RUSTC_BOOTSTRAP", "1");
    let start = Instant::now();
    process::run_quiet(setup::keep_toolchain(&mut command))?;
    println!("fuzz: built in {:.0} s, sanitizer {sanitizer}", start.elapsed().as_secs_f64());
    Ok(target_dir.join(format!("{}-unknown-linux-gnu/release", std::env::consts::ARCH)))
}

/// A fuzz target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target(String);

/// All targets, by name: each is a file.
fn targets(project: &Path) -> Result<Vec<Target>> {
    let folder = project.join("fuzz_targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
        {
            targets.push(Target(name.to_owned()));
        }
    }
    targets.sort();
    Ok(targets)
}

impl Target {
    fn test_name(&self) -> String {
        format!("fuzz::{}", self.0)
    }

    fn run(&self, programs: &Path, project: &Path, time: Duration) -> Result<Tally> {
        let work = cache::target_dir().join("fuzz").join("runs").join(&self.0);
        let (grown, found) = (work.join("corpus"), work.join("crashes"));
        // Those of an earlier run are not this run's.
        fs::remove_dir_all(&found).ok();
        for folder in [&grown, &found] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let log = work.join("log.txt");
        let file = fs::File::create(&log).with_context(|| format!("cannot create {}", log.display()))?;
        let mut command = Command::new(programs.join(&self.0));
        command
            .arg(format!("-max_total_time={}", time.as_secs().max(1)))
            .arg(format!("-timeout={LONGEST_INPUT_S}"))
            .arg(format!("-rss_limit_mb={MOST_MEMORY_MIB}"))
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/", found.display()))
            // New inputs go to the first folder.
            .arg(&grown)
            .arg(project.join("corpus").join(&self.0))
            .stdout(file.try_clone().context("cannot write to the log twice")?)
            .stderr(file);
        let start = Instant::now();
        let status = command
            .status()
            .with_context(|| format!("cannot start `{}`", process::command_line(&command)))?;
        let said = fs::read(&log).with_context(|| format!("cannot read {}", log.display()))?;
        let said = String::from_utf8_lossy(&said);
        let seconds = start.elapsed().as_secs_f64();
        let statistics = Statistics::parse(&said);
        if status.success()
            && let Some(statistics) = statistics
        {
            println!("test {} ... ok ({seconds:.0} s, {statistics})", self.test_name());
            return Ok(Tally { passed: 1, ..Tally::default() });
        }
        println!("{}", report::failure(&self.test_name(), &status.to_string(), &said, &found, &log));
        Ok(Tally { failed: 1, ..Tally::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_a_program_with_a_corpus() {
        let project = cache::workspace().join("tests/fuzz");
        let manifest = fs::read_to_string(project.join("Cargo.toml")).unwrap();
        let targets = targets(&project).unwrap();
        assert!(!targets.is_empty());
        for target in &targets {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{}.rs\"", target.0)), "{target:?}");
            let corpus = project.join("corpus").join(&target.0);
            assert!(corpus.read_dir().is_ok_and(|mut files| files.next().is_some()), "{}", corpus.display());
        }
        assert_eq!(manifest.matches("[[bin]]").count(), targets.len());
    }
}
