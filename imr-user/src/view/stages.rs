//! The view "latencies of each stage": how long an offer takes on its way, for the selected VM and for all of them.
//!
//! Input: the [`StageSummaries`] of each VM. Output: cells; a page that scrolls, of which only the visible part of the
//! table of VMs is made.

mod figures;
#[cfg(test)]
mod tests;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use self::figures::{STAGES, bar, of_all, scale};
use super::context::{Action, Context, Response};
use super::format;
use super::layout::{Piece, draw, fit};
use super::page::{self, Scroll};
use super::theme::{Role, Theme};
use crate::model::latency::{LatencySummary, StageSummaries};
use crate::model::snapshot::VmSnapshot;

/// Columns of a stage's name, and where there is little room.
const NAMES: [usize; 2] = [14, 8];
/// Columns of a figure with the gap before it; the first of several has [`FIRST_MORE`] more.
const FIGURE: usize = 6;
const FIRST_MORE: usize = 2;
/// Columns of four figures.
const FIGURES: usize = 4 * FIGURE + FIRST_MORE;
/// Most columns of a bar.
const BAR_MOST: usize = 36;
/// Rows up to which the total comes before its parts.
const LOW: u16 = 7;
/// Rows from which the parts are set apart.
const ROOMY: u16 = 24;
/// Columns of a VM's name in the table of VMs.
const VM_NAME: usize = 24;

/// Its state.
#[derive(Debug, Clone, Default)]
pub(crate) struct StagesState {
    scroll: Scroll,
}

/// What scrolls: lines, and a row for each VM after them.
struct Contents<'a> {
    head: Vec<Line<'static>>,
    vms: Vec<&'a VmSnapshot>,
}

pub(crate) fn paint(state: &StagesState, context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    let theme = context.theme;
    let columns = usize::from(area.width);
    let contents = contents(context, area);
    let (title_rows, rows) = rows(area);
    let mut lines = Vec::new();
    if title_rows > 0 {
        let name = page::subject(context, context.vm);
        let position = state.scroll.position(contents.len(), rows);
        let rest = [position, "how long the stages of an offer take".to_owned()];
        let rest = rest.into_iter().filter(|text| !text.is_empty()).collect();
        lines.push(page::title(theme, name, rest, columns));
    }
    let first = state.scroll.first(contents.len(), rows);
    for at in (first..contents.len()).take(rows) {
        lines.push(match contents.head.get(at) {
            Some(line) => line.clone(),
            None => {
                let vm = contents.vms[at - contents.head.len()];
                vm_row(theme, vm, context.vm.is_some_and(|selected| selected.id == vm.id), columns)
            }
        });
    }
    draw(buffer, area, &lines);
}

pub(crate) fn act(state: &mut StagesState, action: Action, context: &Context<'_>, area: Rect) -> Response {
    let (len, (_, rows)) = (contents(context, area).len(), rows(area));
    if state.scroll.act(action, len, rows) { Response::Done } else { Response::Ignored }
}

/// Rows of the title and of what scrolls.
fn rows(area: Rect) -> (usize, usize) {
    let title = usize::from(area.height >= 4);
    (title, usize::from(area.height) - title)
}

impl Contents<'_> {
    fn len(&self) -> usize {
        self.head.len() + self.vms.len()
    }
}

fn contents<'a>(context: &Context<'a>, area: Rect) -> Contents<'a> {
    let theme = context.theme;
    let columns = usize::from(area.width);
    let (mut head, explained) = table(context, columns, area.height <= LOW);
    let part = |head: &mut Vec<Line<'static>>, lines: Vec<Line<'static>>| {
        if area.height >= ROOMY {
            head.push(Line::default());
        }
        head.extend(lines);
    };
    if let Some(vm) = context.vm {
        part(&mut head, counters(theme, vm, columns));
    }
    part(&mut head, explained);
    part(&mut head, vec![vm_heading(theme, columns)]);
    let mut vms: Vec<&VmSnapshot> = context.snapshot.vms.iter().collect();
    // Slowest first; those without an offer keep their order at the end.
    vms.sort_by_key(|vm| {
        std::cmp::Reverse((vm.latency.total.count > 0, vm.latency.total.p99_us, vm.latency.total.max_us))
    });
    Contents { head, vms }
}

