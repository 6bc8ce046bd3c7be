//! `cargo xtask test [RING]...`: the test rings, and one line that sums them up.
//!
//! In: the rings and a filter. Out: a line a test, `N passed, N failed, N skipped` at the end, 1 on any failure.
//! Must not let a skip pass unseen: each prints its reason and is counted, and in CI it is a failure.

mod cargo_ring;
mod deadline;
mod fuzz;
mod package;
mod scenarios;
mod soak;
mod stress;
mod tally;
pub(crate) mod tries;
mod vm;
mod workers;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use deadline::Deadline;
use tally::Tally;

const FAILED: u8 = 1;

/// A ring of tests, from the cheapest to the dearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Ring {
    /// Each crate's own tests: no root, VM, BPF or network
    Unit,
    /// Rust's and C's view of the guest's contract, compared by a C compiler
    Abi,
    /// Recorded events through the pure layers
    Replay,
    /// The handshake's models, by loom and SPIN
    Proof,
    /// The handshake's own code of both sides, raced under the sanitizers
    Stress,
    /// The guest module's package, installed in other Debians; sparse and checkpatch on its source
    Package,
    /// The real programs on this machine's kernel, as root
    Privileged,
    /// What reads others' bytes, fed with anything, a minute each
    Fuzz,
    /// Real guests on a real KVM host, in the nested testbed
    Vm,
    /// Guests churn and verify memory while imr is started and killed by chance
    Soak,
}

impl Ring {
    /// Those that run when none is named.
    const DEFAULT: [Self; 10] = [
        Self::Unit,
        Self::Abi,
        Self::Replay,
        Self::Proof,
        Self::Stress,
        Self::Package,
        Self::Privileged,
        Self::Fuzz,
        Self::Vm,
        Self::Soak,
    ];

    /// As it is called on the command line.
    fn as_str(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Abi => "abi",
            Self::Replay => "replay",
            Self::Proof => "proof",
            Self::Stress => "stress",
            Self::Package => "package",
            Self::Privileged => "privileged",
            Self::Fuzz => "fuzz",
            Self::Vm => "vm",
            Self::Soak => "soak",
        }
    }
}

/// Arguments of `cargo xtask test`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rings to run [default: all]
    #[arg(value_enum, value_name = "RING")]
    rings: Vec<Ring>,
    /// Only tests whose name contains this
    #[arg(long, value_name = "NAME")]
    filter: Option<String>,
    /// Ring fuzz: how long each target runs [default: 60]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: Option<u64>,
    /// The same in minutes; ring soak: how long guests churn [default: 3]
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..=1440))]
    minutes: Option<u64>,
    /// Ring stress: batches of each program [default: 100000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(2..))]
    batches: Option<u64>,
    /// End after so many minutes: what the rings vm and soak have no time left for is left out, and counted
    #[arg(long, value_name = "MINUTES", value_parser = clap::value_parser!(u64).range(1..=1440))]
    within: Option<u64>,
    /// Rings soak and stress: repeat what this seed brought about [default: another one each time]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..1 << 31))]
    seed: Option<u32>,
}

impl Args {
    /// How long each fuzz target runs.
    fn fuzz_time(&self) -> Duration {
        let seconds = self.seconds.or(self.minutes.map(|minutes| minutes * 60));
        seconds.map_or(fuzz::DEFAULT_TIME, Duration::from_secs)
    }

    /// How long the soak is.
    fn soak_time(&self) -> Duration {
        self.minutes.map_or(soak::DEFAULT_TIME, |minutes| Duration::from_secs(minutes * 60))
    }
}

/// Runs `cargo xtask test`.
///
/// # Errors
/// When something that the tests need is missing or does not build.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let deadline = Deadline::within(args.within.map(|minutes| Duration::from_secs(minutes * 60)));
    let rings: &[Ring] = if args.rings.is_empty() { &Ring::DEFAULT } else { &args.rings };
    let filter = args.filter.as_deref();
    let in_ci = in_ci(std::env::var("CI").ok().as_deref());
    let mut total = Tally::default();
    for ring in rings {
        println!("== {}", ring.as_str());
        let mut tally = match ring {
            Ring::Stress => stress::run(filter, args.batches.unwrap_or(stress::DEFAULT_BATCHES), args.seed)?,
            Ring::Package => package::run(filter)?,
            Ring::Fuzz => fuzz::run(filter, args.fuzz_time())?,
            Ring::Vm => {
                // A soak that comes after it runs beside it: alone it leaves half of this machine idle.
                let mut tally = Tally::default();
                let soak = match rings.contains(&Ring::Soak) {
                    true => soak::prepare(filter, args.soak_time(), args.seed, deadline, &mut tally)?,
                    false => None,
                };
                tally += vm::run(filter, soak.as_ref(), deadline)?;
                tally
            }
            Ring::Soak if rings.contains(&Ring::Vm) => {
                println!("beside vm: see there");
                continue;
            }
            Ring::Soak => soak::run(filter, args.soak_time(), args.seed, deadline)?,
            other => cargo_ring::run(*other, filter)?,
        };
        if in_ci && tally.skipped > 0 {
            println!("{}: in CI (CI is set) nothing may be skipped", ring.as_str());
            tally.failed += tally.skipped;
            tally.skipped = 0;
        }
        total += tally;
    }
    println!();
    if let (Some(filter), 0) = (filter, total.passed + total.failed + total.skipped + total.left_out) {
        println!("no test has {filter:?} in its name");
        total.failed += 1;
    }
    println!("{total}");
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Whether this is a continuous integration run, by the variable that they all set.
fn in_ci(ci: Option<&str>) -> bool {
    !matches!(ci, None | Some("" | "0" | "false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ci_is_what_says_so() {
        assert!(in_ci(Some("true")) && in_ci(Some("1")));
        assert!(!in_ci(None) && !in_ci(Some("")) && !in_ci(Some("false")));
    }
}
