//! What keys and the mouse do to the state of the screen.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Size;

use super::*;
use crate::view::testing::{THEME, forbidden_vm, snapshot, two, vm};

fn key(code: KeyCode) -> Event {
    Event::Key(KeyEvent::new(code, KeyModifiers::NONE))
}

fn ctrl(c: char) -> Event {
    Event::Key(KeyEvent::new(KeyCode::Char(c), KeyModifiers::CONTROL))
}

fn mouse(kind: MouseEventKind, row: u16) -> Event {
    Event::Mouse(MouseEvent { kind, column: 5, row, modifiers: KeyModifiers::NONE })
}

fn app(snapshot: &Snapshot) -> App {
    let mut app = App::new(THEME, Vec::new());
    app.set_size(Size::new(80, 24));
    app.accept(snapshot);
    app
}

fn many() -> Snapshot {
    snapshot((1..=100).map(|id| vm(id, &format!("vm-{id}"))).collect())
}

#[test]
fn quit_suspend_repaint_are_left_to_the_caller() {
    let snapshot = two();
    let mut app = app(&snapshot);
    assert_eq!(app.handle(&key(KeyCode::Char('q')), &snapshot), Some(Intent::Quit));
    assert_eq!(app.handle(&ctrl('c'), &snapshot), Some(Intent::Quit));
    assert_eq!(app.handle(&ctrl('z'), &snapshot), Some(Intent::Suspend));
    assert_eq!(app.handle(&ctrl('l'), &snapshot), Some(Intent::Repaint));
    app.handle(&key(KeyCode::Char('?')), &snapshot);
    assert_eq!(app.handle(&key(KeyCode::Char('q')), &snapshot), Some(Intent::Quit));
    let mut release = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
    release.kind = KeyEventKind::Release;
    assert_eq!(app.handle(&Event::Key(release), &snapshot), None);
}

#[test]
fn arrows_and_letters_move_and_stop_at_the_ends() {
    let snapshot = many();
    let mut app = app(&snapshot);
    let mut press = |code, expected| {
        assert_eq!(app.handle(&key(code), &snapshot), None);
        assert_eq!(app.selected_index(&snapshot), Some(expected), "{code:?}");
    };
    press(KeyCode::Up, 0);
    press(KeyCode::Down, 1);
    press(KeyCode::Char('j'), 2);
    press(KeyCode::Char('k'), 1);
    press(KeyCode::PageDown, 8);
    press(KeyCode::End, 99);
    press(KeyCode::Down, 99);
    press(KeyCode::PageUp, 92);
    press(KeyCode::Char('g'), 0);
    press(KeyCode::Char('G'), 99);
    press(KeyCode::Home, 0);
}

#[test]
fn enter_opens_and_escape_goes_back() {
    let snapshot = two();
    let mut app = app(&snapshot);
    app.handle(&key(KeyCode::Enter), &snapshot);
    assert_eq!(app.screen(), Screen::Vm);
    app.handle(&key(KeyCode::Char('?')), &snapshot);
    assert_eq!(app.help(), Some(0));
    app.handle(&key(KeyCode::Esc), &snapshot);
    assert_eq!((app.help(), app.screen()), (None, Screen::Vm));
    app.handle(&key(KeyCode::Esc), &snapshot);
    assert_eq!(app.screen(), Screen::Main);
    app.handle(&key(KeyCode::Esc), &snapshot);
    assert_eq!(app.screen(), Screen::Main);
}

#[test]
fn without_vms_there_is_nothing_to_open() {
    let snapshot = snapshot(Vec::new());
    let mut app = app(&snapshot);
    for code in [KeyCode::Enter, KeyCode::Down, KeyCode::Up, KeyCode::End, KeyCode::PageDown] {
        app.handle(&key(code), &snapshot);
        assert_eq!((app.screen(), app.selected_index(&snapshot)), (Screen::Main, None));
    }
}

#[test]
fn space_pauses_and_goes_on() {
    let snapshot = two();
    let mut app = app(&snapshot);
    app.handle(&key(KeyCode::Char(' ')), &snapshot);
    assert!(app.paused());
    app.handle(&key(KeyCode::Char(' ')), &snapshot);
    assert!(!app.paused());
}

