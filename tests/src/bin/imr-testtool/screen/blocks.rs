//! Block elements (U+2580 to U+259F) as rectangles: a font's own seldom meet without a gap.
//!
//! In: a character. Out: rectangles in eighths of a cell, and how much of the colour they have.
//! Must not know colours or places.

/// A part of a cell, in eighths of its width and height, from the top left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) x: u8,
    pub(crate) y: u8,
    pub(crate) width: u8,
    pub(crate) height: u8,
}

/// What a block element covers, and the percentage of the foreground colour there; `None` for other characters.
pub(crate) fn parts(character: char) -> Option<(Vec<Part>, u16)> {
    let part = |x, y, width, height| vec![Part { x, y, width, height }];
    let code = u32::from(character);
    // In the ranges below it is a small number.
    let nth = |first: u32| u8::try_from(code - first).unwrap_or_default();
    let parts = match code {
        0x2580 => part(0, 0, 8, 4),
        // Lower one eighth to the full block.
        0x2581..=0x2588 => {
            let height = nth(0x2580);
            part(0, 8 - height, 8, height)
        }
        // Left seven eighths to left one eighth.
        0x2589..=0x258f => part(0, 0, 8 - nth(0x2588), 8),
        0x2590 => part(4, 0, 4, 8),
        0x2591..=0x2593 => return Some((part(0, 0, 8, 8), 25 * (u16::from(nth(0x2591)) + 1))),
        0x2594 => part(0, 0, 8, 1),
        0x2595 => part(7, 0, 1, 8),
        0x2596..=0x259f => quadrants(QUADRANTS[usize::from(nth(0x2596))]),
        _ => return None,
    };
    Some((parts, 100))
}

/// Upper left 1, upper right 2, lower left 4, lower right 8; from U+2596 on.
const QUADRANTS: [u8; 10] = [4, 8, 1, 13, 9, 7, 11, 2, 6, 14];

fn quadrants(bits: u8) -> Vec<Part> {
    [(1, 0, 0), (2, 4, 0), (4, 0, 4), (8, 4, 4)]
        .into_iter()
        .filter(|(bit, ..)| bits & bit != 0)
        .map(|(_, x, y)| Part { x, y, width: 4, height: 4 })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(character: char) -> (u8, u8, u8, u8) {
        let (parts, percent) = parts(character).unwrap();
        assert_eq!((parts.len(), percent), (1, 100), "{character}");
        (parts[0].x, parts[0].y, parts[0].width, parts[0].height)
    }

    #[test]
    fn each_covers_what_its_name_says() {
        assert_eq!(one('▀'), (0, 0, 8, 4));
        assert_eq!(one('▁'), (0, 7, 8, 1));
        assert_eq!(one('▄'), (0, 4, 8, 4));
        assert_eq!(one('█'), (0, 0, 8, 8));
        assert_eq!(one('▉'), (0, 0, 7, 8));
        assert_eq!(one('▏'), (0, 0, 1, 8));
        assert_eq!(one('▐'), (4, 0, 4, 8));
        assert_eq!(one('▔'), (0, 0, 8, 1));
        assert_eq!(one('▕'), (7, 0, 1, 8));
        assert_eq!(one('▖'), (0, 4, 4, 4));
        assert_eq!(one('▝'), (4, 0, 4, 4));
        for (character, percent) in [('░', 25), ('▒', 50), ('▓', 75)] {
            assert_eq!(parts(character).unwrap().1, percent);
        }
    }

    #[test]
    fn quadrants_cover_a_cell_once() {
        for (character, count) in [('▙', 3), ('▚', 2), ('▛', 3), ('▜', 3), ('▞', 2), ('▟', 3)] {
            assert_eq!(parts(character).unwrap().0.len(), count, "{character}");
        }
        let (upper_left_missing, _) = parts('▟').unwrap();
        assert!(!upper_left_missing.iter().any(|part| (part.x, part.y) == (0, 0)));
        assert!(parts('─').is_none() && parts('■').is_none() && parts('a').is_none());
    }
}
