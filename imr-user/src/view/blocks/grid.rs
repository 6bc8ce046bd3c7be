//! Where on a map each cell is: rows of cells region by region, with a label above each where there is room.
//!
//! Input: regions, the room, how many blocks a cell shall stand for. Output: rows and cells by number. The number
//! of blocks a cell stands for is a power of two. Rows are counted from the first of the map, shown or not.

use super::regions::Region;
use crate::model::ids::BLOCK_SIZE;

/// log2 of the most blocks a cell can stand for: more than an address space has.
const MOST_ZOOM: u32 = 44;

/// How a map is laid out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grid {
    /// log2 of the blocks a cell.
    pub(crate) zoom: u32,
    /// Cells a row, at least 1.
    pub(crate) per_row: u64,
    /// Columns a cell.
    pub(crate) cell_columns: usize,
    /// Whether each region has its label.
    pub(crate) labels: bool,
    /// Hexadecimal digits of the address before each row; 0 where there is no room for it.
    pub(crate) digits: usize,
    /// First row of each region, its label included, and the row after the last.
    tops: Vec<u64>,
}

/// A cell: position of its region and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CellAt {
    pub(crate) region: usize,
    pub(crate) index: u64,
}

/// A row of the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    /// The label of a region.
    Label(usize),
    /// Cells, from this one on.
    Cells(CellAt),
}

