//! The table of VMs: one row a VM, columns that widen with the screen and leave when it is narrow.
//!
//! Input: a snapshot, which VMs in which order, the selection, the size. Output: lines, the heading first; and which
//! heading is where. Formats only the rows that are visible.

use ratatui::text::{Line, Span};

use super::columns::{self, Column};
use super::format;
use super::layout::scroll;
use super::listing::Listing;
use super::theme::{Role, Theme};
use crate::model::snapshot::{Snapshot, VmSnapshot};

/// Longest name shown.
const NAME_MOST: usize = 32;
/// Weight of the column that the VMs are sorted by.
const SORTED_WEIGHT: u8 = 240;

/// The columns that are shown, from left to right, each after one empty column of the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    columns: Vec<(Column, usize)>,
    wide: bool,
}

/// The table in at most `rows` lines of `width`.
pub(crate) fn lines(
    theme: Theme,
    plan: &Plan,
    listing: &Listing,
    snapshot: &Snapshot,
    (selected, first): (usize, usize),
    (width, rows): (usize, usize),
) -> Vec<Line<'static>> {
    let mut lines = vec![heading(theme, plan, listing, width)];
    let visible = rows.saturating_sub(1);
    let first = scroll(first, selected, visible, listing.len());
    for row in first..(first + visible).min(listing.len()) {
        if let Some(vm) = listing.vm(snapshot, row) {
            lines.push(line(theme, plan, vm, row == selected, width));
        }
    }
    lines
}

/// Chooses the columns for this width: with full headings if all have room so, else the weightiest that have.
pub(crate) fn plan(listing: &Listing, wanted: &[Column], width: usize) -> Plan {
    let sized = |wide: bool| -> Vec<(Column, usize)> {
        wanted.iter().map(|column| (*column, needs(*column, listing, wide))).collect()
    };
    let taken = |columns: &[(Column, usize)]| columns.iter().map(|(_, width)| width + 1).sum::<usize>();
    let name_wants = listing.longest_name().min(NAME_MOST).saturating_sub(Column::Name.entry().width);
    let all = sized(true);
    let wide = taken(&all) + name_wants <= width;
    let mut columns = if wide { all } else { weightiest(sized(false), listing, width) };
    // What is left: to the name what it can use, then to the status.
    let mut left = width.saturating_sub(taken(&columns));
    for flexible in [Column::Name, Column::Status] {
        if let Some((column, width)) = columns.iter_mut().find(|(column, _)| *column == flexible) {
            let more = if *column == Column::Name { name_wants.min(left) } else { left };
            *width += more;
            left -= more;
        }
    }
    Plan { columns, wide }
}

impl Plan {
    /// The column whose heading is at this column of the screen.
    pub(crate) fn at(&self, column: usize) -> Option<Column> {
        let mut end = 0;
        self.columns
            .iter()
            .find(|(_, width)| {
                end += width + 1;
                column < end
            })
            .map(|(column, _)| *column)
    }
}

fn weightiest(columns: Vec<(Column, usize)>, listing: &Listing, width: usize) -> Vec<(Column, usize)> {
    let weight = |column: Column| match listing.sort() {
        Some(sort) if sort == column => column.entry().weight.max(SORTED_WEIGHT),
        _ => column.entry().weight,
    };
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_by_key(|index| std::cmp::Reverse(weight(columns[*index].0)));
    let mut left = width;
    let mut shown = vec![false; columns.len()];
    for (rank, index) in order.into_iter().enumerate() {
        let needs = columns[index].1 + 1;
        // The first is shown even where it has to be cut.
        if rank == 0 || needs <= left {
            shown[index] = true;
            left = left.saturating_sub(needs);
        }
    }
    columns.into_iter().zip(shown).filter_map(|(column, shown)| shown.then_some(column)).collect()
}

fn needs(column: Column, listing: &Listing, wide: bool) -> usize {
    let entry = column.entry();
    let heading = if wide { entry.wide } else { entry.narrow };
    entry.width.max(heading.len() + usize::from(listing.sort() == Some(column)))
}

