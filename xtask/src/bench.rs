//! `cargo xtask bench NAME`: the benchmarks, each a program of the tests crate.
//!
//! In: the name and what the benchmark takes. Out: its figures, with `--json` one JSON line at the end; 1 when a figure
//! is over its limit, 3 when the machine lacks something. Must not measure anything itself.

mod priority;

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::{build_user, cache, process, setup};

/// Where a benchmark finds imr.
const BIN_DIR: &str = "IMR_BIN_DIR";
/// Exit code: something is missing.
const MISSING: u8 = 3;

/// Arguments of `cargo xtask bench`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, clap::Subcommand)]
enum Bench {
    /// What imr-top costs with 100 guests of 64 GiB, how long a frame takes, how fast keys are
    View(ViewArgs),
    /// The list and the flat record side by side: guest instructions, host time and memory, for guests of 1 GiB to 1 TiB
    Records(RecordsArgs),
    /// What reserve, delay and order of the guest module cost a guest and bring the host; in the testbed
    Priority(priority::Args),
    /// What imr's host side costs beside the bare system calls, what its probes cost a guest, what swap and KSM take;
    /// needs root and /dev/kvm
    Reclaim(ReclaimArgs),
}

#[derive(Debug, clap::Args)]
struct ViewArgs {
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
    /// How long the cost is measured, and how long keys are pressed
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

#[derive(Debug, clap::Args)]
struct RecordsArgs {
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ReclaimArgs {
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
    /// Pairs of turns in 4 KiB pages; the rest goes with it
    #[arg(long, value_name = "N", default_value_t = 40, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    rounds: u64,
}

/// Runs `cargo xtask bench`.
///
/// # Errors
/// When cargo cannot be started, or what the benchmark measures cannot be built.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let mut command = Command::new(process::cargo());
    process::forget_calling_cargo(&mut command)
        .current_dir(cache::workspace())
        .args(["bench", "--quiet", "--locked", "--package", "imr-tests"])
        .arg("--target-dir")
        .arg(cache::target_dir());
    match &args.bench {
        // Of the testbed, and not a program of the tests crate.
        Bench::Priority(args) => return priority::run(args),
        Bench::View(view) => {
            command.args(["--bench", "view", "--", "--seconds", &view.seconds.to_string()]);
            command.args(view.json.then_some("--json"));
        }
        Bench::Records(records) => {
            command.args(["--bench", "records", "--"]);
            command.args(records.json.then_some("--json"));
        }
        Bench::Reclaim(reclaim) => {
            let built = build_user::release_binaries()?;
            command.env(BIN_DIR, built.imr.parent().context("imr has no folder")?);
            command.args(["--bench", "reclaim", "--", "--rounds", &reclaim.rounds.to_string()]);
            command.args(reclaim.json.then_some("--json"));
        }
    }
    setup::keep_toolchain(&mut command);
    let line = process::command_line(&command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    Ok(match status.code() {
        Some(0) => ExitCode::SUCCESS,
        Some(code) if code == i32::from(MISSING) => ExitCode::from(MISSING),
        _ => ExitCode::from(1),
    })
}
