//! `cargo xtask testbed`: a real KVM host with real Linux guests, on any x86_64 machine.
//!
//! In: arguments, or a `Config` from another command. Out: the scripts' output with its source before each line, and
//! an `Outcome`. L1, a stock Debian kernel, runs in QEMU (emulated where the machine has no SVM or VMX) and is the
//! KVM host of the guests, L2. Must not leave anything behind: process, file or terminal mode.

mod args;
pub(crate) mod bare;
pub(crate) mod config;
mod cpio;
mod emulator;
mod events;
pub(crate) mod files;
mod image;
mod logs;
mod modules;
pub(crate) mod outcome;
mod outer;
mod payload;
pub(crate) mod relay;
mod rundir;
mod saved;
mod session;
mod signals;
mod swap;
mod tty;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Result;

pub(crate) use args::Args;
use config::{Config, Terminal};
use outcome::{Outcome, Problem};
use relay::{Line, Source};
pub(crate) use session::run as run_session;

const USAGE: u8 = 2;

/// Runs `cargo xtask testbed`.
///
/// # Errors
/// As of [`run_session`].
pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let config = match args.config() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("error: {error}\n\nFor more information, try 'cargo xtask testbed --help'.");
            return Ok(ExitCode::from(USAGE));
        }
    };
    let outcome = run_session(&config, &mut show)?;
    conclude(&config, &outcome);
    Ok(ExitCode::from(outcome.exit_code()))
}

/// Shows a line: the scripts' on standard output, the testbed's own on standard error.
pub(crate) fn show(line: &Line) {
    // A reader that went away (`| head`) is no reason to leave the run half done.
    let _ = match line.source {
        Source::Testbed => writeln!(std::io::stderr(), "{line}"),
        Source::Host | Source::Guest(_) => writeln!(std::io::stdout(), "{line}"),
    };
}

fn conclude(config: &Config, outcome: &Outcome) {
    // An interrupted run needs no explanation, nor does the status of somebody's own shell.
    let explain = match &outcome.problem {
        Some(Problem::Interrupted(_)) => false,
        Some(_) => true,
        None => outcome.status != 0 && config.terminal == Terminal::None,
    };
    if explain {
        eprint!("{}", outcome.last_words());
    }
    let scripts = config.host_script.is_some() || config.guest_script.is_some();
    let verdict = match &outcome.problem {
        Some(problem) => problem.to_string(),
        None if outcome.status != 0 => format!("failed with status {}", outcome.status),
        None if scripts => "the scripts succeeded".to_owned(),
        None => format!("L1 and {} guest(s) came up", outcome.guests_up.len()),
    };
    let failed = if outcome.success() { "" } else { "FAILED: " };
    eprintln!(
        "testbed: {failed}{verdict}; {:.1} s, retries: {}",
        outcome.elapsed.as_secs_f64(),
        outcome.retries
    );
}