fn heading(theme: Theme, plan: &Plan, listing: &Listing, width: usize) -> Line<'static> {
    let mut text = String::new();
    for (column, width) in &plan.columns {
        let entry = column.entry();
        let mut label = if plan.wide { entry.wide } else { entry.narrow }.to_owned();
        if listing.sort() == Some(*column) {
            label.push(theme.sorted(listing.ascends()));
        }
        text.push(' ');
        text.push_str(&cell(theme, *column, &label, *width));
    }
    Line::from(Span::styled(format::left(&text, width, ' '), theme.style(Role::Heading)))
}

fn line(theme: Theme, plan: &Plan, vm: &VmSnapshot, selected: bool, width: usize) -> Line<'static> {
    let base = theme.style(if selected { Role::Selected } else { Role::Text });
    let mut text = String::new();
    let mut spans = Vec::new();
    for (index, (column, width)) in plan.columns.iter().enumerate() {
        text.push(if index == 0 && selected { theme.mark() } else { ' ' });
        let value = match column {
            // In full where that has room.
            Column::Status => {
                let long = printed(theme, *column, vm, true);
                if format::width(&long) <= *width { long } else { printed(theme, *column, vm, false) }
            }
            column => printed(theme, *column, vm, plan.wide),
        };
        let value = cell(theme, *column, &value, *width);
        if *column == Column::Status && !selected {
            spans.push(Span::styled(std::mem::take(&mut text), base));
            spans.push(Span::styled(value, theme.style(columns::status(vm, true).1)));
        } else {
            text.push_str(&value);
        }
    }
    spans.push(Span::styled(text, base));
    let taken: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::styled(" ".repeat(width.saturating_sub(taken)), base));
    Line::from(spans)
}

fn printed(theme: Theme, column: Column, vm: &VmSnapshot, wide: bool) -> String {
    format::printable(&column.text(vm, wide), theme.ascii())
}

fn cell(theme: Theme, column: Column, text: &str, width: usize) -> String {
    if column.is_text() {
        format::left(text, width, theme.ellipsis())
    } else {
        format::right(text, width, theme.ellipsis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::columns::COLUMNS;
    use crate::view::testing::{THEME, two};

    fn listing(sort: Option<Column>) -> Listing {
        let mut listing = Listing::new(sort, false);
        listing.arrange(&two());
        listing
    }

    fn shown(columns: &[Column], sort: Option<Column>, width: usize) -> Vec<&'static str> {
        let plan = plan(&listing(sort), columns, width);
        plan.columns.iter().map(|(column, _)| column.entry().name).collect()
    }

    #[test]
    fn the_lightest_columns_leave_first() {
        let all = Column::DEFAULT;
        assert_eq!(shown(&all, None, 200).len(), all.len());
        assert_eq!(
            shown(&all, None, 80),
            ["name", "pid", "ram", "res", "gfree", "freeheld", "recl", "reflt", "mode", "status"]
        );
        assert_eq!(shown(&all, None, 40), ["name", "res", "freeheld", "status"]);
        assert_eq!(shown(&all, None, 20), ["name", "res"]);
        assert_eq!(shown(&all, None, 1), ["name"]);
    }

    #[test]
    fn the_column_sorted_by_stays_and_keeps_its_mark() {
        let all = Column::DEFAULT;
        assert!(shown(&all, Some(Column::Out), 40).contains(&"out"));
        let listing = listing(Some(Column::Reflt));
        let plan = plan(&listing, &all, 80);
        let heading = heading(THEME, &plan, &listing, 80).to_string();
        assert!(heading.contains(" REFLT▼"), "{heading}");
    }

    #[test]
    fn every_line_is_as_wide_as_the_screen_and_headings_are_where_clicks_look() {
        let every: Vec<Column> = COLUMNS.iter().map(|entry| entry.column).collect();
        let only = [Column::Latency];
        for columns in [&Column::DEFAULT[..], &every, &only, &[]] {
            for width in 0..300 {
                let listing = listing(None);
                let plan = plan(&listing, columns, width);
                let lines = lines(THEME, &plan, &listing, &two(), (0, 0), (width, 9));
                for line in &lines {
                    assert!(line.width() >= width, "{width}: {line}");
                }
                let heading = lines[0].to_string();
                for (at, _) in heading.char_indices().filter(|(_, c)| c.is_ascii_uppercase()).take(60) {
                    let column = plan.at(at).unwrap();
                    let label = if plan.wide { column.entry().wide } else { column.entry().narrow };
                    assert!(label.contains(&heading[at..=at]), "{width}: {heading}");
                }
            }
        }
    }
}
