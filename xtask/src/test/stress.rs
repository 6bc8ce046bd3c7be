//! The ring stress: the handshake's two sides, each its own code, raced against each other, plain and under sanitizers.
//!
//! In: a filter, how many batches, a seed. Out: a line a test with what the run has done (`tests/stress`).
//! Must not take a program that finds nothing for one that looks: the last test takes things away, which it has to find.

mod build;

use std::fs;
use std::process::{Command, Output};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};

use self::build::{Built, Sanitizer};
use super::tally::Tally;
use crate::process;
use crate::setup::{self, MissingPrerequisite, Need};

/// Batches of each program, unless another number is asked for.
pub(super) const DEFAULT_BATCHES: u64 = 100_000;
/// A program that lacks something has to fail within so many.
const MUTANT_BATCHES: u64 = 2_000_000;
/// What ThreadSanitizer's programs end with when it has something to say.
const RACE: i32 = 66;
const SEEDS: u128 = 1 << 31;

/// What is taken away, and what the program says then.
const MUTANTS: [(&str, Sanitizer, &[&str]); 6] = [
    ("guest-fence", Sanitizer::None, &["LOST", "WRONG"]),
    ("host-fence", Sanitizer::None, &["LOST", "WRONG"]),
    ("revoke", Sanitizer::None, &["LOST", "WRONG"]),
    ("extra-ring", Sanitizer::None, &["LOST", "WRONG"]),
    ("generation", Sanitizer::None, &["LOST"]),
    ("acquire", Sanitizer::Thread, &["data race"]),
];

/// What is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    /// Both sides as they are.
    Run(Sanitizer),
    /// With something taken away.
    Mutants,
}

impl Test {
    const ALL: [Self; 4] = [
        Self::Run(Sanitizer::None),
        Self::Run(Sanitizer::Address),
        Self::Run(Sanitizer::Thread),
        Self::Mutants,
    ];

    fn name(self) -> String {
        match self {
            Self::Run(sanitizer) => format!("stress::{}", sanitizer.as_str()),
            Self::Mutants => "stress::mutants_fail".to_owned(),
        }
    }

    /// What its programs are built with.
    fn sanitizers(self) -> Vec<Sanitizer> {
        match self {
            Self::Run(sanitizer) => vec![sanitizer],
            Self::Mutants => vec![Sanitizer::None, Sanitizer::Thread],
        }
    }

    /// Runs it and says what there was to see.
    fn run(self, built: &Built, batches: u64, seed: u64) -> Result<String> {
        match self {
            Self::Run(sanitizer) => holds(built, sanitizer, batches, seed),
            Self::Mutants => {
                MUTANTS.iter().try_for_each(|mutant| is_found(built, mutant, seed))?;
                Ok(format!("{} found", MUTANTS.len()))
            }
        }
    }
}

/// Runs the tests whose names contain `filter`.
///
/// # Errors
/// When they do not build, or a program cannot be started.
pub(super) fn run(filter: Option<&str>, batches: u64, seed: Option<u32>) -> Result<Tally> {
    let mut tests = Test::ALL.to_vec();
    tests.retain(|test| filter.is_none_or(|filter| test.name().contains(filter)));
    let mut tally = Tally::default();
    if tests.is_empty() {
        return Ok(tally);
    }
    if let Err(error) = setup::ensure(&[Need::Stress]) {
        if !error.is::<MissingPrerequisite>() {
            return Err(error);
        }
        tests.iter().for_each(|test| tally.skip(&test.name(), &error));
        return Ok(tally);
    }
    let seed = seed.map_or_else(any_seed, u64::from);
    println!("stress: seed {seed}, {batches} batches each");
    let mut built = Built::default();
    for test in tests {
        if let Some(lacking) = test.sanitizers().into_iter().find(|sanitizer| !sanitizer.is_there()) {
            let why =
                format_args!("this Rust toolchain has no {} sanitizer; rustup's have", lacking.as_str());
            tally.skip(&test.name(), &why);
            continue;
        }
        for sanitizer in test.sanitizers() {
            built.ensure(sanitizer)?;
        }
        let start = Instant::now();
        tally.count(&test.name(), start, test.run(&built, batches, seed));
    }
    Ok(tally)
}

/// Nothing goes wrong in so many batches.
fn holds(built: &Built, sanitizer: Sanitizer, batches: u64, seed: u64) -> Result<String> {
    let mut command = program(built, sanitizer, batches, seed)?;
    let output = output(&mut command)?;
    let said = said(&output);
    if !output.status.success() {
        let log = built.log(sanitizer);
        fs::write(&log, &said).with_context(|| format!("cannot write {}", log.display()))?;
        bail!(
            "`{}` ended with {}; {} has all of it, the beginning is:\n{}",
            process::command_line(&command),
            output.status,
            log.display(),
            said.lines().take(40).collect::<Vec<_>>().join("\n")
        );
    }
    // Its one line, without the seed.
    Ok(said.trim().split_once(", ").map_or("", |(_, rest)| rest).to_owned())
}

/// The program that lacks something fails, and by what it is about.
fn is_found(built: &Built, mutant: &(&str, Sanitizer, &[&str]), seed: u64) -> Result<()> {
    let (name, sanitizer, words) = mutant;
    let mut command = program(built, *sanitizer, MUTANT_BATCHES, seed)?;
    let output = output(command.args(["--mutant", name]))?;
    let said = said(&output);
    let fails = if *sanitizer == Sanitizer::Thread { RACE } else { 1 };
    if output.status.code() != Some(fails) || !words.iter().any(|word| said.contains(word)) {
        bail!("`{}` was to fail, but ended with {}:\n{said}", process::command_line(&command), output.status);
    }
    Ok(())
}

fn program(built: &Built, sanitizer: Sanitizer, batches: u64, seed: u64) -> Result<Command> {
    let mut command = Command::new(built.program(sanitizer)?);
    command.args(["--batches", &batches.to_string(), "--seed", &seed.to_string()]);
    // What a user has set there could keep it from failing.
    command.env_remove("ASAN_OPTIONS").env("TSAN_OPTIONS", format!("halt_on_error=1:exitcode={RACE}"));
    Ok(command)
}

fn output(command: &mut Command) -> Result<Output> {
    command.output().with_context(|| format!("cannot start `{}`", process::command_line(command)))
}

/// Both streams.
fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|stream| String::from_utf8_lossy(stream)).concat()
}

fn any_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Below 2^31.
    (now.as_nanos() % SEEDS) as u64
}
