//! Which VMs the table shows, and in which order: sort and filter.
//!
//! Input: a snapshot and what somebody asked for. Output: indices into its VMs. Arranged once a snapshot, not once a
//! frame.

use std::cmp::Reverse;

use regex::{Regex, RegexBuilder};

use super::columns::Column;
use super::format;
use crate::model::ids::VmId;
use crate::model::snapshot::{Snapshot, VmSnapshot};

/// Bytes that a compiled filter may take.
const FILTER_BYTES: usize = 1 << 20;

/// Order and filter, and what they made of the newest snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Listing {
    sort: Option<Column>,
    reverse: bool,
    filter: Filter,
    order: Vec<usize>,
    longest_name: usize,
}

/// A regex for names and pids, and what was typed.
#[derive(Debug, Clone, Default)]
struct Filter {
    text: String,
    regex: Option<Regex>,
    wrong: Option<String>,
}

impl Listing {
    pub(crate) fn new(sort: Option<Column>, reverse: bool) -> Self {
        Self { sort, reverse, ..Self::default() }
    }

    /// Takes a new snapshot, or a new order or filter, into account.
    pub(crate) fn arrange(&mut self, snapshot: &Snapshot) {
        let vms = &snapshot.vms;
        self.order.clear();
        self.order.extend((0..vms.len()).filter(|index| self.filter.shows(&vms[*index])));
        self.longest_name =
            self.order.iter().map(|index| format::width(&vms[*index].name)).max().unwrap_or(0);
        match self.sort {
            // Equal ones stay in the order of discovery both ways.
            Some(column) if column.descends() != self.reverse => {
                self.order.sort_by_cached_key(|index| Reverse(column.key(&vms[*index])));
            }
            Some(column) => self.order.sort_by_cached_key(|index| column.key(&vms[*index])),
            None if self.reverse => self.order.reverse(),
            None => {}
        }
    }

    /// How many are shown.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    /// Columns of the longest name shown.
    pub(crate) fn longest_name(&self) -> usize {
        self.longest_name
    }

    /// The VM in this row.
    pub(crate) fn vm<'a>(&self, snapshot: &'a Snapshot, row: usize) -> Option<&'a VmSnapshot> {
        snapshot.vms.get(*self.order.get(row)?)
    }

    /// The row of this VM.
    pub(crate) fn row(&self, snapshot: &Snapshot, id: VmId) -> Option<usize> {
        let index = snapshot.vms.iter().position(|vm| vm.id == id)?;
        self.order.iter().position(|shown| *shown == index)
    }

    /// The column that the VMs are sorted by; none: in order of discovery.
    pub(crate) fn sort(&self) -> Option<Column> {
        self.sort
    }

    /// Whether values grow from top to bottom.
    pub(crate) fn ascends(&self) -> bool {
        self.sort.is_none_or(|column| !column.descends()) != self.reverse
    }

    /// Sorts by this column; by the same again: the other way round.
    pub(crate) fn sort_by(&mut self, column: Option<Column>) {
        self.reverse = self.sort == column && !self.reverse;
        self.sort = column;
    }

    /// Sorts by the next of these columns, after the last in order of discovery.
    pub(crate) fn sort_by_next(&mut self, columns: &[Column]) {
        let next = match self.sort {
            None => 0,
            Some(sort) => columns.iter().position(|column| *column == sort).map_or(0, |index| index + 1),
        };
        self.sort = columns.get(next).copied();
        self.reverse = false;
    }

    /// The other way round.
    pub(crate) fn turn(&mut self) {
        self.reverse = !self.reverse;
    }

    /// Filters by this text. Where it is no regex, the filter before stays and [`Self::wrong`] says why.
    pub(crate) fn filter_by(&mut self, text: &str) {
        text.clone_into(&mut self.filter.text);
        self.filter.wrong = None;
        if text.is_empty() {
            self.filter.regex = None;
            return;
        }
        let built = RegexBuilder::new(text)
            .case_insensitive(!text.chars().any(char::is_uppercase))
            .size_limit(FILTER_BYTES)
            .build();
        match built {
            Ok(regex) => self.filter.regex = Some(regex),
            // The last line of the message is the reason; those before it draw an arrow below the pattern.
            Err(error) => {
                let text = error.to_string();
                let reason = text.lines().last().unwrap_or_default().trim();
                self.filter.wrong = Some(reason.strip_prefix("error: ").unwrap_or(reason).to_owned());
            }
        }
    }

    /// What is filtered by; empty: nothing.
    pub(crate) fn filter(&self) -> &str {
        &self.filter.text
    }

    /// What is wrong with it.
    pub(crate) fn wrong(&self) -> Option<&str> {
        self.filter.wrong.as_deref()
    }
}

