//! The view "timeline": where the memory of a VM, or of all of them, has been, with refaults, pressure and swap below.
//!
//! Input: the points that [`History`](super::history::History) keeps. Output: cells, the newest sample on the right. Every
//! column stands for the same span of time, from a sample to an hour.

mod bins;
mod chart;
mod scale;
#[cfg(test)]
mod tests;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use self::bins::{HostBin, MemoryBin, host_bins, memory_bins};
use self::chart::{LAYERS, Layer};
use self::scale::{Scale, WIDTHS_MS};
use super::context::{Action, Context, Response};
use super::format;
use super::history::{History, Point, Sample};
use super::layout::{Piece, draw, fit, split, wrap};
use super::page::{self, Scope};
use super::theme::{Role, Theme};
use crate::model::snapshot::{GuestStatus, VmSnapshot};

/// Columns before the chart where names have no room, and where they have.
const GUTTERS: [u16; 2] = [6, 17];
/// Width from which they have.
const NAMED_FROM: u16 = 60;
/// Width from which the title says what the view is of, as the tabs do.
const TITLED_FROM: u16 = 100;
/// Columns from one label of the time axis to the next.
const TICK: usize = 16;
/// Rows from one label of the memory axis to the next.
const AXIS: u16 = 4;

/// Its state.
#[derive(Debug, Clone, Default)]
pub(crate) struct TimelineState {
    scope: Scope,
    /// What a column stands for, of [`WIDTHS_MS`]; `None`: about a sample, however far apart these are.
    zoom: Option<usize>,
}

impl TimelineState {
    fn width(&self, history: &History) -> usize {
        self.zoom.unwrap_or_else(|| scale::finest(history.host().apart_ms()))
    }

    /// A step; not to where columns would only repeat samples.
    fn zoom(&mut self, history: &History, closer: bool) {
        let now = self.width(history);
        if !closer {
            self.zoom = Some((now + 1).min(WIDTHS_MS.len() - 1));
        } else if now > scale::finest(history.host().apart_ms()) {
            self.zoom = Some(now - 1);
        }
    }
}

