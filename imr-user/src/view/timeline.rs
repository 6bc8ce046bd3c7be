//! The view "timeline": where the memory of a VM, or of all of them, has been, with refaults, pressure and swap below.
//!
//! Input: the samples that [`History`](super::history::History) keeps. Output: cells, the newest sample on the right.

mod bins;
mod chart;
#[cfg(test)]
mod tests;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use self::bins::{HostBin, MemoryBin, host_bins, memory_bins};
use self::chart::{LAYERS, Layer};
use super::context::{Action, Context, Response};
use super::format;
use super::layout::{Piece, draw, fit, split, wrap};
use super::page::{self, Scope};
use super::theme::{Role, Theme};

/// Greatest power of two of samples a column: the whole history in a few columns.
const ZOOM_MOST: u8 = 6;
/// Columns before the chart where names have no room, and where they have.
const GUTTERS: [u16; 2] = [6, 17];
/// Width from which they have.
const NAMED_FROM: u16 = 60;
/// Columns from one label of the time axis to the next.
const TICK: usize = 16;
/// Rows from one label of the memory axis to the next.
const AXIS: u16 = 4;

/// Its state.
#[derive(Debug, Clone, Default)]
pub(crate) struct TimelineState {
    scope: Scope,
    /// log2 of the samples a column.
    zoom: u8,
}

pub(crate) fn act(
    state: &mut TimelineState,
    action: Action,
    _context: &Context<'_>,
    _area: Rect,
) -> Response {
    match action {
        Action::Left | Action::Right | Action::Enter => state.scope.toggle(),
        Action::ZoomIn => state.zoom = state.zoom.saturating_sub(1),
        Action::ZoomOut => state.zoom = (state.zoom + 1).min(ZOOM_MOST),
        Action::Wheel(by) if by < 0 => state.zoom = state.zoom.saturating_sub(1),
        Action::Wheel(_) => state.zoom = (state.zoom + 1).min(ZOOM_MOST),
        _ => return Response::Ignored,
    }
    Response::Done
}

/// Which rows there are, besides those of the chart.
struct Rows {
    title: u16,
    legend: Vec<Line<'static>>,
    axis: u16,
    /// Rows of each of the three smaller lines.
    lines: [u16; 3],
}

pub(crate) fn paint(state: &TimelineState, context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    let area = area.intersection(buffer.area);
    let theme = context.theme;
    let vm = state.scope.vm(context);
    let name = page::subject(context, vm);
    let points = vm.map_or(Some(context.history.all()), |vm| context.history.vm(vm.id));
    let Some(points) = points.filter(|points| !points.is_empty()) else {
        let title = page::title(theme, name, vec!["memory over time".to_owned()], area.width.into());
        let text = Span::styled("no sample yet", theme.style(Role::Dim));
        draw(buffer, area, &[title, Line::from(text)]);
        return;
    };
    let gutter = GUTTERS[usize::from(area.width >= NAMED_FROM)];
    let gutter = if area.width >= gutter + 8 { gutter } else { 0 };
    let columns = usize::from(area.width - gutter);
    let bins = memory_bins(points, state.zoom, columns);
    let newest = context.history.host().back().map_or(0, |point| point.sequence);
    let host = host_bins(context.history.host(), newest, state.zoom, columns);

    let width = usize::from(area.width);
    let rows = rows(legends(context, &bins, &host, area.width < NAMED_FROM), width, area.height);
    let (above, body) = split(area, rows.title);
    if rows.title > 0 {
        let rest = title_rest(state.zoom, &bins, context);
        draw(buffer, above, &[page::title(theme, name, rest, width)]);
    }
    let taken = rows.lines.iter().sum::<u16>() + rows.axis + rows.legend.len() as u16;
    let (graph, below) = split(body, body.height.saturating_sub(taken));
    let inner = |rect: Rect| Rect { x: rect.x + gutter, width: rect.width - gutter, ..rect };
    let most = chart::nice_bytes(bins.iter().flatten().map(|bin| bin.layers.iter().sum()).max().unwrap_or(0));
    let layers: Vec<_> = bins.iter().map(|bin| bin.as_ref().map(|bin| bin.layers)).collect();
    chart::stack(buffer, inner(graph), theme, &layers, most);
    for row in (0..graph.height).step_by(AXIS.into()).filter(|_| gutter > 0) {
        let value = most as f64 * f64::from(graph.height - row) / f64::from(graph.height);
        label(buffer, graph, row, gutter, theme, "", &format::bytes_short(value as u64));
    }
    let (axis, mut below) = split(below, rows.axis);
    draw(buffer, inner(axis), &[time_axis(theme, &bins)]);
    for (line, height) in small_lines(&bins, &host).into_iter().zip(rows.lines) {
        let (place, rest) = split(below, height);
        below = rest;
        chart::line(buffer, inner(place), theme, &line.values, line.most);
        if gutter > 0 && height > 0 {
            let name = if gutter == GUTTERS[1] { line.name } else { "" };
            let scale = if gutter == GUTTERS[1] { line.scale.clone() } else { line.short.to_owned() };
            label(buffer, place, 0, gutter, theme, name, &scale);
        }
    }
    draw(buffer, below, &rows.legend);
}

