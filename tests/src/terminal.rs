//! The screen as the program's output makes it.
//!
//! In: bytes that the program wrote. Out: rows of text, cells, and what a terminal answers to its questions.
//! Must not do any I/O. Sequences that it does not understand are counted and told, not ignored.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::str::FromStr;

use vt100::{Callbacks, MouseProtocolEncoding, MouseProtocolMode, Parser, Screen};

/// A terminal's size. The longest side keeps a capture at a size that can be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// 1 to 1000.
    pub columns: u16,
    /// 1 to 1000.
    pub rows: u16,
}

/// The longest side of a [`Size`].
pub const LONGEST_SIDE: u16 = 1000;

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let side = |side: &str| side.parse().ok().filter(|side| (1..=LONGEST_SIDE).contains(side));
        let sides = text.split_once('x').and_then(|(columns, rows)| Some((side(columns)?, side(rows)?)));
        let (columns, rows) = sides.ok_or_else(|| format!("{text:?} is not a size such as 80x24"))?;
        Ok(Self { columns, rows })
    }
}

/// Kinds of unknown sequences that are remembered.
const UNKNOWN_KINDS: usize = 32;

/// A screen.
pub struct Terminal {
    parser: Parser<Listener>,
}

#[derive(Default)]
struct Listener {
    answers: Vec<u8>,
    unknown: BTreeMap<String, u32>,
}

impl Terminal {
    /// An empty screen.
    pub fn new(size: Size) -> Self {
        let (rows, columns) = sides(size);
        Self { parser: Parser::new_with_callbacks(rows, columns, 0, Listener::default()) }
    }

    /// Takes in output, and returns what the terminal answers to it.
    pub fn process(&mut self, output: &[u8]) -> Vec<u8> {
        self.parser.process(output);
        std::mem::take(&mut self.parser.callbacks_mut().answers)
    }

    /// Takes another size.
    pub fn resize(&mut self, size: Size) {
        let (rows, columns) = sides(size);
        self.parser.set_size(rows, columns);
    }

    /// The cells and modes.
    pub fn screen(&self) -> &Screen {
        self.parser.screen()
    }

    /// Its size.
    pub fn size(&self) -> Size {
        let (rows, columns) = self.screen().size();
        Size { columns: columns.get(), rows: rows.get() }
    }

    /// The text of each row, without blanks at its end.
    pub fn rows(&self) -> Vec<String> {
        let rows = self.screen().rows(0, self.size().columns);
        rows.map(|row| row.trim_end().to_owned()).collect()
    }

    /// Whether one row holds `text`; a row ends in blanks.
    pub fn contains(&self, text: &str) -> bool {
        let width = usize::from(self.size().columns);
        self.rows().iter().any(|row| format!("{row:width$}").contains(text))
    }

    /// Whether the program asked for reports of the mouse in the form that `session` writes.
    pub fn wants_mouse(&self) -> bool {
        self.screen().mouse_protocol_mode() != MouseProtocolMode::None
            && self.screen().mouse_protocol_encoding() == MouseProtocolEncoding::Sgr
    }

    /// Sequences that it did not understand, each with its count.
    pub fn unknown(&self) -> &BTreeMap<String, u32> {
        &self.parser.callbacks().unknown
    }
}

fn sides(size: Size) -> (NonZeroU16, NonZeroU16) {
    let side = |side| NonZeroU16::new(side).unwrap_or(NonZeroU16::MIN);
    (side(size.rows), side(size.columns))
}

impl Listener {
    fn note(&mut self, sequence: String) {
        if self.unknown.len() < UNKNOWN_KINDS || self.unknown.contains_key(&sequence) {
            *self.unknown.entry(sequence).or_default() += 1;
        } else {
            *self.unknown.entry("others".to_owned()).or_default() += 1;
        }
    }
}

