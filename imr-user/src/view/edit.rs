//! A line of text that somebody types: the filter, a file name, the palette.
//!
//! Input: keys. Output: the text, and a line with the cursor in it. Never holds control characters.

use crossterm::event::KeyCode;
use ratatui::text::{Line, Span};

use super::format;
use super::keys::Key;
use super::theme::{Role, Theme};

/// Longest text taken, characters.
const MOST: usize = 1024;

/// Text and cursor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LineEdit {
    before: Vec<char>,
    after: Vec<char>,
}

impl LineEdit {
    /// Text that is there to be changed, the cursor behind it.
    pub(crate) fn new(text: &str) -> Self {
        Self { before: text.chars().filter(|c| !c.is_control()).take(MOST).collect(), after: Vec::new() }
    }

    /// The text.
    pub(crate) fn text(&self) -> String {
        self.before.iter().chain(&self.after).collect()
    }

    /// Does what the key says; whether it said anything.
    pub(crate) fn key(&mut self, key: Key) -> bool {
        if let Some(c) = key.character() {
            if self.before.len() + self.after.len() < MOST {
                self.before.push(c);
            }
        } else if key.is(KeyCode::Backspace) {
            self.before.pop();
        } else if key.is(KeyCode::Delete) {
            if !self.after.is_empty() {
                self.after.remove(0);
            }
        } else if key.is(KeyCode::Left) {
            if let Some(c) = self.before.pop() {
                self.after.insert(0, c);
            }
        } else if key.is(KeyCode::Right) {
            if !self.after.is_empty() {
                self.before.push(self.after.remove(0));
            }
        } else if key.is(KeyCode::Home) || key.is_ctrl('a') {
            self.before.append(&mut self.after);
            std::mem::swap(&mut self.before, &mut self.after);
        } else if key.is(KeyCode::End) || key.is_ctrl('e') {
            self.before.append(&mut self.after);
        } else if key.is_ctrl('u') {
            self.before.clear();
        } else if key.is_ctrl('w') {
            while self.before.pop_if(|c| *c == ' ').is_some() {}
            while self.before.pop_if(|c| *c != ' ').is_some() {}
        } else {
            return false;
        }
        true
    }

    /// Takes text that was pasted.
    pub(crate) fn paste(&mut self, text: &str) {
        let room = MOST.saturating_sub(self.before.len() + self.after.len());
        self.before.extend(text.chars().filter(|c| !c.is_control()).take(room));
    }

    /// The label and as much of the text around the cursor as there is room for.
    pub(crate) fn line(&self, theme: Theme, label: &str, columns: usize) -> Line<'static> {
        let text = |part: &[char]| format::printable(&part.iter().collect::<String>(), theme.ascii());
        let (under, after) = match self.after.split_first() {
            Some((c, rest)) => (text(std::slice::from_ref(c)), text(rest)),
            None => (" ".to_owned(), String::new()),
        };
        let room = columns.saturating_sub(format::width(label) + format::width(&under));
        let before = tail(&text(&self.before), room);
        let after = head(&after, room - format::width(&before).min(room));
        Line::from(vec![
            Span::styled(label.to_owned(), theme.style(Role::Key)),
            Span::raw(before),
            Span::styled(under, theme.style(Role::Cursor)),
            Span::raw(after),
        ])
    }
}

fn head(text: &str, columns: usize) -> String {
    let mut taken = 0;
    text.chars().take_while(|c| fits(*c, &mut taken, columns)).collect()
}

fn tail(text: &str, columns: usize) -> String {
    let mut taken = 0;
    let mut kept: Vec<char> = text.chars().rev().take_while(|c| fits(*c, &mut taken, columns)).collect();
    kept.reverse();
    kept.into_iter().collect()
}

fn fits(c: char, taken: &mut usize, columns: usize) -> bool {
    *taken += format::width(c.encode_utf8(&mut [0; 4]));
    *taken <= columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::THEME;

    fn typed(edit: &mut LineEdit, keys: &[&str]) -> String {
        for name in keys {
            assert!(edit.key(name.parse().unwrap()), "{name}");
        }
        edit.text()
    }

    #[test]
    fn keys_move_and_change_as_in_a_shell() {
        let mut edit = LineEdit::new("one two");
        assert_eq!(typed(&mut edit, &["3", "Left", "Left", "Backspace"]), "one to3");
        assert_eq!(typed(&mut edit, &["Delete", "Home", "x", "End", "y"]), "xone t3y");
        assert_eq!(typed(&mut edit, &["Ctrl-W"]), "xone ");
        assert_eq!(typed(&mut edit, &["Ctrl-W", "ä", "Space", "b", "Left", "Ctrl-U"]), "b");
        assert_eq!(typed(&mut edit, &["Right", "Right", "Delete", "Backspace", "Backspace", "Left"]), "");
        assert!(!edit.key("F1".parse().unwrap()));
    }

    #[test]
    fn nothing_typed_or_pasted_steers_the_terminal() {
        let mut edit = LineEdit::new("a\x1b[2Jb\n");
        edit.paste("c\rd\u{202e}");
        assert_eq!(edit.text(), "a[2Jbcd\u{202e}");
        assert!(!edit.line(THEME, "", 80).to_string().contains('\u{202e}'));
        edit.paste(&"x".repeat(2 * MOST));
        assert_eq!(edit.text().chars().count(), MOST);
        typed(&mut edit, &["y"]);
        assert_eq!(edit.text().chars().count(), MOST);
    }

    #[test]
    fn the_cursor_is_always_visible() {
        let mut edit = LineEdit::new("漢字 and quite a long text");
        for _ in 0..30 {
            for columns in 10..30 {
                let line = edit.line(THEME, "file: ", columns);
                assert!(line.width() <= columns, "{columns}: {line}");
                assert!(line.spans[2].width() > 0);
            }
            edit.key("Left".parse().unwrap());
        }
    }
}
