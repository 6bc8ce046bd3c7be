//! What keys and the mouse do to the state of the screen.

use crossterm::event::{
    Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEvent, MouseEventKind,
};
use ratatui::layout::Size;

use super::*;
use crate::view::keys::Key;
use crate::view::testing::{THEME, forbidden_vm, snapshot, two, vm};
use crate::view::verb::{VERBS, Verb};

fn key(code: KeyCode) -> Event {
    Event::Key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn ctrl(c: char) -> Event {
    Event::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL))
}

fn mouse(kind: MouseEventKind, column: u16, row: u16) -> Event {
    Event::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE })
}

/// What a terminal sends for this key.
fn event(key: Key) -> Event {
    match key.to_string().strip_prefix("Ctrl-").and_then(|letter| letter.chars().next()) {
        Some(letter) => ctrl(letter.to_ascii_lowercase()),
        None => Event::Key(KeyEvent::new(key.code(), KeyModifiers::NONE)),
    }
}

const LEFT: MouseEventKind = MouseEventKind::Down(MouseButton::Left);

fn app(snapshot: &Snapshot) -> App {
    let mut app = App::new(Settings::new(THEME), Vec::new());
    app.set_size(Size::new(80, 24));
    app.note(snapshot);
    app.accept(snapshot);
    app
}

/// Presses these characters, and gives the last intent.
fn typed(app: &mut App, snapshot: &Snapshot, text: &str) -> Option<Intent> {
    text.chars().map(|c| app.handle(&key(KeyCode::Char(c)), snapshot)).last().flatten()
}

fn many() -> Snapshot {
    snapshot((1..=100).map(|id| vm(id, &format!("vm-{id}"))).collect())
}

fn text(app: &App) -> String {
    app.notice.as_ref().map(|(text, _)| text.clone()).unwrap_or_default()
}

#[test]
fn quit_suspend_repaint_are_left_to_the_caller() {
    let snapshot = two();
    for before in ["", "?", "i", ":", "/", "w", "o"] {
        let mut app = app(&snapshot);
        typed(&mut app, &snapshot, before);
        assert_eq!(app.handle(&ctrl('c'), &snapshot), Some(Intent::Quit), "{before}");
        assert_eq!(app.handle(&ctrl('z'), &snapshot), Some(Intent::Suspend), "{before}");
        assert_eq!(app.handle(&ctrl('l'), &snapshot), Some(Intent::Repaint), "{before}");
        let quits = matches!(before, "" | "?" | "i");
        assert_eq!(typed(&mut app, &snapshot, "q").is_some(), quits, "{before}");
    }
    let mut release = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
    release.kind = KeyEventKind::Release;
    let mut app = app(&snapshot);
    assert_eq!(app.handle(&Event::Key(release), &snapshot), None);
}

#[test]
fn arrows_and_letters_move_and_stop_at_the_ends() {
    let snapshot = many();
    let mut app = app(&snapshot);
    let page = app.visible_rows(&snapshot);
    let mut press = |code, expected: usize| {
        assert_eq!(app.handle(&key(code), &snapshot), None);
        assert_eq!(app.row, expected, "{code:?}");
        assert_eq!(app.selected, Some(snapshot.vms[expected].id));
    };
    press(KeyCode::Up, 0);
    press(KeyCode::Down, 1);
    press(KeyCode::Char('j'), 2);
    press(KeyCode::Char('k'), 1);
    press(KeyCode::PageDown, 1 + page);
    press(KeyCode::End, 99);
    press(KeyCode::Down, 99);
    press(KeyCode::PageUp, 99 - page);
    press(KeyCode::Char('g'), 0);
    press(KeyCode::Char('G'), 99);
    press(KeyCode::Home, 0);
}

#[test]
fn tab_and_digits_change_the_view_and_escape_goes_back() {
    let snapshot = two();
    let mut app = app(&snapshot);
    for view in View::ALL {
        let digit = char::from_digit(u32::try_from(view.digit()).unwrap(), 10).unwrap();
        typed(&mut app, &snapshot, &digit.to_string());
        assert_eq!(app.view, view);
    }
    for view in View::ALL {
        app.handle(&key(KeyCode::Tab), &snapshot);
        assert_eq!(app.view, view, "around the end");
    }
    app.handle(&key(KeyCode::BackTab), &snapshot);
    assert_eq!(app.view, View::Decisions);
    app.handle(&key(KeyCode::Esc), &snapshot);
    assert_eq!(app.view, View::Vms);
    app.handle(&key(KeyCode::Enter), &snapshot);
    assert_eq!(app.view, View::Blocks);
}

