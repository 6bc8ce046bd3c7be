//! The help: every key, every column, every state.
//!
//! Output: lines. The table of keys here is the one place where keys are described; a test presses each.

use ratatui::text::{Line, Span};

use super::cells::CellKind;
use super::theme::{Role, Theme};

/// Keys and what they do.
pub(crate) const KEYS: [(&str, &str); 11] = [
    ("q  Ctrl-C", "quit"),
    ("?", "this help; any of ? Esc Enter closes it"),
    ("Up Down  k j", "select the VM above or below"),
    ("PgUp PgDn", "move by a screenful"),
    ("Home End  g G", "first or last VM"),
    ("Enter", "open the selected VM: its facts, its offers, its map"),
    ("Esc", "back"),
    ("Space", "pause the screen (nothing else); Space again goes on"),
    ("Ctrl-L", "draw the screen anew"),
    ("Ctrl-Z", "suspend; fg brings it back"),
    ("Mouse", "click selects, wheel moves; hold Shift to mark text"),
];

const COLUMNS: [(&str, &str); 8] = [
    ("RAM", "guest RAM in all slots"),
    ("RES", "resident: how much of it has host memory behind it"),
    ("FREE", "what the guest calls free; - without the module"),
    ("RECL", "reclaimed: given back to the host since the start"),
    ("REFLT", "refaulted: touched again after it was reclaimed"),
    ("FLT/S", "page faults a second (EPT or NPT violations)"),
    ("P50/P99", "from the guest's doorbell to the host's done"),
    ("STATUS", "the guest module; !name is the guard that forbids reclaim"),
];

/// The help in full.
pub(crate) fn lines(theme: Theme) -> Vec<Line<'static>> {
    let section = |title: &'static str| Line::from(Span::styled(title, theme.style(Role::Title)));
    let entry = |key: String, text: &'static str| {
        Line::from(vec![Span::styled(format!("  {key:<15}"), theme.style(Role::Key)), Span::raw(text)])
    };
    let mut lines = vec![section("Keys")];
    lines.extend(KEYS.iter().map(|(key, text)| entry((*key).to_owned(), text)));
    lines.push(Line::default());
    lines.push(section("Columns"));
    lines.extend(COLUMNS.iter().map(|(key, text)| entry((*key).to_owned(), text)));
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
