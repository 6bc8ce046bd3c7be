//! How the screen is cut up, for any size down to one cell, and how facts are fitted into a line.
//!
//! Input: sizes and counts. Output: rectangles and lines. Pure; the same function serves drawing and mouse clicks.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::theme::{Role, Theme};

/// Rows below which the hint line gives way to content.
const HINTS_FROM_ROWS: u16 = 6;
/// Rows that the newest decisions want below the heatmap, with their title.
const DECISIONS_ROWS: u16 = 3;
/// Rows of free space from which decisions are shown at all.
const DECISIONS_FROM_ROWS: u16 = 12;

/// Rows below which the line of views gives way to content.
const TABS_FROM_ROWS: u16 = 8;

/// The parts of any screen, top to bottom. A part for which there is no room has no rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Host lines.
    pub(crate) header: Rect,
    /// The names of the views.
    pub(crate) tabs: Rect,
    /// The view.
    pub(crate) body: Rect,
    /// Key hints, notices, and what is typed.
    pub(crate) hints: Rect,
}

/// Cuts up the screen for a header that wants `header_rows`.
pub(crate) fn frame(area: Rect, header_rows: u16) -> Parts {
    let hint_rows = u16::from(area.height >= HINTS_FROM_ROWS);
    let (header, below) = split(area, header_rows.max(1).min((area.height / 4).max(1)));
    let (tabs, below) = split(below, u16::from(area.height >= TABS_FROM_ROWS));
    let (body, hints) = split(below, below.height.saturating_sub(hint_rows));
    Parts { header, tabs, body, hints }
}

/// The first view: a table of so many VMs, and the rest; without VMs there is no table.
pub(crate) fn main(body: Rect, vms: Option<usize>) -> (Rect, Rect) {
    let Some(vms) = vms else { return split(body, 0) };
    // A long table leaves three fifths of the room to the selected VM.
    let wanted = u16::try_from(vms).unwrap_or(u16::MAX).saturating_add(1).max(2);
    let most = (body.height * 2 / 5).max(3).min(body.height);
    split(body, wanted.min(most))
}

/// Rows that the heatmap may take: all but what the decisions need at least.
pub(crate) fn heat_most(area: Rect) -> u16 {
    area.height - if area.height >= DECISIONS_FROM_ROWS { DECISIONS_ROWS } else { 0 }
}

/// Heatmap and decisions: the heatmap has what it wants, as far as [`heat_most`] lets it.
pub(crate) fn rest(area: Rect, heat_rows: usize) -> (Rect, Rect) {
    let heat = u16::try_from(heat_rows).unwrap_or(u16::MAX).min(heat_most(area));
    let (heat, decisions) = split(area, heat);
    if decisions.height < 2 { split(area, area.height) } else { (heat, decisions) }
}

/// The upper `rows` and what is below them.
pub(crate) fn split(area: Rect, rows: u16) -> (Rect, Rect) {
    let rows = rows.min(area.height);
    (
        Rect { height: rows, ..area },
        Rect { y: area.y.saturating_add(rows), height: area.height - rows, ..area },
    )
}

/// First row to show so that `selected` of `len` is visible in `rows`, moving as little as possible from `from`.
pub(crate) fn scroll(from: usize, selected: usize, rows: usize, len: usize) -> usize {
    let last = len.saturating_sub(rows);
    let least = (selected + 1).saturating_sub(rows.max(1));
    from.clamp(least, selected.max(least)).min(last.max(least))
}

/// One fact of a line, and how much it matters.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// The lowest goes first when the line is too narrow.
    pub(crate) weight: u8,
    /// Its text.
    pub(crate) spans: Vec<Span<'static>>,
}

impl Piece {
    /// A piece of several spans.
    pub(crate) fn new(weight: u8, spans: Vec<Span<'static>>) -> Self {
        Self { weight, spans }
    }

    fn width(&self) -> usize {
        self.spans.iter().map(Span::width).sum()
    }
}

