//! `cargo xtask bench reclaim`: what imr's host side costs beside the bare system calls, what its probes cost a guest, and
//! what swap and KSM take for the same memory.
//!
//! In: `--json`, `--rounds N`; the folder of `imr` in IMR_BIN_DIR. Out: tables, with `--json` one JSON line at the end; 1
//! when a limit is passed, 3 when something is missing. Guest memory belongs to a VMM process of its own (this program
//! again) and is touched by a tiny KVM guest. Every setting that is changed is put back, however the run ends.

mod ask;
mod figures;
mod guest;
mod host;
mod memory;
mod missing;
mod peers;
mod probes;
mod ratio;
mod report;
mod undo;
mod vmm;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use ask::Backing;
use missing::Missing;
use peers::{Pace, Peer};
use report::{Report, Way};

/// Pairs of turns in 4 KiB pages.
const ROUNDS: u64 = 40;
/// Turns in 2 MiB pages take so much less time that there can be so many times more of them.
const HUGE_ROUNDS: u64 = 2;
/// Times on private memory in 4 KiB pages spread the widest, so there are so many times more turns.
const INJECT_ROUNDS: u64 = 3;
/// Samples of what the probes cost, for each such pair: 1 in so many.
const PROBE_ROUNDS: u64 = 2;
/// Ranges written to swap.
const SWAP_ROUNDS: u64 = 5;
/// How long KSM is waited for.
const KSM_TUNED: Duration = Duration::from_secs(40);
const KSM_DEFAULT: Duration = Duration::from_secs(20);
/// Exit code: something is missing.
const MISSING: u8 = 3;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["--vmm", kind, bytes] => vmm::serve(kind, bytes),
        _ => run(&words),
    };
    done.unwrap_or_else(|error| {
        eprintln!("bench reclaim: {error:#}");
        if error.is::<Missing>() { ExitCode::from(MISSING) } else { ExitCode::FAILURE }
    })
}

fn run(words: &[&str]) -> Result<ExitCode> {
    let mut json = false;
    let mut rounds = ROUNDS;
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--json" => json = true,
            // Given by `cargo bench` to every benchmark.
            "--bench" => {}
            "--rounds" => {
                let number = rest.next().context("--rounds needs a number")?;
                rounds = number.parse().with_context(|| format!("--rounds {number}"))?;
            }
            other => bail!("unknown argument {other}: only --json and --rounds N"),
        }
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Missing("root: memory of other processes, /proc/sys and eBPF need it".into()).into());
    }
    let Some(bin_dir) = std::env::var_os("IMR_BIN_DIR").map(PathBuf::from) else {
        let why = "IMR_BIN_DIR, the folder of imr with its probes (`cargo xtask bench reclaim` sets it)";
        return Err(Missing(why.into()).into());
    };
    undo::watch_signals()?;
    let report = measure(rounds.max(1), &bin_dir)?;
    let passed = report.show();
    if json {
        println!("{}", report.json());
    }
    for limit in &passed {
        eprintln!("over its limit: {limit}");
    }
    Ok(if passed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(rounds: u64, bin_dir: &std::path::Path) -> Result<Report> {
    let huge = rounds * HUGE_ROUNDS;
    let punch = |name, backing, limit, rounds| -> Result<Way> {
        eprintln!("{name}: {rounds} pairs");
        Ok(Way { name, backing, limit, measured: Some(ratio::punch(backing, rounds)?) })
    };
    let inject = |name, backing, limit, rounds| -> Result<Way> {
        eprintln!("{name}: {rounds} pairs");
        Ok(Way { name, backing, limit, measured: ratio::inject(backing, rounds)? })
    };
    let ways = vec![
        punch("punch_4k", Backing::Shared4k, 1.10, rounds)?,
        punch("punch_2m", Backing::Shared2m, 1.25, huge)?,
        punch("punch_hugetlb", Backing::Hugetlb, 1.25, huge)?,
        inject("inject", Backing::Private4k, 1.25, rounds * INJECT_ROUNDS)?,
        inject("inject_2m", Backing::Private2m, f64::INFINITY, huge)?,
    ];
    let samples = rounds.div_ceil(PROBE_ROUNDS);
    eprintln!("probes: {samples} samples of two turns with imr and two without");
    let cost = probes::cost(bin_dir, samples)?;
    Ok(Report { ways, cost, peers: peers()? })
}

fn peers() -> Result<Vec<Peer>> {
    let mut peers = Vec::new();
    for backing in [Backing::Shared4k, Backing::Shared2m, Backing::Private4k, Backing::Private2m] {
        eprintln!("swap: {backing:?}");
        peers.push(peers::or_absent("swap", backing, peers::swap(backing, SWAP_ROUNDS))?);
    }
    for (name, pace, limit) in [("tuned", Pace::TUNED, KSM_TUNED), ("default", Pace::DEFAULT, KSM_DEFAULT)] {
        for backing in [Backing::Private4k, Backing::Private2m] {
            eprintln!("ksm, {name}: {backing:?}, {} s at most", limit.as_secs());
            peers.push(peers::or_absent("ksm", backing, peers::ksm(name, pace, backing, limit))?);
        }
    }
    Ok(peers)
}
