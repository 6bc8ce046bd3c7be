//! The map itself as lines of text: title, labels, addresses, cells, cursor, legend.
//!
//! Input: regions, their grid, which rows of it. Output: lines. Looks only at the blocks of the rows asked for.

use ratatui::text::{Line, Span};

use super::grid::{CellAt, Grid, Row};
use super::regions::Region;
use crate::model::ids::BLOCK_SIZE;
use crate::model::snapshot::{ReclaimStatus, VmSnapshot};
use crate::model::sums::CrossTable;
use crate::view::cells::CellKind;
use crate::view::format;
use crate::view::layout::{Piece, fit, rule, wrap};
use crate::view::theme::{Role, Theme};

/// Columns of the VM's name in the title.
const TITLE_NAME: usize = 32;
/// Slot ids and kinds of backing that a label names.
const NAMED: usize = 8;

/// The title: whose blocks, how much a cell is, what forbids reclaim, and `more`.
pub(crate) fn title(
    theme: Theme,
    vm: &VmSnapshot,
    grid: Option<&Grid>,
    more: Option<String>,
    columns: usize,
) -> Line<'static> {
    let name = format::cut(&format::printable(&vm.name, theme.ascii()), TITLE_NAME, theme.ellipsis());
    let dim = theme.style(Role::Dim);
    let mut pieces =
        vec![Piece::new(9, vec![Span::styled(format!("blocks of {name}"), theme.style(Role::Title))])];
    if let Some(grid) = grid {
        let cell = format!("a cell {}", format::bytes(grid.per_cell().saturating_mul(BLOCK_SIZE)));
        pieces.push(Piece::new(7, vec![Span::styled(cell, dim)]));
    }
    if let Some(more) = more {
        pieces.push(Piece::new(6, vec![Span::styled(more, dim)]));
    }
    if let ReclaimStatus::Forbidden { guard, .. } = &vm.reclaim {
        let text = format::printable(&format!("forbidden by {guard}"), theme.ascii());
        pieces.push(Piece::new(8, vec![Span::styled(text, theme.style(Role::Warn))]));
    }
    rule(theme, fit(pieces, columns.saturating_sub(4), theme.dot()).spans, columns)
}

/// `count` rows of the map from row `first` on, as far as there are any.
pub(crate) fn rows(
    theme: Theme,
    regions: &[Region<'_>],
    grid: &Grid,
    (first, count): (u64, usize),
    cursor: Option<CellAt>,
    columns: usize,
) -> Vec<Line<'static>> {
    let rows = (first..).map_while(|row| grid.row(row)).take(count);
    rows.filter_map(|row| match row {
        Row::Label(region) => regions.get(region).map(|region| label(theme, region, columns)),
        Row::Cells(from) => regions.get(from.region).map(|region| {
            let cursor = cursor.filter(|cursor| {
                cursor.region == from.region
                    && (from.index..from.index + grid.per_row).contains(&cursor.index)
            });
            cells(theme, region, grid, from, cursor)
        }),
    })
    .collect()
}

fn label(theme: Theme, region: &Region<'_>, columns: usize) -> Line<'static> {
    let ids: Vec<String> = region.slots.iter().take(NAMED).map(|slot| slot.id.to_string()).collect();
    let mut backings: Vec<String> = Vec::new();
    for slot in &region.slots {
        let backing = format::printable(&slot.backing, theme.ascii());
        if backings.len() < NAMED && !backings.contains(&backing) {
            backings.push(backing);
        }
    }
    let word = if region.slots.len() == 1 { "slot" } else { "slots" };
    let more = match region.slots.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let pieces = vec![
        Piece::new(9, vec![Span::raw(format!("{word} {}{more}", ids.join(",")))]),
        Piece::new(8, vec![Span::raw(format::bytes(region.bytes()))]),
        Piece::new(7, vec![Span::raw(backings.join(" + "))]),
        Piece::new(6, vec![Span::styled(range(region.first, region.end), theme.style(Role::Dim))]),
    ];
    fit(pieces, columns, "  ")
}

/// Guest-physical addresses of the blocks from `first` to before `end`, both ends included.
pub(super) fn range(first: u64, end: u64) -> String {
    let last = end.saturating_mul(BLOCK_SIZE).saturating_sub(1);
    format!("{:#x}-{last:#x}", first.saturating_mul(BLOCK_SIZE))
}

fn cells(
    theme: Theme,
    region: &Region<'_>,
    grid: &Grid,
    from: CellAt,
    cursor: Option<CellAt>,
) -> Line<'static> {
    let mut spans = Vec::new();
    if grid.digits > 0 {
        let block = region.first.saturating_add(from.index.saturating_mul(grid.per_cell()));
        let address = format!("0x{:0digits$x}", block.saturating_mul(BLOCK_SIZE), digits = grid.digits);
        spans.push(Span::styled(address, theme.style(Role::Dim)));
        let mark = if cursor.is_some() { theme.mark() } else { ' ' };
        spans.push(Span::styled(mark.to_string(), theme.style(Role::Key)));
    }
    let kinds = region.kinds(grid.per_cell(), from.index, grid.per_row);
    let at = cursor.and_then(|cursor| usize::try_from(cursor.index - from.index).ok());
    let (before, after) = kinds.split_at(at.unwrap_or(kinds.len()).min(kinds.len()));
    runs(theme, grid, before, &mut spans);
    if let Some((under, rest)) = after.split_first() {
        let (symbol, style) = theme.cursor_cell(*under);
        spans.push(Span::styled(symbol.to_string().repeat(grid.cell_columns), style));
        runs(theme, grid, rest, &mut spans);
    }
    Line::from(spans)
}

fn runs(theme: Theme, grid: &Grid, kinds: &[CellKind], spans: &mut Vec<Span<'static>>) {
    for run in kinds.chunk_by(|a, b| a == b) {
        let (symbol, style) = theme.cell(run[0]);
        spans.push(Span::styled(symbol.to_string().repeat(run.len() * grid.cell_columns), style));
    }
}

/// What the symbols mean in at most `most` lines, with the amount of each where all fit so. Where not even the
/// names fit, kinds that the VM does not have go first, then those that matter least.
pub(crate) fn legend(theme: Theme, cross: &CrossTable, columns: usize, most: usize) -> Vec<Line<'static>> {
    let pieces = |amounts: bool| -> Vec<Piece> {
        (0u8..)
            .zip(CellKind::ALL)
            .map(|(rank, kind)| {
                let (symbol, style) = theme.cell(kind);
                let bytes = kind.bytes(cross);
                let mut spans = vec![
                    Span::styled(symbol.to_string(), style),
                    Span::styled(format!(" {}", kind.name()), theme.style(Role::Dim)),
                ];
                if let Some(bytes) = bytes.filter(|_| amounts) {
                    // Always as wide, so that nothing moves when the amounts change.
                    spans.push(Span::raw(format!(" {:<5}", format::bytes_short(bytes))));
                }
                let there = bytes.is_none_or(|bytes| bytes > 0);
                Piece::new(if there { 200 - rank } else { 100 - rank }, spans)
            })
            .collect()
    };
    if most == 0 {
        return Vec::new();
    }
    let lines = wrap(pieces(true), columns, "  ");
    if lines.len() <= most {
        return lines;
    }
    let mut pieces = pieces(false);
    loop {
        let lines = wrap(pieces.clone(), columns, "  ");
        let lightest = (0..pieces.len()).min_by_key(|at| pieces[*at].weight);
        match lightest {
            Some(at) if lines.len() > most => pieces.remove(at),
            _ => return lines,
        };
    }
}