/// The pieces in one line of at most `columns`, the lightest left out where they do not all fit.
pub(crate) fn fit(mut pieces: Vec<Piece>, columns: usize, gap: &'static str) -> Line<'static> {
    let gap_width = Span::raw(gap).width();
    let total = |pieces: &[Piece]| {
        pieces.iter().map(Piece::width).sum::<usize>() + gap_width * pieces.len().saturating_sub(1)
    };
    while pieces.len() > 1 && total(&pieces) > columns {
        let lightest = pieces.iter().map(|piece| piece.weight).min().unwrap_or(0);
        match pieces.iter().rposition(|piece| piece.weight == lightest) {
            Some(index) => pieces.remove(index),
            None => break,
        };
    }
    joined(pieces, gap)
}

/// The pieces in as many lines as they need.
pub(crate) fn wrap(pieces: Vec<Piece>, columns: usize, gap: &'static str) -> Vec<Line<'static>> {
    let gap_width = Span::raw(gap).width();
    let mut lines = Vec::new();
    let mut line: Vec<Piece> = Vec::new();
    let mut taken = 0;
    for piece in pieces {
        let width = piece.width();
        if !line.is_empty() && taken + gap_width + width > columns {
            lines.push(joined(std::mem::take(&mut line), gap));
            taken = 0;
        }
        taken += width + if line.is_empty() { 0 } else { gap_width };
        line.push(piece);
    }
    if !line.is_empty() {
        lines.push(joined(line, gap));
    }
    lines
}

fn joined(pieces: Vec<Piece>, gap: &'static str) -> Line<'static> {
    let mut spans = Vec::new();
    for (index, piece) in pieces.into_iter().enumerate() {
        if index > 0 {
            spans.push(Span::raw(gap));
        }
        spans.extend(piece.spans);
    }
    Line::from(spans)
}

/// A rule with a title in it, `columns` wide.
pub(crate) fn rule(theme: Theme, title: Vec<Span<'static>>, columns: usize) -> Line<'static> {
    let dim = theme.style(Role::Dim);
    let dash = theme.rule();
    let mut spans = vec![Span::styled(format!("{dash}{dash} "), dim)];
    spans.extend(title);
    let taken: usize = spans.iter().map(Span::width).sum();
    let mut tail = String::from(" ");
    tail.extend(std::iter::repeat_n(dash, columns.saturating_sub(taken + 1)));
    spans.push(Span::styled(tail, dim));
    Line::from(spans)
}

/// Writes the lines into the rectangle, clipped to it.
pub(crate) fn draw(buffer: &mut Buffer, area: Rect, lines: &[Line<'_>]) {
    let area = area.intersection(buffer.area);
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        buffer.set_line(area.x, y, line, area.width);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(weight: u8, text: &str) -> Piece {
        Piece::new(weight, vec![Span::raw(text.to_owned())])
    }

    #[test]
    fn the_lightest_piece_goes_first() {
        let pieces = vec![piece(9, "aaaa"), piece(1, "bbbb"), piece(5, "cccc")];
        assert_eq!(fit(pieces.clone(), 16, "  ").to_string(), "aaaa  bbbb  cccc");
        assert_eq!(fit(pieces.clone(), 15, "  ").to_string(), "aaaa  cccc");
        assert_eq!(fit(pieces, 3, "  ").to_string(), "aaaa");
    }

    #[test]
    fn wrapping_keeps_every_piece() {
        let lines = wrap(vec![piece(0, "aaaa"), piece(0, "bb"), piece(0, "cccccccc")], 8, "  ");
        assert_eq!(lines.iter().map(Line::to_string).collect::<Vec<_>>(), ["aaaa  bb", "cccccccc"]);
    }

    #[test]
    fn scrolling_moves_as_little_as_it_can() {
        assert_eq!(scroll(0, 0, 5, 20), 0);
        assert_eq!(scroll(0, 4, 5, 20), 0);
        assert_eq!(scroll(0, 5, 5, 20), 1);
        assert_eq!(scroll(10, 12, 5, 20), 10);
        assert_eq!(scroll(10, 3, 5, 20), 3);
        assert_eq!(scroll(18, 19, 5, 20), 15);
        assert_eq!(scroll(7, 0, 0, 0), 0);
    }

    proptest! {
        #[test]
        fn parts_tile_the_screen(width in 0u16..250, height in 0u16..100, header in 0u16..6, vms in 0usize..300) {
            let area = Rect::new(0, 0, width, height);
            let parts = frame(area, header);
            let (table, below) = main(parts.body, Some(vms));
            let (heat, decisions) = rest(below, 9);
            let all = [parts.header, parts.tabs, table, heat, decisions, parts.hints];
            prop_assert_eq!(all.iter().map(|part| part.height).sum::<u16>(), height);
            for pair in all.windows(2) {
                prop_assert_eq!(pair[0].bottom(), pair[1].y);
            }
            if height >= 4 {
                prop_assert!(table.height >= 2);
            }
        }

        #[test]
        fn the_selected_row_is_always_visible(from in 0usize..500, len in 1usize..300, at in 0usize..300, rows in 1usize..50) {
            let selected = at.min(len - 1);
            let first = scroll(from, selected, rows, len);
            prop_assert!(first <= selected && selected < first + rows);
            prop_assert!(first + rows <= len.max(rows));
        }
    }
}