#[test]
fn the_selection_follows_its_vm_and_moves_on_when_it_ends() {
    let before = snapshot(vec![vm(1, "a"), vm(2, "b"), forbidden_vm(3, "c")]);
    let mut app = app(&before);
    app.handle(&key(KeyCode::Down), &before);
    app.handle(&key(KeyCode::Enter), &before);
    let moved = snapshot(vec![vm(2, "b"), vm(3, "c")]);
    app.accept(&moved);
    assert_eq!((app.selected_index(&moved), app.screen()), (Some(0), Screen::Vm));
    let ended = snapshot(vec![vm(3, "c")]);
    app.accept(&ended);
    assert_eq!((app.selected_index(&ended), app.screen()), (Some(0), Screen::Main));
    assert_eq!(app.notice(), Some("the VM that was open has ended"));
    app.handle(&key(KeyCode::Char('x')), &ended);
    assert_eq!(app.notice(), None);
    let none = snapshot(Vec::new());
    app.accept(&none);
    assert_eq!(app.selected_index(&none), None);
    app.accept(&before);
    assert_eq!(app.selected_index(&before), Some(0));
}

#[test]
fn a_click_selects_the_row_under_the_pointer() {
    let snapshot = many();
    let mut app = app(&snapshot);
    // Three host lines and the heading are above the first row.
    let left = MouseEventKind::Down(MouseButton::Left);
    app.handle(&mouse(left, 6), &snapshot);
    assert_eq!(app.selected_index(&snapshot), Some(2));
    for row in [0, 3, 20, 23] {
        app.handle(&mouse(left, row), &snapshot);
        assert_eq!(app.selected_index(&snapshot), Some(2), "row {row} is not a VM's");
    }
    for _ in 0..20 {
        app.handle(&mouse(MouseEventKind::ScrollDown, 10), &snapshot);
    }
    assert_eq!(app.selected_index(&snapshot), Some(22));
    // The selected row is the last of those visible; the one above it is the VM before.
    app.handle(&mouse(left, 9), &snapshot);
    assert_eq!(app.selected_index(&snapshot), Some(21));
    app.handle(&mouse(MouseEventKind::ScrollUp, 10), &snapshot);
    assert_eq!(app.selected_index(&snapshot), Some(20));
}

#[test]
fn help_scrolls_no_further_than_its_end() {
    let snapshot = two();
    let mut app = app(&snapshot);
    app.set_size(Size::new(40, 10));
    app.handle(&key(KeyCode::Char('?')), &snapshot);
    app.handle(&key(KeyCode::End), &snapshot);
    let end = app.help();
    assert_eq!(end, Some(help_most(THEME, Size::new(40, 10))));
    app.handle(&key(KeyCode::Down), &snapshot);
    assert_eq!(app.help(), end);
    app.handle(&key(KeyCode::Home), &snapshot);
    assert_eq!(app.help(), Some(0));
    assert_eq!(app.selected_index(&snapshot), Some(0), "the selection stays under the help");
    app.handle(&key(KeyCode::Enter), &snapshot);
    assert_eq!((app.help(), app.screen()), (None, Screen::Main));
}

#[test]
fn every_key_of_the_help_does_something() {
    let snapshot = many();
    let named = |name: &str| match name {
        "Ctrl-C" => vec![ctrl('c')],
        "Ctrl-L" => vec![ctrl('l')],
        "Ctrl-Z" => vec![ctrl('z')],
        "Up" => vec![key(KeyCode::Up)],
        "Down" => vec![key(KeyCode::Down)],
        "PgUp" => vec![key(KeyCode::PageUp)],
        "PgDn" => vec![key(KeyCode::PageDown)],
        "Home" => vec![key(KeyCode::Home)],
        "End" => vec![key(KeyCode::End)],
        "Enter" => vec![key(KeyCode::Enter)],
        "Esc" => vec![key(KeyCode::Esc)],
        "Space" => vec![key(KeyCode::Char(' '))],
        "Mouse" => vec![
            mouse(MouseEventKind::ScrollDown, 10),
            mouse(MouseEventKind::ScrollUp, 10),
            mouse(MouseEventKind::Down(MouseButton::Left), 5),
        ],
        letter => vec![key(KeyCode::Char(letter.chars().next().unwrap()))],
    };
    for (names, _) in help::KEYS {
        for name in names.split_whitespace() {
            for event in named(name) {
                let mut app = app(&snapshot);
                // In the middle of the list, with a VM open for Esc.
                app.select(&snapshot, 3);
                if name == "Esc" {
                    app.screen = Screen::Vm;
                }
                let before = app.clone();
                let intent = app.handle(&event, &snapshot);
                assert!(intent.is_some() || app != before, "{name} ({event:?}) does nothing");
            }
        }
    }
}
