//! The tool that runs inside the testbed's machines: memory tests in the guest; for scripts in L1 JSON and a terminal.
//!
//! In: a subcommand and its options (`imr-testtool help`). Out: lines of `name=value`, and an exit code: 0 the
//! check held, 1 it did not, 2 wrong usage. It is one static program, so that an initramfs needs no library.

mod args;
mod burst;
mod churn;
mod files;
mod fill;
mod fragment;
mod guest_stats;
mod json;
mod json_wait;
mod kexec;
mod pattern;
mod region;
mod ring;
mod screen;

use std::fmt;
use std::io;
use std::process::ExitCode;

use args::Args;

const USAGE: &str = "\
imr-testtool churn --mib N|auto [--rounds R] [--wait-ms MS]   take, fill, verify and free memory, R rounds
imr-testtool burst --mib N [--chunk-kib K] --times FILE       take memory in chunks, free it; how long each chunk took
imr-testtool burst --report FILE                              half of all chunks took no longer, and 99 of 100
imr-testtool fill --mib N|auto [--same] [--ready FILE] [--until FILE] [--rewrite FILE]
             fill once, --same: with equal pages; hold until FILE exists; verify; free. While it is held, each time
             that the --rewrite FILE exists: verify, write anew, remove FILE
imr-testtool fragment --mib N|auto [--ready FILE] [--until FILE]   take memory, give every second page back
imr-testtool files write|verify DIR_OR_DEVICE --mib N         files (or one device) of a known content
imr-testtool ring [--times N]                                 hypercalls as an unprivileged process
imr-testtool kexec --kernel F --initrd F                      another kernel in the place of this one, same command line
imr-testtool stat NAME                                        one counter of the guest module
imr-testtool json lines|count|sum|get|wait|quiet --file F [--from LINE|--last] [--field PATH] [--timeout S] [--for S]
             [--signal NAME:PID] [--qmp SOCKET:COMMAND] [PATH=VALUE | PATH!=VALUE | PATH>=N | PATH<=N]...
imr-testtool screen [OPTIONS] SCRIPT|- -- COMMAND...          a program on a terminal, driven by a script (--help)
auto: 70 % of MemAvailable. LINE counts from 0. PATH is such as vm.name, vms.0.pid, or
items.kind:big.size, which is of all items of a list whose kind is big (sum) or of the first.";

/// Why a subcommand did not succeed.
#[derive(Debug)]
enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// What was to be shown does not hold, or could not be found out.
    Failed(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// A failed operation on a named thing.
fn failed(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Failed(format!("{what}: {error}"))
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_else(|| "help".to_owned());
    let args = Args::new(words);
    let result = match command.as_str() {
        "burst" => burst::run(args),
        "churn" => churn::run(args),
        "fill" => fill::run(args),
        "fragment" => fragment::run(args),
        "files" => files::run(args),
        "kexec" => kexec::run(args),
        "ring" => ring::run(args),
        "ring-once" => ring::run_once(args),
        "stat" => guest_stats::run(args),
        "screen" => screen::run(args),
        "json" => json::run(args),
        "help" | "--help" | "-h" => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(Failure::Usage(format!("no subcommand {other:?}\n{USAGE}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("imr-testtool {command}: {failure}");
            ExitCode::from(if matches!(failure, Failure::Usage(_)) { 2 } else { 1 })
        }
    }
}
