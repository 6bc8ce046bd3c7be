//! The map of one VM's guest-physical memory: a cell for one or more blocks, slots labelled, with its legend.
//!
//! Input: a VM and the room there is. Output: lines. The number of blocks a cell stands for is a power of two.

use ratatui::text::{Line, Span};

use super::cells::{CellKind, Region, regions, totals};
use super::format;
use super::layout::{Piece, fit, rule, wrap};
use super::theme::{Role, Theme};
use crate::model::ids::BLOCK_SIZE;
use crate::model::snapshot::{ReclaimStatus, VmSnapshot};

/// Rows from which the legend may take a second line.
const TALL: usize = 8;
/// Columns of the VM's name in the title.
const TITLE_NAME: usize = 32;

/// How the map is laid out in the room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Scale {
    /// Blocks a cell.
    per_cell: u64,
    /// Cells a row.
    cells: usize,
    /// Columns a cell.
    cell_columns: usize,
    /// Whether each region has its label.
    labels: bool,
}

/// Rows that the map wants, title and legend included, when it may have `most`.
pub(crate) fn wanted_rows(theme: Theme, vm: &VmSnapshot, columns: usize, most: u16) -> usize {
    let regions = regions(&vm.slots);
    if regions.is_empty() {
        return 2;
    }
    let legend = legend(theme, &regions, columns, usize::from(most) >= TALL).len();
    let (gutter, _) = gutter(&regions, columns);
    let scale = scale(&regions, columns.saturating_sub(gutter), usize::from(most).saturating_sub(1 + legend));
    1 + map_rows(&regions, scale.per_cell, scale.cells, scale.labels) + legend
}

/// The map in at most `rows` lines of `columns`.
pub(crate) fn lines(theme: Theme, vm: &VmSnapshot, columns: usize, rows: usize) -> Vec<Line<'static>> {
    let regions = regions(&vm.slots);
    let name = format::cut(&format::printable(&vm.name, theme.ascii()), TITLE_NAME, theme.ellipsis());
    let title = Span::styled(format!("blocks of {name}"), theme.style(Role::Title));
    if regions.is_empty() {
        let text = "no slot of this VM is followed yet";
        return vec![
            rule(theme, vec![title], columns),
            Line::from(Span::styled(text, theme.style(Role::Dim))),
        ];
    }
    let mut legend = legend(theme, &regions, columns, rows >= TALL);
    legend.truncate(rows.saturating_sub(2));
    let room = rows.saturating_sub(1 + legend.len());
    let (gutter, digits) = gutter(&regions, columns);
    let scale = scale(&regions, columns.saturating_sub(gutter), room);
    let cell = format!("a cell {}", format::bytes(scale.per_cell.saturating_mul(BLOCK_SIZE)));
    let mut heading =
        vec![Piece::new(9, vec![title]), Piece::new(5, vec![Span::styled(cell, theme.style(Role::Dim))])];
    if let ReclaimStatus::Forbidden { guard, .. } = &vm.reclaim {
        let text = format::printable(&format!("forbidden by {guard}"), theme.ascii());
        heading.push(Piece::new(8, vec![Span::styled(text, theme.style(Role::Warn))]));
    }
    let heading = fit(heading, columns.saturating_sub(4), theme.dot()).spans;
    let mut lines = vec![rule(theme, heading, columns)];
    let mut map = Vec::new();
    for region in &regions {
        if scale.labels {
            map.push(label(theme, region, columns));
        }
        map.extend(rows_of(theme, region, scale, gutter, digits));
    }
    if map.len() > room && room > 0 {
        let hidden = map.len() - (room - 1);
        map.truncate(room - 1);
        let text = format!("{hidden} more rows: make the terminal taller");
        map.push(Line::from(Span::styled(text, theme.style(Role::Dim))));
    }
    lines.extend(map);
    lines.extend(legend);
    lines
}

