//! The help: every key, every column, every state.
//!
//! Input: the key map, so that changed keys show. Output: lines.

use ratatui::text::{Line, Span};

use super::cells::CellKind;
use super::columns::COLUMNS;
use super::format;
use super::keys::KeyMap;
use super::theme::{Role, Theme};
use super::verb::VERBS;

/// What the mouse does.
const MOUSE: [(&str, &str); 4] = [
    ("Click", "a view's name, a VM, a block; a heading sorts, again reverses"),
    ("Wheel", "up and down"),
    ("Shift", "hold it to mark text as without imr-top"),
    ("", "`mouse = false` in the configuration leaves the mouse alone"),
];

/// Columns from which keys and what they do stand side by side.
const SIDE_BY_SIDE: usize = 50;
/// Columns of what stands before a text.
const GUTTER: usize = 17;

/// The help in full, broken into lines of at most `columns` where there is a space to break it.
pub(crate) fn lines(theme: Theme, keys: &KeyMap, columns: usize) -> Vec<Line<'static>> {
    let section = |title: &str| {
        let parts = format::words(title, columns).into_iter();
        parts.map(|part| Line::from(Span::styled(part, theme.style(Role::Title)))).collect::<Vec<_>>()
    };
    let entry = |key: String, text: &str| entry(Span::styled(key, theme.style(Role::Key)), text, columns);
    let mut lines = section("Keys");
    for known in VERBS {
        let names = match keys.names(known.verb) {
            none if none.is_empty() => format!(": {}", known.name),
            names => format::printable(&names, theme.ascii()),
        };
        lines.extend(entry(names, known.text));
    }
    lines.push(Line::default());
    lines.extend(section("Mouse"));
    lines.extend(MOUSE.iter().flat_map(|(what, text)| entry((*what).to_owned(), text)));
    lines.push(Line::default());
    lines.extend(section("Columns, and their names in the configuration"));
    for column in COLUMNS {
        let name = if column.narrow.eq_ignore_ascii_case(column.name) {
            column.narrow.to_owned()
        } else {
            format!("{} {}", column.narrow, column.name)
        };
        lines.extend(entry(name, column.text));
    }
    lines.push(Line::default());
    lines.extend(section("Blocks of 2 MiB; a cell of several shows what most of them are"));
    for kind in CellKind::ALL {
        let (symbol, style) = theme.cell(kind);
        let symbols = Span::styled(symbol.to_string().repeat(3), style);
        lines.extend(self::entry(symbols, kind.meaning(), columns));
    }
    lines
}

/// What is explained, and the explanation beside or, where it is narrow, below it.
fn entry(what: Span<'static>, text: &str, columns: usize) -> Vec<Line<'static>> {
    let beside = columns >= SIDE_BY_SIDE;
    let indent = if beside { GUTTER } else { 4 };
    let mut lines = Vec::new();
    let gap = (indent - 2).saturating_sub(what.width()).max(usize::from(beside));
    let taken = 2 + what.width() + gap;
    let mut head = Line::from(vec![Span::raw("  "), what, Span::raw(" ".repeat(gap))]);
    let mut parts =
        format::words(text, columns.saturating_sub(if beside { taken } else { indent })).into_iter();
    if beside {
        head.spans.extend(parts.next().map(Span::raw));
    }
    lines.push(head);
    lines.extend(parts.map(|part| Line::from(format!("{:indent$}{part}", ""))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::THEME;
    use crate::view::verb::Verb;

    fn text(keys: &KeyMap) -> Vec<String> {
        lines(THEME, keys, 80).iter().map(Line::to_string).collect()
    }

    #[test]
    fn every_key_and_column_is_explained() {
        let text = text(&KeyMap::default());
        for known in VERBS {
            let line = format!("  {:<15}{}", known.keys.join(" "), known.text);
            assert!(text.contains(&line), "{line}");
        }
        for column in COLUMNS {
            assert!(text.iter().any(|line| line.contains(column.narrow) && line.ends_with(column.text)));
        }
        assert!(text.iter().all(|line| line.chars().count() <= 80), "fits the usual screen: {text:#?}");
    }

    #[test]
    fn narrow_screens_show_every_word() {
        let words = |columns: usize| -> Vec<String> {
            let lines = lines(THEME, &KeyMap::default(), columns);
            assert!(
                columns < 40 || lines.iter().all(|line| line.width() <= columns),
                "{columns}: {lines:#?}"
            );
            lines
                .iter()
                .flat_map(|line| line.to_string().split_whitespace().map(str::to_owned).collect::<Vec<_>>())
                .collect()
        };
        for columns in [1, 20, 30, 40, 49, 50, 60] {
            assert_eq!(words(columns), words(200), "{columns}");
        }
    }

    #[test]
    fn changed_keys_show() {
        let key = |name: &str| name.parse().unwrap();
        let keys = KeyMap::with(&[(Verb::Pause, vec![key("p")]), (Verb::Save, Vec::new())]).unwrap();
        let text = text(&keys);
        assert!(text.iter().any(|line| line.starts_with("  p ") && line.contains("hold the picture")));
        assert!(!text.iter().any(|line| line.contains("Space")));
        assert!(text.iter().any(|line| line.starts_with("  : save ")), "it has no key any more");
    }
}
