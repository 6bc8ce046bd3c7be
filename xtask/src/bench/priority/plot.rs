//! The figures of `bench priority` as a picture.
//!
//! In: rows. Out: an SVG file: refaults and the time of an allocation, against reserve and against delay.

use std::path::Path;

use anyhow::{Context as _, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::Row;

const SIZE: (u32, u32) = (900, 640);
const MARGIN: u32 = 14;
const LABELS: u32 = 56;
const BACKGROUND: RGBColor = RGBColor(255, 255, 255);
const FIRST: RGBColor = RGBColor(0, 90, 160);
const SECOND: RGBColor = RGBColor(200, 80, 0);
/// Order of the rows that are drawn.
const ORDER: u64 = 9;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// One line of a chart.
struct Line {
    name: &'static str,
    color: RGBColor,
    points: Vec<(f64, f64)>,
}

/// Draws the rows of order 9. `rounds`: bursts for each.
///
/// # Errors
/// The file cannot be written.
pub(super) fn draw(path: &Path, rows: &[Row], rounds: u64) -> Result<()> {
    let shown = || rows.iter().filter(|row| row.order == ORDER);
    let by_reserve: Vec<(f64, &Row)> =
        shown().filter(|row| row.delay_ms == 0).map(|row| (row.reserve_mib as f64, row)).collect();
    let by_delay: Vec<(f64, &Row)> =
        shown().filter(|row| row.reserve_mib == 0).map(|row| (row.delay_ms as f64 / 1000.0, row)).collect();
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    let failed = |error: DrawingAreaErrorKind<_>| anyhow!("{error}");
    root.fill(&BACKGROUND).map_err(failed)?;
    let areas = root.split_evenly((2, 2));
    let columns = [(&by_reserve, "reserve_mib, MiB"), (&by_delay, "delay_ms, s")];
    for (column, (rows, what)) in columns.into_iter().enumerate() {
        let line = |name, color, of: &dyn Fn(&Row) -> f64| Line {
            name,
            color,
            points: rows.iter().map(|(at, row)| (*at, of(row))).collect(),
        };
        let mib = |pages: u64| pages as f64 / 256.0;
        let memory = [
            line("refaulted, a burst", FIRST, &|row| mib(row.refaults) / rounds as f64),
            line("with the host", SECOND, &|row| row.reclaimed_mib as f64),
        ];
        let times = [
            line("median", FIRST, &|row| row.alloc_p50_us),
            line("99th percentile", SECOND, &|row| row.alloc_p99_us),
        ];
        chart(&areas[column], "MiB", what, &memory)?;
        chart(&areas[2 + column], "128 KiB allocated and touched, us", what, &times)?;
    }
    root.present().map_err(failed).with_context(|| format!("cannot write {}", path.display()))
}

fn chart(area: &Area<'_>, title: &str, what: &str, lines: &[Line]) -> Result<()> {
    let most = |of: fn(&(f64, f64)) -> f64| {
        lines.iter().flat_map(|line| &line.points).map(of).fold(1.0, f64::max) * 1.1
    };
    let failed = |error: DrawingAreaErrorKind<_>| anyhow!("{error}");
    let mut chart = ChartBuilder::on(area)
        .margin(MARGIN)
        .caption(title, ("sans-serif", 15))
        .x_label_area_size(LABELS / 2 + MARGIN)
        .y_label_area_size(LABELS)
        .build_cartesian_2d(0.0..most(|point| point.0), 0.0..most(|point| point.1))
        .map_err(failed)?;
    chart.configure_mesh().x_desc(what).light_line_style(TRANSPARENT).draw().map_err(failed)?;
    for Line { name, color, points } in lines {
        let color = *color;
        let drawn = chart.draw_series(LineSeries::new(points.iter().copied(), &color).point_size(3));
        drawn
            .map_err(failed)?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color));
    }
    chart
        .configure_series_labels()
        .background_style(BACKGROUND.mix(0.8))
        .border_style(TRANSPARENT)
        .draw()
        .map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_four_charts_are_drawn() {
        let row = |reserve_mib, delay_ms| Row {
            reserve_mib,
            delay_ms,
            order: ORDER,
            refaults: 1000,
            alloc_p50_us: 10.0,
            alloc_p99_us: 400.0,
            reclaimed_mib: 300,
        };
        let path = std::env::temp_dir().join(format!("imr-priority-{}.svg", std::process::id()));
        draw(&path, &[row(0, 0), row(64, 0), row(0, 6000)], 5).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        for word in ["reserve_mib, MiB", "delay_ms, s", "99th percentile", "with the host", "</svg>"] {
            assert!(svg.contains(word), "{word}");
        }
    }
}