/// Columns of the address before each row, and hexadecimal digits in it; none where there is no room.
fn gutter(regions: &[Region<'_>], columns: usize) -> (usize, usize) {
    let highest = regions.iter().map(|region| region.end.saturating_mul(BLOCK_SIZE)).max().unwrap_or(0);
    let digits = format!("{highest:x}").len().max(8);
    // 0x, digits, a space; and at least sixteen cells after it.
    if columns >= digits + 3 + 16 { (digits + 3, digits) } else { (0, 0) }
}

/// Cells a row: round in base two where there is room, so that the addresses before the rows are round too.
fn cells_a_row(columns: usize) -> usize {
    match columns {
        0..8 => columns.max(1),
        8..32 => columns / 8 * 8,
        _ => columns / 16 * 16,
    }
}

fn map_rows(regions: &[Region<'_>], per_cell: u64, cells: usize, labels: bool) -> usize {
    regions.iter().fold(0usize, |sum, region| {
        let cells_of = usize::try_from(region.len().div_ceil(per_cell)).unwrap_or(usize::MAX);
        sum.saturating_add(cells_of.div_ceil(cells)).saturating_add(usize::from(labels))
    })
}

fn scale(regions: &[Region<'_>], columns: usize, room: usize) -> Scale {
    let wide = cells_a_row(columns / 2);
    if columns >= 64 && map_rows(regions, 1, wide, true) <= room {
        return Scale { per_cell: 1, cells: wide, cell_columns: 2, labels: true };
    }
    let cells = cells_a_row(columns);
    let labels = regions.len() * 2 <= room;
    let mut per_cell = 1u64;
    while map_rows(regions, per_cell, cells, labels) > room && per_cell < 1 << 40 {
        // Every region is down to one row: only a taller screen shows more.
        if regions.iter().all(|region| region.len().div_ceil(per_cell) <= cells as u64) {
            break;
        }
        per_cell *= 2;
    }
    Scale { per_cell, cells, cell_columns: 1, labels }
}

fn label(theme: Theme, region: &Region<'_>, columns: usize) -> Line<'static> {
    let dim = theme.style(Role::Dim);
    let mut ids = String::new();
    let mut backings: Vec<String> = Vec::new();
    for slot in &region.slots {
        if !ids.is_empty() {
            ids.push(',');
        }
        ids.push_str(&slot.id.to_string());
        let backing = format::printable(&slot.backing, theme.ascii());
        if !backings.contains(&backing) {
            backings.push(backing);
        }
    }
    let word = if region.slots.len() == 1 { "slot" } else { "slots" };
    let first = region.first.saturating_mul(BLOCK_SIZE);
    let last = region.end.saturating_mul(BLOCK_SIZE).saturating_sub(1);
    let pieces = vec![
        Piece::new(9, vec![Span::raw(format!("{word} {ids}"))]),
        Piece::new(8, vec![Span::raw(format::bytes(region.bytes()))]),
        Piece::new(7, vec![Span::raw(backings.join(" + "))]),
        Piece::new(6, vec![Span::styled(format!("{first:#x}-{last:#x}"), dim)]),
    ];
    fit(pieces, columns, "  ")
}

fn rows_of(
    theme: Theme,
    region: &Region<'_>,
    scale: Scale,
    gutter: usize,
    digits: usize,
) -> Vec<Line<'static>> {
    let dim = theme.style(Role::Dim);
    let mut first = region.first;
    let mut lines = Vec::new();
    for row in region.cells(scale.per_cell).chunks(scale.cells) {
        let mut spans = Vec::new();
        if gutter > 0 {
            let gpa = first.saturating_mul(BLOCK_SIZE);
            spans.push(Span::styled(format!("0x{gpa:0digits$x} "), dim));
        }
        for run in row.chunk_by(|a, b| a == b) {
            let (symbol, style) = theme.cell(run[0]);
            let text = symbol.to_string().repeat(run.len() * scale.cell_columns);
            spans.push(Span::styled(text, style));
        }
        lines.push(Line::from(spans));
        first = first.saturating_add(scale.per_cell.saturating_mul(scale.cells as u64));
    }
    lines
}

/// What the symbols mean, with the amount of each; without the amounts where there is room for one line only.
fn legend(theme: Theme, regions: &[Region<'_>], columns: usize, two_lines: bool) -> Vec<Line<'static>> {
    let tally = totals(regions);
    let pieces = |amounts: bool| -> Vec<Piece> {
        CellKind::ALL
            .iter()
            .map(|kind| {
                let (symbol, style) = theme.cell(*kind);
                let (name, weight) = match kind {
                    CellKind::Resident => ("resident", 8),
                    CellKind::Partly => ("under half", 3),
                    CellKind::FreeHeld => ("free, still held", 9),
                    CellKind::Reclaimed => ("reclaimed", 7),
                    CellKind::Refaulted => ("refaulted", 6),
                    CellKind::Untouched => ("untouched", 5),
                };
                let mut spans = vec![
                    Span::styled(symbol.to_string(), style),
                    Span::styled(format!(" {name}"), theme.style(Role::Dim)),
                ];
                if let Some(bytes) = tally.bytes(*kind).filter(|_| amounts) {
                    spans.push(Span::raw(format!(" {}", format::bytes_short(bytes))));
                }
                Piece::new(weight, spans)
            })
            .collect()
    };
    let with_amounts = wrap(pieces(true), columns, "  ");
    if with_amounts.len() == 1 || (two_lines && with_amounts.len() == 2) {
        return with_amounts;
    }
    vec![fit(pieces(false), columns, "  ")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::block::{GuestClaim, HostFact};
    use crate::view::testing::{THEME, block, slot, vm};

    fn text(lines: &[Line<'_>]) -> Vec<String> {
        lines.iter().map(|line| line.to_string().trim_end().to_owned()).collect()
    }

    #[test]
    fn blocks_a_cell_grow_until_the_map_fits() {
        let states = vec![block(GuestClaim::Unknown, HostFact::Resident4k, 512); 4096];
        let mut vm = vm(1, "big");
        vm.slots = vec![slot(0, 0, &states)];
        for rows in 3..60 {
            for columns in [20, 40, 79, 80, 133, 200] {
                let lines = lines(THEME, &vm, columns, rows);
                assert!(lines.len() <= rows, "{columns}x{rows}: {} lines", lines.len());
                assert!(lines.iter().skip(1).all(|line| line.width() <= columns), "{columns}x{rows}");
                let cells: usize = text(&lines).iter().map(|line| line.matches('█').count()).sum();
                // Nothing is left out: the map is at least half of what would fit, plus one in the legend.
                assert!(cells > 1, "{columns}x{rows}: {cells} cells");
            }
        }
    }

    #[test]
    fn regions_are_labelled_and_addressed() {
        let taken = block(GuestClaim::Free, HostFact::Reclaimed, 0);
        let mut vm = vm(1, "two");
        vm.slots = vec![slot(0, 0, &[taken; 70]), slot(4, 2048, &[taken; 3])];
        let text = text(&lines(THEME, &vm, 80, 9));
        assert!(text[0].starts_with("── blocks of two · a cell 2.00 MiB ──"), "{text:#?}");
        assert!(text[1].starts_with("slot 0  140 MiB  memfd  0x0-0x8bfffff"));
        assert!(text[2].starts_with("0x000000000 ░░░"));
        assert!(text[3].starts_with("0x004000000 ░░░"));
        let second = text.iter().position(|line| line.starts_with("slot 4")).unwrap();
        assert!(text[second].starts_with("slot 4  6.00 MiB  memfd  0x100000000-0x1005fffff"));
        assert!(text[second + 1].starts_with("0x100000000 ░░░░░░"), "two columns a cell where there is room");
    }

    #[test]
    fn a_vm_without_slots_says_so() {
        let mut vm = vm(1, "none");
        vm.slots.clear();
        assert_eq!(text(&lines(THEME, &vm, 60, 9))[1], "no slot of this VM is followed yet");
    }
}