pub(crate) fn act(state: &mut TimelineState, action: Action, context: &Context<'_>, _area: Rect) -> Response {
    match action {
        Action::Left | Action::Right | Action::Enter => state.scope.toggle(),
        Action::ZoomIn => state.zoom(context.history, true),
        Action::ZoomOut => state.zoom(context.history, false),
        Action::Wheel(by) => state.zoom(context.history, by < 0),
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
    let history = context.history;
    let series = vm.map_or(Some(history.all()), |vm| history.vm(vm.id));
    let Some((series, oldest)) = series.and_then(|series| Some((series, series.points().next()?))) else {
        let title = page::title(theme, name, vec!["memory over time".to_owned()], area.width.into());
        let text = Span::styled("no sample yet", theme.style(Role::Dim));
        draw(buffer, area, &[title, Line::from(text)]);
        return;
    };
    let gutter = GUTTERS[usize::from(area.width >= NAMED_FROM)];
    let gutter = if area.width >= gutter + 8 { gutter } else { 0 };
    let columns = usize::from(area.width - gutter);
    // No farther than the snapshot on the screen: samples come in while it is held.
    let until_ms = history.time_of(context.snapshot);
    let scale = Scale { width_ms: WIDTHS_MS[state.width(history)], until_ms, columns };
    let bins = memory_bins(series.points(), scale);
    let host = host_bins(history.host().points(), scale);

    let width = usize::from(area.width);
    let narrow = area.width < NAMED_FROM;
    let rate = bins.last().and_then(Option::as_ref).and_then(MemoryBin::refault_rate);
    let legends = legends(context, now(context, vm), &bins, rate, narrow);
    let rows = rows(legends, width, area.height);
    let (above, body) = split(area, rows.title);
    if rows.title > 0 {
        let rest = title_rest(scale, oldest.since_ms(), context, area.width);
        draw(buffer, above, &[page::title(theme, name, rest, width)]);
    }
    let taken = rows.lines.iter().sum::<u16>() + rows.axis + rows.legend.len() as u16;
    let (graph, below) = split(body, body.height.saturating_sub(taken));
    let inner = |rect: Rect| Rect { x: rect.x + gutter, width: rect.width - gutter, ..rect };
    let layers: Vec<_> = bins.iter().map(|bin| bin.as_ref().map(MemoryBin::layers)).collect();
    let most =
        chart::nice_bytes(layers.iter().flatten().map(|layers| layers.iter().sum()).max().unwrap_or(0));
    chart::stack(buffer, inner(graph), theme, &layers, most);
    for row in (0..graph.height).step_by(AXIS.into()).filter(|_| gutter > 0) {
        let value = most as f64 * f64::from(graph.height - row) / f64::from(graph.height);
        label(buffer, graph, row, gutter, theme, "", &format::bytes_short(value as u64));
    }
    let (axis, mut below) = split(below, rows.axis);
    draw(buffer, inner(axis), &[time_axis(theme, scale)]);
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

/// What a VM, or all of them, have in the snapshot on the screen; and what their guests call free.
fn now(context: &Context<'_>, vm: Option<&VmSnapshot>) -> (Point, u64) {
    let mut sum = (Point::default(), 0);
    for vm in vm.map_or(context.snapshot.vms.as_slice(), std::slice::from_ref) {
        sum.0.add(&Point::of(vm));
        sum.1 += if matches!(vm.guest, GuestStatus::Attached { .. }) { vm.guest_free_bytes } else { 0 };
    }
    sum
}

/// What the symbols mean and how much there is of each now; and the other numbers of now.
fn legends(
    context: &Context<'_>,
    (now, guest_free): (Point, u64),
    bins: &[Option<MemoryBin>],
    rate: Option<u64>,
    narrow: bool,
) -> [Vec<Piece>; 2] {
    let theme = context.theme;
    let shown = bins.iter().flatten().map(MemoryBin::layers);
    let shown =
        shown.reduce(|sum, layers| LAYERS.map(|layer| sum[layer as usize].max(layers[layer as usize])));
    let now = bins::amounts(&now);
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
        let shown = shown.is_some_and(|most| most[*layer as usize] > 0);
        let (name, weight) = (if narrow { short } else { name }, if shown { weight } else { weight - 5 });
        Piece::new(
            weight,
            vec![
                Span::styled(symbol.to_string(), style),
                Span::styled(format!(" {name} "), dim),
                Span::raw(format::bytes_short(now[*layer as usize])),
            ],
        )
    });
    let fact = |weight: u8, label: &'static str, value: String| {
        Piece::new(weight, vec![Span::styled(label, dim), Span::raw(value)])
    };
    let host = &context.snapshot.host;
    let swap = format::bytes_of(host.swap_used, host.swap_total);
    let others = vec![
        fact(9, "refaults ", rate.map_or("-".to_owned(), |rate| format!("{}/s", format::bytes(rate)))),
        fact(8, "host pressure ", host.pressure_some_avg10.map_or_else(unknown, percent)),
        fact(7, "host swap ", if host.swap_total == 0 { "none".to_owned() } else { swap }),
        fact(5, "guest says free ", format::bytes(guest_free)),
    ];
    [layers.collect(), others]
}

fn unknown() -> String {
    "unknown".to_owned()
}

fn percent(share: f32) -> String {
    format!("{share:.2} %")
}

fn title_rest(scale: Scale, oldest_ms: u64, context: &Context<'_>, columns: u16) -> Vec<String> {
    let back = if oldest_ms < scale.begin_ms() {
        // Of whole columns, so that it stands still.
        scale.width_ms * scale.columns as u64
    } else {
        scale.until_ms.saturating_sub(oldest_ms)
    };
    let mut rest = vec![format!("a column {}", scale::span(scale.width_ms))];
    if back > 0 {
        rest.push(format!("{} back", scale::span(back)));
    }
    rest.push(format!("newest {} UTC", format::clock_utc(context.snapshot.unix_ms)));
    if columns >= TITLED_FROM {
        rest.insert(0, "memory over time".to_owned());
    }
    rest
}

/// How long ago the columns were.
fn time_axis(theme: Theme, scale: Scale) -> Line<'static> {
    let mut text = String::new();
    // Ticks are counted from the newest, so that they stand still.
    for column in (0..scale.columns).filter(|column| (scale.columns - 1 - column).is_multiple_of(TICK)) {
        let ago = (scale.columns - 1 - column) as u64;
        if ago > 0 {
            let mark = format!("|-{}", scale::short_span(ago * scale.width_ms));
            text = format!("{}{mark}", format::left(&text, column, ' '));
        }
    }
    let now = "now|";
    let before = scale.columns.saturating_sub(now.len());
    text = format!("{}{now}", format::left(&text, before, ' '));
    Line::from(Span::styled(text, theme.style(Role::Dim)))
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
    let pressure = of_host(|bin| bin.pressure.map(f64::from));
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
