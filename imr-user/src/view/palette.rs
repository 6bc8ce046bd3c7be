//! The command palette: everything that can be done, found by typing a part of its name.
//!
//! Input: keys and the key map. Output: lines, and what to run. Runs nothing itself.

use std::time::Duration;

use crossterm::event::KeyCode;
use ratatui::text::{Line, Span};

use super::columns::Column;
use super::edit::LineEdit;
use super::format;
use super::keys::{Key, KeyMap};
use super::layout::{rule, scroll};
use super::theme::{Role, Theme};
use super::verb::{VERBS, Verb};

/// What can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Item {
    /// What a key does as well.
    Verb(Verb),
    /// Sort by a column; none: in order of discovery.
    Sort(Option<Column>),
    /// A time between two samples.
    Delay(Duration),
}

/// What was typed, and which of the matches is chosen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Palette {
    edit: LineEdit,
    chosen: usize,
}

impl Palette {
    /// Does what the key says. Esc and Enter are the caller's business.
    pub(crate) fn key(&mut self, key: Key, items: &[Item]) {
        let last = self.matches(items).len().saturating_sub(1);
        let page = 10;
        if key.is(KeyCode::Up) || key.is(KeyCode::BackTab) {
            self.chosen = self.chosen.saturating_sub(1);
        } else if key.is(KeyCode::Down) || key.is(KeyCode::Tab) {
            self.chosen = (self.chosen + 1).min(last);
        } else if key.is(KeyCode::PageUp) {
            self.chosen = self.chosen.saturating_sub(page);
        } else if key.is(KeyCode::PageDown) {
            self.chosen = (self.chosen + page).min(last);
        } else if self.edit.key(key) {
            self.chosen = 0;
        }
    }

    /// The item that Enter runs.
    pub(crate) fn chosen(&self, items: &[Item]) -> Option<Item> {
        self.matches(items).get(self.chosen).copied()
    }

    /// Takes text that was pasted.
    pub(crate) fn paste(&mut self, text: &str) {
        self.edit.paste(text);
        self.chosen = 0;
    }

    /// The item in this line of [`Self::lines`] of so many `rows`.
    pub(crate) fn at(&self, items: &[Item], line: usize, rows: usize) -> Option<Item> {
        let matches = self.matches(items);
        let first = self.first(matches.len(), rows);
        (2..rows).contains(&line).then(|| matches.get(first + line - 2).copied())?
    }

    /// Title, what was typed, and the matches, in exactly `rows` lines of `columns`.
    pub(crate) fn lines(
        &self,
        theme: Theme,
        keys: &KeyMap,
        items: &[Item],
        (columns, rows): (usize, usize),
    ) -> Vec<Line<'static>> {
        let matches = self.matches(items);
        let title = format!("commands: {} of {}", matches.len(), items.len());
        let mut lines = vec![
            rule(theme, vec![Span::styled(title, theme.style(Role::Title))], columns),
            self.edit.line(theme, ": ", columns),
        ];
        if matches.is_empty() {
            let none = "no command matches; Backspace takes back, Esc closes";
            lines.push(Line::from(Span::styled(none, theme.style(Role::Dim))));
        }
        let first = self.first(matches.len(), rows);
        for (index, item) in matches.into_iter().enumerate().skip(first).take(rows.saturating_sub(2)) {
            lines.push(line(theme, keys, item, index == self.chosen, columns));
        }
        lines.resize(rows, Line::default());
        lines
    }

    fn first(&self, matches: usize, rows: usize) -> usize {
        scroll(0, self.chosen, rows.saturating_sub(2), matches)
    }

    fn matches(&self, items: &[Item]) -> Vec<Item> {
        let typed = self.edit.text().trim().to_lowercase();
        let mut matches: Vec<(u8, Item)> =
            items.iter().filter_map(|item| Some((rank(*item, &typed)?, *item))).collect();
        matches.sort_by_key(|(rank, _)| *rank);
        matches.into_iter().map(|(_, item)| item).collect()
    }
}

/// Everything that can be run with these columns and delays.
pub(crate) fn items(columns: &[Column], delays: &[Duration]) -> Vec<Item> {
    VERBS
        .iter()
        // What moves within a view is of no use from here.
        .filter(|entry| entry.verb != Verb::Palette && !entry.verb.moves())
        .map(|entry| Item::Verb(entry.verb))
        .chain([Item::Sort(None)])
        .chain(columns.iter().map(|column| Item::Sort(Some(*column))))
        .chain(delays.iter().map(|delay| Item::Delay(*delay)))
        .collect()
}

