//! The lines about the host: what runs where, memory, swap and pressure, and every event that was lost.
//!
//! Input: a snapshot and the state of the screen. Output: lines, the most important first when there is little room.

use ratatui::text::{Line, Span};

use super::app::App;
use super::format;
use super::layout::{Piece, fit};
use super::tabs::View;
use super::theme::{Role, Theme};
use crate::model::regret::{HostPressure, PressureState};
use crate::model::snapshot::{EventCounters, HostSnapshot, PolicyName, ProbeState, Snapshot};

/// Columns of the memory gauge.
const GAUGE: usize = 12;

/// How many lines [`lines`] has when there is room for all.
pub(crate) fn wanted_rows(snapshot: &Snapshot) -> u16 {
    if failed_probes(&snapshot.host).0 > 0 { 4 } else { 3 }
}

/// The host lines, at most `rows` of them, each fitted to `columns`. `view` is to be named in the first where no other
/// line does.
pub(crate) fn lines(
    app: &App,
    snapshot: &Snapshot,
    view: Option<View>,
    (columns, rows): (usize, usize),
) -> Vec<Line<'static>> {
    let theme = app.theme();
    if snapshot.sequence == 0 {
        // Nothing has been read yet, and zeros would look like facts.
        return vec![title(app, snapshot, view, columns)];
    }
    let losses = any_loss(&snapshot.host.counters);
    // Rank of each line when there is no room for all: a loss outranks the memory of the host.
    let mut ranked = vec![
        (0, title(app, snapshot, view, columns)),
        (if losses { 3 } else { 1 }, memory(theme, &snapshot.host, columns)),
        (2, events(theme, &snapshot.host.counters, columns)),
    ];
    if let Some(line) = probes(theme, &snapshot.host, columns) {
        ranked.push((1, line));
    }
    while ranked.len() > rows {
        let least = ranked.iter().map(|(rank, _)| *rank).max().unwrap_or(0);
        match ranked.iter().rposition(|(rank, _)| *rank == least) {
            Some(index) => ranked.remove(index),
            None => break,
        };
    }
    ranked.into_iter().map(|(_, line)| line).collect()
}

/// Failed probes, all probes, and what is wrong with the first that failed.
pub(crate) fn failed_probes(host: &HostSnapshot) -> (usize, usize, Option<String>) {
    let mut failed = host.probes.iter().filter_map(|probe| match &probe.state {
        ProbeState::Failed(why) => Some(format!("{} ({why})", probe.hook)),
        ProbeState::Attached | ProbeState::NotNeeded(_) | ProbeState::StoodIn { .. } => None,
    });
    let first = failed.next();
    (usize::from(first.is_some()) + failed.count(), host.probes.len(), first)
}

/// What no operator should have to look for.
pub(crate) fn any_loss(counters: &EventCounters) -> bool {
    counters.lost > 0 || counters.undecodable > 0 || counters.table_full > 0
}

fn title(app: &App, snapshot: &Snapshot, view: Option<View>, columns: usize) -> Line<'static> {
    let theme = app.theme();
    let dim = theme.style(Role::Dim);
    let text = |text: &str| format::printable(text, theme.ascii());
    let mut pieces = vec![Piece::new(90, vec![Span::styled("imr-top", theme.style(Role::Title))])];
    if let Some(view) = view {
        let name = format!("[{} {}]", view.digit(), view.title());
        pieces.push(Piece::new(98, vec![Span::styled(name, theme.style(Role::Heading))]));
    }
    if app.paused() {
        let at = format!(" PAUSED at {} UTC ", format::clock_utc(snapshot.unix_ms));
        pieces.push(Piece::new(100, vec![Span::styled(at, theme.style(Role::Bad))]));
    } else if let Some(seconds) = app.stale() {
        let at = format!(" no sample for {seconds} s ");
        pieces.push(Piece::new(95, vec![Span::styled(at, theme.style(Role::Bad))]));
    }
    if snapshot.sequence > 0 {
        let name = text(&snapshot.host.name);
        let role = if snapshot.policy == PolicyName::Observe { Role::Warn } else { Role::Good };
        pieces.push(Piece::new(60, vec![Span::raw(name)]));
        pieces.push(Piece::new(50, vec![Span::raw(format!("Linux {}", text(&snapshot.host.kernel)))]));
        let uptime = format::uptime(snapshot.uptime);
        pieces.push(Piece::new(40, vec![Span::styled("up ", dim), Span::raw(uptime)]));
        let policy = Span::styled(snapshot.policy.name(), theme.style(role));
        pieces.push(Piece::new(70, vec![Span::styled("policy ", dim), policy]));
        let vms = match snapshot.vms.len() {
            1 => "1 VM".to_owned(),
            many => format!("{many} VMs"),
        };
        pieces.push(Piece::new(55, vec![Span::raw(vms)]));
        let delay = Span::raw(format::delay(app.delay()));
        pieces.push(Piece::new(45, vec![Span::styled("every ", dim), delay]));
    }
    fit(pieces, columns, "  ")
}

