//! A screen as a picture in SVG.
//!
//! In: the cells of a screen. Out: one SVG file that looks the same in every viewer: no style sheet, no script; a
//! word has a place and a length of its own, so that columns line up in any font. Must not draw what is not there:
//! the only decoration is a margin.

use std::fmt::{Display, Write as _};

use vt100::{Cell, Screen};

use super::blocks;
use super::colour::{BACKGROUND, FOREGROUND, Rgb};

/// All lengths are hundredths of a pixel. The proportions are those of DejaVu Sans Mono and of Menlo at 14 px.
const CELL_WIDTH: u32 = 843;
const CELL_HEIGHT: u32 = 1640;
const BASELINE: u32 = 1300;
const UNDERLINE: u32 = 1450;
const MARGIN: u32 = 800;
const FONT: &str = "'DejaVu Sans Mono','Menlo','Liberation Mono','Consolas',monospace";
/// How much of its colour dim text keeps.
const DIM_PERCENT: u16 = 60;

/// How a cell looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Style {
    fore: Rgb,
    back: Rgb,
    bold: bool,
    italic: bool,
    underline: bool,
}

impl Style {
    fn of(cell: &Cell, at_cursor: bool) -> Self {
        let mut fore = Rgb::of(cell.fgcolor(), FOREGROUND);
        let mut back = Rgb::of(cell.bgcolor(), BACKGROUND);
        if cell.dim() {
            fore = fore.mixed(DIM_PERCENT, back);
        }
        if cell.inverse() != at_cursor {
            (fore, back) = (back, fore);
        }
        Self { fore, back, bold: cell.bold(), italic: cell.italic(), underline: cell.underline() }
    }
}

/// A cell with its place.
#[derive(Debug, Clone)]
struct Spot<'a> {
    column: u32,
    columns: u32,
    text: &'a str,
    style: Style,
}

impl Spot<'_> {
    fn blank(&self) -> bool {
        self.text.trim().is_empty()
    }

    /// Whether it may stand in one word with `next`. Only characters that every font of fixed width has are put
    /// together, or equal ones (lines): others may come from another font and be wider.
    fn joins(&self, next: &Self) -> bool {
        let plain = self.text.is_ascii() && next.text.is_ascii();
        self.style == next.style && (plain || self.text == next.text)
    }
}

/// The picture of `screen`, called `title`.
pub(crate) fn render(screen: &Screen, title: &str) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (u32::from(rows.get()), u32::from(columns.get()));
    let (width, height) = (columns * CELL_WIDTH + 2 * MARGIN, rows * CELL_HEIGHT + 2 * MARGIN);
    let (width, height) = (px(width), px(height));
    // Writing to a String cannot fail.
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"{FONT}\" font-size=\"14\" role=\"img\">\n\
         <title>{}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"{BACKGROUND}\"/>\n\
         <g transform=\"translate({margin} {margin})\">",
        escaped(title),
        margin = px(MARGIN),
    );
    // All backgrounds first: a glyph may reach into the next cell.
    let lines: Vec<Vec<Spot<'_>>> = (0..rows).map(|row| spots(screen, row)).collect();
    for (row, spots) in (0..).zip(&lines) {
        backgrounds(&mut svg, row, spots);
    }
    let mut shades = Vec::new();
    for (row, spots) in (0..).zip(&lines) {
        glyphs(&mut svg, row, spots, &mut shades);
    }
    for (index, (percent, fore)) in shades.iter().enumerate() {
        shade(&mut svg, index, *percent, *fore);
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

fn spots(screen: &Screen, row: u32) -> Vec<Spot<'_>> {
    let cursor = (!screen.hide_cursor()).then(|| screen.cursor_position());
    let mut spots = Vec::new();
    // Sizes are 16 bits wide.
    let row = u16::try_from(row).unwrap_or(u16::MAX);
    for column in 0..screen.size().1.get() {
        let Some(cell) = screen.cell(row, column) else { continue };
        if !cell.is_wide_continuation() {
            spots.push(Spot {
                column: u32::from(column),
                columns: 1 + u32::from(cell.is_wide()),
                text: cell.contents(),
                style: Style::of(cell, cursor == Some((row, column))),
            });
        }
    }
    spots
}

