//! The figures for people and for machines, and the limits that they must keep.
//!
//! In: what was measured. Out: tables, one JSON line, the names of the limits that were passed. Must not round before it
//! judges.

use serde::Serialize;

use crate::ask::Backing;
use crate::figures::{Comparison, Samples};
use crate::peers::Peer;
use crate::probes::Cost;
use crate::ratio::Measured;

/// A page-touch rate may be lower by so much, percent.
const PROBE_LIMIT: f64 = 5.0;

/// One way of imr's, on one kind of guest memory.
#[derive(Debug)]
pub(crate) struct Way {
    /// Name in the JSON, without `_ratio`.
    pub(crate) name: &'static str,
    /// The guest's memory.
    pub(crate) backing: Backing,
    /// What imr's way may take of the bare one's time; infinite: shown, not judged.
    pub(crate) limit: f64,
    /// `None`: imr does not take such memory.
    pub(crate) measured: Option<Measured>,
}

/// All figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) ways: Vec<Way>,
    pub(crate) cost: Cost,
    pub(crate) peers: Vec<Peer>,
}

/// One line of the peers' table.
#[derive(Debug, Serialize)]
struct Row {
    peer: &'static str,
    page: &'static str,
    memory: &'static str,
    tuning: String,
    us_per_2mib: Option<f64>,
    times_slower: Option<f64>,
    /// Where it was not done in time: it is at least so slow.
    at_least_us_per_2mib: Option<f64>,
    at_least_times_slower: Option<f64>,
    /// What of imr's it is compared with.
    compared_with: &'static str,
    note: String,
}

impl Report {
    /// Prints everything. Gives the limits that were passed.
    pub(crate) fn show(&self) -> Vec<String> {
        let mut passed = Vec::new();
        println!("\nimr's host side of 32 ranges of 4 MiB against the bare calls; median (quartiles)");
        println!(
            "{:<16} {:>21} {:>12} {:>12}   imr's time, us a batch",
            "", "ratio", "imr us/2MiB", "bare us/2MiB"
        );
        for way in &self.ways {
            let Some(measured) = &way.measured else {
                println!("{:<16} {:>21}", way.name, "not taken by imr");
                continue;
            };
            let Comparison { ratio, imr_us, bare_us } = &measured.times;
            let stages = &measured.stages;
            println!(
                "{:<16} {:>21} {:>12.2} {:>12.2}   claim {:.0}, reclaim {:.0}, done {:.0}; after {:.0}",
                way.name,
                spread(ratio, 3),
                imr_us.median(),
                bare_us.median(),
                stages.claim_us.median(),
                stages.reclaim_us.median(),
                stages.done_us.median(),
                stages.after_us.median(),
            );
            if ratio.median() > way.limit {
                passed.push(format!("{}_ratio is {:.3}, at most {}", way.name, ratio.median(), way.limit));
            }
        }
        let cost = &self.cost;
        println!("\nslowdown of the guest by imr's probes, percent; median (quartiles)");
        println!(
            "{:<44} {}",
            "first touch of reclaimed pages, running time",
            spread(&cost.first_cpu_percent, 1)
        );
        println!("{:<44} {}", "first touch of reclaimed pages, by the clock", spread(&cost.first_percent, 1));
        println!("{:<44} {}", "touch of mapped pages, by the clock", spread(&cost.mapped_percent, 1));
        println!(
            "{:.0} first touches/s without imr; {:.2} events counted for each with it",
            cost.first_per_s.median(),
            cost.events_per_touch
        );
        if cost.first_cpu_percent.median() > PROBE_LIMIT {
            let percent = cost.first_cpu_percent.median();
            passed.push(format!("probe_slowdown_percent is {percent:.1}, at most {PROBE_LIMIT}"));
        }
        self.show_peers();
        passed
    }