/// The stages, one a row; and what each of them is, where it was not said in its row, and the rest of the legend.
fn table(
    context: &Context<'_>,
    columns: usize,
    total_first: bool,
) -> (Vec<Line<'static>>, Vec<Line<'static>>) {
    let theme = context.theme;
    let mut stages = STAGES;
    if total_first {
        stages.rotate_right(1);
    }
    let narrow = columns < NAMES[0] + FIGURES;
    let name_columns = NAMES[usize::from(narrow)];
    let figures = if narrow { columns.saturating_sub(name_columns) / FIGURE } else { 4 };
    // The selected VM first; all of them beside it, or where there is no selected VM.
    let mut shown: Vec<(&str, StageSummaries)> = Vec::new();
    shown.extend(context.vm.map(|vm| ("VM", vm.latency)));
    if shown.is_empty() || columns >= name_columns + 2 * FIGURES {
        shown.push(("all", of_all(&context.snapshot.vms)));
    }
    let spare = columns.saturating_sub(name_columns + shown.len() * FIGURES + 2);
    let widest = stages.iter().map(|stage| stage.text.len()).max().unwrap_or(0);
    let inline = spare >= widest + 18;
    let bar_columns = (if inline { spare - widest - 2 } else { spare }).min(BAR_MOST);
    let bar_columns = if bar_columns >= 10 && !narrow { bar_columns } else { 0 };
    let mut heading = format::left("STAGE", name_columns, ' ');
    for (whose, _) in &shown {
        heading.push_str(&figures_heading(whose, figures));
    }
    if bar_columns > 0 {
        heading.push_str(&format!("  {}", scale(bar_columns)));
    }
    let heading = format::left(&heading, columns, ' ');
    let mut lines = vec![Line::from(Span::styled(heading, theme.style(Role::Heading)))];
    for stage in &stages {
        let role = if stage.whole { Role::Title } else { Role::Text };
        let name = format::left(if narrow { stage.short } else { stage.name }, name_columns, ' ');
        let mut spans = vec![Span::styled(name, theme.style(role))];
        for (_, summaries) in &shown {
            spans.push(Span::raw(figures_of((stage.of)(summaries), figures)));
        }
        if bar_columns > 0 {
            spans.push(Span::raw("  "));
            let first = shown.first().map(|(_, summaries)| (stage.of)(summaries)).unwrap_or_default();
            spans.extend(bar(theme, first, bar_columns));
        }
        if inline {
            spans.push(Span::styled(format!("  {}", stage.text), theme.style(Role::Dim)));
        }
        lines.push(Line::from(spans));
    }
    let mut explained = Vec::new();
    let mut say = |text: &str| explained.extend(page::paragraph(theme, Role::Dim, text, 2, columns));
    for stage in stages.iter().filter(|_| !inline) {
        say(&format!("{}: {}.", stage.name, stage.text));
    }
    say(
        "Percentiles are of the newest 512 offers of a VM; max and count since the start. All VMs: p50 of the middle \
         VM, p99 and max of the slowest.",
    );
    if bar_columns > 0 {
        let (full, empty) = theme.gauge();
        say(&format!("Bars, logarithmic: {full} up to p50, {empty} up to p99, | max."));
    }
    (lines, explained)
}

fn figures_heading(whose: &str, figures: usize) -> String {
    let first = format!("{whose} p50");
    joined([first.trim_start(), "p99", "max", "count"].map(str::to_owned), figures)
}

fn figures_of(summary: LatencySummary, figures: usize) -> String {
    let figure = |value: u64| if summary.count == 0 { "-".to_owned() } else { format::micros(value) };
    let [p50, p99, max] = [summary.p50_us, summary.p99_us, summary.max_us].map(figure);
    joined([p50, p99, max, format::count(summary.count)], figures)
}