impl Grid {
    /// The map in `rows` of `columns`: all of it where `zoom` is `None`, otherwise closer, down to one block a cell.
    pub(crate) fn new(regions: &[Region<'_>], columns: usize, rows: usize, zoom: Option<u32>) -> Self {
        let digits = digits(regions, columns);
        let columns = columns - gutter_columns(digits);
        let wide = cells_a_row(columns / 2);
        let with = |zoom, per_row, cell_columns, labels| {
            let per_row = per_row as u64;
            Self { zoom, per_row, cell_columns, labels, digits, tops: tops(regions, zoom, per_row, labels) }
        };
        if columns >= 64 {
            let all = with(0, wide, 2, true);
            if all.rows() <= rows as u64 {
                return all;
            }
        }
        let per_row = cells_a_row(columns);
        let mut labels = regions.len() * 2 <= rows;
        let mut fit = with(0, per_row, 1, labels);
        // Once every region is down to one row, only a taller screen shows more.
        while fit.rows() > rows as u64
            && fit.zoom < MOST_ZOOM
            && regions.iter().any(|region| region.cells(1 << fit.zoom) > fit.per_row)
        {
            fit = with(fit.zoom + 1, per_row, 1, labels);
        }
        match zoom {
            Some(closer) if closer < fit.zoom => {
                labels = rows >= 4;
                with(closer, per_row, 1, labels)
            }
            _ => fit,
        }
    }

    /// Blocks a cell.
    pub(crate) fn per_cell(&self) -> u64 {
        1 << self.zoom
    }

    /// Rows of the whole map.
    pub(crate) fn rows(&self) -> u64 {
        self.tops.last().copied().unwrap_or(0)
    }

    /// Columns before the first cell.
    pub(crate) fn gutter(&self) -> usize {
        gutter_columns(self.digits)
    }

    /// What is in a row; `None` past the last.
    pub(crate) fn row(&self, row: u64) -> Option<Row> {
        let region = self.tops.partition_point(|top| *top <= row).checked_sub(1)?;
        let top = *self.tops.get(region)?;
        if region + 1 == self.tops.len() {
            return None;
        }
        Some(match (row - top).checked_sub(u64::from(self.labels)) {
            None => Row::Label(region),
            Some(line) => Row::Cells(CellAt { region, index: line * self.per_row }),
        })
    }

    /// The row of a cell.
    pub(crate) fn row_of(&self, cell: CellAt) -> u64 {
        let top = self.tops.get(cell.region).copied().unwrap_or(0);
        top + u64::from(self.labels) + cell.index / self.per_row
    }

    /// The cell of a block that the region has.
    pub(crate) fn cell_of(&self, regions: &[Region<'_>], region: usize, block: u64) -> CellAt {
        let first = regions.get(region).map_or(0, |region| region.first);
        CellAt { region, index: block.saturating_sub(first) >> self.zoom }
    }

    /// The blocks of a cell: the first, and the one after the last.
    pub(crate) fn blocks_of(&self, regions: &[Region<'_>], cell: CellAt) -> (u64, u64) {
        let Some(region) = regions.get(cell.region) else { return (0, 0) };
        let first = region.first.saturating_add(cell.index.saturating_mul(self.per_cell())).min(region.end);
        (first, first.saturating_add(self.per_cell()).min(region.end))
    }

    /// The cells of a region.
    pub(crate) fn cells(&self, regions: &[Region<'_>], region: usize) -> u64 {
        regions.get(region).map_or(0, |region| region.cells(self.per_cell()))
    }
}

fn tops(regions: &[Region<'_>], zoom: u32, per_row: u64, labels: bool) -> Vec<u64> {
    let mut row = 0u64;
    let mut tops = Vec::with_capacity(regions.len() + 1);
    for region in regions {
        tops.push(row);
        row = row.saturating_add(u64::from(labels) + region.cells(1 << zoom).div_ceil(per_row));
    }
    tops.push(row);
    tops
}

fn digits(regions: &[Region<'_>], columns: usize) -> usize {
    let highest = regions.iter().map(|region| region.end.saturating_mul(BLOCK_SIZE)).max().unwrap_or(0);
    let digits = format!("{highest:x}").len().max(8);
    // At least sixteen cells after it.
    if columns >= gutter_columns(digits) + 16 { digits } else { 0 }
}

/// 0x, the digits, and the mark of the cursor's row.
fn gutter_columns(digits: usize) -> usize {
    if digits == 0 { 0 } else { digits + 3 }
}

/// Cells a row: round in base two where there is room, so that the addresses before the rows are round too.
fn cells_a_row(columns: usize) -> usize {
    match columns {
        0..8 => columns.max(1),
        8..32 => columns / 8 * 8,
        _ => columns / 16 * 16,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::regions::regions;
    use super::*;
    use crate::model::snapshot::SlotSnapshot;
    use crate::view::testing::{lived_in, slot};

    fn slots() -> impl Strategy<Value = Vec<SlotSnapshot>> {
        proptest::collection::vec((1..900_usize, 0..5_u64), 1..6).prop_map(|shapes| {
            let mut first = 0;
            (0..)
                .zip(shapes)
                .map(|(id, (count, gap))| {
                    let slot = slot(id, first, &lived_in(count));
                    first += count as u64 + gap;
                    slot
                })
                .collect()
        })
    }

    #[test]
    fn small_memory_has_wide_cells() {
        let slots = [slot(0, 0, &lived_in(70))];
        let grid = Grid::new(&regions(&slots), 80, 9, None);
        assert_eq!((grid.zoom, grid.per_row, grid.cell_columns, grid.gutter()), (0, 32, 2, 11));
        assert_eq!(grid.rows(), 4);
        assert_eq!(Grid::new(&regions(&slots), 80, 9, Some(3)), grid, "never farther than needed");
    }

    #[test]
    fn without_memory_there_are_no_rows() {
        let grid = Grid::new(&[], 0, 0, Some(0));
        assert_eq!((grid.rows(), grid.row(0)), (0, None));
    }

    proptest! {
        #[test]
        fn rows_and_cells_are_each_others_inverse(
            slots in slots(), columns in 0..220_usize, rows in 0..50_usize, zoom in proptest::option::of(0..9_u32),
        ) {
            let regions = regions(&slots);
            let grid = Grid::new(&regions, columns, rows, zoom);
            let mut labels = 0;
            let mut blocks = 0;
            for row in 0..grid.rows() {
                match grid.row(row) {
                    Some(Row::Label(_)) => labels += 1,
                    Some(Row::Cells(first)) => {
                        let cells = grid.cells(&regions, first.region);
                        prop_assert!(first.index < cells, "no empty row");
                        for index in first.index..cells.min(first.index + grid.per_row) {
                            let cell = CellAt { index, ..first };
                            prop_assert_eq!(grid.row_of(cell), row);
                            let (from, to) = grid.blocks_of(&regions, cell);
                            prop_assert!(from < to);
                            for block in from..to {
                                prop_assert_eq!(grid.cell_of(&regions, cell.region, block), cell);
                            }
                            blocks += to - from;
                        }
                    }
                    None => prop_assert!(false, "row {} is missing", row),
                }
            }
            prop_assert_eq!(grid.row(grid.rows()), None);
            prop_assert_eq!(labels, if grid.labels { regions.len() } else { 0 });
            prop_assert_eq!(blocks, regions.iter().map(Region::len).sum::<u64>());
        }

        #[test]
        fn all_of_it_fits_where_it_can(slots in slots(), columns in 1..220_usize, rows in 1..50_usize) {
            let regions = regions(&slots);
            let grid = Grid::new(&regions, columns, rows, None);
            let a_row_each = regions.iter().all(|region| region.cells(grid.per_cell()) <= grid.per_row);
            prop_assert!(grid.rows() <= rows as u64 || a_row_each);
            prop_assert!(grid.gutter() + grid.per_row as usize * grid.cell_columns <= columns.max(1));
        }
    }
}