impl Item {
    fn name(self) -> String {
        match self {
            Self::Verb(verb) => verb.entry().name.to_owned(),
            Self::Sort(None) => "sort found".to_owned(),
            Self::Sort(Some(column)) => format!("sort {}", column.entry().name),
            Self::Delay(delay) => format!("delay {}", format::delay(delay)),
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Verb(verb) => verb.entry().text,
            Self::Sort(None) => "VMs in order of discovery",
            Self::Sort(Some(column)) => column.entry().text,
            Self::Delay(_) => "time between two samples",
        }
    }
}

/// How well the item matches, 0 being best.
fn rank(item: Item, typed: &str) -> Option<u8> {
    let name = item.name();
    if name.starts_with(typed) {
        Some(0)
    } else if name.split(['-', ' ']).any(|word| word.starts_with(typed)) {
        Some(1)
    } else if name.contains(typed) {
        Some(2)
    } else if item.text().to_lowercase().contains(typed) {
        Some(3)
    } else {
        // All letters in their order, with others between them.
        let mut letters = name.chars();
        typed.chars().filter(|c| *c != ' ').all(|c| letters.any(|letter| letter == c)).then_some(4)
    }
}

fn line(theme: Theme, keys: &KeyMap, item: Item, chosen: bool, columns: usize) -> Line<'static> {
    let base = theme.style(if chosen { Role::Selected } else { Role::Text });
    let dim = if chosen { base } else { theme.style(Role::Dim) };
    let mark = if chosen { theme.mark() } else { ' ' };
    let names = match item {
        Item::Verb(verb) => keys.names(verb),
        Item::Sort(_) | Item::Delay(_) => String::new(),
    };
    let names = format::printable(&names, theme.ascii());
    let name =
        format!("{mark}{}", format::left(&item.name(), 16.min(columns.saturating_sub(1)), theme.ellipsis()));
    let left = columns.saturating_sub(format::width(&name) + 1);
    // The words leave before the keys.
    let text = left.saturating_sub(format::width(&names) + 1);
    let keys_width = left - text.min(left);
    Line::from(vec![
        Span::styled(name, base),
        Span::styled(format!(" {}", format::left(item.text(), text, theme.ellipsis())), dim),
        Span::styled(format::right(&names, keys_width, theme.ellipsis()), base),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::THEME;

    fn all() -> Vec<Item> {
        items(&Column::DEFAULT, &[Duration::from_millis(500)])
    }

    fn typed(text: &str) -> Palette {
        let mut palette = Palette::default();
        palette.paste(text);
        palette
    }

    #[test]
    fn the_best_match_comes_first() {
        for (text, item) in [
            ("help", Item::Verb(Verb::Help)),
            ("view-b", Item::Verb(Verb::ViewBlocks)),
            ("blocks", Item::Verb(Verb::ViewBlocks)),
            ("sort freeh", Item::Sort(Some(Column::Freeheld))),
            ("ksm", Item::Sort(Some(Column::Merge))),
            ("rcl now", Item::Verb(Verb::ReclaimNow)),
            ("delay", Item::Delay(Duration::from_millis(500))),
            ("QUIT", Item::Verb(Verb::Quit)),
            ("", Item::Verb(Verb::Quit)),
        ] {
            assert_eq!(typed(text).chosen(&all()), Some(item), "{text}");
        }
        assert_eq!(typed("xyzzy").chosen(&all()), None);
    }

    #[test]
    fn keys_choose_and_stop_at_the_ends() {
        let mut palette = Palette::default();
        let mut press = |name: &str| {
            palette.key(name.parse().unwrap(), &all());
            palette.chosen
        };
        assert_eq!([press("Up"), press("Down"), press("Tab"), press("BackTab")], [0, 1, 2, 1]);
        for _ in 0..20 {
            press("PgDn");
        }
        assert_eq!(press("Down"), all().len() - 1);
        assert_eq!(press("s"), 0, "another match, from the first");
    }

    #[test]
    fn every_item_can_be_found_by_its_name_and_seen_at_any_size() {
        for item in all() {
            assert!(typed(&item.name()).matches(&all()).contains(&item), "{item:?}");
        }
        for (columns, rows) in [(1, 1), (20, 3), (60, 12), (200, 80)] {
            let mut palette = Palette::default();
            for _ in 0..all().len() {
                let lines = palette.lines(THEME, &KeyMap::default(), &all(), (columns, rows));
                assert_eq!(lines.len(), rows);
                assert!(lines.iter().skip(2).all(|line| line.width() <= columns.max(2)), "{columns}");
                let chosen = (0..rows).find(|line| palette.at(&all(), *line, rows) == palette.chosen(&all()));
                assert_eq!(chosen.is_some(), rows > 2, "what is chosen is visible");
                palette.key("Down".parse().unwrap(), &all());
            }
        }
    }
}
