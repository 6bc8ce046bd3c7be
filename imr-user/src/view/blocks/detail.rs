//! The facts of the block under the cursor: where it is, what the guest says, what the host knows, and since when.
//!
//! Input: the block, its cell, the answer about it where that has come. Output: lines, the most important first.

use ratatui::text::{Line, Span};

use super::grid::Grid;
use super::map::range;
use super::regions::Region;
use crate::model::block::BlockState;
use crate::model::life::LifeStep;
use crate::model::snapshot::BlockDetail;
use crate::view::cells::{CellKind, Tally};
use crate::view::format;
use crate::view::layout::{Piece, fit, wrap};
use crate::view::theme::{Role, Theme};

/// Columns of the label before each line.
const LABEL: usize = 9;
/// Columns below which there are no labels and no words that can be spared.
const NARROW: usize = 48;

/// What the lines are about.
#[derive(Debug)]
pub(super) struct Subject<'a> {
    pub(super) theme: Theme,
    pub(super) region: &'a Region<'a>,
    pub(super) grid: &'a Grid,
    /// Number of the block.
    pub(super) block: u64,
    /// Its cell: the first block and the one after the last.
    pub(super) cell: (u64, u64),
    /// All that is known of it; `None` until it was asked for and answered.
    pub(super) detail: Option<&'a BlockDetail>,
}