#[test]
fn the_next_vm_can_be_selected_from_any_view() {
    let snapshot = many();
    for view in '1'..='7' {
        let mut app = app(&snapshot);
        typed(&mut app, &snapshot, &format!("{view}..>,"));
        assert_eq!(app.row, 2, "{view}");
        typed(&mut app, &snapshot, "i.");
        assert_eq!(app.row, 3, "{view}");
        assert!(matches!(app.overlay, Some(Overlay::Facts(0))));
        typed(&mut app, &snapshot, "<i");
        assert!(app.overlay.is_none() && app.row == 2);
    }
}

#[test]
fn without_vms_there_is_nothing_to_open() {
    let snapshot = snapshot(Vec::new());
    let mut app = app(&snapshot);
    for code in [KeyCode::Enter, KeyCode::Down, KeyCode::Up, KeyCode::End, KeyCode::PageDown] {
        app.handle(&key(code), &snapshot);
        assert_eq!((app.view, app.selected), (View::Vms, None));
    }
    for c in ['i', 'o', 'R'] {
        typed(&mut app, &snapshot, &c.to_string());
        assert_eq!((app.overlay.is_none(), text(&app).as_str()), (true, "no VM is selected"), "{c}");
    }
}

#[test]
fn the_selection_follows_its_vm_and_moves_on_when_it_ends() {
    let before = snapshot(vec![vm(1, "a"), vm(2, "b"), forbidden_vm(3, "c")]);
    let mut app = app(&before);
    typed(&mut app, &before, ".2");
    let moved = snapshot(vec![vm(2, "b"), vm(3, "c")]);
    app.accept(&moved);
    assert_eq!((app.row, app.selected, app.view), (0, Some(VmId::new(2)), View::Blocks));
    typed(&mut app, &moved, "o");
    let ended = snapshot(vec![vm(3, "c")]);
    app.accept(&ended);
    assert_eq!((app.selected, app.view), (Some(VmId::new(3)), View::Vms));
    assert!(app.overlay.is_none(), "nothing is asked of a VM that has ended");
    assert_eq!(text(&app), "the VM that was open has ended");
    typed(&mut app, &ended, "x");
    assert_eq!(text(&app), "");
    let none = snapshot(Vec::new());
    app.accept(&none);
    assert_eq!(app.selected, None);
    app.accept(&before);
    assert_eq!(app.row, 0);
}

#[test]
fn only_y_changes_anything() {
    let snapshot = two();
    let id = snapshot.vms[0].id;
    for (ask, intent) in [("o", Intent::SetPolicy(id, PolicyName::Pressure)), ("R", Intent::ReclaimNow(id))] {
        let mut app = app(&snapshot);
        for no in [KeyCode::Char('n'), KeyCode::Esc] {
            assert_eq!(typed(&mut app, &snapshot, ask), None);
            assert!(matches!(&app.overlay, Some(Overlay::Ask(question)) if question.text.contains("alpha")));
            assert_eq!(app.handle(&key(no), &snapshot), None);
            assert!(app.overlay.is_none());
        }
        typed(&mut app, &snapshot, ask);
        for other in [KeyCode::Enter, KeyCode::Char('Y'), KeyCode::Char('.'), KeyCode::Tab] {
            assert_eq!(app.handle(&key(other), &snapshot), None);
            assert!(app.overlay.is_some(), "{other:?} is no answer");
        }
        app.handle(&mouse(LEFT, 10, 6), &snapshot);
        app.handle(&Event::Paste("y".to_owned()), &snapshot);
        assert_eq!((app.row, app.overlay.is_some()), (0, true));
        assert_eq!(typed(&mut app, &snapshot, "y"), Some(intent));
        assert!(app.overlay.is_none() && text(&app).contains("alpha"));
    }
    let modes = [PolicyName::Observe, PolicyName::Immediate, PolicyName::Pressure, PolicyName::Observe];
    for pair in modes.windows(2) {
        let mut other = two();
        other.vms[0].policy = pair[0];
        let mut app = app(&other);
        assert_eq!(typed(&mut app, &other, "oy"), Some(Intent::SetPolicy(id, pair[1])), "all three in turn");
    }
}

#[test]
fn sort_keys_and_headings() {
    let snapshot = two();
    let mut app = app(&snapshot);
    typed(&mut app, &snapshot, "s");
    assert_eq!((app.listing.sort(), text(&app).as_str()), (Some(Column::Name), "sorted by name, ascending"));
    typed(&mut app, &snapshot, "S");
    assert_eq!((app.row, text(&app).as_str()), (1, "sorted by name, descending"), "the selection stays");
    let plan = app.plan(80);
    let at = (0..80u16).find(|at| plan.at((*at).into()) == Some(Column::Res)).unwrap();
    let heading = app.main(app.parts(&snapshot).body, &snapshot).0.y;
    app.handle(&mouse(LEFT, at, heading), &snapshot);
    assert_eq!((app.listing.sort(), app.listing.ascends()), (Some(Column::Res), false));
    app.handle(&mouse(LEFT, at, heading), &snapshot);
    assert!(app.listing.ascends());
}