    fn show_peers(&self) {
        println!("\n| peer | memory, page | tuning | us per 2 MiB | times slower than imr | |");
        println!("| --- | --- | --- | ---: | ---: | --- |");
        for way in &self.ways {
            if let Some(measured) = &way.measured {
                let us = measured.times.imr_us.median();
                println!(
                    "| imr | {}, {} | {} | {us:.1} | 1 | |",
                    memory(way.backing),
                    way.backing.page(),
                    tool(way)
                );
            }
        }
        for row in self.rows() {
            let figure = |exact: Option<f64>, least: Option<f64>, digits: usize| match (exact, least) {
                (Some(value), _) => format!("{value:.digits$}"),
                (None, Some(value)) => format!("> {value:.digits$}"),
                (None, None) => "-".into(),
            };
            println!(
                "| {} | {}, {} | {} | {} | {} ({}) | {} |",
                row.peer,
                row.memory,
                row.page,
                row.tuning,
                figure(row.us_per_2mib, row.at_least_us_per_2mib, 0),
                figure(row.times_slower, row.at_least_times_slower, 1),
                row.compared_with,
                row.note
            );
        }
    }

    fn rows(&self) -> Vec<Row> {
        self.peers.iter().map(|peer| self.row(peer)).collect()
    }

    fn row(&self, peer: &Peer) -> Row {
        // imr on the same memory; where it does not take such memory, on shared memory in pages of that size.
        let same = |way: &&Way| way.measured.is_some() && way.backing == peer.backing;
        let similar = |way: &&Way| way.measured.is_some() && way.backing.page() == peer.backing.page();
        let imr = self.ways.iter().find(same).or_else(|| self.ways.iter().find(similar));
        let imr_us = imr.and_then(|way| Some(way.measured.as_ref()?.times.imr_us.median()));
        let slower = |us: Option<f64>| Some(us? / imr_us?);
        Row {
            peer: peer.peer,
            page: peer.backing.page(),
            memory: memory(peer.backing),
            tuning: peer.tuning.clone(),
            us_per_2mib: peer.us_per_2mib.map(rounded),
            times_slower: slower(peer.us_per_2mib).map(rounded),
            at_least_us_per_2mib: peer.at_least_us_per_2mib.map(rounded),
            at_least_times_slower: slower(peer.at_least_us_per_2mib).map(rounded),
            compared_with: imr.map_or("nothing", tool),
            note: peer.note.clone(),
        }
    }

    /// One line.
    pub(crate) fn json(&self) -> String {
        let mut object = serde_json::Map::new();
        for way in &self.ways {
            let of = |what: fn(&Comparison) -> &Samples| {
                way.measured.as_ref().map(|measured| rounded(what(&measured.times).median()))
            };
            object.insert(format!("{}_ratio", way.name), of(|times| &times.ratio).into());
            object.insert(format!("{}_us_per_2mib", way.name), of(|times| &times.imr_us).into());
            object.insert(format!("{}_bare_us_per_2mib", way.name), of(|times| &times.bare_us).into());
        }
        let cost = &self.cost;
        object.insert("probe_slowdown_percent".into(), rounded(cost.first_cpu_percent.median()).into());
        object.insert("probe_slowdown_clock_percent".into(), rounded(cost.first_percent.median()).into());
        object.insert("probe_slowdown_mapped_percent".into(), rounded(cost.mapped_percent.median()).into());
        object.insert("peers".into(), serde_json::json!(self.rows()));
        serde_json::Value::Object(object).to_string()
    }
}

fn memory(backing: Backing) -> &'static str {
    if backing.is_shared() { "shared" } else { "private" }
}

fn tool(way: &Way) -> &'static str {
    if way.backing.is_shared() { "punch" } else { "inject" }
}

fn spread(samples: &Samples, digits: usize) -> String {
    let (first, third) = samples.quartiles();
    format!("{:.digits$} ({first:.digits$} to {third:.digits$})", samples.median())
}

/// To three digits behind the point.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}
