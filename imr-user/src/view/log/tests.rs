//! The decision log on the screen: every size, its sums, and a selection that stays while decisions come and go.

use super::summary::{Tally, by_guard, by_kind};
use super::*;
use crate::model::snapshot::Snapshot;
use crate::view::history::History;
use crate::view::history::testing::{assert_at_every_size, busy, context, painted};

fn text(context: &Context<'_>, state: &LogState, size: (u16, u16)) -> String {
    painted(size, |buffer, area| paint(state, context, buffer, area))
}

fn press(state: &mut LogState, snapshot: &Snapshot, action: Action) -> Response {
    let history = History::default();
    act(state, action, &context(snapshot, &history, 0), Rect::new(0, 0, 80, 20))
}

/// The reason of the selected decision and the row it is in.
fn selected(state: &LogState, snapshot: &Snapshot) -> (u64, usize) {
    let history = History::default();
    let context = context(snapshot, &history, 0);
    let shown = shown(state, &context);
    let screen = text(&context, state, (80, 20));
    let row = screen.lines().position(|line| line.starts_with('▶')).unwrap();
    (shown[state.index(&shown)].offer_seq, row)
}

#[test]
fn at_every_size() {
    let (snapshot, history) = (busy(), History::default());
    let context = context(&snapshot, &history, 1);
    assert_at_every_size!(text, context, LogState::default());
    let this = LogState { scope: Scope::Selected, ..LogState::default() };
    insta::assert_snapshot!("this_vm_80x20", text(&context, &this, (80, 20)));
}

#[test]
fn sums_are_those_of_the_decisions() {
    let snapshot = busy();
    let all: Vec<&Decision> = snapshot.decisions.iter().collect();
    let kinds = by_kind(&all);
    assert_eq!(kinds.iter().map(|(_, tally)| tally.count).sum::<u64>(), all.len() as u64);
    for (kind, tally) in kinds {
        let of_kind: Vec<_> = all.iter().filter(|decision| decision.kind == kind).collect();
        let bytes = of_kind.iter().map(|decision| decision.bytes).sum();
        assert_eq!(tally, Tally { count: of_kind.len() as u64, bytes });
    }
    let guards = by_guard(&all);
    assert_eq!(guards[0].0, "kept");
    assert_eq!((guards[0].1, guards[0].2.count), ("private-mapping", 2));
    assert_eq!(guards.iter().map(|(_, _, tally)| tally.count).sum::<u64>(), 5);
}

#[test]
fn the_newest_is_followed_until_somebody_moves() {
    let mut snapshot = busy();
    let mut state = LogState::default();
    let newer = |snapshot: &mut Snapshot, seq| {
        let mut decision = snapshot.decisions.last().unwrap().clone();
        (decision.offer_seq, decision.unix_ms) = (seq, decision.unix_ms + 1000);
        snapshot.decisions.push(decision);
    };
    newer(&mut snapshot, 1000);
    assert_eq!(selected(&state, &snapshot).0, 1000);
    newer(&mut snapshot, 1001);
    assert_eq!(selected(&state, &snapshot).0, 1001);
    for _ in 0..3 {
        assert_eq!(press(&mut state, &snapshot, Action::Down), Response::Done);
    }
    let before = selected(&state, &snapshot);
    newer(&mut snapshot, 1002);
    snapshot.decisions.remove(0);
    assert_eq!(selected(&state, &snapshot), before, "it stays selected, and where it is");
    // What has left the log altogether gives way to the oldest.
    snapshot.decisions.drain(..snapshot.decisions.len() - 2);
    assert_eq!(selected(&state, &snapshot).0, 1001);
    assert_eq!(press(&mut state, &snapshot, Action::Home), Response::Done);
    newer(&mut snapshot, 1003);
    assert_eq!(selected(&state, &snapshot).0, 1003, "followed again");
}

#[test]
fn equal_decisions_are_passed_one_by_one() {
    let mut snapshot = busy();
    snapshot.decisions = vec![snapshot.decisions[3].clone(); 5];
    let mut state = LogState::default();
    let history = History::default();
    let context = context(&snapshot, &history, 0);
    for at in 1..=6 {
        press(&mut state, &snapshot, Action::Down);
        assert_eq!(state.index(&shown(&state, &context)), at.min(4));
    }
    assert_eq!(press(&mut state, &snapshot, Action::Up), Response::Done);
    assert_eq!(state.index(&shown(&state, &context)), 3);
}

#[test]
fn every_decision_can_be_reached_and_is_marked() {
    let snapshot = busy();
    for action in [Action::Down, Action::PageDown, Action::Wheel(3)] {
        let mut state = LogState::default();
        for _ in 0..60 {
            press(&mut state, &snapshot, action);
            selected(&state, &snapshot);
        }
        assert_eq!(selected(&state, &snapshot).0, 0, "the oldest");
        press(&mut state, &snapshot, Action::Wheel(-500));
        assert_eq!(state.selected, None);
    }
}

#[test]
fn enter_filters_and_a_click_selects() {
    let (snapshot, history) = (busy(), History::default());
    let mut state = LogState::default();
    press(&mut state, &snapshot, Action::Down);
    assert_eq!(press(&mut state, &snapshot, Action::Enter), Response::Done);
    let all = shown(&state, &context(&snapshot, &history, 0));
    assert!(all.iter().all(|decision| decision.vm == snapshot.vms[0].id) && all.len() > 10);
    assert_eq!(state.selected, None);
    let context = context(&snapshot, &history, 0);
    let area = Rect::new(0, 0, 80, 20);
    let list = parts(&context, &all, area).list;
    assert_eq!(act(&mut state, Action::Click(Position::new(5, list.y + 2)), &context, area), Response::Done);
    assert_eq!(state.index(&all), 2);
    assert_eq!(act(&mut state, Action::Click(Position::new(5, 0)), &context, area), Response::Ignored);
    assert_eq!(press(&mut state, &snapshot, Action::ZoomIn), Response::Ignored);
}

#[test]
fn nothing_there_and_any_size() {
    let history = History::default();
    let mut none = busy();
    none.decisions.clear();
    let empty = text(&context(&none, &history, 0), &LogState::default(), (80, 20));
    assert!(empty.contains("none yet"));
    let busy = busy();
    for columns in (1..=42).chain([109, 110, 200]) {
        for rows in 1..=20 {
            for snapshot in [&none, &busy] {
                let context = context(snapshot, &history, 0);
                let mut state = LogState::default();
                act(&mut state, Action::End, &context, Rect::new(0, 0, columns, rows));
                let text = text(&context, &state, (columns, rows));
                assert!(!text.contains('\u{202e}') && !text.contains('\u{1b}'));
            }
        }
    }
}