#[test]
fn a_filter_is_tried_while_it_is_typed() {
    let snapshot = many();
    let mut app = app(&snapshot);
    typed(&mut app, &snapshot, "......");
    typed(&mut app, &snapshot, "/7$");
    assert_eq!((app.listing.len(), app.selected), (10, Some(VmId::new(7))));
    typed(&mut app, &snapshot, "(");
    assert_eq!(app.listing.wrong(), Some("unclosed group"));
    app.handle(&key(KeyCode::Enter), &snapshot);
    assert!(app.overlay.is_some(), "not before it is right");
    app.handle(&key(KeyCode::Backspace), &snapshot);
    app.handle(&key(KeyCode::Enter), &snapshot);
    assert_eq!((app.overlay.is_none(), app.listing.len()), (true, 10));
    typed(&mut app, &snapshot, "/zzz");
    assert_eq!((app.listing.len(), app.selected), (0, None));
    app.handle(&key(KeyCode::Esc), &snapshot);
    assert_eq!((app.listing.filter(), app.selected), ("7$", Some(VmId::new(7))), "as it was before");
    app.handle(&key(KeyCode::Esc), &snapshot);
    assert_eq!((app.listing.len(), app.selected), (100, Some(VmId::new(7))));
}

#[test]
fn the_delay_goes_in_steps() {
    let snapshot = two();
    let mut app = app(&snapshot);
    let set = |ms| Some(Intent::SetDelay(Duration::from_millis(ms)));
    assert_eq!([typed(&mut app, &snapshot, "+"), typed(&mut app, &snapshot, "++")], [set(500), set(100)]);
    assert_eq!(typed(&mut app, &snapshot, "+"), None);
    assert!(text(&app).contains("faster it does not go"));
    app.settings.delay = Duration::from_millis(700);
    assert_eq!([typed(&mut app, &snapshot, "-"), typed(&mut app, &snapshot, "+")], [set(1000), set(500)]);
    app.settings.delay = Duration::from_secs(60);
    assert_eq!([typed(&mut app, &snapshot, "-"), typed(&mut app, &snapshot, "+")], [None, set(10_000)]);
}

#[test]
fn a_file_name_is_asked_for_and_nothing_written_here() {
    let mut snapshot = two();
    let mut app = app(&snapshot);
    typed(&mut app, &snapshot, "w");
    assert_eq!(
        app.handle(&key(KeyCode::Enter), &snapshot),
        Some(Intent::Save("./imr-snapshot-221325.json".to_owned()))
    );
    typed(&mut app, &snapshot, "w");
    app.handle(&ctrl('u'), &snapshot);
    assert_eq!(typed(&mut app, &snapshot, " x y "), None);
    assert_eq!(app.handle(&key(KeyCode::Enter), &snapshot), Some(Intent::Save("x y".to_owned())));
    typed(&mut app, &snapshot, "w");
    assert_eq!(app.handle(&key(KeyCode::Esc), &snapshot), None);
    assert!(app.overlay.is_none());
    snapshot.sequence = 0;
    typed(&mut app, &snapshot, "w");
    assert_eq!((app.overlay.is_none(), text(&app).as_str()), (true, "there is no sample yet"));
}

#[test]
fn the_palette_runs_what_is_chosen() {
    let snapshot = two();
    let mut app = app(&snapshot);
    let mut run = |name: &str| {
        typed(&mut app, &snapshot, ":");
        typed(&mut app, &snapshot, name);
        let intent = app.handle(&key(KeyCode::Enter), &snapshot);
        (intent, app.view, app.listing.sort(), app.overlay.is_some())
    };
    assert_eq!(run("health"), (None, View::Health, None, false));
    assert_eq!(run("sort idle"), (None, View::Health, Some(Column::Idle), false));
    assert_eq!(
        run("delay 5s"),
        (Some(Intent::SetDelay(Duration::from_secs(5))), View::Health, Some(Column::Idle), false)
    );
    assert_eq!(run("quit").0, Some(Intent::Quit));
    assert!(run("xyzzy").3, "nothing to run: it stays open");
    app.handle(&key(KeyCode::Esc), &snapshot);
    typed(&mut app, &snapshot, ":");
    // Title, what is typed, quit, help: the fourth line.
    let area = app.palette_area(&snapshot);
    app.handle(&mouse(LEFT, 10, area.y + 3), &snapshot);
    assert!(matches!(app.overlay, Some(Overlay::Help(0))));
}

