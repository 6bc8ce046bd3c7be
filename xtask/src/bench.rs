//! `cargo xtask bench NAME`: the benchmarks, each a program of the tests crate.
//!
//! In: the name and what the benchmark takes. Out: its figures, with `--json` one JSON line at the end; 1 when a figure
//! is over its limit. Must not measure anything itself.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};

use crate::{cache, process, setup};

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

/// Runs `cargo xtask bench`.
///
/// # Errors
/// When cargo cannot be started.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let Bench::View(view) = &args.bench;
    let mut command = Command::new(process::cargo());
    process::forget_calling_cargo(&mut command)
        .current_dir(cache::workspace())
        .args(["bench", "--quiet", "--locked", "--package", "imr-tests", "--bench", "view"])
        .arg("--target-dir")
        .arg(cache::target_dir())
        .args(["--", "--seconds", &view.seconds.to_string()])
        .args(view.json.then_some("--json"));
    setup::keep_toolchain(&mut command);
    let line = process::command_line(&command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
