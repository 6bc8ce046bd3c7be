//! The rings that `cargo test` runs.
//!
//! In: a ring and a filter. Out: what cargo shows, line by line, and the counts in it.
//! Must not take a test program that died for one without failures.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::Ring;
use super::tally::Tally;
use crate::setup::{self, Need};
use crate::{build_user, cache, process};

/// Where the privileged ring finds imr and imr-top; without it, it skips.
const BIN_DIR: &str = "IMR_BIN_DIR";

/// Runs one ring.
///
/// # Errors
/// When cargo cannot be started, or what the ring tests cannot be built.
pub(super) fn run(ring: Ring, filter: Option<&str>) -> Result<Tally> {
    let mut tally = Tally::default();
    for arguments in arguments(ring) {
        let mut command = Command::new(process::cargo());
        process::forget_calling_cargo(&mut command)
            .current_dir(cache::workspace())
            .arg("test")
            .args(*arguments);
        command.arg("--target-dir").arg(cache::target_dir());
        command.args(["--no-fail-fast", "--"]).args(filter);
        setup::keep_toolchain(&mut command);
        if ring == Ring::Proof {
            setup::ensure(&[Need::Proof])?;
        }
        if ring == Ring::Privileged {
            let built = build_user::release_binaries()?;
            command.env(BIN_DIR, built.imr.parent().context("imr has no folder")?);
        }
        tally += count(&mut command)?;
    }
    Ok(tally)
}

/// The arguments of each `cargo test` that makes up the ring.
fn arguments(ring: Ring) -> &'static [&'static [&'static str]] {
    match ring {
        Ring::Unit => &[
            &["--workspace", "--exclude", "imr-tests"],
            // Its other targets are the rings below.
            &["--package", "imr-tests", "--lib", "--bins"],
        ],
        Ring::Abi => &[&["--package", "imr-tests", "--test", "abi"]],
        Ring::Replay => &[&["--package", "imr-tests", "--test", "replay"]],
        // Not optimized: that takes the compiler longer than it saves loom.
        Ring::Proof => &[&["--package", "imr-tests", "--test", "proof"]],
        Ring::Privileged => &[&["--package", "imr-tests", "--test", "privileged"]],
        Ring::Stress | Ring::Package | Ring::Fuzz | Ring::Vm | Ring::Soak => &[],
    }
}

/// Runs `command`, shows what it says, and adds up its summaries.
fn count(command: &mut Command) -> Result<Tally> {
    let line = process::command_line(command);
    let mut child =
        command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot start `{line}`"))?;
    let mut tally = Tally::default();
    if let Some(stdout) = child.stdout.take() {
        for said in BufReader::new(stdout).lines() {
            let said = said.with_context(|| format!("cannot read from `{line}`"))?;
            if let Some(summary) = Tally::parse(&said) {
                tally += summary;
            }
            // Programs without tests say four lines about nothing.
            if !is_noise(&said) {
                println!("{said}");
            }
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    if !status.success() && tally.failed == 0 {
        // It does not compile, or a test ended the whole program.
        println!("`{line}` ended with {status}");
        tally.failed += 1;
    }
    Ok(tally)
}

fn is_noise(said: &str) -> bool {
    said.trim().is_empty()
        || said == "running 0 tests"
        || said.starts_with("test result: ok. 0 passed; 0 failed; 0 ignored")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_dies_is_a_failure_even_without_a_summary() {
        let tally = count(Command::new("sh").args(["-c", "echo 'running 3 tests'; exit 101"])).unwrap();
        assert_eq!(tally, Tally { failed: 1, ..Tally::default() });
        let said =
            "echo 'test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out'; exit 101";
        let tally = count(Command::new("sh").args(["-c", said])).unwrap();
        assert_eq!(tally, Tally { passed: 2, failed: 1, ..Tally::default() });
    }
}