/// The first so many of four figures.
fn joined(texts: [String; 4], figures: usize) -> String {
    let first = if figures < 4 { FIGURE } else { FIGURE + FIRST_MORE };
    let widths = [first, FIGURE, FIGURE, FIGURE];
    texts.iter().zip(widths).take(figures).map(|(text, width)| format!("{text:>width$}")).collect()
}

/// How the offers, ranges and calls of a VM ended.
fn counters(theme: Theme, vm: &VmSnapshot, columns: usize) -> Vec<Line<'static>> {
    let dim = theme.style(Role::Dim);
    let row = |label: &'static str, facts: Vec<(u8, &'static str, u64, bool)>| {
        let pieces = facts.into_iter().map(|(weight, label, value, remarkable)| {
            let role = if remarkable && value > 0 { Role::Warn } else { Role::Text };
            let value = Span::styled(format::count(value), theme.style(role));
            Piece::new(weight, vec![Span::styled(format!("{label} "), dim), value])
        });
        let mut line = Line::from(Span::styled(format!("{label:<8}"), dim));
        line.spans.extend(fit(pieces.collect(), columns.saturating_sub(8), "  ").spans);
        line
    };
    let offers = vm.offers;
    vec![
        row(
            "offers",
            vec![
                (9, "claimed", offers.claimed, false),
                (8, "done", offers.done, false),
                (7, "revoked", offers.revoked, false),
                (6, "abandoned", offers.abandoned, true),
            ],
        ),
        row(
            "ranges",
            vec![
                (9, "reclaimed", offers.ranges_reclaimed, false),
                (8, "kept", offers.ranges_kept, false),
                (7, "refused", offers.ranges_refused, true),
            ],
        ),
        row(
            "calls",
            vec![
                (3, "hello", offers.hellos, false),
                (4, "doorbell", offers.doorbells, false),
                (9, "denied", offers.denied_calls, true),
                (8, "malformed", offers.malformed, true),
                (7, "limited", offers.limited_calls, true),
                (6, "stale", offers.stale_calls, true),
                (5, "resets", offers.resets, false),
            ],
        ),
    ]
}

/// Columns of the name, figures shown, and whether two stages have room besides.
fn vm_columns(columns: usize) -> (usize, usize, bool) {
    let figures = if columns < 1 + 8 + FIGURES { columns.saturating_sub(1 + 8) / FIGURE } else { 4 };
    let taken = if figures < 4 { figures * FIGURE } else { FIGURES };
    let name = columns.saturating_sub(taken + 1).min(VM_NAME);
    (name, figures, columns >= 1 + name + FIGURES + 2 * 20)
}

fn vm_heading(theme: Theme, columns: usize) -> Line<'static> {
    let (name, figures, wide) = vm_columns(columns);
    let title = format::left(if name < 16 { "TOTALS" } else { "TOTAL OF EACH VM" }, name, theme.ellipsis());
    let mut text = format!(" {title}{}", figures_heading("", figures));
    if wide {
        text.push_str(&format!("{:>20}{:>20}", "reclaim p50/p99", "notifier p50/p99"));
    }
    Line::from(Span::styled(format::left(&text, columns, ' '), theme.style(Role::Heading)))
}

fn vm_row(theme: Theme, vm: &VmSnapshot, selected: bool, columns: usize) -> Line<'static> {
    let (name_columns, figures, wide) = vm_columns(columns);
    let mark = if selected { theme.mark() } else { ' ' };
    let name = format::printable(&vm.name, theme.ascii());
    let mut text = format!("{mark}{}", format::left(&name, name_columns, theme.ellipsis()));
    text.push_str(&figures_of(vm.latency.total, figures));
    if wide {
        for summary in [vm.latency.reclaim, vm.latency.notifier] {
            let pair = match summary.count {
                0 => "-".to_owned(),
                _ => format!("{}/{}", format::micros(summary.p50_us), format::micros(summary.p99_us)),
            };
            text.push_str(&format!("{pair:>20}"));
        }
    }
    let role = match (selected, vm.latency.total.count) {
        (true, _) => Role::Selected,
        (false, 0) => Role::Dim,
        (false, _) => Role::Text,
    };
    Line::from(Span::styled(text, theme.style(role)))
}