fn backgrounds(svg: &mut String, row: u32, spots: &[Spot<'_>]) {
    for run in spots.chunk_by(|one, next| one.style.back == next.style.back) {
        if run[0].style.back != BACKGROUND {
            rectangle(svg, place(run, row), run[0].style.back);
        }
    }
    for run in spots.chunk_by(|one, next| one.style == next.style) {
        if run[0].style.underline {
            let (x, y, width, _) = place(run, row);
            rectangle(svg, (x, y + UNDERLINE, width, 100), run[0].style.fore);
        }
    }
}

fn glyphs(svg: &mut String, row: u32, spots: &[Spot<'_>], shades: &mut Vec<(u16, Rgb)>) {
    for run in spots.chunk_by(Spot::joins) {
        let style = run[0].style;
        let only = run[0].text.chars().next();
        if let Some((parts, percent)) = only.and_then(blocks::parts) {
            let fill = if percent == 100 {
                style.fore.to_string()
            } else {
                let index = shades.iter().position(|shade| *shade == (percent, style.fore));
                let index = index.unwrap_or_else(|| {
                    shades.push((percent, style.fore));
                    shades.len() - 1
                });
                format!("url(#shade{index})")
            };
            let (x, y, width, height) = place(run, row);
            for part in parts {
                // A part that spans its cell spans the run.
                let columns = if part.width == 8 { 1 } else { width / CELL_WIDTH };
                for n in 0..columns {
                    let across = |eighths: u8| u32::from(eighths) * (width / columns) / 8;
                    let down = |eighths: u8| u32::from(eighths) * height / 8;
                    let x = x + n * CELL_WIDTH + across(part.x);
                    rectangle(svg, (x, y + down(part.y), across(part.width), down(part.height)), &fill);
                }
            }
            continue;
        }
        for word in run.split(Spot::blank).filter(|word| !word.is_empty()) {
            let (x, y, width, _) = place(word, row);
            let text: String = word.iter().map(|spot| spot.text).collect();
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\" fill=\"{}\"{}{}>{}</text>",
                px(x),
                px(y + BASELINE),
                px(width),
                style.fore,
                if style.bold { " font-weight=\"bold\"" } else { "" },
                if style.italic { " font-style=\"italic\"" } else { "" },
                escaped(&text),
            );
        }
    }
}

/// Left, top, width and height of neighbouring cells.
fn place(run: &[Spot<'_>], row: u32) -> (u32, u32, u32, u32) {
    let columns: u32 = run.iter().map(|spot| spot.columns).sum();
    (run[0].column * CELL_WIDTH, row * CELL_HEIGHT, columns * CELL_WIDTH, CELL_HEIGHT)
}

/// The pattern that `percent` (25, 50 or 75) of the colour makes: squares, as many of four in a tile.
fn shade(svg: &mut String, index: usize, percent: u16, fore: Rgb) {
    let (width, height) = (CELL_WIDTH / 4, CELL_HEIGHT / 8);
    let _ = writeln!(
        svg,
        "<pattern id=\"shade{index}\" patternUnits=\"userSpaceOnUse\" width=\"{}\" height=\"{}\">",
        px(2 * width),
        px(2 * height)
    );
    for (x, y) in [(0, 0), (width, height), (width, 0)].into_iter().take(usize::from(percent / 25)) {
        rectangle(svg, (x, y, width, height), fore);
    }
    svg.push_str("</pattern>\n");
}

fn rectangle(svg: &mut String, (x, y, width, height): (u32, u32, u32, u32), fill: impl Display) {
    // Edges fall on whole pixels, so that neighbours leave no gap.
    let _ = writeln!(
        svg,
        "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{fill}\" shape-rendering=\"crispEdges\"/>",
        px(x),
        px(y),
        px(width),
        px(height)
    );
}

/// Hundredths of a pixel as pixels.
fn px(hundredths: u32) -> String {
    let (whole, part) = (hundredths / 100, hundredths % 100);
    if part == 0 { whole.to_string() } else { format!("{whole}.{part:02}").trim_end_matches('0').to_owned() }
}

/// `text` as XML has it; what XML cannot have is replaced.
fn escaped(text: &str) -> String {
    let mut xml = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => xml.push_str("&lt;"),
            '>' => xml.push_str("&gt;"),
            '&' => xml.push_str("&amp;"),
            '"' => xml.push_str("&quot;"),
            '\0'..='\x1f' | '\u{fffe}' | '\u{ffff}' => xml.push(char::REPLACEMENT_CHARACTER),
            other => xml.push(other),
        }
    }
    xml
}

#[cfg(test)]
mod tests {
    use super::*;
    use imr_tests::terminal::Size;
    use imr_tests::terminal::Terminal;

    /// What `output` looks like on a small screen, without the cursor.
    fn drawn(output: &str) -> Vec<String> {
        let mut terminal = Terminal::new(Size { columns: 12, rows: 2 });
        terminal.process(format!("\x1b[?25l{output}").as_bytes());
        let svg = render(terminal.screen(), "a <title>");
        assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</g>\n</svg>\n"));
        assert!(svg.contains("<title>a &lt;title&gt;</title>"));
        let drawn = svg.lines().skip(4).filter(|line| !line.starts_with("</"));
        drawn.map(str::to_owned).collect()
    }

    /// The picture of one word.
    fn word(output: &str) -> String {
        let drawn = drawn(output);
        assert_eq!(drawn.len(), 1, "{drawn:?}");
        drawn.into_iter().next().unwrap()
    }

