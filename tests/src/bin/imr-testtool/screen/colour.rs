//! The colours of a terminal as red, green and blue.
//!
//! In: a colour as a program names it. Out: what is drawn. The first sixteen are the Tango palette, legible on the
//! dark background; the rest is fixed by xterm. Must not know cells.

use std::fmt;

/// Red, green, blue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rgb(pub(crate) u8, pub(crate) u8, pub(crate) u8);

/// Where nothing is drawn.
pub(crate) const BACKGROUND: Rgb = Rgb(0x16, 0x18, 0x1a);
/// Text without a colour.
pub(crate) const FOREGROUND: Rgb = Rgb(0xd3, 0xd7, 0xcf);

const SIXTEEN: [Rgb; 16] = [
    Rgb(0x00, 0x00, 0x00),
    Rgb(0xcc, 0x00, 0x00),
    Rgb(0x4e, 0x9a, 0x06),
    Rgb(0xc4, 0xa0, 0x00),
    Rgb(0x34, 0x65, 0xa4),
    Rgb(0x75, 0x50, 0x7b),
    Rgb(0x06, 0x98, 0x9a),
    Rgb(0xd3, 0xd7, 0xcf),
    Rgb(0x55, 0x57, 0x53),
    Rgb(0xef, 0x29, 0x29),
    Rgb(0x8a, 0xe2, 0x34),
    Rgb(0xfc, 0xe9, 0x4f),
    Rgb(0x72, 0x9f, 0xcf),
    Rgb(0xad, 0x7f, 0xa8),
    Rgb(0x34, 0xe2, 0xe2),
    Rgb(0xee, 0xee, 0xec),
];
/// The steps of xterm's 6x6x6 cube.
const CUBE: [u8; 6] = [0, 95, 135, 175, 215, 255];

impl Rgb {
    /// A colour of a cell; `default` is what it is without one.
    pub(crate) fn of(colour: vt100::Color, default: Self) -> Self {
        match colour {
            vt100::Color::Default => default,
            vt100::Color::Rgb(red, green, blue) => Self(red, green, blue),
            vt100::Color::Idx(index @ 0..16) => SIXTEEN[usize::from(index)],
            vt100::Color::Idx(index @ 16..232) => {
                let index = usize::from(index - 16);
                Self(CUBE[index / 36], CUBE[index / 6 % 6], CUBE[index % 6])
            }
            vt100::Color::Idx(index @ 232..) => {
                let grey = 8 + 10 * (index - 232);
                Self(grey, grey, grey)
            }
        }
    }

    /// `percent` of itself, the rest of `other`.
    pub(crate) fn mixed(self, percent: u16, other: Self) -> Self {
        let mix = |one: u8, other: u8| {
            let sum = u16::from(one) * percent + u16::from(other) * (100 - percent);
            u8::try_from(sum / 100).unwrap_or(u8::MAX)
        };
        Self(mix(self.0, other.0), mix(self.1, other.1), mix(self.2, other.2))
    }
}

impl fmt::Display for Rgb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use vt100::Color;

    use super::*;

    #[test]
    fn every_kind_of_colour_is_known() {
        let of = |colour| Rgb::of(colour, BACKGROUND).to_string();
        assert_eq!(of(Color::Default), BACKGROUND.to_string());
        assert_eq!(of(Color::Idx(1)), "#cc0000");
        assert_eq!(of(Color::Idx(15)), "#eeeeec");
        assert_eq!(of(Color::Idx(16)), "#000000");
        assert_eq!(of(Color::Idx(196)), "#ff0000");
        assert_eq!(of(Color::Idx(110)), "#87afd7");
        assert_eq!(of(Color::Idx(231)), "#ffffff");
        assert_eq!(of(Color::Idx(232)), "#080808");
        assert_eq!(of(Color::Idx(255)), "#eeeeee");
        assert_eq!(of(Color::Rgb(1, 2, 255)), "#0102ff");
    }

    #[test]
    fn a_mix_lies_between() {
        assert_eq!(Rgb(200, 0, 255).mixed(60, Rgb(0, 100, 255)), Rgb(120, 40, 255));
    }
}
