//! `cargo xtask bench priority`: what it costs a guest that its free memory is reclaimed, and what reserve, delay and order
//! of the guest module change about that (docs/bench-priority.md).
//!
//! In: `--json`, rounds. Out: a table, `docs/images/priority.svg`, with `--json` one JSON line at the end. Everything is
//! measured in the nested testbed by `tests/vm/priority.sh`: a guest that takes memory in bursts.

mod plot;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::setup::{self, Need};
use crate::test::tries;
use crate::testbed::config::{Config, GuestRam, Mib, Script};
use crate::testbed::files::FileMapping;
use crate::testbed::run_session;
use crate::{build_kmod, build_user, cache};

/// Its name, also of its logs.
const NAME: &str = "priority";
/// What a burst takes, MiB.
const BURST_MIB: u32 = 96;
/// How long the guest is idle after each, seconds: longer than page reporting's own 2 s.
const PAUSE_S: u32 = 4;
/// Reserve in MiB, delay in ms, order.
const CASES: [(u32, u32, u32); 11] = [
    (0, 0, 9),
    (32, 0, 9),
    (64, 0, 9),
    (96, 0, 9),
    (128, 0, 9),
    (0, 3000, 9),
    (0, 6000, 9),
    (0, 12_000, 9),
    (64, 6000, 9),
    (0, 0, 10),
    (64, 0, 10),
];
/// The testbed's boot, and what a case takes beside its pauses.
const BOOT_S: u64 = 120;
const CASE_S: u64 = 60;
/// What the script's lines with figures begin with.
const FIGURES: &str = "priority: ";

/// Arguments of `cargo xtask bench priority`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// End with one line of JSON
    #[arg(long)]
    json: bool,
    /// Bursts for each case, beside two that are not measured
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
}

/// The figures of one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    /// Free memory that is not offered, MiB.
    reserve_mib: u64,
    /// From free to offered at least, ms.
    delay_ms: u64,
    /// Smallest block offered.
    order: u64,
    /// Pages of 4 KiB that had been reclaimed and were used again, all bursts.
    refaults: u64,
    /// Half of all chunks of 128 KiB were there within this time, us.
    alloc_p50_us: f64,
    /// 99 of 100 were.
    alloc_p99_us: f64,
    /// Memory of the guest that the host had at the end of a pause, MiB, mean.
    reclaimed_mib: u64,
}

/// What the JSON line is.
#[derive(Debug, Serialize)]
struct Priority<'a> {
    priority: &'a [Row],
}

/// Measures, prints and draws.
///
/// # Errors
/// When something that it needs is missing or does not build, or the testbed fails.
pub(super) fn run(args: &Args) -> Result<ExitCode> {
    setup::ensure(&[Need::Testbed])?;
    build_user::release_binaries()?;
    build_kmod::ensure_built(Config::default().guest_kernel)?;
    let logs = cache::target_dir().join("vm-logs").join(NAME);
    let config = config(args.rounds, &build_user::static_tools()?, &logs)?;
    let session = |_| {
        run_session(&config, &mut |line| {
            if line.text.starts_with(FIGURES) {
                eprintln!("{}", line.text);
            }
        })
    };
    let outcome = tries::run(NAME, &logs, 0, session)?.outcome;
    if !outcome.success() {
        return Ok(ExitCode::FAILURE);
    }
    let figures = outcome.lines.iter().filter_map(|line| line.text.strip_prefix(FIGURES));
    let rows = figures.map(row).collect::<Result<Vec<_>>>()?;
    if rows.len() != CASES.len() {
        bail!("{} cases of {} were measured", rows.len(), CASES.len());
    }
    println!("{BURST_MIB} MiB in chunks of 128 KiB, then {PAUSE_S} s idle; {} times each", args.rounds);
    print!("{}", table(&rows));
    let path = cache::workspace().join("docs/images/priority.svg");
    plot::draw(&path, &rows, args.rounds)?;
    println!("drawn: {}", path.display());
    if args.json {
        println!("{}", serde_json::to_string(&Priority { priority: &rows })?);
    }
    Ok(ExitCode::SUCCESS)
}

