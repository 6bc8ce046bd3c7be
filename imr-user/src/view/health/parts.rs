//! The parts of the page below the findings: events, probes, baseline and drift, calls of each VM.
//!
//! Input: a snapshot. Output: the lines of each part, its title first. A thousand VMs cost a line each.

use ratatui::text::{Line, Span};

use super::findings::{COUNTERS, MISUSES, SHORTFALLS, Severity};
use crate::model::ids::FRAME_SIZE;
use crate::model::snapshot::{DriftCounters, ProbeState, ProbeStatus, ReturnCounters, Snapshot, VmSnapshot};
use crate::view::context::Context;
use crate::view::format;
use crate::view::layout::{Piece, wrap};
use crate::view::page;
use crate::view::theme::{Role, Theme};

/// Columns of a counter's name, of its value, and of a VM's name.
const NAME: usize = 13;
const VALUE: usize = 8;
const VM_NAME: usize = 24;
/// Columns of a number in a table of VMs with the gap before it, where there is room and where not.
const NUMBERS: [usize; 2] = [11, 7];

/// All parts in their order.
pub(super) fn all(context: &Context<'_>, columns: usize) -> Vec<Vec<Line<'static>>> {
    let (theme, snapshot) = (context.theme, context.snapshot);
    vec![
        events(theme, snapshot, columns),
        probes(theme, &snapshot.host.probes, columns),
        baseline(theme, snapshot, columns),
        drift(context, columns),
        returns(context, columns),
        calls(context, columns),
    ]
}

fn events(theme: Theme, snapshot: &Snapshot, columns: usize) -> Vec<Line<'static>> {
    let title = page::title(theme, "events".to_owned(), vec!["since the start".to_owned()], columns);
    let mut lines = vec![title];
    for counter in &COUNTERS {
        let value = (counter.value)(&snapshot.host.counters);
        let severity = counter.severity(&snapshot.host.counters);
        let marked = severity.is_some_and(|severity| severity != Severity::Note);
        let role = if marked { Role::Warn } else { Role::Text };
        let mark = if marked { '!' } else { ' ' };
        let spans = vec![
            Span::styled(format!("{mark}{:<NAME$}", counter.name), theme.style(role)),
            Span::styled(format!("{:>VALUE$}  ", format::count(value)), theme.style(role)),
        ];
        lines.extend(entry(theme, spans, counter.text, columns));
    }
    lines
}

/// What is attached, the worst first.
fn probes(theme: Theme, probes: &[ProbeStatus], columns: usize) -> Vec<Line<'static>> {
    let attached = probes.iter().filter(|probe| probe.state == ProbeState::Attached).count();
    let of = format!("{attached} of {} attached", probes.len());
    let mut lines = vec![page::title(theme, "probes".to_owned(), vec![of], columns)];
    let mut sorted: Vec<_> = probes.iter().map(|probe| (state(&probe.state), probe)).collect();
    sorted.sort_by_key(|((rank, ..), _)| *rank);
    for ((_, word, role, why), probe) in sorted {
        let text = if why.is_empty() { probe.hook.clone() } else { format!("{}: {why}", probe.hook) };
        let spans = vec![Span::styled(format!(" {word:<NAME$}"), theme.style(role))];
        lines.extend(entry(theme, spans, &format::printable(&text, theme.ascii()), columns));
    }
    lines
}

/// Rank among probes, word, role, and why it is so.
fn state(state: &ProbeState) -> (u8, &'static str, Role, String) {
    match state {
        ProbeState::Failed(why) => (0, "FAILED", Role::Bad, why.clone()),
        ProbeState::StoodIn { reason, by } => {
            (1, "stood in", Role::Warn, format!("{by} does its work, because {reason}"))
        }
        ProbeState::NotNeeded(why) => (2, "not needed", Role::Dim, why.clone()),
        ProbeState::Attached => (3, "attached", Role::Good, String::new()),
    }
}