/// The facts in at most `rows` lines of `columns`.
pub(super) fn lines(subject: &Subject<'_>, columns: usize, rows: usize) -> Vec<Line<'static>> {
    let state = subject.region.state(subject.block).unwrap_or_default();
    let mut lines = vec![heading(subject, state, columns)];
    if subject.grid.zoom > 0 {
        lines.push(cell(subject, columns));
    }
    lines.push(frames(subject, state, columns));
    if rows > lines.len() {
        lines.extend(history(subject, columns));
    }
    lines.truncate(rows);
    lines
}

fn heading(subject: &Subject<'_>, state: BlockState, columns: usize) -> Line<'static> {
    let theme = subject.theme;
    let dim = theme.style(Role::Dim);
    let (symbol, style) = theme.cell(CellKind::of(state));
    let symbol = Span::styled(symbol.to_string(), style);
    let bold = theme.style(Role::Key);
    if columns < NARROW {
        let pieces = vec![
            Piece::new(6, vec![symbol]),
            Piece::new(7, vec![Span::styled(format!("#{}", subject.block), dim)]),
            Piece::new(8, vec![Span::raw(state.claim.name())]),
            Piece::new(9, vec![Span::styled(state.fact.name(), bold)]),
        ];
        return fit(pieces, columns, " ");
    }
    let mut ids = Vec::new();
    let mut backings: Vec<String> = Vec::new();
    for slot in subject.region.slots_of(subject.block) {
        ids.push(slot.id.to_string());
        let backing = format::printable(&slot.backing, theme.ascii());
        if !backings.contains(&backing) {
            backings.push(backing);
        }
    }
    let word = if ids.len() == 1 { "slot" } else { "slots" };
    let number = Span::styled(format!(" block {}", subject.block), theme.style(Role::Title));
    let pieces = vec![
        Piece::new(8, vec![symbol, number]),
        Piece::new(9, vec![Span::styled("guest says ", dim), Span::styled(state.claim.name(), bold)]),
        Piece::new(9, vec![Span::styled("host ", dim), Span::styled(state.fact.name(), bold)]),
        Piece::new(7, vec![Span::raw(range(subject.block, subject.block.saturating_add(1)))]),
        Piece::new(6, vec![Span::styled(format!("{word} "), dim), Span::raw(ids.join(","))]),
        Piece::new(5, vec![Span::raw(backings.join(" + "))]),
    ];
    fit(pieces, columns, "  ")
}

/// What the blocks of a cell of several add up to.
fn cell(subject: &Subject<'_>, columns: usize) -> Line<'static> {
    let theme = subject.theme;
    let (first, end) = subject.cell;
    let tally: Tally = subject.region.tally(first, end);
    let count = Span::raw(format!("{} blocks", tally.total()));
    let mut pieces = vec![Piece::new(100, vec![count])];
    for (rank, kind) in (0u8..).zip(CellKind::ALL) {
        let blocks = tally.blocks(kind);
        if blocks > 0 {
            let (symbol, style) = theme.cell(kind);
            let name = Span::styled(format!(" {} ", kind.name()), theme.style(Role::Dim));
            let spans = vec![Span::styled(symbol.to_string(), style), name, Span::raw(blocks.to_string())];
            pieces.push(Piece::new(50 - rank, spans));
        }
    }
    labelled(theme, "cell", pieces, columns)
}

fn frames(subject: &Subject<'_>, state: BlockState, columns: usize) -> Line<'static> {
    let of = |weight: u8, frames: u16, name: &'static str| {
        let name = Span::styled(format!(" {name}"), subject.theme.style(Role::Dim));
        Piece::new(weight, vec![Span::raw(frames.to_string()), name])
    };
    let all = format!("of {}", subject.region.frames_of(subject.block));
    let pieces = vec![
        of(9, state.resident_frames, "resident"),
        of(8, state.swapped_frames, "swapped"),
        of(7, state.merged_frames, "merged"),
        Piece::new(6, vec![Span::styled(all, subject.theme.style(Role::Dim))]),
    ];
    labelled(subject.theme, "frames", pieces, columns)
}

fn history(subject: &Subject<'_>, columns: usize) -> Vec<Line<'static>> {
    let theme = subject.theme;
    let dim = theme.style(Role::Dim);
    let note = |text: &'static str| vec![Piece::new(1, vec![Span::styled(text, dim)])];
    let pieces = match subject.detail {
        None => note("not there yet"),
        Some(detail) if detail.life.is_empty() => note("nothing has happened to it yet"),
        Some(detail) => detail.life.iter().map(|step| self::step(theme, *step)).collect(),
    };
    let (label, indent) = if columns < NARROW { ("", 0) } else { ("history", LABEL) };
    let mut lines = wrap(pieces, columns.saturating_sub(indent), "   ");
    for (at, line) in lines.iter_mut().enumerate() {
        let label = if at == 0 { label } else { "" };
        line.spans.insert(0, Span::styled(format!("{label:<indent$}"), dim));
    }
    lines
}

fn step(theme: Theme, step: LifeStep) -> Piece {
    let dim = theme.style(Role::Dim);
    Piece::new(
        1,
        vec![
            Span::raw(format!("{} ago: ", ago(step.ago_ms))),
            Span::styled(step.fact.name(), theme.style(Role::Key)),
            Span::styled(format!(", guest says {}", step.claim.name()), dim),
        ],
    )
}

fn labelled(theme: Theme, label: &'static str, pieces: Vec<Piece>, columns: usize) -> Line<'static> {
    if columns < NARROW {
        return fit(pieces, columns, " ");
    }
    let mut line = Line::from(Span::styled(format!("{label:<LABEL$}"), theme.style(Role::Dim)));
    line.spans.extend(fit(pieces, columns.saturating_sub(LABEL), "  ").spans);
    line
}

/// A time in the past, in at most seven columns.
fn ago(ms: u64) -> String {
    let seconds = ms as f64 / 1000.0;
    match ms {
        0..9_950 => format!("{seconds:.1} s"),
        9_950..99_500 => format!("{seconds:.0} s"),
        99_500..5_970_000 => format!("{:.0} min", seconds / 60.0),
        5_970_000..171_000_000 => format!("{:.0} h", seconds / 3600.0),
        _ => format!("{:.0} d", seconds / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::ago;

    #[test]
    fn times_are_as_exact_as_they_are_known() {
        let cases = [
            (0, "0.0 s"),
            (2_140, "2.1 s"),
            (9_949, "9.9 s"),
            (9_950, "10 s"),
            (99_499, "99 s"),
            (99_500, "2 min"),
            (5_969_999, "99 min"),
            (5_970_000, "2 h"),
            (170_999_999, "47 h"),
            (171_000_000, "2 d"),
        ];
        for (ms, text) in cases {
            assert_eq!(ago(ms), text, "{ms} ms");
        }
        assert!(ago(u64::MAX).ends_with(" d"));
    }
}