/// What gets a row first: two of the chart, the legend, the title, the axis, then the lines one by one, then more of
/// each as the screen grows.
fn rows(legend: [Vec<Piece>; 2], columns: usize, height: u16) -> Rows {
    let mut left = height.saturating_sub(2);
    let mut take = |from: u16, rows: u16| {
        if height < from || left < rows {
            return 0;
        }
        left -= rows;
        rows
    };
    let legend_rows = take(3, 1);
    let title = take(4, 1);
    let axis = take(6, 1);
    let mut lines = [take(7, 1), take(8, 1), take(9, 1)];
    let numbers = take(11, 1);
    let more = take(14, 1);
    if height >= 28 {
        lines = lines.map(|rows| rows + take(28, 1));
    }
    let [layers, others] = legend;
    let mut legend = match legend_rows + more {
        0 => Vec::new(),
        1 => vec![fit(layers, columns, "  ")],
        _ => wrap(layers, columns, "  "),
    };
    legend.truncate(usize::from(legend_rows + more));
    if numbers > 0 {
        legend.push(fit(others, columns, "  "));
    }
    Rows { title, legend, axis, lines }
}

/// What the symbols mean and how much there is of each now; and the other numbers of now.
fn legends(
    context: &Context<'_>,
    bins: &[Option<MemoryBin>],
    host: &[Option<HostBin>],
    narrow: bool,
) -> [Vec<Piece>; 2] {
    let theme = context.theme;
    let newest = bins.last().and_then(Option::as_ref);
    let dim = theme.style(Role::Dim);
    let layers = LAYERS.iter().map(|layer| {
        let (symbol, style) = chart::look(theme, *layer);
        let (name, short, weight) = match layer {
            Layer::Held => ("resident", "res", 9),
            Layer::Free => ("free, still held", "free", 8),
            Layer::Merged => ("merged", "ksm", 5),
            Layer::Swapped => ("swapped", "swap", 6),
            Layer::Reclaimed => ("reclaimed", "recl", 7),
        };
        // What is nowhere in the picture needs no explanation first.
        let shown = bins.iter().flatten().any(|bin| bin.layers[*layer as usize] > 0);
        let (name, weight) = (if narrow { short } else { name }, if shown { weight } else { weight - 5 });
        let amount = newest.map_or(0, |bin| bin.newest[*layer as usize]);
        Piece::new(
            weight,
            vec![
                Span::styled(symbol.to_string(), style),
                Span::styled(format!(" {name} "), dim),
                Span::raw(format::bytes_short(amount)),
            ],
        )
    });
    let fact = |weight: u8, label: &'static str, value: String| {
        Piece::new(weight, vec![Span::styled(label, dim), Span::raw(value)])
    };
    let rate = newest.and_then(|bin| bin.refault_rate());
    let now = host.last().and_then(Option::as_ref);
    let swap = format::bytes_of(now.map_or(0, |bin| bin.swap_newest), context.snapshot.host.swap_total);
    let others = vec![
        fact(9, "refaults ", rate.map_or("-".to_owned(), |rate| format!("{}/s", format::bytes(rate)))),
        fact(8, "host pressure ", now.and_then(|bin| bin.pressure_newest).map_or_else(unknown, percent)),
        fact(7, "host swap ", if context.snapshot.host.swap_total == 0 { "none".to_owned() } else { swap }),
        fact(5, "guest says free ", format::bytes(newest.map_or(0, |bin| bin.guest_free))),
    ];
    [layers.collect(), others]
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn percent(share: f32) -> String {
    format!("{share:.2} %")
}

