//! The view "decision log": every decision that is kept, what they come to, and the selected one's reason in full.
//!
//! Input: the decisions of a snapshot. Output: cells. The newest is on top and followed until somebody moves away from
//! it; then the selected decision stays selected, and where it is, while others come.

mod summary;
#[cfg(test)]
mod tests;

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};

use super::context::{Action, Context, Response};
use super::decisions;
use super::format;
use super::layout::{draw, rule, scroll, split};
use super::page::{self, Scope};
use super::theme::Role;
use crate::model::decision::{Decision, DecisionKind};
use crate::model::ids::VmId;

/// Width from which guards and offers have columns of their own.
const WIDE: usize = 110;
/// Width from which the time is shown, and the VM.
const TIMED: usize = 56;
const NAMED: usize = 30;
/// Most rows of the reason, with the rule above it.
const REASON_MOST: u16 = 6;
/// Columns of a VM's name and of a guard's.
const NAMES: [usize; 2] = [10, 24];
const GUARD: usize = 16;

/// Its state.
#[derive(Debug, Clone)]
pub(crate) struct LogState {
    scope: Scope,
    /// The selected decision; `None`: the newest, whichever that is.
    selected: Option<Anchor>,
    /// Row of the list that the selected decision is in.
    row: usize,
}

impl Default for LogState {
    fn default() -> Self {
        // What just happened anywhere is what people look for first.
        Self { scope: Scope::All, selected: None, row: 0 }
    }
}

/// What tells a decision from others as they come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Anchor {
    unix_ms: u64,
    vm: VmId,
    kind: DecisionKind,
    offer_seq: u64,
    /// Older decisions that are the same in all this.
    same_before: usize,
}

/// The parts of the screen.
struct Parts {
    title: Rect,
    summary: Rect,
    list: Rect,
    reason: Rect,
}

pub(crate) fn paint(state: &LogState, context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    let area = area.intersection(buffer.area);
    let theme = context.theme;
    let columns = usize::from(area.width);
    let shown = shown(state, context);
    let selected = state.index(&shown);
    let parts = parts(context, &shown, area);

    let whose = page::subject(context, state.scope.vm(context));
    let following = match state.selected {
        None => "following the newest".to_owned(),
        Some(_) => format!("{} of {}", selected + 1, shown.len()),
    };
    draw(buffer, parts.title, &[page::title(theme, format!("decisions: {whose}"), vec![following], columns)]);
    draw(buffer, parts.summary, &summary::lines(theme, &shown, columns, parts.summary.height.into()));
    if shown.is_empty() {
        let text = if context.snapshot.decisions.is_empty() {
            "none yet: a decision follows each offer of a guest"
        } else {
            "none about this VM"
        };
        draw(buffer, parts.list, &[Line::from(Span::styled(text, theme.style(Role::Dim)))]);
        return;
    }
    let rows = usize::from(parts.list.height);
    let first = first_row(state.row, selected, rows, shown.len());
    let visible = shown.iter().enumerate().skip(first).take(rows);
    let lines: Vec<_> =
        visible.map(|(at, decision)| row(context, decision, at == selected, columns)).collect();
    draw(buffer, parts.list, &lines);
    draw(buffer, parts.reason, &reason(context, shown[selected], columns, parts.reason.height));
}

pub(crate) fn act(state: &mut LogState, action: Action, context: &Context<'_>, area: Rect) -> Response {
    let shown = shown(state, context);
    let rows = usize::from(parts(context, &shown, area).list.height);
    let selected = state.index(&shown);
    let to = match action {
        Action::Enter if context.vm.is_some() => {
            *state = LogState { scope: state.scope, ..LogState::default() };
            state.scope.toggle();
            return Response::Done;
        }
        Action::Click(at) => {
            let list = parts(context, &shown, area).list;
            let Some(row) = clicked(list, at) else { return Response::Ignored };
            let at = first_row(state.row, selected, rows, shown.len()) + row;
            if at >= shown.len() {
                return Response::Ignored;
            }
            at
        }
        _ => match page::moved(action, selected, rows) {
            Some(to) => to.min(shown.len().saturating_sub(1)),
            None => return Response::Ignored,
        },
    };
    let first = first_row(state.row, selected, rows, shown.len());
    state.select(&shown, to, scroll(first, to, rows, shown.len()));
    Response::Done
}

impl LogState {
    /// Position of the selected decision; the oldest where it has left the log.
    fn index(&self, shown: &[&Decision]) -> usize {
        let Some(anchor) = self.selected else { return 0 };
        let mut same = shown.iter().enumerate().filter(|(_, decision)| anchor.is_like(decision));
        let found = same.clone().count().checked_sub(anchor.same_before + 1).and_then(|at| same.nth(at));
        found.map_or(shown.len().saturating_sub(1), |(at, _)| at)
    }

    /// Selects the decision there, the list beginning with number `first`.
    fn select(&mut self, shown: &[&Decision], to: usize, first: usize) {
        self.row = to.saturating_sub(first);
        self.selected = shown.get(to).filter(|_| to > 0).map(|decision| {
            let mut anchor = Anchor {
                unix_ms: decision.unix_ms,
                vm: decision.vm,
                kind: decision.kind,
                offer_seq: decision.offer_seq,
                same_before: 0,
            };
            anchor.same_before = shown[to + 1..].iter().filter(|older| anchor.is_like(older)).count();
            anchor
        });
    }
}

