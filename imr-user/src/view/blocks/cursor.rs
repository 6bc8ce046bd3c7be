//! How the cursor moves over a map: by cells, by rows, and from one remarkable stretch to the next.
//!
//! Input: regions, their grid and the cell the cursor is on. Output: another cell. Always one that there is.

use super::grid::{CellAt, Grid};
use super::regions::Region;
use crate::view::cells::CellKind;

/// The cell `by` cells after this one (before it, where negative), across regions, up to the first or last.
pub(super) fn along(regions: &[Region<'_>], grid: &Grid, from: CellAt, by: i64) -> CellAt {
    let mut cell = from;
    let mut left = by.unsigned_abs();
    while left > 0 {
        let cells = grid.cells(regions, cell.region);
        if by > 0 {
            let here = left.min(cells.saturating_sub(1).saturating_sub(cell.index));
            (cell.index, left) = (cell.index + here, left - here);
            if left == 0 || cell.region + 1 >= regions.len() {
                break;
            }
            cell = CellAt { region: cell.region + 1, index: 0 };
        } else {
            let here = left.min(cell.index);
            (cell.index, left) = (cell.index - here, left - here);
            if left == 0 || cell.region == 0 {
                break;
            }
            let region = cell.region - 1;
            cell = CellAt { region, index: grid.cells(regions, region).saturating_sub(1) };
        }
        left -= 1;
    }
    cell
}

/// The cell `by` rows of cells below this one (above it, where negative), in the same column as far as that row
/// goes; up to the first or last row.
pub(super) fn across(regions: &[Region<'_>], grid: &Grid, from: CellAt, by: i64) -> CellAt {
    let column = from.index % grid.per_row;
    let lines = |region: usize| grid.cells(regions, region).div_ceil(grid.per_row);
    let mut region = from.region;
    let mut line = from.index / grid.per_row;
    let mut left = by.unsigned_abs();
    while left > 0 {
        if by > 0 {
            let here = left.min(lines(region).saturating_sub(1).saturating_sub(line));
            (line, left) = (line + here, left - here);
            if left == 0 || region + 1 >= regions.len() {
                break;
            }
            (region, line) = (region + 1, 0);
        } else {
            let here = left.min(line);
            (line, left) = (line - here, left - here);
            if left == 0 || region == 0 {
                break;
            }
            region -= 1;
            line = lines(region).saturating_sub(1);
        }
        left -= 1;
    }
    let last = grid.cells(regions, region).saturating_sub(1);
    CellAt { region, index: (line * grid.per_row + column).min(last) }
}

/// The start of the next stretch of cells of one remarkable kind, or of the one before; past the end it goes on at
/// the other. `None` where there is no other. Stretches end where regions end.
pub(super) fn jump(
    regions: &[Region<'_>],
    grid: &Grid,
    from: CellAt,
    forward: bool,
) -> Option<(CellAt, CellKind)> {
    let mut starts = Vec::new();
    for (region, blocks) in regions.iter().enumerate() {
        let mut before = None;
        for (index, kind) in (0u64..).zip(blocks.kinds(grid.per_cell(), 0, u64::MAX)) {
            if kind.is_remarkable() && before != Some(kind) {
                starts.push((CellAt { region, index }, kind));
            }
            before = Some(kind);
        }
    }
    let here = (from.region, from.index);
    let place = |(cell, _): &(CellAt, CellKind)| (cell.region, cell.index);
    let found = if forward {
        starts.iter().find(|start| place(start) > here).or(starts.first())
    } else {
        starts.iter().rev().find(|start| place(start) < here).or(starts.last())
    };
    found.copied().filter(|(cell, _)| *cell != from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::regions::regions;
    use super::*;
    use crate::model::block::{BlockState, GuestClaim, HostFact};
    use crate::view::testing::{block, slot};

    const R: BlockState = block(GuestClaim::Unknown, HostFact::Resident4k, 512);
    const H: BlockState = block(GuestClaim::Free, HostFact::Resident4k, 512);
    const B: BlockState = block(GuestClaim::InUse, HostFact::Refaulted, 512);

    fn at(region: usize, index: u64) -> CellAt {
        CellAt { region, index }
    }

    #[test]
    fn rows_keep_the_column_as_far_as_they_can() {
        let slots = [slot(0, 0, &[R; 20]), slot(1, 100, &[R; 3]), slot(2, 200, &[R; 20])];
        let regions = regions(&slots);
        let grid = Grid::new(&regions, 8, 40, Some(0));
        assert_eq!(grid.per_row, 8);
        assert_eq!(across(&regions, &grid, at(0, 5), 1), at(0, 13));
        assert_eq!(across(&regions, &grid, at(0, 13), 1), at(0, 19), "a shorter row");
        assert_eq!(across(&regions, &grid, at(0, 13), 3), at(2, 5));
        assert_eq!(across(&regions, &grid, at(2, 5), -1), at(1, 2));
        assert_eq!(across(&regions, &grid, at(2, 5), -99), at(0, 5));
        assert_eq!(across(&regions, &grid, at(2, 5), 99), at(2, 19));
    }

    #[test]
    fn jumps_go_from_stretch_to_stretch_and_around() {
        let slots = [slot(0, 0, &[R, H, H, H, R, B, B]), slot(1, 100, &[B, R, R])];
        let regions = regions(&slots);
        let grid = Grid::new(&regions, 40, 40, Some(0));
        let mut cell = at(0, 0);
        let mut seen = Vec::new();
        for _ in 0..4 {
            (cell, _) = jump(&regions, &grid, cell, true).unwrap();
            seen.push(cell);
        }
        assert_eq!(seen, [at(0, 1), at(0, 5), at(1, 0), at(0, 1)]);
        let back = |cell| jump(&regions, &grid, cell, false).map(|(cell, _)| cell);
        assert_eq!(back(at(0, 3)), Some(at(0, 1)), "to the start of this one first");
        assert_eq!(back(at(0, 1)), Some(at(1, 0)));
        let dull = [slot(0, 0, &[R; 9])];
        assert_eq!(jump(&super::super::regions::regions(&dull), &grid, at(0, 0), true), None);
    }

    proptest! {
        #[test]
        fn steps_add_up(counts in proptest::collection::vec(1..40_usize, 1..5), by in -90..90_i64, more in 0..90_i64) {
            let slots: Vec<_> = (0..)
                .zip(&counts)
                .map(|(id, count)| slot(id, id as u64 * 100, &vec![R; *count]))
                .collect();
            let regions = regions(&slots);
            let grid = Grid::new(&regions, 16, 99, Some(0));
            let place = |cell: CellAt| counts[..cell.region].iter().sum::<usize>() as i64 + cell.index as i64;
            let total = counts.iter().sum::<usize>() as i64;
            let cell = along(&regions, &grid, at(0, 0), more);
            prop_assert_eq!(place(cell), more.min(total - 1));
            let moved = along(&regions, &grid, cell, by);
            prop_assert_eq!(place(moved), (place(cell) + by).clamp(0, total - 1));
            let down = across(&regions, &grid, cell, by);
            prop_assert!(down.index < grid.cells(&regions, down.region));
            prop_assert!((place(down) - place(cell)) * by >= 0 || by.abs() < 1, "never the wrong way");
        }
    }
}
