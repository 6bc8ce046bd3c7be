//! The timeline on the screen: every size, both scopes, every scale of time, and what is there before any sample.

use std::collections::BTreeMap;

use super::*;
use crate::model::snapshot::Snapshot;
use crate::view::history::testing::{ASCII, SIZES, busy, context, history, painted};

const MIB: u64 = 1 << 20;

/// Samples so far apart, so many, over and over, each told in a history before `seen` sees it.
fn run(
    paces: &[(u64, u64)],
    mut make: impl FnMut(&mut Snapshot),
    mut seen: impl FnMut(&Snapshot, &History),
) -> (Snapshot, History) {
    let mut sample = busy();
    sample.vms.iter_mut().for_each(|vm| vm.slots.clear());
    (sample.sequence, sample.unix_ms) = (0, 1_700_000_000_000);
    let mut history = History::default();
    for (apart, count) in paces {
        for _ in 0..*count {
            (sample.sequence, sample.unix_ms) = (sample.sequence + 1, sample.unix_ms + apart);
            make(&mut sample);
            history.note(&sample);
            seen(&sample, &history);
        }
    }
    (sample, history)
}

fn shown(context: &Context<'_>, state: &TimelineState, size: (u16, u16)) -> String {
    painted(size, |buffer, area| paint(state, context, buffer, area))
}

#[test]
fn at_every_size() {
    let snapshot = busy();
    let history = history(&snapshot, 300);
    let context = context(&snapshot, &history, 2);
    let state = TimelineState { zoom: Some(4), ..TimelineState::default() };
    for size in SIZES {
        let name = format!("{}x{}", size.0, size.1);
        insta::assert_snapshot!(name, shown(&context, &state, size));
        let ascii = shown(&Context { theme: ASCII, ..context }, &state, size);
        assert!(ascii.is_ascii());
        insta::assert_snapshot!(format!("ascii_{}x{}", size.0, size.1), ascii);
    }
    let all = TimelineState { scope: Scope::All, zoom: Some(5) };
    insta::assert_snapshot!("all_80x20", shown(&context, &all, (80, 20)));
}

#[test]
fn before_any_sample_and_after_the_first() {
    let snapshot = busy();
    let none = History::default();
    assert!(
        shown(&context(&snapshot, &none, 0), &TimelineState::default(), (80, 20)).contains("no sample yet")
    );
    let one = history(&snapshot, 1);
    let text = shown(&context(&snapshot, &one, 0), &TimelineState::default(), (80, 20));
    assert!(text.contains("refaults -"), "no rate from one sample: {text}");
}

#[test]
fn the_legend_says_the_newest_sample() {
    let snapshot = busy();
    let history = history(&snapshot, 50);
    let point = Point::of(&snapshot.vms[0]);
    for zoom in 0..WIDTHS_MS.len() {
        let state = TimelineState { scope: Scope::Selected, zoom: Some(zoom) };
        let text = shown(&context(&snapshot, &history, 0), &state, (120, 30));
        for (name, bytes) in [
            ("resident", point.resident_in_use),
            ("free, still held", point.resident_free),
            ("reclaimed", point.reclaimed),
        ] {
            let amount = format!("{name} {}", format::bytes_short(bytes));
            assert!(text.contains(&amount), "no {amount:?} in\n{text}");
        }
    }
}

#[test]
fn keys() {
    let snapshot = busy();
    let none = History::default();
    let context = context(&snapshot, &none, 0);
    let mut state = TimelineState::default();
    let mut press = |action| act(&mut state, action, &context, Rect::new(0, 0, 80, 20));
    assert_eq!(press(Action::Up), Response::Ignored);
    assert_eq!(press(Action::ZoomIn), Response::Done);
    for _ in 0..20 {
        assert_eq!(press(Action::ZoomOut), Response::Done);
    }
    assert_eq!(press(Action::Wheel(-1)), Response::Done);
    assert_eq!(press(Action::Enter), Response::Done);
    assert_eq!((state.zoom, state.scope), (Some(WIDTHS_MS.len() - 2), Scope::All));
}

#[test]
fn any_size() {
    let snapshot = busy();
    let history = history(&snapshot, 40);
    let context = context(&snapshot, &history, 0);
    for columns in (1..=40).chain([59, 60, 61, 200]) {
        for rows in 1..=32 {
            shown(&context, &TimelineState::default(), (columns, rows));
        }
    }
}

/// Ten hours: a working day with memory that comes and goes, a storm of refaults and pressure of ten seconds in it.
fn day() -> (Snapshot, History) {
    let begin = 1_700_000_000_000;
    let make = |sample: &mut Snapshot| {
        let minute = (sample.unix_ms - begin) / 60_000;
        let storm = (14_500_000..14_510_000).contains(&(sample.unix_ms - begin));
        let vm = &mut sample.vms[0];
        vm.resident_bytes = (180 + minute / 5) * MIB;
        vm.reclaimed_now_bytes = if minute % 120 < 60 { 132 * MIB } else { 16 * MIB };
        vm.refaulted_bytes += if storm { 40 * MIB } else { 4096 };
        sample.host.pressure_some_avg10 = Some(if storm { 42.0 } else { 0.2 });
        sample.host.swap_used = minute * MIB / 2;
    };
    run(&[(1000, 36_000)], make, |_, _| {})
}