impl Anchor {
    fn is_like(&self, decision: &Decision) -> bool {
        (self.unix_ms, self.vm, self.kind, self.offer_seq)
            == (decision.unix_ms, decision.vm, decision.kind, decision.offer_seq)
    }
}

/// The decisions that are wanted, the newest first.
fn shown<'a>(state: &LogState, context: &Context<'a>) -> Vec<&'a Decision> {
    let vm = state.scope.vm(context).map(|vm| vm.id);
    let wanted = |decision: &&Decision| vm.is_none_or(|id| decision.vm == id);
    context.snapshot.decisions.iter().rev().filter(wanted).collect()
}

fn parts(context: &Context<'_>, shown: &[&Decision], area: Rect) -> Parts {
    let columns = usize::from(area.width);
    let height = area.height;
    let (title, below) = split(area, u16::from(height >= 3));
    let most = match height {
        0..8 => 0,
        8..16 => 1,
        _ => height / 4,
    };
    let lines = summary::lines(context.theme, shown, columns, most.into()).len();
    let (summary, below) = split(below, lines as u16);
    // Of one height for all reasons: the list must not jump under somebody who walks through it.
    let reason_rows = if height < 5 || shown.is_empty() { 0 } else { (height / 4).clamp(1, REASON_MOST) };
    let (list, reason) = split(below, below.height.saturating_sub(reason_rows));
    Parts { title, summary, list, reason }
}

/// First decision of the list, so that the selected one is in its row.
fn first_row(row: usize, selected: usize, rows: usize, len: usize) -> usize {
    let row = row.min(rows.saturating_sub(1));
    selected.saturating_sub(row).min(len.saturating_sub(rows))
}

fn clicked(list: Rect, at: Position) -> Option<usize> {
    list.contains(at).then(|| usize::from(at.y - list.y))
}

fn row(context: &Context<'_>, decision: &Decision, selected: bool, columns: usize) -> Line<'static> {
    let theme = context.theme;
    let base = theme.style(if selected { Role::Selected } else { Role::Text });
    let dim = if selected { base } else { theme.style(Role::Dim) };
    let kind = if selected { base } else { theme.style(decisions::role(decision.kind)) };
    let wide = columns >= WIDE;
    let name = format::printable(&decisions::vm_name(context.snapshot, decision), theme.ascii());
    let amount = if decision.bytes > 0 { format::bytes_short(decision.bytes) } else { String::new() };
    let mark = if selected { theme.mark() } else { ' ' };
    let left = |text: &str, columns| format::left(text, columns, theme.ellipsis());
    let mut spans = vec![Span::styled(mark.to_string(), base)];
    if columns >= TIMED {
        spans.push(Span::styled(format!("{} ", format::clock_utc(decision.unix_ms)), dim));
    }
    spans.push(Span::styled(format!("{:<9} ", decisions::name(decision.kind)), kind));
    spans.push(Span::styled(format!("{amount:>5} "), base));
    if columns >= NAMED {
        spans.push(Span::styled(format!("{} ", left(&name, NAMES[usize::from(wide)])), base));
    }
    let guard = decision.guard.as_deref().map(|guard| format::printable(guard, theme.ascii()));
    let mut why = String::new();
    if wide {
        let offer =
            if decision.offer_seq > 0 { format!("offer {}", decision.offer_seq) } else { String::new() };
        spans.push(Span::styled(format!("{} ", left(&guard.unwrap_or_default(), GUARD)), base));
        spans.push(Span::styled(format!("{} ", left(&offer, 12)), dim));
    } else if let Some(guard) = guard {
        why = format!("{guard}: ");
    }
    why.push_str(&format::printable(&decision.why, theme.ascii()));
    let taken: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::styled(left(&why, columns.saturating_sub(taken)), base));
    Line::from(spans)
}

/// All of a decision, for so many rows.
fn reason(context: &Context<'_>, decision: &Decision, columns: usize, rows: u16) -> Vec<Line<'static>> {
    let theme = context.theme;
    let mut facts = vec![
        decisions::vm_name(context.snapshot, decision),
        format!("{} {}", format::clock_utc(decision.unix_ms), decisions::name(decision.kind)),
    ];
    if decision.bytes > 0 {
        facts.push(format::bytes(decision.bytes));
    }
    if decision.offer_seq > 0 {
        facts.push(format!("offer {}", decision.offer_seq));
    }
    if let Some(guard) = &decision.guard {
        facts.push(format!("by {guard}"));
    }
    let text = format!("{}: {}", facts.join(", "), decision.why);
    let text = format::printable(&text, theme.ascii());
    let mut lines = Vec::new();
    if rows >= 3 {
        lines.push(rule(theme, vec![Span::raw("why")], columns));
    }
    lines.extend(page::paragraph(theme, Role::Text, &text, 2, columns));
    lines
}
