//! Stacked layers and small lines in cells: eighths of blocks where the terminal has them, ASCII where not.
//!
//! Input: amounts a column and what the full height stands for. Output: cells. Each layer has a symbol of its own.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::Style;

use crate::view::cells::CellKind;
use crate::view::theme::{Role, Theme};

/// Where memory can be, from the bottom of the chart to its top.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layer {
    /// Resident, and not called free by the guest.
    Held,
    /// Resident in blocks that the guest calls free.
    Free,
    /// Shared with equal pages.
    Merged,
    /// In swap.
    Swapped,
    /// Reclaimed.
    Reclaimed,
}

/// All layers in the order of their numbers.
pub(super) const LAYERS: [Layer; 5] =
    [Layer::Held, Layer::Free, Layer::Merged, Layer::Swapped, Layer::Reclaimed];

/// Eighths of a cell.
const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// The same in ASCII.
const LEVELS: [char; 9] = [' ', '.', '.', ':', '-', '=', '+', '*', '#'];

/// Symbol and style of a layer: those of the maps.
pub(super) fn look(theme: Theme, layer: Layer) -> (char, Style) {
    let kind = match layer {
        Layer::Held => {
            // Solid, so that its edge can be drawn in eighths; the maps tell sizes of mappings apart here.
            let (_, style) = theme.cell(CellKind::Resident4k);
            return (if theme.ascii() { '#' } else { '█' }, style);
        }
        Layer::Free => CellKind::FreeHeld,
        Layer::Merged => CellKind::Merged,
        Layer::Swapped => CellKind::Swapped,
        Layer::Reclaimed => CellKind::Reclaimed,
    };
    theme.cell(kind)
}

/// The least of 2^k and 3 * 2^k bytes that is no less than `value`, at least 1 MiB.
pub(super) fn nice_bytes(value: u64) -> u64 {
    let power = value.max(1 << 20).checked_next_power_of_two().unwrap_or(u64::MAX);
    let between = power / 4 * 3;
    if between >= value.max(1 << 20) { between } else { power }
}

/// The least of 1, 2, 5, 10, 20, 50 and 100 percent that is no less than `value`.
pub(super) fn nice_percent(value: f64) -> f64 {
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0].into_iter().find(|nice| *nice >= value).unwrap_or(100.0)
}

/// Columns of layers on top of each other; the full height stands for `most`.
pub(super) fn stack(
    buffer: &mut Buffer,
    area: Rect,
    theme: Theme,
    columns: &[Option<[u64; LAYERS.len()]>],
    most: u64,
) {
    for (x, layers) in (area.left()..area.right()).zip(columns) {
        let Some(layers) = layers else { continue };
        for (row, y) in (area.top()..area.bottom()).rev().enumerate() {
            if let Some((symbol, style)) = cell(theme, layers, most, row, area.height) {
                buffer[(x, y)].set_char(symbol).set_style(style);
            }
        }
    }
}

/// What is in the cell `row` rows above the bottom of a column: the layer that has the most of it.
fn cell(
    theme: Theme,
    layers: &[u64; LAYERS.len()],
    most: u64,
    row: usize,
    height: u16,
) -> Option<(char, Style)> {
    let a_row = most as f64 / f64::from(height);
    let (bottom, top) = (row as f64, row as f64 + 1.0);
    let mut from = 0.0;
    let mut shares = [0.0; LAYERS.len()];
    for (share, bytes) in shares.iter_mut().zip(layers) {
        let to = from + *bytes as f64 / a_row;
        *share = (to.min(top) - from.max(bottom)).max(0.0);
        from = to;
    }
    let filled: f64 = shares.iter().sum();
    // Of the lowest row something shows as soon as there is anything at all.
    if filled <= 0.0 || (row > 0 && filled < 1.0 / 16.0) {
        return None;
    }
    let (at, share) = shares
        .iter()
        .enumerate()
        .fold((0, 0.0), |best, (at, share)| if *share > best.1 { (at, *share) } else { best });
    let (symbol, style) = look(theme, LAYERS[at]);
    let edge = filled < 1.0;
    // The solid layer can end inside a cell; any other is rounded to whole cells.
    if LAYERS[at] == Layer::Held && edge && share >= filled && !theme.ascii() {
        return Some((EIGHTHS[eighth(share)], style));
    }
    (filled >= 0.5 || row == 0).then_some((symbol, style))
}

