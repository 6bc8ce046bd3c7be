//! The timeline on the screen: every size, both scopes, every scale of time, and what is there before any sample.

use super::*;
use crate::view::history::History;
use crate::view::history::testing::{ASCII, SIZES, busy, context, history, painted};

fn shown(context: &Context<'_>, state: &TimelineState, size: (u16, u16)) -> String {
    painted(size, |buffer, area| paint(state, context, buffer, area))
}

#[test]
fn at_every_size() {
    let snapshot = busy();
    let history = history(&snapshot, 300);
    let context = context(&snapshot, &history, 2);
    let state = TimelineState { zoom: 1, ..TimelineState::default() };
    for size in SIZES {
        let name = format!("{}x{}", size.0, size.1);
        insta::assert_snapshot!(name, shown(&context, &state, size));
        let ascii = shown(&Context { theme: ASCII, ..context }, &state, size);
        assert!(ascii.is_ascii());
        insta::assert_snapshot!(format!("ascii_{}x{}", size.0, size.1), ascii);
    }
    let all = TimelineState { scope: Scope::All, zoom: 2 };
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
    let point = *history.vm(snapshot.vms[0].id).unwrap().back().unwrap();
    for zoom in 0..=ZOOM_MOST {
        let state = TimelineState { scope: Scope::Selected, zoom };
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
    assert_eq!((state.zoom, state.scope), (ZOOM_MOST - 1, Scope::All));
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
