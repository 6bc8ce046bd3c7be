//! `cargo xtask`: builds, testbed and checks of IMR.
//!
//! In: the command line. Out: an exit code: 0 done, 1 failed, 2 usage, 3 a prerequisite is missing.
//! Must only dispatch: each command is a module of its own.

mod bench;
mod build_ebpf;
mod build_kmod;
mod build_user;
mod cache;
mod demo;
mod kernel;
mod package_kmod;
mod process;
mod setup;
mod test;
mod testbed;
mod tidy;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use setup::MissingPrerequisite;

const FAILED: u8 = 1;
const PREREQUISITE_MISSING: u8 = 3;

/// Builds, testbed and checks of IMR.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what the other commands need (Debian 12), or list it
    Setup(setup::Args),
    /// Build the eBPF object that imr embeds
    BuildEbpf,
    /// Build the guest's kernel module
    BuildKmod(build_kmod::Args),
    /// Pack the guest module's source as a Debian package for DKMS
    PackageKmod(package_kmod::Args),
    /// Build imr and imr-top for release, with the eBPF object inside
    BuildUser,
    /// Run a real KVM host with real guests, nested in QEMU
    Testbed(testbed::Args),
    /// Show it all: a guest fills and frees memory in waves, and imr-top watches
    Demo(demo::Args),
    /// Run the test rings: unit, abi, replay, proof, stress, package, privileged, fuzz, vm, soak
    Test(test::Args),
    /// Measure: what imr-top costs, and how fast it is
    Bench(bench::Args),
    /// Check the rules that no compiler checks
    Tidy(tidy::Args),
}

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            let missing = error.is::<MissingPrerequisite>();
            ExitCode::from(if missing { PREREQUISITE_MISSING } else { FAILED })
        }
    }
}

fn dispatch(command: Command) -> Result<ExitCode> {
    match command {
        Command::Setup(args) => setup::run(&args)?,
        Command::BuildEbpf => build_ebpf::run()?,
        Command::BuildKmod(args) => build_kmod::run(&args)?,
        Command::PackageKmod(args) => package_kmod::run(&args)?,
        Command::BuildUser => build_user::run()?,
        Command::Testbed(args) => return testbed::run(args),
        Command::Demo(args) => return demo::run(&args),
        Command::Test(args) => return test::run(&args),
        Command::Bench(args) => return bench::run(&args),
        Command::Tidy(args) => tidy::run(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
