//! The view "blocks of a VM": a map of its guest-physical memory, a cursor on it, and the facts of the block there.
//!
//! Input: the snapshot's blocks and what somebody wants done. Output: cells of the screen, and which block the view
//! wants to know all of. Keeps a cursor for each VM; where the memory under it goes, it is on the nearest there is.

mod cursor;
mod detail;
pub(crate) mod grid;
pub(crate) mod map;
pub(crate) mod regions;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use ratatui::buffer::Buffer;
use ratatui::layout::{Position, Rect};
use ratatui::text::{Line, Span};

use self::grid::{CellAt, Grid, Row};
use self::regions::{Region, nearest, regions};
use super::cells::CellKind;
use super::context::{Action, Context, Response};
use super::layout::{draw, scroll, split};
use super::theme::Role;
use crate::model::ids::{BlockId, VmId};
use crate::model::snapshot::{BlockDetail, VmSnapshot};

/// Its state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BlocksState {
    /// Cursors of VMs that were looked at and have not ended.
    cursors: BTreeMap<VmId, Cursor>,
    /// The block that was last asked for.
    inspected: Option<(VmId, BlockId)>,
}

/// Where somebody is looking, and from how far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Cursor {
    /// Number of the block, which may have gone since.
    block: u64,
    /// log2 of the blocks a cell; `None`: as many as make all of it fit.
    zoom: Option<u32>,
    /// First row of the map that is shown.
    top: u64,
}

/// The state applied to a VM and a rectangle: what drawing and acting have in common.
#[derive(Debug)]
struct Picture<'a> {
    vm: &'a VmSnapshot,
    regions: Vec<Region<'a>>,
    grid: Grid,
    cursor: Cursor,
    /// The cell of the cursor's block.
    cell: CellAt,
    /// First row shown.
    first: u64,
    title: Rect,
    map: Rect,
    facts: Rect,
    legend: Rect,
    legend_lines: Vec<Line<'static>>,
}

impl<'a> Picture<'a> {
    /// `None` where there is no VM, or nothing of it to show.
    fn new(state: &BlocksState, context: &Context<'a>, area: Rect) -> Option<Self> {
        let vm = context.vm?;
        let regions = regions(&vm.slots);
        let mut cursor = state.cursors.get(&vm.id).copied().unwrap_or_default();
        let region;
        (region, cursor.block) = nearest(&regions, cursor.block)?;

        let columns = usize::from(area.width);
        let (title_rows, fact_rows, legend_most) = rows_beside_map(area.height);
        let legend_lines = map::legend(context.theme, &vm.cross, columns, legend_most);
        let (title, below) = split(area, title_rows);
        let legend_rows = u16::try_from(legend_lines.len()).unwrap_or(u16::MAX);
        let room = below.height.saturating_sub(fact_rows + legend_rows);
        let grid = Grid::new(&regions, columns, room.into(), cursor.zoom);
        // A map that can be zoomed keeps its room whatever it fills of it, so that what is below stays in place.
        let zoomable = Grid::new(&regions, columns, room.into(), None).zoom > 0;
        let wanted = u16::try_from(grid.rows()).unwrap_or(u16::MAX);
        let (map, below) = split(below, if zoomable { room } else { wanted.min(room) });
        let (facts, legend) = split(below, fact_rows);

        let cell = grid.cell_of(&regions, region, cursor.block);
        let first = first_row(&grid, cursor.top, cell, map.height);
        Some(Self { vm, regions, grid, cursor, cell, first, title, map, facts, legend, legend_lines })
    }

    fn target(&self) -> (VmId, BlockId) {
        (self.vm.id, BlockId::new(self.cursor.block))
    }

    /// The cell that is drawn at a position of the screen; a label stands for its region's first cell, what is
    /// right of a row for the row's last.
    fn at(&self, position: Position) -> Option<CellAt> {
        if !self.map.contains(position) {
            return None;
        }
        match self.grid.row(self.first + u64::from(position.y - self.map.y))? {
            Row::Label(region) => Some(CellAt { region, index: 0 }),
            Row::Cells(from) => {
                let column = usize::from(position.x - self.map.x).saturating_sub(self.grid.gutter());
                let index =
                    from.index + ((column / self.grid.cell_columns) as u64).min(self.grid.per_row - 1);
                let last = self.grid.cells(&self.regions, from.region).saturating_sub(1);
                Some(CellAt { index: index.min(last), ..from })
            }
        }
    }

    /// The cursor after the action; `None` where the view has no use for it.
    fn after(&self, action: Action) -> Option<Cursor> {
        let Self { regions, grid, cursor, cell, .. } = self;
        let page = i64::from(self.map.height).max(1);
        let along = |by| Some(self.on(cursor::along(regions, grid, *cell, by)));
        let across = |by| Some(self.on(cursor::across(regions, grid, *cell, by)));
        let zoomed = |zoom| Some(Cursor { zoom, ..*cursor });
        match action {
            Action::Left => along(-1),
            Action::Right => along(1),
            Action::Home => along(i64::MIN),
            Action::End => along(i64::MAX),
            Action::Up => across(-1),
            Action::Down => across(1),
            Action::PageUp => across(-page),
            Action::PageDown => across(page),
            Action::Wheel(rows) => across(rows.into()),
            Action::Click(position) => self.at(position).map(|cell| self.on(cell)),
            Action::Next | Action::Previous => {
                let found = cursor::jump(regions, grid, *cell, action == Action::Next);
                Some(found.map_or(*cursor, |(cell, kind)| self.on_first_of(cell, kind)))
            }
            Action::ZoomIn => zoomed(Some(grid.zoom.saturating_sub(1))),
            // As far as all fits, and not farther: `Grid` sees to that, and the state does not count on.
            Action::ZoomOut => zoomed(cursor.zoom.map(|_| grid.zoom + 1)),
            Action::Enter if grid.zoom > 0 => zoomed(Some(0)),
            Action::Enter => None,
        }
    }

