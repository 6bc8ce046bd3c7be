//! One snapshot as plain text, for `imr-top -b`: every VM and every column, no colours, no cutting to a width.
//!
//! Input: a snapshot. Output: lines without an empty one among them, so that empty lines part the samples.

use std::fmt::Write;

use super::{columns, decisions, format, host_line};
use crate::model::block::{GuestClaim, HostFact};
use crate::model::snapshot::{Snapshot, VmSnapshot};
use crate::model::sums::CrossTable;

/// Newest decisions printed with a sample.
const DECISIONS: usize = 5;

/// How a column gets its value.
type Value = fn(&VmSnapshot) -> String;

/// Columns between the name and the status; all values are right-aligned.
const COLUMNS: [(&str, Value); 20] = [
    ("PID", |vm| vm.pid.to_string()),
    ("RAM", |vm| format::bytes_short(vm.ram_bytes)),
    ("RESIDENT", |vm| format::bytes_short(vm.resident_bytes)),
    ("GUEST-FREE", columns::guest_free),
    ("FREE-HELD", |vm| format::bytes_short(vm.free_held_bytes)),
    ("OFFERED", |vm| format::bytes_short(vm.offered_bytes)),
    ("RECLAIMED", |vm| format::bytes_short(vm.reclaimed_bytes)),
    ("OUT-NOW", |vm| format::bytes_short(vm.reclaimed_now_bytes)),
    ("SWAPPED", |vm| format::bytes_short(vm.swapped_bytes)),
    ("MERGED", |vm| format::bytes_short(vm.merged_bytes)),
    ("IDLE", |vm| format::bytes_short(vm.idle_bytes)),
    ("REFAULTED", |vm| format::bytes_short(vm.refaulted_bytes)),
    ("FAULTS/S", |vm| format::rate(vm.faults_per_s)),
    ("DONE", |vm| format::count(vm.offers.done)),
    ("P50", |vm| answered(vm, vm.latency.total.p50_us)),
    ("P99", |vm| answered(vm, vm.latency.total.p99_us)),
    ("DRIFT", |vm| format::count(vm.drift.unseen_frames.saturating_add(vm.drift.stale_frames))),
    ("REGRET", |vm| columns::Column::Regret.text(vm, true)),
    ("WANTED", |vm| columns::Column::Want.text(vm, true)),
    ("MODE", |vm| vm.policy.name().to_owned()),
];

/// The snapshot as text; the last line ends with a line feed.
#[must_use]
pub fn text(snapshot: &Snapshot) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = host(&mut out, snapshot);
    if snapshot.vms.is_empty() {
        out.push_str("no VMs: no KVM guest runs on this host (or none of those asked for)\n");
    } else {
        let _ = table(&mut out, &snapshot.vms);
        let _ = cross(&mut out, &snapshot.vms);
    }
    for decision in snapshot.decisions.iter().rev().take(DECISIONS).rev() {
        let _ = writeln!(
            out,
            "decision {} {} {} {} offer {}: {}",
            format::clock_utc(decision.unix_ms),
            format::printable(&decisions::vm_name(snapshot, decision), false),
            decisions::name(decision.kind),
            format::bytes_short(decision.bytes),
            decision.offer_seq,
            format::printable(&decision.why, false),
        );
    }
    out
}

fn host(out: &mut String, snapshot: &Snapshot) -> std::fmt::Result {
    let host = &snapshot.host;
    let vms = snapshot.vms.len();
    writeln!(
        out,
        "imr-top {} UTC  sample {}  {}  Linux {}  up {}  policy {}  {vms} VM{}",
        format::clock_utc(snapshot.unix_ms),
        snapshot.sequence,
        format::printable(&host.name, false),
        format::printable(&host.kernel, false),
        format::uptime(snapshot.uptime),
        snapshot.policy.name(),
        if vms == 1 { "" } else { "s" },
    )?;
    let used = host.mem_total.saturating_sub(host.mem_available);
    let pressure = match host.pressure_some_avg10 {
        Some(share) => format!("{share:.2} %"),
        None => "unknown".to_owned(),
    };
    let swap = match host.swap_total {
        0 => "none".to_owned(),
        total => format!("used {}", format::bytes_of(host.swap_used, total)),
    };
    writeln!(
        out,
        "memory used {}  swap {swap}  pressure {pressure}",
        format::bytes_of(used, host.mem_total)
    )?;
    let counters = &host.counters;
    writeln!(
        out,
        "events lost {}  undecodable {}  unattributed {}  unproven {}  table-full {}  ambiguous {}  faults {}  hypercalls {}  unmaps {}",
        counters.lost,
        counters.undecodable,
        counters.unattributed,
        counters.unproven,
        counters.table_full,
        counters.ambiguous,
        counters.page_faults,
        counters.hypercalls,
        counters.unmaps,
    )?;
    if let (failed, all, Some(first)) = host_line::failed_probes(host) {
        let first = format::printable(&first, false);
        writeln!(out, "warning: {failed} of {all} probes failed: {first}; see `imr doctor`")?;
    }
    Ok(())
}

fn table(out: &mut String, vms: &[VmSnapshot]) -> std::fmt::Result {
    let names: Vec<String> = vms.iter().map(|vm| format::printable(&vm.name, false)).collect();
    let name_width = names.iter().map(|name| format::width(name)).max().unwrap_or(0).max(4);
    let rows: Vec<[String; COLUMNS.len()]> =
        vms.iter().map(|vm| COLUMNS.map(|(_, value)| value(vm))).collect();
    let mut widths = COLUMNS.map(|(heading, _)| heading.len());
    for row in &rows {
        for (width, value) in widths.iter_mut().zip(row) {
            *width = (*width).max(value.len());
        }
    }
    write!(out, "{}", format::left("NAME", name_width, '~'))?;
    for ((heading, _), width) in COLUMNS.iter().zip(widths) {
        write!(out, "  {heading:>width$}")?;
    }
    writeln!(out, "  STATUS")?;
    for ((name, row), vm) in names.iter().zip(&rows).zip(vms) {
        write!(out, "{}", format::left(name, name_width, '~'))?;
        for (value, width) in row.iter().zip(widths) {
            write!(out, "  {value:>width$}")?;
        }
        writeln!(out, "  {}", format::printable(&columns::status(vm, false).0, false))?;
    }
    Ok(())
}

/// What guests say against what the host knows, all VMs together: a line a claim, only facts that there are.
fn cross(out: &mut String, vms: &[VmSnapshot]) -> std::fmt::Result {
    let mut sum = CrossTable::default();
    for vm in vms {
        sum.add(&vm.cross);
    }
    for claim in GuestClaim::ALL {
        let of_claim = sum.sum(|other, _| other == claim);
        if of_claim.blocks == 0 {
            continue;
        }
        let total = format::bytes(of_claim.bytes());
        let held = format::bytes(of_claim.resident_bytes());
        write!(out, "guests say {}: {total}, {held} resident:", claim.name())?;
        let cells = HostFact::ALL.into_iter().map(|fact| (fact, sum.cell(claim, fact)));
        for (fact, cell) in cells.filter(|(_, cell)| cell.blocks > 0) {
            write!(out, "  {} {}", fact.name(), format::bytes_short(cell.bytes()))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn answered(vm: &VmSnapshot, micros: u64) -> String {
    if vm.latency.total.count == 0 { "-".to_owned() } else { format::micros(micros) }
}
