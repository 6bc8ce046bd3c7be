//! The table itself, with its sums: claims down and facts across where there is room, the other way round where not.
//!
//! Input: a [`CrossTable`] and the room there is. Output: a heading and lines. All numbers are in one unit.

use ratatui::text::{Line, Span};

use crate::model::block::{GuestClaim, HostFact};
use crate::model::sums::{Cell, CrossTable};
use crate::view::format;
use crate::view::theme::{Role, Theme};

/// Stands before numbers of memory that is free in the guest and still held, and before the sentence about them.
pub(super) const MARK: char = '*';
/// Columns from which facts go across.
pub(super) const WIDE: u16 = 79;
/// Least columns of a number with the gap before it.
const COLUMN: usize = 7;
/// Most columns of a number with the gap before it.
const COLUMN_MOST: usize = 14;

/// The unit of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    bytes: f64,
    decimals: usize,
}

/// One row or column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    Claim(GuestClaim),
    Fact(HostFact),
    All,
}

/// What a line of a row says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Memory,
    Share,
    Held,
}

/// A table as lines.
pub(super) struct Grid {
    pub(super) heading: Line<'static>,
    pub(super) body: Vec<Line<'static>>,
}

impl Unit {
    /// The unit for a table whose greatest number is `ram`: never more than six columns.
    pub(super) fn of(ram: u64) -> Self {
        let (name, shift, decimals) = match ram >> 30 {
            0..10 => ("MiB", 20, 0),
            10..1000 => ("GiB", 30, 2),
            1000..10_000 => ("GiB", 30, 1),
            _ => ("TiB", 40, 2),
        };
        Self { name, bytes: (1u64 << shift) as f64, decimals }
    }

    /// The number; what is not zero does not look like zero.
    pub(super) fn number(self, bytes: u64) -> String {
        let value = bytes as f64 / self.bytes;
        let least = 0.5 / 10f64.powi(self.decimals as i32);
        match (bytes, self.decimals) {
            (0, _) => "0".to_owned(),
            (_, 0) if value < least => "<1".to_owned(),
            (_, 1) if value < least => "<0.1".to_owned(),
            (_, 2) if value < least => "<0.01".to_owned(),
            (_, decimals) => format!("{value:.decimals$}"),
        }
    }
}

/// Share of the RAM in whole percent; what is not zero does not look like zero.
pub(super) fn share(bytes: u64, ram: u64) -> String {
    match format::percent(bytes, ram) {
        0 if bytes > 0 && ram > 0 => "<1 %".to_owned(),
        percent => format!("{percent} %"),
    }
}

impl Head {
    /// Its names, the longest first.
    fn names(self) -> [&'static str; 3] {
        let full = match self {
            Self::Claim(claim) => claim.name(),
            Self::Fact(fact) => fact.name(),
            Self::All => "all",
        };
        let (short, shortest) = match self {
            Self::Claim(GuestClaim::Unknown) => ("unkn", "unkn"),
            Self::Fact(HostFact::Untouched) => ("untouch", "untch"),
            Self::Fact(HostFact::Resident4k) => ("res 4K", "4K"),
            Self::Fact(HostFact::Resident2m) => ("res 2M", "2M"),
            Self::Fact(HostFact::Swapped) => ("swapped", "swap"),
            Self::Fact(HostFact::Merged) => ("merged", "ksm"),
            Self::Fact(HostFact::Reclaimed) => ("reclaim", "recl"),
            Self::Fact(HostFact::Refaulted) => ("refault", "reflt"),
            _ => (full, full),
        };
        [full, short, shortest]
    }

    fn name(self, columns: usize) -> &'static str {
        let names = self.names();
        names.into_iter().find(|name| name.len() <= columns).unwrap_or(names[2])
    }
}