    /// The cursor on the first block of a cell; where it is on that cell already, it stays on its block.
    fn on(&self, cell: CellAt) -> Cursor {
        if cell == self.cell {
            return self.cursor;
        }
        Cursor { block: self.grid.blocks_of(&self.regions, cell).0, ..self.cursor }
    }

    /// The cursor on the first block of that kind in a cell.
    fn on_first_of(&self, cell: CellAt, kind: CellKind) -> Cursor {
        let (first, end) = self.grid.blocks_of(&self.regions, cell);
        let found = self.regions.get(cell.region).and_then(|region| region.first_of(kind, first, end));
        Cursor { block: found.unwrap_or(first), ..self.cursor }
    }
}

/// Rows of title and facts, and the most for the legend, on a screen of so many rows: the map has the rest, which is
/// never less than one row and, from 12 rows on, about half.
fn rows_beside_map(rows: u16) -> (u16, u16, usize) {
    match rows {
        0 | 1 => (0, 0, 0),
        2..5 => (0, 1, 0),
        5 => (1, 1, 0),
        6..8 => (1, 1, 1),
        8..12 => (1, 2, 1),
        12..18 => (1, 3, 2),
        18..30 => (1, 5, 3),
        _ => (1, 7, 3),
    }
}

/// The first row to show, near `from`: the cursor's cell is among `rows`, and the label right above it where it
/// would be the next.
fn first_row(grid: &Grid, from: u64, cell: CellAt, rows: u16) -> u64 {
    let size = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let row = grid.row_of(cell);
    let first = scroll(size(from), size(row), rows.into(), size(grid.rows())) as u64;
    let labelled = row > 0 && matches!(grid.row(row - 1), Some(Row::Label(_)));
    if first == row && labelled && rows > 1 { row - 1 } else { first }
}

/// Draws the view. Any area will do, down to one cell.
pub(crate) fn paint(state: &BlocksState, context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    let theme = context.theme;
    let columns = usize::from(area.width);
    let Some(picture) = Picture::new(state, context, area) else {
        let note = |text: &'static str| Line::from(Span::styled(text, theme.style(Role::Dim)));
        let lines = match context.vm {
            Some(vm) => {
                vec![map::title(theme, vm, None, None, columns), note("no slot of this VM is followed yet")]
            }
            None => vec![note("no VM is selected")],
        };
        // In a single row the note says more than the title.
        draw(buffer, area, &lines[lines.len().saturating_sub(area.height.max(1).into())..]);
        return;
    };
    let Picture { regions, grid, cursor, cell, first, map: room, .. } = &picture;
    let shown = usize::from(room.height);
    let rows = map::rows(theme, regions, grid, (*first, shown), Some(*cell), columns);
    let part = (grid.rows() > shown as u64)
        .then(|| format!("rows {}-{} of {}", first + 1, first + rows.len() as u64, grid.rows()));
    draw(buffer, picture.title, &[map::title(theme, picture.vm, Some(grid), part, columns)]);
    draw(buffer, *room, &rows);
    draw(buffer, picture.legend, &picture.legend_lines);
    if let Some(region) = regions.get(cell.region) {
        let known = |detail: &&BlockDetail| (detail.vm, detail.block) == picture.target();
        let subject = detail::Subject {
            theme,
            region,
            grid,
            block: cursor.block,
            cell: grid.blocks_of(regions, *cell),
            detail: context.detail.filter(known),
        };
        draw(buffer, picture.facts, &detail::lines(&subject, columns, picture.facts.height.into()));
    }
}

/// Does what somebody wants. Asks for the cursor's block whenever it is another one than the last that was asked for.
pub(crate) fn act(state: &mut BlocksState, action: Action, context: &Context<'_>, area: Rect) -> Response {
    let Some(before) = Picture::new(state, context, area) else { return Response::Ignored };
    let Some(mut cursor) = before.after(action) else { return Response::Ignored };
    cursor.top = before.first;
    state.cursors.retain(|id, _| context.snapshot.vms.iter().any(|vm| vm.id == *id));
    state.cursors.insert(before.vm.id, cursor);
    let Some(mut after) = Picture::new(state, context, area) else { return Response::Ignored };
    if after.grid.zoom != before.grid.zoom {
        // What one looks at stays in the middle.
        let row = after.grid.row_of(after.cell);
        let middle = row.saturating_sub(u64::from(after.map.height / 2));
        after.first = first_row(&after.grid, middle, after.cell, after.map.height);
    }
    cursor.top = after.first;
    let farthest = Grid::new(&after.regions, area.width.into(), after.map.height.into(), None).zoom;
    cursor.zoom = cursor.zoom.filter(|zoom| *zoom < farthest);
    state.cursors.insert(after.vm.id, cursor);
    let target = after.target();
    if state.inspected.replace(target) == Some(target) {
        Response::Done
    } else {
        Response::Inspect(target.0, target.1)
    }
}

/// The block under the cursor, which the view shows all of; `None` where there is none.
pub(crate) fn inspect_target(
    state: &BlocksState,
    context: &Context<'_>,
    area: Rect,
) -> Option<(VmId, BlockId)> {
    Picture::new(state, context, area).map(|picture| picture.target())
}