impl Filter {
    fn shows(&self, vm: &VmSnapshot) -> bool {
        self.regex
            .as_ref()
            .is_none_or(|regex| regex.is_match(&vm.name) || regex.is_match(&vm.pid.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{forbidden_vm, snapshot, vm};

    fn names(listing: &mut Listing, snapshot: &Snapshot) -> Vec<String> {
        listing.arrange(snapshot);
        (0..listing.len()).filter_map(|row| Some(listing.vm(snapshot, row)?.name.clone())).collect()
    }

    fn three() -> Snapshot {
        snapshot(vec![vm(1, "web-b"), forbidden_vm(2, "Web-a"), vm(3, "db")])
    }

    #[test]
    fn numbers_start_with_the_largest_and_names_with_the_first() {
        let three = three();
        let mut listing = Listing::default();
        assert_eq!(names(&mut listing, &three), ["web-b", "Web-a", "db"]);
        listing.turn();
        assert_eq!(names(&mut listing, &three), ["db", "Web-a", "web-b"]);
        listing.sort_by(Some(Column::Res));
        assert_eq!(
            names(&mut listing, &three),
            ["Web-a", "web-b", "db"],
            "equal ones stay as they were found"
        );
        assert!(!listing.ascends());
        listing.sort_by(Some(Column::Res));
        assert_eq!(names(&mut listing, &three), ["web-b", "db", "Web-a"]);
        listing.sort_by(Some(Column::Name));
        assert_eq!(names(&mut listing, &three), ["db", "Web-a", "web-b"]);
        assert!(listing.ascends());
    }

    #[test]
    fn sorting_by_the_next_column_comes_around() {
        let mut listing = Listing::default();
        let columns = [Column::Name, Column::Res];
        let seen = [1, 2, 3, 4].map(|_| {
            listing.sort_by_next(&columns);
            listing.sort()
        });
        assert_eq!(seen, [Some(Column::Name), Some(Column::Res), None, Some(Column::Name)]);
    }

    #[test]
    fn filters_are_regexes_that_mind_case_only_where_they_have_capitals() {
        let three = three();
        let mut listing = Listing::default();
        for (filter, shown) in [
            ("web", &["web-b", "Web-a"][..]),
            ("Web", &["Web-a"]),
            ("^d|-b$", &["web-b", "db"]),
            ("4002", &["Web-a"]),
            ("nothing", &[]),
            ("", &["web-b", "Web-a", "db"]),
        ] {
            listing.filter_by(filter);
            assert_eq!(names(&mut listing, &three), shown, "{filter}");
            assert_eq!(listing.wrong(), None);
        }
    }

    #[test]
    fn a_filter_that_is_no_regex_says_so_and_changes_nothing() {
        let three = three();
        let mut listing = Listing::default();
        listing.filter_by("db");
        listing.filter_by("db(");
        assert_eq!(listing.wrong(), Some("unclosed group"));
        assert_eq!(names(&mut listing, &three), ["db"]);
        listing.filter_by("(a{1000}){1000}");
        assert!(listing.wrong().is_some_and(|why| why.contains("size")), "{:?}", listing.wrong());
    }

    #[test]
    fn rows_of_another_snapshot_are_none() {
        let three = three();
        let mut listing = Listing::default();
        listing.arrange(&three);
        assert_eq!(listing.row(&three, VmId::new(3)), Some(2));
        assert_eq!(listing.row(&three, VmId::new(9)), None);
        assert!(listing.vm(&snapshot(Vec::new()), 0).is_none());
    }
}