fn baseline(theme: Theme, snapshot: &Snapshot, columns: usize) -> Vec<Line<'static>> {
    let host = &snapshot.host;
    let fact = |label: &'static str, value: String| {
        Piece::new(1, vec![Span::styled(format!(" {label} "), theme.style(Role::Dim)), Span::raw(value)])
    };
    let title =
        page::title(theme, "baseline".to_owned(), vec!["page tables against events".to_owned()], columns);
    let mut lines = vec![title];
    let facts = vec![
        fact("rounds", format::count(host.baseline.rounds)),
        fact("newest took", format!("{} ms", host.baseline.round_ms)),
        fact("cpu", format!("{:.2} % of a core", host.baseline.cpu_percent)),
        fact("memory of the model", format::bytes(host.model_bytes)),
    ];
    lines.extend(wrap(facts, columns, " "));
    lines
}

/// Where events and page tables disagreed.
fn drift(context: &Context<'_>, columns: usize) -> Vec<Line<'static>> {
    let theme = context.theme;
    let mut having: Vec<_> =
        context.snapshot.vms.iter().filter(|vm| vm.drift != DriftCounters::default()).collect();
    having.sort_by_key(|vm| std::cmp::Reverse(vm.drift.unseen_frames.saturating_add(vm.drift.stale_frames)));
    let rest = vec!["frames of 4 KiB, since the start".to_owned()];
    let mut lines = vec![page::title(theme, "drift".to_owned(), rest, columns)];
    if having.is_empty() {
        lines.push(dim(theme, " none: page tables and events agreed", columns));
        return lines;
    }
    lines.push(table_heading(theme, ["unseen", "bytes", "stale", "bytes"], columns));
    let total = having.iter().fold(DriftCounters::default(), |sum, vm| DriftCounters {
        unseen_frames: sum.unseen_frames + vm.drift.unseen_frames,
        stale_frames: sum.stale_frames + vm.drift.stale_frames,
    });
    let numbers = |drift: DriftCounters| {
        let bytes = |frames: u64| format::bytes_short(frames.saturating_mul(FRAME_SIZE));
        vec![
            format::count(drift.unseen_frames),
            bytes(drift.unseen_frames),
            format::count(drift.stale_frames),
            bytes(drift.stale_frames),
        ]
    };
    lines.push(table_row(theme, "all VMs", &numbers(total), Role::Title, columns));
    for vm in having {
        lines.push(vm_row(context, vm, &numbers(vm.drift), columns));
    }
    for text in [
        "unseen: had memory that no event had told of; the VMM itself touched it, or an event was lost.",
        "stale: events had told of a mapping and not of its end.",
        "Both are put right as they are found.",
    ] {
        lines.extend(page::paragraph(theme, Role::Dim, &format!(" {text}"), 2, columns));
    }
    lines
}

/// VMs whose calls were not answered, or that were reset.
fn calls(context: &Context<'_>, columns: usize) -> Vec<Line<'static>> {
    let theme = context.theme;
    let misused = |vm: &VmSnapshot| MISUSES.iter().map(|(_, count)| count(&vm.offers)).sum::<u64>();
    let mut having: Vec<_> =
        context.snapshot.vms.iter().filter(|vm| misused(vm) > 0 || vm.offers.resets > 0).collect();
    having.sort_by_key(|vm| std::cmp::Reverse((misused(vm), vm.offers.resets)));
    let rest = vec!["not answered, and resets, since the start".to_owned()];
    let mut lines = vec![page::title(theme, "calls of guests".to_owned(), rest, columns)];
    if having.is_empty() {
        lines.push(dim(theme, " every call was answered, and no VM was reset", columns));
        return lines;
    }
    lines.push(table_heading(theme, ["denied", "malf.", "limit", "stale", "resets"], columns));
    for vm in having {
        let mut numbers: Vec<_> = MISUSES.iter().map(|(_, count)| format::count(count(&vm.offers))).collect();
        numbers.push(format::count(vm.offers.resets));
        lines.push(vm_row(context, vm, &numbers, columns));
    }
    lines
}

/// VMs whose memory was taken, those first that have not given all back.
fn returns(context: &Context<'_>, columns: usize) -> Vec<Line<'static>> {
    let theme = context.theme;
    let short = |vm: &VmSnapshot| SHORTFALLS.iter().map(|(_, count)| count(&vm.returns)).sum::<u64>();
    let mut having: Vec<_> =
        context.snapshot.vms.iter().filter(|vm| vm.returns != ReturnCounters::default()).collect();
    having.sort_by_key(|vm| std::cmp::Reverse((short(vm), vm.returns.partial)));
    let rest = vec!["of what was taken, by offer, since the start".to_owned()];
    let mut lines = vec![page::title(theme, "memory that came back".to_owned(), rest, columns)];
    if having.is_empty() {
        lines.push(dim(theme, " nothing was taken yet", columns));
        return lines;
    }
    lines.push(table_heading(theme, ["left", "bytes", "untold", "all", "part", "none"], columns));
    for vm in having {
        let of = vm.returns;
        let numbers = [
            format::count(of.left),
            format::bytes_short(of.left_bytes),
            format::count(of.unnotified_calls),
            format::count(of.full),
            format::count(of.partial),
            format::count(of.not_resident),
        ];
        lines.push(vm_row(context, vm, &numbers, columns));
    }
    for text in [
        "left: memory was there after all where it had been taken; the VMM itself touched it, or the host kept it.",
        "untold: calls that took mapped memory and of which KVM was not told: its guest may still use the old page.",
        "part, none: some or all of it had not been resident, or the VM took up other memory meanwhile.",
    ] {
        lines.extend(page::paragraph(theme, Role::Dim, &format!(" {text}"), 2, columns));
    }
    lines
}

/// A text after its label, continued below itself.
fn entry(theme: Theme, label: Vec<Span<'static>>, text: &str, columns: usize) -> Vec<Line<'static>> {
    let taken: usize = label.iter().map(Span::width).sum();
    // Where the text would be a column of single words, it goes below the label.
    if columns < taken + 24 {
        let mut lines = vec![Line::from(label)];
        let style = theme.style(Role::Dim);
        let texts = page::words(text, columns.saturating_sub(2)).into_iter();
        lines.extend(texts.map(|part| Line::from(Span::styled(format!("  {part}"), style))));
        return lines;
    }
    let mut label = Some(label);
    let texts = page::words(text, columns - taken).into_iter();
    let lines = texts.map(|part| {
        let mut spans = label.take().unwrap_or_else(|| vec![Span::raw(" ".repeat(taken))]);
        spans.push(Span::styled(part, theme.style(Role::Dim)));
        Line::from(spans)
    });
    lines.collect()
}

fn dim(theme: Theme, text: &str, columns: usize) -> Line<'static> {
    Line::from(Span::styled(format::cut(text, columns, theme.ellipsis()), theme.style(Role::Dim)))
}

fn vm_row(context: &Context<'_>, vm: &VmSnapshot, numbers: &[String], columns: usize) -> Line<'static> {
    let selected = context.vm.is_some_and(|selected| selected.id == vm.id);
    let name = format::printable(&vm.name, context.theme.ascii());
    let role = if selected { Role::Selected } else { Role::Text };
    table_row(context.theme, &name, numbers, role, columns)
}

/// How a table of so many numbers is laid out: columns of the name, columns of a number, numbers for which there is room.
fn table(numbers: usize, columns: usize) -> (usize, usize, usize) {
    let [wide, narrow] = NUMBERS;
    let number = if columns > VM_NAME / 2 + numbers * wide { wide } else { narrow };
    let shown = numbers.min(columns.saturating_sub(5) / number);
    (columns.saturating_sub(1 + shown * number).min(VM_NAME), number, shown)
}

fn table_heading<const N: usize>(theme: Theme, headings: [&str; N], columns: usize) -> Line<'static> {
    let (name, number, shown) = table(N, columns);
    let mut text = format::left(" VM", name + 1, ' ');
    for heading in headings.iter().take(shown) {
        text.push_str(&format!("{heading:>number$}"));
    }
    Line::from(Span::styled(format::left(&text, columns, ' '), theme.style(Role::Heading)))
}

fn table_row(theme: Theme, name: &str, numbers: &[String], role: Role, columns: usize) -> Line<'static> {
    let (name_columns, number, shown) = table(numbers.len(), columns);
    let mark = if role == Role::Selected { theme.mark() } else { ' ' };
    let mut text = format!("{mark}{}", format::left(name, name_columns, theme.ellipsis()));
    for value in numbers.iter().take(shown) {
        text.push_str(&format!("{value:>number$}"));
    }
    Line::from(Span::styled(text, theme.style(role)))
}
