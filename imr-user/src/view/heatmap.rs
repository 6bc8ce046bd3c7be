//! A preview of the map of one VM's guest-physical memory: all of it in the room there is, with its legend.
//!
//! Input: a VM and the room there is. Output: lines. The view of its blocks has the cursor and the zoom.

use ratatui::text::{Line, Span};

use super::blocks::grid::Grid;
use super::blocks::map;
use super::blocks::regions::{Region, regions};
use super::theme::{Role, Theme};
use crate::model::snapshot::VmSnapshot;

/// Rows from which the legend may take a second line.
const TALL: usize = 8;

/// Rows that the map wants, title and legend included, when it may have `most`.
pub(crate) fn wanted_rows(theme: Theme, vm: &VmSnapshot, columns: usize, most: u16) -> usize {
    let regions = regions(&vm.slots);
    if regions.is_empty() {
        return 2;
    }
    let (grid, _, legend) = parts(theme, vm, &regions, columns, most.into());
    1 + usize::try_from(grid.rows()).unwrap_or(usize::MAX).saturating_add(legend.len())
}

/// The map in at most `rows` lines of `columns`.
pub(crate) fn lines(theme: Theme, vm: &VmSnapshot, columns: usize, rows: usize) -> Vec<Line<'static>> {
    let regions = regions(&vm.slots);
    let dim = theme.style(Role::Dim);
    if regions.is_empty() {
        let text = "no slot of this VM is followed yet";
        return vec![map::title(theme, vm, None, None, columns), Line::from(Span::styled(text, dim))];
    }
    let (grid, room, legend) = parts(theme, vm, &regions, columns, rows);
    let mut lines = vec![map::title(theme, vm, Some(&grid), None, columns)];
    if grid.rows() > room as u64 && room > 0 {
        lines.extend(map::rows(theme, &regions, &grid, (0, room - 1), None, columns));
        let hidden = grid.rows() - (room as u64 - 1);
        let text = format!("{hidden} more rows: make the terminal taller");
        lines.push(Line::from(Span::styled(text, dim)));
    } else {
        lines.extend(map::rows(theme, &regions, &grid, (0, room), None, columns));
    }
    lines.extend(legend);
    lines
}

/// The layout of all memory in `rows` lines, the lines of them that the map has, and the legend.
fn parts(
    theme: Theme,
    vm: &VmSnapshot,
    regions: &[Region<'_>],
    columns: usize,
    rows: usize,
) -> (Grid, usize, Vec<Line<'static>>) {
    let most = if rows >= TALL { 2 } else { 1 };
    let legend = map::legend(theme, &vm.cross, columns, most.min(rows.saturating_sub(2)));
    let room = rows.saturating_sub(1 + legend.len());
    (Grid::new(regions, columns, room, None), room, legend)
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
                let cells: usize = text(&lines).iter().map(|line| line.matches('▓').count()).sum();
                // Nothing is left out: the map is at least half of what would fit, plus one in the legend.
                assert!(cells > 1, "{columns}x{rows}: {cells} cells");
                assert!(wanted_rows(THEME, &vm, columns, rows as u16) <= rows, "{columns}x{rows}");
            }
        }
    }

    #[test]
    fn regions_are_labelled_and_addressed() {
        let taken = block(GuestClaim::Free, HostFact::Reclaimed, 0);
        let mut vm = vm(1, "two");
        vm.slots = vec![slot(0, 0, &[taken; 70]), slot(4, 2048, &[taken; 3])];
        let text = text(&lines(THEME, &vm, 80, 10));
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
