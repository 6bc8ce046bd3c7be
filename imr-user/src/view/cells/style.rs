//! Symbol and colour of each kind of cell. No kind is told by its colour alone, and the colours themselves stay
//! apart for people who see two of the three primaries.
//!
//! Input: a kind. Output: a character and a style. The colours follow Okabe and Ito's set, moved within the 256 of
//! xterm until all dichromats can tell them apart; a test measures it.

use ratatui::style::{Color, Style};

use super::CellKind;
use crate::view::theme::{Palette, Symbols, Theme};

impl CellKind {
    /// Its letter or sign in ASCII.
    pub(crate) const fn ascii(self) -> char {
        match self {
            Self::FreeHeld => 'F',
            Self::Refaulted => '!',
            Self::Swapped => 's',
            Self::Resident2m => '@',
            Self::Resident4k => '#',
            Self::Partly => '+',
            Self::Idle => 'i',
            Self::Merged => 'm',
            Self::Reclaimed => '-',
            Self::Untouched => '.',
        }
    }

    /// Its sign among those that the fonts of graphical and text consoles have: dense where there is much memory.
    const fn unicode(self) -> char {
        match self {
            Self::FreeHeld => '◆',
            Self::Refaulted => '▲',
            Self::Swapped => '▼',
            Self::Resident2m => '█',
            Self::Resident4k => '▓',
            Self::Partly => '▄',
            Self::Idle => '▒',
            Self::Merged => '≡',
            Self::Reclaimed => '░',
            Self::Untouched => '·',
        }
    }

    const fn indexed(self) -> u8 {
        match self {
            Self::FreeHeld => 214,
            Self::Refaulted => 169,
            Self::Swapped => 166,
            Self::Resident2m | Self::Resident4k | Self::Partly => 117,
            Self::Idle => 33,
            Self::Merged => 227,
            Self::Reclaimed => 35,
            Self::Untouched => 240,
        }
    }

    const fn named(self) -> Color {
        match self {
            Self::FreeHeld => Color::Yellow,
            Self::Refaulted => Color::Magenta,
            Self::Swapped => Color::Red,
            Self::Resident2m | Self::Resident4k | Self::Partly => Color::Cyan,
            // Dark blue on black cannot be read on most consoles.
            Self::Idle => Color::LightBlue,
            Self::Merged => Color::White,
            Self::Reclaimed => Color::Green,
            Self::Untouched => Color::DarkGray,
        }
    }
}

impl Theme {
    /// Symbol and style of a cell of a map.
    #[must_use]
    pub fn cell(self, kind: CellKind) -> (char, Style) {
        let style = match self.palette {
            Palette::Mono => Style::new(),
            Palette::Ansi16 => Style::new().fg(kind.named()),
            Palette::Indexed256 => Style::new().fg(Color::Indexed(kind.indexed())),
        };
        let symbol = match self.symbols {
            Symbols::Unicode => kind.unicode(),
            Symbols::Ascii => kind.ascii(),
        };
        (symbol, style)
    }

    /// The cell under the cursor: reversed, and by its letter, because half a shade reversed is itself.
    #[must_use]
    pub(crate) fn cursor_cell(self, kind: CellKind) -> (char, Style) {
        let (_, style) = self.cell(kind);
        (kind.ascii(), style.reversed().bold())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ratatui::style::Modifier;

    use super::*;

    /// What is left of linear RGB for people without one kind of cones: Machado, Oliveira and Fernandes (2009),
    /// severity 1.
    const SIGHTS: [(&str, [[f64; 3]; 3]); 4] = [
        ("all cones", [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
        ("no red", [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]),
        ("no green", [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]),
        ("no blue", [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]),
    ];

    /// One of xterm's 256 colours, as linear RGB.
    fn linear(index: u8) -> [f64; 3] {
        let bytes = match index {
            232.. => [8 + 10 * (index - 232); 3],
            _ => [(index - 16) / 36, (index - 16) / 6 % 6, (index - 16) % 6]
                .map(|level| [0, 95, 135, 175, 215, 255][usize::from(level)]),
        };
        bytes.map(|byte| {
            let part = f64::from(byte) / 255.0;
            if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        })
    }

    /// CIE L*a*b*: about equal distances look about equally different.
    fn lab(rgb: [f64; 3], sight: &[[f64; 3]; 3]) -> [f64; 3] {
        let [r, g, b] =
            sight.map(|row| (row[0] * rgb[0] + row[1] * rgb[1] + row[2] * rgb[2]).clamp(0.0, 1.0));
        let [x, y, z] = [
            (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505,
            0.2126 * r + 0.7152 * g + 0.0722 * b,
            (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.0888,
        ]
        .map(|t: f64| if t > 0.008_856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 });
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }

    #[test]
    fn colours_stay_apart_for_colour_blind_people() {
        let colours: BTreeSet<u8> = CellKind::ALL.iter().map(|kind| kind.indexed()).collect();
        assert_eq!(colours.len(), 8);
        for (name, sight) in &SIGHTS {
            for one in &colours {
                for other in colours.range(one + 1..) {
                    let (a, b) = (lab(linear(*one), sight), lab(linear(*other), sight));
                    let apart = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                    assert!(apart > 20.0, "{name}: {one} and {other} are {apart:.0} apart");
                }
            }
        }
    }

    #[test]
    fn colours_can_be_seen_on_black() {
        for kind in CellKind::ALL {
            let [r, g, b] = linear(kind.indexed());
            let contrast = (0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05) / 0.05;
            // What WCAG 2.1 asks of graphics; what is untouched may stay in the background.
            let least = if kind == CellKind::Untouched { 2.5 } else { 3.0 };
            assert!(contrast >= least, "{kind:?}: {contrast:.1}");
        }
    }

    #[test]
    fn every_kind_has_a_symbol_of_its_own_without_colour() {
        for symbols in [Symbols::Unicode, Symbols::Ascii] {
            let theme = Theme { palette: Palette::Mono, symbols };
            let seen: BTreeSet<char> = CellKind::ALL.iter().map(|kind| theme.cell(*kind).0).collect();
            assert_eq!(seen.len(), CellKind::ALL.len());
            assert!(symbols == Symbols::Unicode || seen.iter().all(char::is_ascii));
            for kind in CellKind::ALL {
                let (symbol, style) = theme.cursor_cell(kind);
                assert_ne!((symbol, style), theme.cell(kind), "the cursor is seen on {kind:?}");
                assert!(style.add_modifier.contains(Modifier::REVERSED));
                assert_eq!((style.fg, style.bg), (None, None));
            }
        }
    }

    #[test]
    fn the_headline_has_a_colour_that_nothing_else_has() {
        for palette in [Palette::Ansi16, Palette::Indexed256] {
            let theme = Theme { palette, symbols: Symbols::Unicode };
            let of = |kind| theme.cell(kind).1.fg;
            assert!(CellKind::ALL[1..].iter().all(|kind| of(*kind) != of(CellKind::FreeHeld)));
            assert!(CellKind::ALL.iter().all(|kind| of(*kind).is_some()));
        }
    }
}
