//! What the views of figures share: whom they are about, text broken between words, pages longer than the screen.
//!
//! Input: texts, counts and actions. Output: lines and positions, clamped to what there is. Pure.

use ratatui::text::{Line, Span};

use super::context::{Action, Context};
use super::format;
use super::layout::{Piece, fit, rule};
use super::theme::{Role, Theme};
use crate::model::snapshot::VmSnapshot;

/// Longest name in a title, columns.
const TITLE_NAME: usize = 32;

/// Whom a view is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The selected VM; all of them where none is selected.
    #[default]
    Selected,
    /// All VMs together.
    All,
}

impl Scope {
    /// The other one.
    pub(crate) fn toggle(&mut self) {
        *self = match self {
            Self::Selected => Self::All,
            Self::All => Self::Selected,
        };
    }

    /// The VM it is about; `None`: all of them.
    pub(crate) fn vm<'a>(self, context: &Context<'a>) -> Option<&'a VmSnapshot> {
        match self {
            Self::Selected => context.vm,
            Self::All => None,
        }
    }
}

/// Name of whom a view is about, safe to print.
pub(crate) fn subject(context: &Context<'_>, vm: Option<&VmSnapshot>) -> String {
    let theme = context.theme;
    match (vm, context.snapshot.vms.len()) {
        (Some(vm), _) => {
            format::cut(&format::printable(&vm.name, theme.ascii()), TITLE_NAME, theme.ellipsis())
        }
        (None, 1) => "the only VM".to_owned(),
        (None, many) => format!("all {many} VMs"),
    }
}

/// A title in a rule: the first part always, of the rest what fits, the last first to go.
pub(crate) fn title(theme: Theme, first: String, rest: Vec<String>, columns: usize) -> Line<'static> {
    let room = columns.saturating_sub(4);
    let first = format::cut(&first, room, theme.ellipsis());
    let mut pieces = vec![Piece::new(100, vec![Span::styled(first, theme.style(Role::Title))])];
    for (weight, text) in (0..99).rev().zip(rest) {
        pieces.push(Piece::new(weight, vec![Span::styled(text, theme.style(Role::Dim))]));
    }
    rule(theme, fit(pieces, room, theme.dot()).spans, columns)
}

/// The text in lines of at most `columns`, broken between words; a word longer than a line is broken itself.
pub(crate) fn words(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(2);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut taken = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let width = format::width(word);
        if taken > 0 && taken + 1 + width > columns {
            lines.push(std::mem::take(&mut line));
            taken = 0;
        }
        if taken > 0 {
            line.push(' ');
            taken += 1;
        }
        if width <= columns {
            line.push_str(word);
            taken += width;
            continue;
        }
        let mut one = [0u8; 4];
        for c in word.chars() {
            let wide = format::width(c.encode_utf8(&mut one));
            if taken + wide > columns {
                lines.push(std::mem::take(&mut line));
                taken = 0;
            }
            line.push(c);
            taken += wide;
        }
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// A paragraph whose lines after the first begin `indent` columns further right.
pub(crate) fn paragraph(
    theme: Theme,
    role: Role,
    text: &str,
    indent: usize,
    columns: usize,
) -> Vec<Line<'static>> {
    let indent = if columns > indent + 16 { indent } else { 0 };
    let style = theme.style(role);
    let broken = words(text, columns.saturating_sub(indent));
    let lines = broken.into_iter().enumerate().map(|(at, part)| {
        let before = if at == 0 { 0 } else { indent };
        Line::from(Span::styled(format!("{:before$}{part}", ""), style))
    });
    lines.collect()
}

/// How far a page is scrolled.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Scroll {
    from: usize,
}

impl Scroll {
    /// The first line on the screen, of `len` in `rows`.
    pub(crate) fn first(self, len: usize, rows: usize) -> usize {
        self.from.min(len.saturating_sub(rows))
    }

    /// Moves; `false` where the action is none that scrolls.
    pub(crate) fn act(&mut self, action: Action, len: usize, rows: usize) -> bool {
        let Some(to) = moved(action, self.first(len, rows), rows) else { return false };
        self.from = to.min(len.saturating_sub(rows));
        true
    }

    /// Puts this line first; clamped when it is shown.
    pub(crate) fn to(&mut self, line: usize) {
        self.from = line;
    }

    /// What is on the screen, for the title; empty where everything is.
    pub(crate) fn position(self, len: usize, rows: usize) -> String {
        if len <= rows {
            return String::new();
        }
        let first = self.first(len, rows);
        format!("lines {}-{} of {len}", first + 1, first + rows)
    }
}

/// Where a position in a list goes, unclamped at the end; `None`: the action is none that moves.
pub(crate) fn moved(action: Action, from: usize, rows: usize) -> Option<usize> {
    let page = rows.saturating_sub(1).max(1);
    Some(match action {
        Action::Up => from.saturating_sub(1),
        Action::Down => from.saturating_add(1),
        Action::PageUp => from.saturating_sub(page),
        Action::PageDown => from.saturating_add(page),
        Action::Home => 0,
        Action::End => usize::MAX,
        Action::Wheel(by) => from.saturating_add_signed(by.into()),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_broken_between_words_and_long_words_inside() {
        assert_eq!(words("one two three", 7), ["one two", "three"]);
        assert_eq!(words("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(words("", 5), [""]);
        assert_eq!(words("漢字 漢字漢", 4), ["漢字", "漢字", "漢"]);
    }

    #[test]
    fn a_page_scrolls_and_stops_at_both_ends() {
        let mut scroll = Scroll::default();
        assert!(!scroll.act(Action::Enter, 50, 10));
        assert!(scroll.act(Action::Up, 50, 10) && scroll.first(50, 10) == 0);
        assert!(scroll.act(Action::PageDown, 50, 10) && scroll.first(50, 10) == 9);
        assert!(scroll.act(Action::End, 50, 10) && scroll.first(50, 10) == 40);
        assert!(scroll.act(Action::Down, 50, 10) && scroll.first(50, 10) == 40);
        assert_eq!(scroll.position(50, 10), "lines 41-50 of 50");
        // The page has become shorter meanwhile.
        assert_eq!(scroll.first(12, 10), 2);
        assert!(scroll.act(Action::Wheel(-1), 12, 10) && scroll.first(12, 10) == 1);
        assert_eq!(scroll.position(9, 10), "");
    }

    proptest! {
        #[test]
        fn no_line_is_too_long_and_no_letter_is_lost(text in "[a-z ]{0,60}", columns in 2usize..30) {
            let lines = words(&text, columns);
            prop_assert!(lines.iter().all(|line| format::width(line) <= columns));
            let letters = |text: &str| text.chars().filter(|c| *c != ' ').collect::<String>();
            prop_assert_eq!(letters(&lines.concat()), letters(&text));
        }
    }
}