/// A line as columns without layers; what is unknown stays empty.
pub(super) fn line(buffer: &mut Buffer, area: Rect, theme: Theme, values: &[Option<f64>], most: f64) {
    let style = theme.style(Role::Text);
    let symbols = if theme.ascii() { LEVELS } else { EIGHTHS };
    for (x, value) in (area.left()..area.right()).zip(values) {
        let Some(value) = value.filter(|value| value.is_finite() && *value > 0.0 && most > 0.0) else {
            continue;
        };
        let rows = (value / most).min(1.0) * f64::from(area.height);
        for (row, y) in (area.top()..area.bottom()).rev().enumerate() {
            let share = (rows - row as f64).min(1.0);
            if share > 0.0 && (row == 0 || share >= 1.0 / 16.0) {
                buffer[(x, y)].set_char(symbols[eighth(share)]).set_style(style);
            }
        }
    }
}

/// Eighths of a cell, one at least.
fn eighth(share: f64) -> usize {
    ((share * 8.0).round() as usize).clamp(1, 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::view::history::testing::ASCII;
    use crate::view::testing::THEME;

    fn column(theme: Theme, layers: [u64; 5], most: u64, height: u16) -> String {
        let area = Rect::new(0, 0, 1, height);
        let mut buffer = Buffer::empty(area);
        stack(&mut buffer, area, theme, &[Some(layers)], most);
        (0..height).rev().map(|y| buffer[(0, y)].symbol().to_owned()).collect()
    }

    #[test]
    fn layers_stand_on_each_other() {
        assert_eq!(column(THEME, [2, 1, 1, 1, 2], 8, 8), "██◆≡▼░░ ");
        assert_eq!(column(ASCII, [2, 1, 1, 1, 2], 8, 8), "##Fms-- ");
        // Five eighths of a row, and a trace.
        assert_eq!(column(THEME, [13, 0, 0, 0, 0], 16, 2), "█▅");
        assert_eq!(column(THEME, [1, 0, 0, 0, 0], 1000, 2), "▁ ");
        assert_eq!(column(THEME, [0, 0, 0, 1, 0], 1000, 2), "▼ ");
        assert_eq!(column(ASCII, [13, 0, 0, 0, 0], 16, 2), "##");
        assert_eq!(column(THEME, [0; 5], 16, 2), "  ");
    }

    #[test]
    fn every_layer_has_a_symbol_of_its_own() {
        for theme in [THEME, ASCII] {
            let mut symbols = LAYERS.map(|layer| look(theme, layer).0).to_vec();
            symbols.sort_unstable();
            symbols.dedup();
            assert_eq!(symbols.len(), LAYERS.len());
            assert!(!theme.ascii() || symbols.iter().all(char::is_ascii));
            assert!(LAYERS.iter().all(|layer| look(theme, *layer).1 == Style::new()));
        }
    }

    #[test]
    fn scales() {
        assert_eq!([0, 1 << 20, (1 << 20) + 1].map(nice_bytes), [1 << 20, 1 << 20, 3 << 19]);
        assert_eq!(nice_bytes(u64::MAX), u64::MAX);
        assert_eq!([0.0, 1.5, 2.0, 51.0, 1e9].map(nice_percent), [1.0, 2.0, 2.0, 100.0, 100.0]);
    }

    proptest! {
        #[test]
        fn a_scale_is_at_most_half_too_large(value in (1u64 << 20)..(1 << 60)) {
            let nice = nice_bytes(value);
            prop_assert!(nice >= value && nice / 3 * 2 <= value);
        }

        #[test]
        fn rows_follow_amounts(layers: [u32; 5], height in 1u16..60) {
            let layers = layers.map(u64::from);
            let most = layers.iter().sum::<u64>().max(1);
            let text = column(ASCII, layers, most, height);
            for layer in LAYERS {
                let rows = text.matches(look(ASCII, layer).0).count() as f64;
                let exact = layers[layer as usize] as f64 * f64::from(height) / most as f64;
                prop_assert!((rows - exact).abs() <= 2.0, "{layer:?}: {rows} rows for {exact}");
            }
        }
    }
}
