//! Keys by name, and which of them does what.
//!
//! Input: terminal key events, names out of a configuration. Output: [`Verb`]s, names for people. A key never does two
//! things.

use std::fmt;
use std::str::FromStr;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::verb::{VERBS, Verb};

/// Names of keys that are no character.
const NAMED: [(&str, KeyCode); 17] = [
    ("Space", KeyCode::Char(' ')),
    ("Enter", KeyCode::Enter),
    ("Esc", KeyCode::Esc),
    ("Tab", KeyCode::Tab),
    ("BackTab", KeyCode::BackTab),
    ("Shift-Tab", KeyCode::BackTab),
    ("Backspace", KeyCode::Backspace),
    ("Insert", KeyCode::Insert),
    ("Delete", KeyCode::Delete),
    ("Up", KeyCode::Up),
    ("Down", KeyCode::Down),
    ("Left", KeyCode::Left),
    ("Right", KeyCode::Right),
    ("PgUp", KeyCode::PageUp),
    ("PgDn", KeyCode::PageDown),
    ("Home", KeyCode::Home),
    ("End", KeyCode::End),
];

/// A key as a terminal can tell it from others. Shift is part of the character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Hash)]
pub struct Key {
    code: KeyCode,
    ctrl: bool,
    alt: bool,
}

/// Which key does what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyMap {
    keys: Vec<(Verb, Vec<Key>)>,
}

/// A key that was to do two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clash {
    /// The key.
    pub key: Key,
    /// What it does.
    pub first: Verb,
    /// What it was to do as well.
    pub second: Verb,
}

impl Key {
    /// The key of this event.
    #[must_use]
    pub fn of(event: KeyEvent) -> Self {
        let ctrl = event.modifiers.contains(KeyModifiers::CONTROL);
        let code = match event.code {
            KeyCode::Char(c) if ctrl => KeyCode::Char(c.to_ascii_lowercase()),
            KeyCode::Tab if event.modifiers.contains(KeyModifiers::SHIFT) => KeyCode::BackTab,
            code => code,
        };
        Self { code, ctrl, alt: event.modifiers.contains(KeyModifiers::ALT) }
    }

    /// Without Ctrl and Alt.
    #[cfg(test)]
    pub(crate) fn code(self) -> KeyCode {
        self.code
    }

    /// The character that the key writes, if it writes one.
    #[must_use]
    pub fn character(self) -> Option<char> {
        match self.code {
            KeyCode::Char(c) if !self.ctrl && !self.alt && !c.is_control() => Some(c),
            _ => None,
        }
    }

    /// Whether this is the bare key of this code.
    #[must_use]
    pub fn is(self, code: KeyCode) -> bool {
        self.code == code && !self.ctrl && !self.alt
    }

    /// Whether this is Ctrl with this letter.
    #[must_use]
    pub fn is_ctrl(self, letter: char) -> bool {
        self.code == KeyCode::Char(letter) && self.ctrl && !self.alt
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ctrl {
            f.write_str("Ctrl-")?;
        }
        if self.alt {
            f.write_str("Alt-")?;
        }
        if let Some((name, _)) = NAMED.iter().find(|(_, code)| *code == self.code) {
            return f.write_str(name);
        }
        match self.code {
            KeyCode::Char(c) if self.ctrl => write!(f, "{}", c.to_ascii_uppercase()),
            KeyCode::Char(c) => write!(f, "{c}"),
            KeyCode::F(number) => write!(f, "F{number}"),
            other => write!(f, "{other:?}"),
        }
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || {
            let names: Vec<&str> = NAMED.iter().map(|(name, _)| *name).collect();
            format!(
                "unknown key {text:?}; allowed: a single character, F1 to F12, {}, each also with Ctrl- or Alt- \
                 before it",
                names.join(", ")
            )
        };
        let mut rest = text;
        let (mut ctrl, mut alt) = (false, false);
        loop {
            if let Some(after) = strip(rest, "ctrl-") {
                (ctrl, rest) = (true, after);
            } else if let Some(after) = strip(rest, "alt-") {
                (alt, rest) = (true, after);
            } else {
                break;
            }
        }
        let mut characters = rest.chars();
        let code = match (characters.next(), characters.next()) {
            (Some(c), None) if !c.is_control() && c != ' ' => KeyCode::Char(c),
            _ => match NAMED.iter().find(|(name, _)| name.eq_ignore_ascii_case(rest)) {
                Some((_, code)) => *code,
                None => {
                    let number = strip(rest, "f").and_then(|number| number.parse().ok());
                    KeyCode::F(number.filter(|number| (1..=12).contains(number)).ok_or_else(unknown)?)
                }
            },
        };
        let code = match code {
            KeyCode::Char(c) if ctrl => {
                if let Some(same) = [('i', "Tab"), ('m', "Enter"), ('h', "Backspace"), ('[', "Esc")]
                    .iter()
                    .find(|(letter, _)| *letter == c.to_ascii_lowercase())
                {
                    return Err(format!("{text:?} is the same as {} on a terminal; write that", same.1));
                }
                KeyCode::Char(c.to_ascii_lowercase())
            }
            code => code,
        };
        Ok(Self { code, ctrl, alt })
    }
}