impl Callbacks for Listener {
    fn unhandled_csi(
        &mut self,
        screen: &mut Screen,
        first: Option<u8>,
        second: Option<u8>,
        parameters: &[&[u16]],
        last: char,
    ) {
        let asked = parameters.first().and_then(|parameter| parameter.first()).copied().unwrap_or_default();
        match (first, last, asked) {
            // Device status and cursor position (ECMA-48 DSR): programs wait for the answer.
            (None, 'n', 5) => self.answers.extend(b"\x1b[0n"),
            (None, 'n', 6) => {
                let (row, column) = screen.cursor_position();
                self.answers.extend(format!("\x1b[{};{}R", row + 1, column + 1).into_bytes());
            }
            // Device attributes: a VT100 with advanced video.
            (None, 'c', 0) => self.answers.extend(b"\x1b[?1;2c"),
            // Underlines have the colour of their text again; they never had another here.
            (None, 'm', 59) if parameters.len() == 1 => {}
            _ => {
                let numbers = parameters
                    .iter()
                    .map(|parameter| parameter.iter().map(u16::to_string).collect::<Vec<_>>().join(":"));
                let mut sequence = "CSI ".to_owned();
                sequence.extend([first, second].into_iter().flatten().map(char::from));
                sequence.push_str(&numbers.collect::<Vec<_>>().join(";"));
                sequence.push(last);
                self.note(sequence);
            }
        }
    }

    fn unhandled_escape(&mut self, _: &mut Screen, first: Option<u8>, second: Option<u8>, last: u8) {
        let mut sequence = "ESC ".to_owned();
        sequence.extend([first, second, Some(last)].into_iter().flatten().map(char::from));
        self.note(sequence);
    }

    fn unhandled_osc(&mut self, _: &mut Screen, parameters: &[&[u8]]) {
        let number = parameters.first().map(|number| String::from_utf8_lossy(number)).unwrap_or_default();
        self.note(format!("OSC {number}"));
    }

    fn unhandled_control(&mut self, _: &mut Screen, control: u8) {
        self.note(format!("control {control:#04x}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(output: &str) -> (Terminal, Vec<u8>) {
        let mut terminal = Terminal::new(Size { columns: 10, rows: 3 });
        let answers = terminal.process(output.as_bytes());
        (terminal, answers)
    }

    #[test]
    fn text_is_found_within_one_row_only() {
        let (terminal, _) = terminal("ab\x1b[2;3Hcd  ef\x1b[3;9Hgh");
        assert_eq!(terminal.rows(), ["ab", "  cd  ef", "        gh"]);
        assert!(terminal.contains("ab ") && terminal.contains("cd  ef") && terminal.contains(" gh"));
        assert!(!terminal.contains("efgh") && !terminal.contains("gh "));
    }

    #[test]
    fn questions_are_answered_and_the_unknown_is_told() {
        let (terminal, answers) =
            terminal("\x1b[2;3H\x1b[6n\x1b[5n\x1b[c\x1b[?2026h\x1b[?2026h\x1b[59m\x1b[4;2~");
        assert_eq!(answers, b"\x1b[2;3R\x1b[0n\x1b[?1;2c");
        let unknown: Vec<_> =
            terminal.unknown().iter().map(|(name, count)| (name.as_str(), *count)).collect();
        assert_eq!(unknown, [("CSI 4;2~", 1), ("CSI ?2026h", 2)]);
    }

    #[test]
    fn the_mouse_is_wanted_when_it_was_asked_for() {
        assert!(!terminal("").0.wants_mouse());
        assert!(!terminal("\x1b[?1000h").0.wants_mouse());
        assert!(terminal("\x1b[?1000h\x1b[?1006h").0.wants_mouse());
    }

    #[test]
    fn it_survives_every_size() {
        let mut terminal = Terminal::new(Size { columns: 80, rows: 24 });
        for (columns, rows) in [(1, 1), (1000, 1), (1, 1000), (20, 5), (200, 60)] {
            terminal.process("wide 界 and\r\nmore\x1b[24;80Hend\x1b[2;3r".as_bytes());
            terminal.resize(Size { columns, rows });
            assert_eq!(terminal.rows().len(), usize::from(rows));
        }
    }
}