#[test]
fn a_whole_day() {
    let (snapshot, history) = day();
    let context = context(&snapshot, &history, 0);
    // The seam between samples and spans of 5 s, all spans, and the day.
    for (zoom, name) in [(4, "2s"), (9, "2min"), (11, "10min")] {
        let state = TimelineState { zoom: Some(zoom), ..TimelineState::default() };
        insta::assert_snapshot!(format!("day_{name}_200x20"), shown(&context, &state, (200, 20)));
    }
    let state = TimelineState { zoom: Some(11), ..TimelineState::default() };
    insta::assert_snapshot!("day_80x20", shown(&context, &state, (80, 20)));
}

#[test]
fn the_axis_is_right_where_the_rate_changed() {
    // What happens is found where it was, however far apart the samples were before, then and since.
    let apart = [1000, 100, 10_000, 200, 5000];
    for (then, since) in [(0, 1), (1, 2), (2, 0), (4, 3), (3, 1), (1, 1)] {
        let paces = [(apart[since], 40), (apart[then], 90), (apart[since], 120)];
        let mut at = 0;
        let make = |sample: &mut Snapshot| {
            if sample.sequence == 60 {
                sample.vms[0].swapped_bytes = 77 * MIB;
                at = sample.unix_ms;
            }
        };
        let (snapshot, history) = run(&paces, make, |_, _| {});
        let series = history.vm(snapshot.vms[0].id).unwrap();
        for width_ms in WIDTHS_MS {
            let scale = Scale { width_ms, until_ms: snapshot.unix_ms, columns: 20_000 };
            let bins = memory_bins(series.points(), scale);
            let swapped = bins
                .iter()
                .position(|bin| bin.as_ref().is_some_and(|bin| bin.layers()[Layer::Swapped as usize] > 0));
            let ago = ((scale.columns - 1 - swapped.unwrap()) as u64) * width_ms;
            // A column, and what the sample, or the span that has become of it, stands for.
            let most = width_ms + apart[then].max(5000);
            assert!((snapshot.unix_ms - at).abs_diff(ago) <= most, "{width_ms} ms a column: {ago} ms ago");
            // There is no hole in the picture, whatever the widths.
            let known = bins.iter().skip_while(|bin| bin.is_none());
            assert!(known.clone().all(Option::is_some), "{width_ms} ms a column");
            assert_eq!(known.count() as u64, span_columns(series.points(), scale));
        }
    }
}

/// Columns from the oldest moment of which something is known to the newest.
fn span_columns<'a>(mut points: impl Iterator<Item = &'a Point>, scale: Scale) -> u64 {
    scale.back(points.next().unwrap().since_ms()) as u64 + 1
}

#[test]
fn a_column_that_is_complete_never_changes() {
    let width_ms = 300_000;
    let mut complete: BTreeMap<u64, (u64, Option<f32>)> = BTreeMap::new();
    let make = |sample: &mut Snapshot| {
        sample.vms[0].swapped_bytes = sample.sequence * 7919 % 1009 * MIB;
        sample.host.pressure_some_avg10 = Some((sample.sequence * 31 % 97) as f32);
    };
    let look = |sample: &Snapshot, history: &History| {
        if !sample.sequence.is_multiple_of(97) {
            return;
        }
        let scale = Scale { width_ms, until_ms: sample.unix_ms, columns: 300 };
        let memory = memory_bins(history.vm(sample.vms[0].id).unwrap().points(), scale);
        let host = host_bins(history.host().points(), scale);
        let first = (sample.unix_ms / width_ms + 1) - scale.columns as u64;
        let last = sample.unix_ms / width_ms;
        for (at, (memory, host)) in (first..last).zip(memory.iter().zip(&host)) {
            let (Some(memory), Some(host)) = (memory, host) else { continue };
            let now = (memory.layers()[Layer::Swapped as usize], host.pressure);
            let then = complete.entry(at).or_insert(now);
            assert!(then.0.abs_diff(now.0) <= 4 && then.1 == now.1, "column {at} was {then:?}, is {now:?}");
        }
    };
    run(&[(1000, 6000), (100, 9000), (5000, 3000), (200, 3000)], make, look);
    assert!(complete.len() > 70, "{}", complete.len());
}

#[test]
fn a_held_picture_stays_as_it_is() {
    let mut held = busy();
    let mut history = history(&held, 100);
    let state = TimelineState::default();
    let before = shown(&context(&held, &history, 0), &state, (80, 20));
    let mut sample = held.clone();
    for _ in 0..20 {
        (sample.sequence, sample.unix_ms) = (sample.sequence.max(100) + 1, sample.unix_ms + 1000);
        sample.vms[0].swapped_bytes = 90 * MIB;
        history.note(&sample);
    }
    assert_eq!(shown(&context(&held, &history, 0), &state, (80, 20)), before);
    held = sample;
    assert_ne!(shown(&context(&held, &history, 0), &state, (80, 20)), before);
}

#[test]
fn a_column_is_about_a_sample_until_somebody_zooms() {
    let (snapshot, history) = run(&[(1000, 50), (5000, 20)], |_| {}, |_, _| {});
    let context = context(&snapshot, &history, 0);
    let mut state = TimelineState::default();
    assert!(shown(&context, &state, (80, 20)).contains("a column 5 s"));
    // Closer, columns would only repeat samples.
    act(&mut state, Action::ZoomIn, &context, Rect::default());
    assert!(shown(&context, &state, (80, 20)).contains("a column 5 s"));
    act(&mut state, Action::ZoomOut, &context, Rect::default());
    assert!(shown(&context, &state, (80, 20)).contains("a column 10 s"));
    act(&mut state, Action::ZoomIn, &context, Rect::default());
    let (_, faster) = run(&[(100, 50)], |_| {}, |_, _| {});
    assert!(shown(&Context { history: &faster, ..context }, &state, (80, 20)).contains("a column 5 s"));
}