fn strip<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    // What is left must be a key: "-" itself, as in Ctrl--, is one.
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..]).filter(|rest| !rest.is_empty())
}

impl Default for KeyMap {
    fn default() -> Self {
        // A test parses them all.
        let keys = |names: &[&str]| names.iter().filter_map(|name| name.parse().ok()).collect();
        Self { keys: VERBS.iter().map(|entry| (entry.verb, keys(entry.keys))).collect() }
    }
}

impl KeyMap {
    /// The default keys, but for these verbs only the keys given.
    ///
    /// # Errors
    /// The first key that would do two things. `second` is always one of those given.
    pub fn with(changed: &[(Verb, Vec<Key>)]) -> Result<Self, Clash> {
        let mut map = Self::default();
        for (verb, _) in changed {
            map.keys[*verb as usize].1.clear();
        }
        for (verb, keys) in changed {
            for key in keys {
                match map.verb(*key) {
                    Some(first) if first == *verb => {}
                    Some(first) => return Err(Clash { key: *key, first, second: *verb }),
                    None => map.keys[*verb as usize].1.push(*key),
                }
            }
        }
        Ok(map)
    }

    /// What the key does.
    #[must_use]
    pub fn verb(&self, key: Key) -> Option<Verb> {
        self.keys.iter().find(|(_, keys)| keys.contains(&key)).map(|(verb, _)| *verb)
    }

    /// The keys of a verb, the first being the one to tell people of.
    #[must_use]
    pub fn keys(&self, verb: Verb) -> &[Key] {
        &self.keys[verb as usize].1
    }

    /// The first key of a verb by name; empty where it has none.
    pub(crate) fn first(&self, verb: Verb) -> String {
        self.keys(verb).first().map(Key::to_string).unwrap_or_default()
    }

    /// All keys of a verb by name.
    pub(crate) fn names(&self, verb: Verb) -> String {
        self.keys(verb).iter().map(Key::to_string).collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_key_is_one_and_does_one_thing() {
        let map = KeyMap::default();
        let mut seen = Vec::new();
        for entry in VERBS {
            assert_eq!(map.keys(entry.verb).len(), entry.keys.len(), "{}", entry.name);
            for (key, name) in map.keys(entry.verb).iter().zip(entry.keys) {
                assert_eq!(key.to_string(), *name);
                assert!(!seen.contains(key), "{name} twice");
                seen.push(*key);
                assert_eq!(map.verb(*key), Some(entry.verb));
            }
        }
        assert_eq!(KeyMap::with(&[]), Ok(map));
    }

    #[test]
    fn names_are_read_as_people_write_them() {
        for (text, shown) in [
            ("ctrl-c", "Ctrl-C"),
            ("Ctrl--", "Ctrl--"),
            ("-", "-"),
            ("f5", "F5"),
            ("Alt-x", "Alt-x"),
            ("SPACE", "Space"),
            ("shift-tab", "BackTab"),
            ("pgup", "PgUp"),
            ("Z", "Z"),
            ("ä", "ä"),
        ] {
            assert_eq!(text.parse::<Key>().unwrap().to_string(), shown, "{text}");
        }
        for text in ["", " ", "Ctrl-", "F0", "F13", "xy", "\n", "Hyper-x"] {
            let error = text.parse::<Key>().unwrap_err();
            assert!(error.contains("PgUp") && error.contains(&format!("{text:?}")), "{error}");
        }
        assert!("Ctrl-I".parse::<Key>().unwrap_err().contains("Tab"));
    }

    #[test]
    fn shift_is_part_of_the_character() {
        let shifted = KeyEvent::new(KeyCode::Char('S'), KeyModifiers::SHIFT);
        assert_eq!(KeyMap::default().verb(Key::of(shifted)), Some(Verb::Reverse));
        let back = KeyEvent::new(KeyCode::BackTab, KeyModifiers::SHIFT);
        assert_eq!(KeyMap::default().verb(Key::of(back)), Some(Verb::PreviousView));
    }

    #[test]
    fn a_key_cannot_do_two_things() {
        let key = |name: &str| name.parse::<Key>().unwrap();
        let clash = KeyMap::with(&[(Verb::Pause, vec![key("p"), key("q")])]).unwrap_err();
        assert_eq!(clash, Clash { key: key("q"), first: Verb::Quit, second: Verb::Pause });
        let swapped = [(Verb::Pause, vec![key("q")]), (Verb::Quit, vec![key("Space"), key("Space")])];
        let map = KeyMap::with(&swapped).unwrap();
        assert_eq!(map.verb(key("q")), Some(Verb::Pause));
        assert_eq!((map.verb(key("Space")), map.verb(key("Ctrl-C"))), (Some(Verb::Quit), None));
        assert_eq!(map.names(Verb::Quit), "Space");
    }
}
