//! Keys as an xterm sends them.
//!
//! In: a key's name. Out: the bytes that the terminal writes for it, in the mode that the program asked for.
//! Must not know the screen.

use std::str::FromStr;

/// A key, with its modifier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Key {
    /// A character by itself.
    Char(char),
    /// With Ctrl: a lower-case letter, or one of `[ \ ] ^ _` and the blank.
    Ctrl(char),
    /// With Alt.
    Alt(char),
    /// A cursor key (or Home, End), by its final byte: `ESC [ x`, in application mode `ESC O x`.
    Cursor(char),
    /// Any other, by its bytes.
    Named(&'static str),
}

/// Keys whose bytes depend on no mode.
const NAMED: [(&str, &str); 23] = [
    ("Enter", "\r"),
    ("Esc", "\x1b"),
    ("Tab", "\t"),
    ("BackTab", "\x1b[Z"),
    ("Space", " "),
    ("Backspace", "\x7f"),
    ("Insert", "\x1b[2~"),
    ("Delete", "\x1b[3~"),
    ("PgUp", "\x1b[5~"),
    ("PgDn", "\x1b[6~"),
    ("F1", "\x1bOP"),
    ("F2", "\x1bOQ"),
    ("F3", "\x1bOR"),
    ("F4", "\x1bOS"),
    ("F5", "\x1b[15~"),
    ("F6", "\x1b[17~"),
    ("F7", "\x1b[18~"),
    ("F8", "\x1b[19~"),
    ("F9", "\x1b[20~"),
    ("F10", "\x1b[21~"),
    ("F11", "\x1b[23~"),
    ("F12", "\x1b[24~"),
    ("C-Space", "\0"),
];

const CURSOR: [(&str, char); 6] =
    [("Up", 'A'), ("Down", 'B'), ("Right", 'C'), ("Left", 'D'), ("Home", 'H'), ("End", 'F')];

impl FromStr for Key {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if let Some(key) = single(name) {
            return Ok(Self::Char(key));
        }
        if let Some((_, bytes)) = NAMED.iter().find(|(other, _)| *other == name) {
            return Ok(Self::Named(bytes));
        }
        if let Some((_, end)) = CURSOR.iter().find(|(other, _)| *other == name) {
            return Ok(Self::Cursor(*end));
        }
        if let Some(key) = name.strip_prefix("C-").and_then(single)
            && (key.is_ascii_lowercase() || matches!(key, '[' | '\\' | ']' | '^' | '_'))
        {
            return Ok(Self::Ctrl(key));
        }
        if let Some(key) = name.strip_prefix("M-").and_then(single) {
            return Ok(Self::Alt(key));
        }
        Err(format!("no key {name:?} (imr-testtool screen --help)"))
    }
}

/// The only character of `text`.
fn single(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

impl Key {
    /// What the terminal sends; `application`: the program asked for application cursor keys (DECCKM).
    pub(crate) fn bytes(&self, application: bool) -> Vec<u8> {
        match self {
            Self::Char(key) => key.to_string().into_bytes(),
            // A control character has the low five bits of its letter.
            Self::Ctrl(key) => vec![u8::try_from(*key).unwrap_or_default() & 0x1f],
            Self::Alt(key) => format!("\x1b{key}").into_bytes(),
            Self::Cursor(end) => format!("\x1b{}{end}", if application { 'O' } else { '[' }).into_bytes(),
            Self::Named(bytes) => bytes.as_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_the_bytes_of_an_xterm() {
        for (name, bytes) in [
            ("q", "q"),
            ("?", "?"),
            ("é", "é"),
            ("C-c", "\x03"),
            ("C-l", "\x0c"),
            ("C-\\", "\x1c"),
            ("M-x", "\x1bx"),
            ("Enter", "\r"),
            ("BackTab", "\x1b[Z"),
            ("F12", "\x1b[24~"),
            ("Down", "\x1b[B"),
        ] {
            assert_eq!(name.parse::<Key>().unwrap().bytes(false), bytes.as_bytes(), "{name}");
        }
        assert_eq!("Down".parse::<Key>().unwrap().bytes(true), b"\x1bOB");
        assert_eq!("F1".parse::<Key>().unwrap().bytes(true), b"\x1bOP");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for name in ["", "enter", "F13", "C-C", "C-", "C-é", "M-", "Ctrl-c"] {
            assert!(name.parse::<Key>().unwrap_err().contains(name));
        }
    }
}