fn memory(theme: Theme, host: &HostSnapshot, columns: usize) -> Line<'static> {
    let dim = theme.style(Role::Dim);
    let used = host.mem_total.saturating_sub(host.mem_available);
    let percent = format::percent(used, host.mem_total);
    let role = match percent {
        0..80 => Role::Good,
        80..95 => Role::Warn,
        _ => Role::Bad,
    };
    let (full, empty) = theme.gauge();
    let filled = (usize::try_from(percent).unwrap_or(100) * GAUGE).div_ceil(100).min(GAUGE);
    let gauge = vec![
        Span::styled(full.to_string().repeat(filled), theme.style(role)),
        Span::styled(empty.to_string().repeat(GAUGE - filled), dim),
    ];
    let memory = vec![
        Span::styled("memory ", dim),
        Span::raw(format!("{} {percent} %", format::bytes_of(used, host.mem_total))),
    ];
    let swap = if host.swap_total == 0 {
        vec![Span::styled("swap ", dim), Span::raw("none")]
    } else {
        let style = theme.style(if host.swap_used > 0 { Role::Warn } else { Role::Text });
        let text = format::bytes_of(host.swap_used, host.swap_total);
        vec![Span::styled("swap ", dim), Span::styled(text, style)]
    };
    let pressure = match host.pressure_some_avg10 {
        Some(share) => {
            let style = theme.style(if share >= 1.0 { Role::Warn } else { Role::Text });
            vec![Span::styled("pressure ", dim), Span::styled(format!("{share:.2} %"), style)]
        }
        None => vec![Span::styled("pressure unknown", dim)],
    };
    let mut pieces =
        vec![Piece::new(1, gauge), Piece::new(9, memory), Piece::new(5, swap), Piece::new(6, pressure)];
    if let Some(state) = &host.pressure {
        pieces.push(Piece::new(8, vec![short_of(theme, state)]));
    }
    fit(pieces, columns, "  ")
}

/// What policy pressure makes of the host.
fn short_of(theme: Theme, host: &HostPressure) -> Span<'static> {
    match host.state {
        PressureState::Calm => Span::styled("calm", theme.style(Role::Good)),
        PressureState::Pressed => {
            let text = format!("PRESSED, {} missing", format::bytes(host.missing_bytes));
            Span::styled(text, theme.style(Role::Bad))
        }
    }
}

fn events(theme: Theme, counters: &EventCounters, columns: usize) -> Line<'static> {
    let fact = |weight: u8, label: &'static str, value: u64, bad: Role| {
        let role = if value > 0 { bad } else { Role::Dim };
        Piece::new(weight, vec![Span::styled(format!("{label} {}", format::count(value)), theme.style(role))])
    };
    let pieces = vec![
        Piece::new(100, vec![Span::styled("events", theme.style(Role::Dim))]),
        fact(90, "lost", counters.lost, Role::Bad),
        fact(80, "undecodable", counters.undecodable, Role::Bad),
        fact(70, "unattributed", counters.unattributed, Role::Warn),
        fact(if counters.table_full > 0 { 85 } else { 50 }, "table full", counters.table_full, Role::Bad),
        fact(if counters.ambiguous > 0 { 65 } else { 40 }, "ambiguous", counters.ambiguous, Role::Warn),
        fact(30, "faults", counters.page_faults, Role::Text),
        fact(28, "hypercalls", counters.hypercalls, Role::Text),
        fact(12, "unmaps", counters.unmaps, Role::Text),
        fact(10, "sptes set", counters.sptes_set, Role::Text),
        fact(10, "zapped", counters.sptes_zapped, Role::Text),
    ];
    fit(pieces, columns, "  ")
}

fn probes(theme: Theme, host: &HostSnapshot, columns: usize) -> Option<Line<'static>> {
    let (failed, all, first) = failed_probes(host);
    let first = first?;
    let advice = ": see `imr doctor`";
    let head = format!("{failed} of {all} probes failed");
    let room = columns.saturating_sub(head.len() + advice.len() + 2);
    let mut spans = vec![Span::styled(head, theme.style(Role::Warn)), Span::raw(advice)];
    if room >= 16 {
        let text = format::cut(&format::printable(&first, theme.ascii()), room, theme.ellipsis());
        spans.push(Span::styled(format!("  {text}"), theme.style(Role::Dim)));
    }
    Some(Line::from(spans))
}
