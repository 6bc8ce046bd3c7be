//! `cargo xtask bench view`: what imr-top costs with 100 guests of 64 GiB, and how fast it is.
//!
//! In: `--json`, `--seconds N`. Out: figures for people, with `--json` one JSON line at the end. The measured process is
//! this program again, with imr-top's screen on a terminal of 200x60 and the model behind it; the parent types, reads
//! the screen, and makes the guests' faults. Must not measure itself: only the measured process is counted.

#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on has to stop")]

mod frames;
mod host;
mod load;
mod measured;
mod operator;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use load::{BLOCKS, Load, TABLE_BYTES};

/// Faults a second while the cost is measured: 1000 of each guest.
const STEADY_FAULTS: u64 = 100_000;
/// Faults a second while keys are pressed.
const BUSY_FAULTS: u64 = 1_000_000;
/// How long the cost is measured, seconds.
const SECONDS: u64 = 30;
/// What the figures must not exceed.
const LIMITS: Figures = Figures {
    cpu_percent_of_core: 3.0,
    rss_mib: 600,
    frame_ms_p99: 10.0,
    key_to_screen_ms_p99: 50.0,
    cpu_percent_at_1m_faults: f64::INFINITY,
};

/// What was measured.
#[derive(Debug, Clone, Copy, Serialize)]
struct Figures {
    cpu_percent_of_core: f64,
    rss_mib: u64,
    frame_ms_p99: f64,
    key_to_screen_ms_p99: f64,
    cpu_percent_at_1m_faults: f64,
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--measured", tables] = words[..] {
        return measured::run(Path::new(tables));
    }
    let mut json = false;
    let mut seconds = SECONDS;
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match *word {
            "--json" => json = true,
            // Given by `cargo bench` to every benchmark.
            "--bench" => {}
            "--seconds" => {
                let number = rest.next().context("--seconds needs a number")?;
                seconds = number.parse().with_context(|| format!("--seconds {number}"))?;
            }
            other => bail!("unknown argument {other}: only --json and --seconds N"),
        }
    }
    let figures = measure(Duration::from_secs(seconds.max(1)))?;
    let within = show(&figures);
    if json {
        println!("{}", serde_json::to_string(&rounded(figures))?);
    }
    Ok(if within { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(time: Duration) -> Result<Figures> {
    let file = rustix::fs::memfd_create("imr-bench-tables", rustix::fs::MemfdFlags::CLOEXEC)?;
    let path =
        PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&file)));
    let tables = host::open_tables(&path)?;
    let load = Load::start(tables.clone());
    // One after the other: on a machine with few cores they would measure each other.
    let frame_ms_p99 = frames::p99_ms(&tables, time / 3);
    let mut operator = operator::Operator::start(&path)?;
    load.set(STEADY_FAULTS);
    operator.settle()?;
    let steady = operator.cost(time)?;
    load.set(BUSY_FAULTS);
    let made = load.made();
    let busy = operator.keys(time)?;
    let per_s = (load.made() - made) as f64 / busy.time.as_secs_f64();
    if per_s < 0.9 * BUSY_FAULTS as f64 {
        bail!("only {per_s:.0} faults a second could be made: the machine is too busy to measure on");
    }
    println!(
        "{BLOCKS} blocks; {STEADY_FAULTS} faults/s for the cost, {per_s:.0} faults/s while keys were pressed"
    );
    println!("{} keys pressed; {} MiB of the memory is the block table", busy.keys, TABLE_BYTES >> 20);
    Ok(Figures {
        cpu_percent_of_core: steady.cpu_percent,
        rss_mib: steady.rss_mib.max(busy.rss_mib) + (TABLE_BYTES >> 20),
        frame_ms_p99,
        key_to_screen_ms_p99: busy.p99_ms,
        cpu_percent_at_1m_faults: busy.cpu_percent,
    })
}

/// Prints the figures against their limits. `false`: one is over.
fn show(figures: &Figures) -> bool {
    let rows = [
        ("CPU, percent of a core", figures.cpu_percent_of_core, LIMITS.cpu_percent_of_core),
        ("  of it at 1 M faults/s and with keys", figures.cpu_percent_at_1m_faults, f64::INFINITY),
        ("memory with the block table, MiB", figures.rss_mib as f64, LIMITS.rss_mib as f64),
        ("a frame at 200x60, ms, p99", figures.frame_ms_p99, LIMITS.frame_ms_p99),
        ("key to screen, ms, p99", figures.key_to_screen_ms_p99, LIMITS.key_to_screen_ms_p99),
    ];
    for (name, value, limit) in rows {
        let limit_text = if limit.is_finite() { format!("(at most {limit})") } else { String::new() };
        println!("{name:<40} {value:8.2} {limit_text}");
    }
    rows.iter().all(|(_, value, limit)| value <= limit)
}

fn rounded(figures: Figures) -> Figures {
    let round = |value: f64| (value * 100.0).round() / 100.0;
    Figures {
        cpu_percent_of_core: round(figures.cpu_percent_of_core),
        frame_ms_p99: round(figures.frame_ms_p99),
        key_to_screen_ms_p99: round(figures.key_to_screen_ms_p99),
        cpu_percent_at_1m_faults: round(figures.cpu_percent_at_1m_faults),
        ..figures
    }
}

/// Nearest rank.
fn p99(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    let rank = (samples.len() * 99).div_ceil(100).max(1) - 1;
    samples.get(rank).copied().unwrap_or(f64::NAN)
}