fn config(rounds: u64, tools: &Path, logs: &Path) -> Result<Config> {
    let scripts = cache::workspace().join("tests/vm");
    let path = scripts.join("priority.sh");
    let script = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let cases: Vec<String> =
        CASES.iter().map(|(reserve, delay, order)| format!("{reserve}:{delay}:{order}")).collect();
    let given = format!("CASES='{}'\nMIB={BURST_MIB}\nPAUSE={PAUSE_S}\nROUNDS={rounds}\n", cases.join(" "));
    let case_s = CASE_S + (rounds + 2) * (u64::from(PAUSE_S) + 4);
    Ok(Config {
        guests: 1,
        guest_mem: Mib(512),
        // In 4 KiB pages each page that is taken away shows when it is used again.
        guest_ram: GuestRam::Memfd,
        host_script: Some(Script::Text(given + &script)),
        guest_script: Some(Script::Text(":\n".to_owned())),
        host_files: vec![
            FileMapping::new(scripts.join("lib.sh"), "/root/lib.sh"),
            FileMapping::new(tools.join("imr-testtool"), "/usr/bin/imr-testtool"),
        ],
        build: false,
        logs: Some(logs.to_owned()),
        save: Some(logs.join("saved")),
        timeout: Some(Duration::from_secs(BOOT_S + case_s * CASES.len() as u64)),
        ..Config::default()
    })
}

/// From `name=number ...`.
fn row(figures: &str) -> Result<Row> {
    let mut fields = serde_json::Map::new();
    for word in figures.split_ascii_whitespace() {
        let (name, value) = word.split_once('=').with_context(|| format!("no figure: {word}"))?;
        let name = match name {
            "p50_us" | "p99_us" => format!("alloc_{name}"),
            name => name.to_owned(),
        };
        fields.insert(name, value.parse::<serde_json::Number>().with_context(|| word.to_owned())?.into());
    }
    serde_json::from_value(fields.into()).with_context(|| format!("not all figures: {figures}"))
}

fn table(rows: &[Row]) -> String {
    let mut text =
        "| reserve MiB | delay ms | order | refaults | p50 us | p99 us | with the host MiB |\n".to_owned();
    text += "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n";
    for row in rows {
        let Row { reserve_mib, delay_ms, order, refaults, alloc_p50_us, alloc_p99_us, reclaimed_mib } = row;
        text += &format!(
            "| {reserve_mib} | {delay_ms} | {order} | {refaults} | {alloc_p50_us:.1} | {alloc_p99_us:.1} | {reclaimed_mib} |\n"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_script_is_a_row() {
        let said = "reserve_mib=64 delay_ms=0 order=9 refaults=12 p50_us=10.5 p99_us=300 reclaimed_mib=310";
        let expected = Row {
            reserve_mib: 64,
            delay_ms: 0,
            order: 9,
            refaults: 12,
            alloc_p50_us: 10.5,
            alloc_p99_us: 300.0,
            reclaimed_mib: 310,
        };
        assert_eq!(row(said).unwrap(), expected);
        assert!(row("reserve_mib=64").is_err() && row("x").is_err() && row("order=x").is_err());
        assert!(table(&[expected]).ends_with("| 64 | 0 | 9 | 12 | 10.5 | 300.0 | 310 |\n"));
    }

    #[test]
    fn the_machine_is_possible_and_the_script_gets_its_cases() {
        let config = config(6, Path::new("/tools"), Path::new("/logs")).unwrap();
        assert_eq!(config.check(), Ok(()));
        let Some(Script::Text(script)) = config.host_script else { panic!("no text") };
        assert!(script.starts_with("CASES='0:0:9 32:0:9 "), "{script}");
        assert!(script.contains("\nMIB=96\nPAUSE=4\nROUNDS=6\n"), "{script}");
    }
}