fn title_rest(zoom: u8, bins: &[Option<MemoryBin>], context: &Context<'_>) -> Vec<String> {
    let samples = match zoom {
        0 => "a column 1 sample".to_owned(),
        zoom => format!("a column {} samples", 1u32 << zoom),
    };
    let newest = bins.last().and_then(Option::as_ref).map_or(context.snapshot.unix_ms, |bin| bin.unix_ms);
    vec!["memory over time".to_owned(), samples, format!("newest {} UTC", format::clock_utc(newest))]
}

/// How long ago the columns were.
fn time_axis(theme: Theme, bins: &[Option<MemoryBin>]) -> Line<'static> {
    let Some(newest) = bins.last().and_then(Option::as_ref) else { return Line::default() };
    let mut text = String::new();
    // Ticks are counted from the newest, so that they stand still.
    for (column, bin) in bins.iter().enumerate() {
        let ago = bins.len() - 1 - column;
        let Some(bin) = bin.as_ref().filter(|_| ago > 0 && ago.is_multiple_of(TICK)) else { continue };
        let mark = format!("|-{}", age(newest.unix_ms.saturating_sub(bin.unix_ms)));
        text = format!("{}{mark}", format::left(&text, column, ' '));
    }
    let now = "now|";
    let before = bins.len().saturating_sub(now.len());
    text = format!("{}{now}", format::left(&text, before, ' '));
    Line::from(Span::styled(text, theme.style(Role::Dim)))
}

/// A time in the unit that suits it.
fn age(ms: u64) -> String {
    let seconds = ms as f64 / 1000.0;
    match seconds {
        ..10.0 => format!("{seconds:.1}s"),
        ..300.0 => format!("{seconds:.0}s"),
        ..18_000.0 => format!("{:.0}m", seconds / 60.0),
        _ => format!("{:.0}h", seconds / 3600.0),
    }
}

/// One of the smaller lines.
struct SmallLine {
    name: &'static str,
    short: &'static str,
    /// What the full height stands for.
    scale: String,
    values: Vec<Option<f64>>,
    most: f64,
}

fn small_lines(bins: &[Option<MemoryBin>], host: &[Option<HostBin>]) -> [SmallLine; 3] {
    let of_bins = |value: fn(&MemoryBin) -> Option<f64>| -> Vec<Option<f64>> {
        bins.iter().map(|bin| bin.as_ref().and_then(value)).collect()
    };
    let of_host = |value: fn(&HostBin) -> Option<f64>| -> Vec<Option<f64>> {
        host.iter().map(|bin| bin.as_ref().and_then(value)).collect()
    };
    let refaults = of_bins(|bin| bin.refault_rate().map(|rate| rate as f64));
    let pressure = of_host(HostBin::pressure);
    let swap = of_host(|bin| Some(bin.swap() as f64));
    let greatest =
        |values: &[Option<f64>]| values.iter().flatten().fold(0.0, |most: f64, value| most.max(*value));
    let (rate_most, swap_most) =
        (chart::nice_bytes(greatest(&refaults) as u64), chart::nice_bytes(greatest(&swap) as u64));
    let pressure_most = chart::nice_percent(greatest(&pressure));
    [
        SmallLine {
            name: "refault/s",
            short: "reflt",
            scale: format::bytes_short(rate_most),
            values: refaults,
            most: rate_most as f64,
        },
        SmallLine {
            name: "pressure",
            short: "press",
            scale: format!("{pressure_most:.0} %"),
            values: pressure,
            most: pressure_most,
        },
        SmallLine {
            name: "host swap",
            short: "swap",
            scale: format::bytes_short(swap_most),
            values: swap,
            most: swap_most as f64,
        },
    ]
}

/// A name and a number before a row of a graph.
fn label(buffer: &mut Buffer, place: Rect, row: u16, gutter: u16, theme: Theme, name: &str, value: &str) {
    let room = usize::from(gutter - 1).saturating_sub(name.len());
    let text = format!("{name}{}", format::right(value, room, theme.ellipsis()));
    let place = Rect { y: place.y + row, height: 1, width: gutter, ..place };
    draw(buffer, place, &[Line::from(Span::styled(text, theme.style(Role::Dim)))]);
}