impl Grid {
    /// The table for so many columns, with as many lines a row as `rows` lines allow.
    pub(super) fn new(
        theme: Theme,
        cross: &CrossTable,
        ram: u64,
        unit: Unit,
        columns: usize,
        rows: usize,
    ) -> Self {
        let claims: Vec<Head> = GuestClaim::ALL.map(Head::Claim).into_iter().chain([Head::All]).collect();
        let facts: Vec<Head> = HostFact::ALL.map(Head::Fact).into_iter().chain([Head::All]).collect();
        let room = rows.saturating_sub(1);
        let (mut down, mut across, label) = if columns >= usize::from(WIDE) {
            (claims, facts, 7)
        } else {
            // Full names, where all four columns have room besides them.
            (facts, claims, if columns >= 11 + 4 * COLUMN { 11 } else { 9 })
        };
        let most = columns.saturating_sub(label) / COLUMN;
        for least in [Head::Claim(GuestClaim::Unknown), Head::Claim(GuestClaim::InUse), Head::All] {
            if across.len() > most && across.len() > 1 {
                across.retain(|head| *head != least);
            }
        }
        if down.len() > room {
            down.retain(|head| cell(cross, *head, Head::All).blocks > 0 || *head == Head::All);
        }
        let says: &[Says] = match room / down.len().max(1) {
            0 | 1 => &[Says::Memory],
            2 => &[Says::Memory, Says::Held],
            _ => &[Says::Memory, Says::Share, Says::Held],
        };
        let wide = (columns.saturating_sub(label) / across.len().max(1)).clamp(1, COLUMN_MOST);
        let mut heading = " ".repeat(label);
        for head in &across {
            heading.push_str(&format::right(head.name(wide - 1), wide, theme.ellipsis()));
        }
        let heading = format::left(&heading, columns, ' ');
        let rows = Rows { theme, cross, ram, unit, across, label, wide, says };
        let body = down.iter().flat_map(|head| says.iter().map(|says| rows.line(*head, *says))).collect();
        Self { heading: Line::from(Span::styled(heading, theme.style(Role::Heading))), body }
    }

    /// Lines, the heading included.
    pub(super) fn rows(&self) -> usize {
        self.body.len() + 1
    }
}

/// What all lines of a table have in common.
struct Rows<'a> {
    theme: Theme,
    cross: &'a CrossTable,
    ram: u64,
    unit: Unit,
    across: Vec<Head>,
    /// Columns of the label.
    label: usize,
    /// Columns of a number, with the gap before it.
    wide: usize,
    says: &'static [Says],
}

impl Rows<'_> {
    fn line(&self, row: Head, says: Says) -> Line<'static> {
        let label = match says {
            Says::Memory => row.name(self.label),
            Says::Share => " % RAM",
            Says::Held => " held",
        };
        let dim = self.theme.style(Role::Dim);
        let label_style = if says == Says::Memory { self.theme.style(Role::Text) } else { dim };
        let mut spans = vec![Span::styled(format::left(label, self.label, ' '), label_style)];
        for column in &self.across {
            let (text, role) = self.number(cell(self.cross, row, *column), says, row, *column);
            spans.push(Span::styled(
                format::right(&text, self.wide, self.theme.ellipsis()),
                self.theme.style(role),
            ));
        }
        Line::from(spans)
    }

    fn number(&self, cell: Cell, says: Says, row: Head, column: Head) -> (String, Role) {
        let free = Head::Claim(GuestClaim::Free);
        // Where there is no line for what is held, the mark goes to the memory itself.
        let marked_line = if self.says.contains(&Says::Held) { Says::Held } else { Says::Memory };
        let marked = says == marked_line && (row == free || column == free) && cell.resident_frames > 0;
        let text = match says {
            Says::Memory => self.unit.number(cell.bytes()),
            _ if cell.blocks == 0 => String::new(),
            Says::Share => share(cell.bytes(), self.ram),
            Says::Held => self.unit.number(cell.resident_bytes()),
        };
        match says {
            _ if marked => (format!("{MARK}{text}"), Role::Warn),
            Says::Memory if cell.blocks == 0 => (text, Role::Dim),
            Says::Share => (text, Role::Dim),
            Says::Memory | Says::Held => (text, Role::Text),
        }
    }
}

/// The cell of a row and a column, whichever way round they are.
fn cell(cross: &CrossTable, row: Head, column: Head) -> Cell {
    let wanted = |head: Head, claim: GuestClaim, fact: HostFact| match head {
        Head::Claim(of) => of == claim,
        Head::Fact(of) => of == fact,
        Head::All => true,
    };
    cross.sum(|claim, fact| wanted(row, claim, fact) && wanted(column, claim, fact))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_unit_a_table() {
        let cases = [(512 << 20, "MiB", "230"), (8 << 30, "MiB", "230"), (100 << 30, "GiB", "0.22")];
        for (ram, name, text) in cases {
            let unit = Unit::of(ram);
            assert_eq!((unit.name, unit.number(230 << 20).as_str()), (name, text));
            assert_eq!(unit.number(0), "0");
            assert!(unit.number(4096).starts_with('<'), "{}", unit.number(4096));
        }
        assert_eq!(
            (share(0, 9), share(1, 1000), share(15, 100)),
            ("0 %".into(), "<1 %".into(), "15 %".into())
        );
    }

    proptest! {
        #[test]
        fn numbers_fit_their_columns(ram in 1u64..(900 << 40), part in 0.0f64..=1.0) {
            prop_assert!(Unit::of(ram).number((ram as f64 * part) as u64).len() < COLUMN);
        }
    }
}
