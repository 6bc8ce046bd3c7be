//! `imr`: headless runs, the list of VMs, and what this host can do.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use imr_user::cli::config::commands as config;
use imr_user::cli::{ctl, doctor, exit, run, vms};

/// Gives the free memory of KVM guests back to the host.
///
/// Guests that have loaded imr_guest.ko offer their free blocks; imr takes the memory behind them back at
/// once. Needs root. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 something needed is missing (`imr doctor`
/// says what).
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Follow all VMs and take what they offer; one line an event, a summary at the end.
    Run(run::RunArgs),
    /// List the running VMs, their slots and how their memory could be taken.
    Vms(vms::VmsArgs),
    /// Ask a running imr or imr-top how it is, to change its policy, or to reclaim now.
    Ctl(ctl::CtlArgs),
    /// Say what this host can do, what is missing, what is lost without it and how to get it.
    Doctor(doctor::DoctorArgs),
    /// Print the default configuration, check a file, or say which one counts.
    Config(config::ConfigArgs),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Vms(args) => vms::run(args),
        Command::Ctl(args) => ctl::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Config(args) => config::run(args),
    };
    exit::report("imr", result)
}
