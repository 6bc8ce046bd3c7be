//! What decisions come to: how many and how much of each kind, and of those that took nothing, by which guard or policy.
//!
//! Input: decisions. Output: lines, as many as there is room for.

use std::collections::BTreeMap;

use ratatui::text::{Line, Span};

use crate::model::decision::{Decision, DecisionKind};
use crate::view::decisions::{KINDS, name, role};
use crate::view::format;
use crate::view::layout::{Piece, wrap};
use crate::view::theme::{Role, Theme};

/// How many, and how many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) count: u64,
    pub(super) bytes: u64,
}

impl Tally {
    fn add(&mut self, decision: &Decision) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(decision.bytes);
    }
}

/// By kind; kinds that did not occur are left out.
pub(super) fn by_kind(decisions: &[&Decision]) -> Vec<(DecisionKind, Tally)> {
    let mut tallies = KINDS.map(|kind| (kind, Tally::default()));
    for decision in decisions {
        if let Some((_, tally)) = tallies.iter_mut().find(|(kind, _)| *kind == decision.kind) {
            tally.add(decision);
        }
    }
    tallies.into_iter().filter(|(_, tally)| tally.count > 0).collect()
}

/// What took nothing, by the guard or policy that decided; the most frequent first.
pub(super) fn by_guard<'a>(decisions: &[&'a Decision]) -> Vec<(&'static str, &'a str, Tally)> {
    let mut tallies: BTreeMap<(&'static str, &'a str), Tally> = BTreeMap::new();
    for decision in decisions {
        if matches!(decision.kind, DecisionKind::Kept | DecisionKind::Refused | DecisionKind::Abandoned) {
            let guard = decision.guard.as_deref().unwrap_or("no guard");
            tallies.entry((name(decision.kind), guard)).or_default().add(decision);
        }
    }
    let mut tallies: Vec<_> =
        tallies.into_iter().map(|((kind, guard), tally)| (kind, guard, tally)).collect();
    tallies.sort_by_key(|(_, _, tally)| std::cmp::Reverse(tally.count));
    tallies
}

/// The summary in at most `rows` lines.
pub(super) fn lines(
    theme: Theme,
    decisions: &[&Decision],
    columns: usize,
    rows: usize,
) -> Vec<Line<'static>> {
    if rows == 0 || decisions.is_empty() {
        return Vec::new();
    }
    let dim = theme.style(Role::Dim);
    let piece = |label: String, role: Role, tally: Tally| {
        let mut spans =
            vec![Span::styled(format!("{label} "), theme.style(role)), Span::raw(format::count(tally.count))];
        if tally.bytes > 0 {
            spans.push(Span::styled(format!(" ({})", format::bytes(tally.bytes)), dim));
        }
        Piece::new(1, spans)
    };
    let mut kinds = vec![Piece::new(1, vec![Span::styled(format!("newest {}:", decisions.len()), dim)])];
    kinds.extend(
        by_kind(decisions).into_iter().map(|(kind, tally)| piece(name(kind).to_owned(), role(kind), tally)),
    );
    let mut lines = wrap(kinds, columns, "  ");
    let guards = by_guard(decisions);
    if !guards.is_empty() {
        let mut pieces = vec![Piece::new(1, vec![Span::styled("why not:", dim)])];
        pieces.extend(guards.into_iter().map(|(kind, guard, tally)| {
            let guard = format::printable(guard, theme.ascii());
            piece(format!("{guard}, {kind}"), Role::Text, tally)
        }));
        lines.extend(wrap(pieces, columns, "  "));
    }
    lines.truncate(rows);
    lines
}