#[test]
fn clicks_mean_what_is_under_them() {
    let snapshot = many();
    let mut app = app(&snapshot);
    let (table, _) = app.main(app.parts(&snapshot).body, &snapshot);
    app.handle(&mouse(LEFT, 5, table.y + 3), &snapshot);
    assert_eq!(app.row, 2);
    for row in [0, 2, table.bottom(), 23] {
        app.handle(&mouse(LEFT, 70, row), &snapshot);
        assert_eq!(app.row, 2, "row {row} is not a VM's");
    }
    for _ in 0..20 {
        app.handle(&mouse(MouseEventKind::ScrollDown, 5, 10), &snapshot);
    }
    assert_eq!(app.row, 22);
    app.handle(&mouse(LEFT, 5, table.bottom() - 2), &snapshot);
    assert_eq!(app.row, 21, "the row above the last of those visible");
    app.handle(&mouse(MouseEventKind::ScrollUp, 5, 10), &snapshot);
    assert_eq!(app.row, 20);
    let tabs = app.parts(&snapshot).tabs;
    app.handle(&mouse(LEFT, 20, tabs.y), &snapshot);
    assert_eq!(app.view, View::Cross);
    app.handle(&mouse(MouseEventKind::ScrollDown, 5, 10), &snapshot);
    assert_eq!(app.row, 20, "the wheel is the view's");
}

#[test]
fn texts_scroll_no_further_than_their_end() {
    let snapshot = two();
    let mut app = app(&snapshot);
    app.set_size(Size::new(40, 8));
    for open in ["?", "i"] {
        typed(&mut app, &snapshot, open);
        let first = |app: &App| match app.overlay {
            Some(Overlay::Help(first) | Overlay::Facts(first)) => first,
            _ => panic!("closed"),
        };
        app.handle(&key(KeyCode::End), &snapshot);
        let end = first(&app);
        assert_eq!(end, app.text_most(&snapshot));
        assert!(end > 0);
        app.handle(&key(KeyCode::Down), &snapshot);
        app.handle(&mouse(MouseEventKind::ScrollDown, 1, 1), &snapshot);
        assert_eq!(first(&app), end);
        app.handle(&mouse(MouseEventKind::ScrollUp, 1, 1), &snapshot);
        assert_eq!(first(&app), end - 3);
        app.handle(&key(KeyCode::Home), &snapshot);
        assert_eq!((first(&app), app.row), (0, 0), "the selection stays");
        app.handle(&key(KeyCode::Enter), &snapshot);
        assert_eq!((app.overlay.is_none(), app.view), (true, View::Vms));
    }
}

#[test]
fn a_picture_is_drawn_only_for_something_new() {
    let snapshot = two();
    let mut app = app(&snapshot);
    assert!(app.take_changed() && !app.take_changed());
    app.set_size(Size::new(80, 24));
    app.set_stale(None);
    app.note(&snapshot);
    app.handle(&mouse(MouseEventKind::Moved, 3, 3), &snapshot);
    app.handle(&mouse(MouseEventKind::Up(MouseButton::Left), 3, 3), &snapshot);
    assert!(!app.take_changed(), "nothing to see");
    app.set_stale(Some(4));
    assert!(app.take_changed());
    app.accept(&snapshot);
    assert!(app.take_changed());
    app.handle(&Event::Resize(81, 24), &snapshot);
    assert!(app.take_changed());
}

#[test]
fn every_default_key_does_something() {
    let snapshot = many();
    // What each view itself does with a key is its own test.
    for entry in VERBS.iter().filter(|entry| {
        !matches!(
            entry.verb,
            Verb::Left | Verb::Right | Verb::ZoomIn | Verb::ZoomOut | Verb::Next | Verb::Previous
        )
    }) {
        for name in entry.keys {
            let mut app = app(&snapshot);
            // In the middle of the list, in a view that Esc leaves.
            app.select(&snapshot, 3);
            if !entry.verb.moves() && entry.verb != Verb::ViewDecisions {
                app.show(View::Decisions, &snapshot);
            }
            let state = |app: &App| {
                (
                    app.view,
                    app.row,
                    app.paused,
                    app.listing.sort(),
                    app.listing.ascends(),
                    app.overlay.is_some(),
                )
            };
            let before = state(&app);
            let pressed = name.parse::<Key>().unwrap();
            let intent = app.handle(&event(pressed), &snapshot);
            assert!(intent.is_some() || state(&app) != before, "{name} does nothing");
        }
    }
}
