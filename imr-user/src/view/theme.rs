//! Colours and symbols of the screen, safe for colour-blind people, with fallbacks down to ASCII without colour.
//!
//! Input: what the terminal can do, decided by the caller. Output: styles and characters. Reads no environment.
//! Nothing is told by colour alone: each block state has its own symbol, each warning its own word.

use ratatui::style::{Color, Modifier, Style};

/// Colours the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Palette {
    /// None: only bold, dim and reverse.
    Mono,
    /// The 16 of every terminal.
    Ansi16,
    /// The 256 of xterm; hues after Okabe and Ito's set for colour-blind people.
    Indexed256,
}

/// Characters the terminal can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symbols {
    /// Block elements that the fonts of graphical and text consoles have.
    Unicode,
    /// ASCII only.
    Ascii,
}

/// What a piece of the screen is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Ordinary text.
    Text,
    /// The program's name and section titles.
    Title,
    /// Labels and rules.
    Dim,
    /// A key in the hint line.
    Key,
    /// Things as they should be.
    Good,
    /// Something to look at.
    Warn,
    /// Something lost or forbidden.
    Bad,
    /// The heading of the table.
    Heading,
    /// The selected row.
    Selected,
    /// The cell under the cursor of a line that is typed.
    Cursor,
}

/// Colours and symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Theme {
    /// Colours.
    pub palette: Palette,
    /// Characters.
    pub symbols: Symbols,
}

impl Theme {
    /// Style of a role.
    #[must_use]
    pub fn style(self, role: Role) -> Style {
        let plain = Style::new();
        let bold = plain.add_modifier(Modifier::BOLD);
        match (role, self.palette) {
            (Role::Text, _) => plain,
            (Role::Title, Palette::Indexed256) => bold.fg(Color::Indexed(117)),
            (Role::Title, Palette::Ansi16) => bold.fg(Color::Cyan),
            (Role::Title, Palette::Mono) => bold,
            (Role::Dim, Palette::Indexed256) => plain.fg(Color::Indexed(246)),
            (Role::Dim, _) => plain.add_modifier(Modifier::DIM),
            (Role::Key, _) => bold,
            (Role::Good, Palette::Indexed256) => plain.fg(Color::Indexed(43)),
            (Role::Good, Palette::Ansi16) => plain.fg(Color::Green),
            (Role::Good, Palette::Mono) => plain,
            (Role::Warn, Palette::Indexed256) => bold.fg(Color::Indexed(214)),
            (Role::Warn, Palette::Ansi16) => bold.fg(Color::Yellow),
            (Role::Warn, Palette::Mono) => bold,
            (Role::Bad, Palette::Indexed256) => bold.fg(Color::Indexed(231)).bg(Color::Indexed(160)),
            (Role::Bad, Palette::Ansi16) => bold.fg(Color::White).bg(Color::Red),
            (Role::Bad, Palette::Mono) => bold.add_modifier(Modifier::REVERSED),
            (Role::Heading, Palette::Indexed256) => bold.fg(Color::Indexed(252)).bg(Color::Indexed(237)),
            (Role::Heading, _) => plain.add_modifier(Modifier::REVERSED),
            (Role::Selected, Palette::Indexed256) => bold.bg(Color::Indexed(24)).fg(Color::Indexed(231)),
            (Role::Selected, Palette::Ansi16) => bold.bg(Color::Blue).fg(Color::White),
            (Role::Selected, Palette::Mono) => bold,
            (Role::Cursor, _) => plain.add_modifier(Modifier::REVERSED),
        }
    }

    /// Whether only ASCII may be printed.
    #[must_use]
    pub fn ascii(self) -> bool {
        self.symbols == Symbols::Ascii
    }

    /// The character that stands for text cut off.
    #[must_use]
    pub fn ellipsis(self) -> char {
        if self.ascii() { '~' } else { '…' }
    }

    /// The character of horizontal rules.
    #[must_use]
    pub fn rule(self) -> char {
        if self.ascii() { '-' } else { '─' }
    }

    /// Full and empty parts of a gauge.
    #[must_use]
    pub fn gauge(self) -> (char, char) {
        if self.ascii() { ('=', '.') } else { ('━', '─') }
    }

    /// The mark before the selected row.
    #[must_use]
    pub fn mark(self) -> char {
        if self.ascii() { '>' } else { '▶' }
    }

    /// Marks of a column whose values grow from top to bottom, and of one whose values fall.
    #[must_use]
    pub fn sorted(self, ascends: bool) -> char {
        match (self.ascii(), ascends) {
            (true, true) => '^',
            (true, false) => 'v',
            (false, true) => '▲',
            (false, false) => '▼',
        }
    }

    /// An arrow to the right.
    #[must_use]
    pub fn arrow(self) -> &'static str {
        if self.ascii() { "->" } else { "→" }
    }

    /// The keys that move up and down.
    #[must_use]
    pub fn up_down(self) -> &'static str {
        if self.ascii() { "Up Down" } else { "↑↓" }
    }

    /// What stands between two facts of one line.
    #[must_use]
    pub fn dot(self) -> &'static str {
        if self.ascii() { ", " } else { " · " }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mono_sets_no_colour() {
        let theme = Theme { palette: Palette::Mono, symbols: Symbols::Unicode };
        let roles = [Role::Text, Role::Title, Role::Dim, Role::Key, Role::Good, Role::Warn, Role::Bad];
        for role in roles.into_iter().chain([Role::Heading, Role::Selected, Role::Cursor]) {
            assert_eq!((theme.style(role).fg, theme.style(role).bg), (None, None), "{role:?}");
        }
    }
}