    #[test]
    fn an_empty_screen_has_a_background_only() {
        assert!(drawn("").is_empty());
        assert!(drawn("      ").is_empty());
    }

    #[test]
    fn what_xml_reserves_is_escaped() {
        assert!(word("<a&b>\"").ends_with(">&lt;a&amp;b&gt;&quot;</text>"));
        assert_eq!(escaped("a\u{1}\u{ffff}"), "a\u{fffd}\u{fffd}");
    }

    #[test]
    fn every_word_has_its_place_and_length() {
        let drawn = drawn("ab cde\x1b[2;11Hxy");
        assert_eq!(drawn.len(), 3);
        assert!(drawn[0].starts_with("<text x=\"0\" y=\"13\" textLength=\"16.86\""), "{}", drawn[0]);
        assert!(drawn[1].starts_with("<text x=\"25.29\" y=\"13\" textLength=\"25.29\""), "{}", drawn[1]);
        assert!(drawn[2].starts_with("<text x=\"84.3\" y=\"29.4\""), "{}", drawn[2]);
    }

    #[test]
    fn colours_of_all_kinds_are_drawn() {
        assert!(word("\x1b[31mx").contains(" fill=\"#cc0000\""));
        assert!(word("\x1b[94mx").contains(" fill=\"#729fcf\""));
        assert!(word("\x1b[38;5;110mx").contains(" fill=\"#87afd7\""));
        assert!(word("\x1b[38;2;1;2;3mx").contains(" fill=\"#010203\""));
        let drawn = drawn("\x1b[38;5;16;48;2;250;0;1m x ");
        assert!(
            drawn[0].starts_with("<rect x=\"0\" y=\"0\" width=\"25.29\" height=\"16.4\" fill=\"#fa0001\"")
        );
        assert!(drawn[1].starts_with("<text x=\"8.43\"") && drawn[1].contains("fill=\"#000000\""));
    }

    #[test]
    fn attributes_are_drawn() {
        assert!(word("\x1b[1mx").contains(" font-weight=\"bold\""));
        assert!(word("\x1b[3mx").contains(" font-style=\"italic\""));
        let dim = FOREGROUND.mixed(DIM_PERCENT, BACKGROUND).to_string();
        assert!(word("\x1b[2mx").contains(&dim));
        let reverse = drawn("\x1b[7mx");
        assert!(reverse[0].starts_with("<rect") && reverse[0].contains(&FOREGROUND.to_string()));
        assert!(reverse[1].contains(&format!("fill=\"{BACKGROUND}\"")));
        let underlined = drawn("\x1b[4ma b");
        assert!(underlined[0].starts_with("<rect x=\"0\" y=\"14.5\" width=\"25.29\" height=\"1\""));
    }

    #[test]
    fn a_wide_character_takes_two_columns_and_stands_alone() {
        let drawn = drawn("a界b");
        assert_eq!(drawn.len(), 3);
        assert!(drawn[1].starts_with("<text x=\"8.43\" y=\"13\" textLength=\"16.86\""), "{}", drawn[1]);
        assert!(drawn[2].starts_with("<text x=\"25.29\""), "{}", drawn[2]);
    }

    #[test]
    fn lines_are_one_word_and_blocks_are_rectangles() {
        assert!(word("────").ends_with(">────</text>"));
        let block = word("\x1b[32m███");
        assert!(
            block.starts_with("<rect x=\"0\" y=\"0\" width=\"25.29\" height=\"16.4\" fill=\"#4e9a06\""),
            "{block}"
        );
        assert!(word("▄").starts_with("<rect x=\"0\" y=\"8.2\" width=\"8.43\" height=\"8.2\""));
        let halves = drawn("▐▐");
        assert_eq!(halves.len(), 2);
        assert!(halves[1].starts_with("<rect x=\"12.64\""), "{}", halves[1]);
        let shades = drawn("\x1b[31m░░▓\x1b[32m░\x1b[31m░");
        assert!(
            shades[0].starts_with("<rect x=\"0\" y=\"0\" width=\"16.86\"")
                && shades[0].contains("url(#shade0)")
        );
        assert!(shades[3].contains("url(#shade0)"));
        assert_eq!(shades.iter().filter(|line| line.starts_with("<pattern")).count(), 3);
        assert_eq!(shades.iter().filter(|line| line.contains("#cc0000")).count(), 1 + 3);
    }

    #[test]
    fn the_cursor_is_a_cell_in_reverse() {
        let mut terminal = Terminal::new(Size { columns: 12, rows: 2 });
        terminal.process(b"ab\x1b[1;1H");
        let svg = render(terminal.screen(), "x");
        assert!(svg.contains(&format!("width=\"8.43\" height=\"16.4\" fill=\"{FOREGROUND}\"")));
    }
}
