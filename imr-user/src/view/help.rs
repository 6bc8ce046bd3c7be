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

/// The help in full.
pub(crate) fn lines(theme: Theme, keys: &KeyMap) -> Vec<Line<'static>> {
    let section = |title: &'static str| Line::from(Span::styled(title, theme.style(Role::Title)));
    let entry = |key: String, text: &'static str| {
        Line::from(vec![Span::styled(format!("  {key:<15}"), theme.style(Role::Key)), Span::raw(text)])
    };
    let mut lines = vec![section("Keys")];
    for known in VERBS {
        let names = match keys.names(known.verb) {
            none if none.is_empty() => format!(": {}", known.name),
            names => format::printable(&names, theme.ascii()),
        };
        lines.push(entry(names, known.text));
    }
    lines.push(Line::default());
    lines.push(section("Mouse"));
    lines.extend(MOUSE.iter().map(|(what, text)| entry((*what).to_owned(), text)));
    lines.push(Line::default());
    lines.push(section("Columns, and their names in the configuration"));
    for column in COLUMNS {
        let name = if column.narrow.eq_ignore_ascii_case(column.name) {
            column.narrow.to_owned()
        } else {
            format!("{} {}", column.narrow, column.name)
        };
        lines.push(entry(name, column.text));
    }
    lines.push(Line::default());
    lines.push(section("Blocks of 2 MiB; a cell of several shows what most of them are"));
    for kind in CellKind::ALL {
        let (symbol, style) = theme.cell(kind);
        lines.push(Line::from(vec![
            Span::raw("  "),
            Span::styled(symbol.to_string().repeat(3), style),
            Span::raw(format!("{:<12}", "")),
            Span::raw(kind.meaning()),
        ]));
    }
    lines
}
