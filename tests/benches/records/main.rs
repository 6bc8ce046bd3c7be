//! `cargo xtask bench records`: the two kinds of record side by side, the list and the flat one, for guests of 1 GiB to 1 TiB.
//!
//! In: `--json`. Out: a table, with `--json` one JSON line at the end; 3 when there is no C compiler. What the guest does is
//! counted in instructions, what the host does is timed, each in the real code. Needs neither root nor KVM.

mod guest;
mod host;

use std::fmt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde::Serialize;

use guest::{COUNTED_BY, Offer};
use host::Host;

/// Order of a block, 2 MiB.
const ORDER: u32 = 9;
/// Ranges of an offer: what page reporting gives at once (PAGE_REPORTING_CAPACITY, 6.1 to 6.12).
const RANGES: usize = 32;
/// Free blocks of a guest that has few.
const FEW: u64 = 8;
/// Sizes of guests, MiB.
const GUESTS: [u64; 6] = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    List,
    Flat,
}

/// Which blocks are free, and in what order they are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Free {
    /// Eight, spread over all of memory.
    Few,
    /// Every second one, lowest first, as after much was freed at once.
    ManyInOrder,
    /// Every second one, in an order that is nobody's, as after long use.
    ManyByChance,
}

#[derive(Debug, Serialize)]
struct Row {
    record: Kind,
    guest_mib: u64,
    free: Free,
    free_blocks: u64,
    guest_insns_per_block: f64,
    host_ns_per_block: f64,
    record_bytes: u64,
}

#[derive(Debug, Serialize)]
struct Figures {
    ranges_per_offer: usize,
    guest_insns_counted_by: &'static str,
    records: Vec<Row>,
}

/// Something that this machine lacks.
#[derive(Debug)]
struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a prerequisite is missing: {}", self.0)
    }
}

impl std::error::Error for Missing {}

impl Kind {
    const ALL: [Self; 2] = [Self::List, Self::Flat];

    fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Flat => "flat",
        }
    }
}

impl Free {
    const ALL: [Self; 3] = [Self::Few, Self::ManyInOrder, Self::ManyByChance];

    fn name(self) -> &'static str {
        match self {
            Self::Few => "few",
            Self::ManyInOrder => "many, in order",
            Self::ManyByChance => "many, by chance",
        }
    }

    fn blocks(self, guest_mib: u64) -> Vec<u64> {
        let all = guest_mib / 2;
        let mut many: Vec<u64> = (0..all).step_by(2).collect();
        match self {
            Self::Few => (0..FEW).map(|block| all * block / FEW).collect(),
            Self::ManyInOrder => many,
            Self::ManyByChance => {
                // The same each time: runs are to be compared.
                let mut state = 1_u64;
                for index in (1..many.len()).rev() {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    many.swap(index, (state >> 33) as usize % (index + 1));
                }
                many
            }
        }
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench records: {error:#}");
            ExitCode::from(if error.is::<Missing>() { 3 } else { 1 })
        }
    }
}

fn run() -> Result<()> {
    let mut json = false;
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "--json" => json = true,
            // Given by `cargo bench` to every benchmark.
            "--bench" => {}
            other => bail!("unknown argument {other}: only --json"),
        }
    }
    let program = Offer::compile(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("records"))?;
    let mut records = Vec::new();
    for guest_mib in GUESTS {
        let host = Host::map(guest_mib)?;
        for free in Free::ALL {
            let blocks = free.blocks(guest_mib);
            let ranges = blocks.len().min(RANGES);
            let host_ns = host.ns_per_block(&blocks)?;
            for kind in Kind::ALL {
                let cost = program.cost(kind, guest_mib, ranges)?;
                records.push(Row {
                    record: kind,
                    guest_mib,
                    free,
                    free_blocks: blocks.len() as u64,
                    guest_insns_per_block: rounded(cost.instructions as f64 / ranges as f64),
                    host_ns_per_block: rounded(host_ns[kind as usize]),
                    record_bytes: cost.record_bytes,
                });
            }
        }
    }
    show(&records);
    if json {
        let figures = Figures { ranges_per_offer: RANGES, guest_insns_counted_by: COUNTED_BY, records };
        println!("{}", serde_json::to_string(&figures)?);
    }
    Ok(())
}

fn show(records: &[Row]) {
    println!("guest: instructions a block, to write and clear the record, by {COUNTED_BY}");
    println!(
        "host: ns a block, to copy, check and scan the record (median); offers of {RANGES} ranges at most\n"
    );
    println!(
        "{:>9}  {:<16} {:>8}  {:>10} {:>10}  {:>9} {:>9}  {:>9} {:>9}",
        "guest MiB", "free", "blocks", "list insns", "flat insns", "list ns", "flat ns", "list B", "flat B"
    );
    for pair in records.chunks(2) {
        let [list, flat] = pair else { continue };
        println!(
            "{:>9}  {:<16} {:>8}  {:>10} {:>10}  {:>9} {:>9}  {:>9} {:>9}",
            list.guest_mib,
            list.free.name(),
            list.free_blocks,
            list.guest_insns_per_block,
            flat.guest_insns_per_block,
            list.host_ns_per_block,
            flat.host_ns_per_block,
            list.record_bytes,
            flat.record_bytes
        );
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
