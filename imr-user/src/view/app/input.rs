//! Terminal events to changes of the state: which part of the screen has the keys, and what a click means.
//!
//! Input: events and the snapshot on the screen. Output: intents. What each verb does is next door, in `run`.

use crossterm::event::{Event, KeyCode, KeyEventKind, MouseButton, MouseEvent, MouseEventKind};
use ratatui::layout::Position;

use super::{Action, App, Intent, Overlay, Question, View};
use crate::model::snapshot::Snapshot;
use crate::view::keys::Key;
use crate::view::verb::Verb;
use crate::view::{palette, tabs};

/// Rows that a turn of the wheel moves a text.
const WHEEL: u16 = 3;

impl App {
    /// Changes the state as the event says.
    pub fn handle(&mut self, event: &Event, snapshot: &Snapshot) -> Option<Intent> {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                self.changed = true;
                self.notice = None;
                self.key(Key::of(*key), snapshot)
            }
            Event::Mouse(mouse) => self.mouse(*mouse, snapshot),
            Event::Paste(text) => {
                self.paste(text, snapshot);
                None
            }
            Event::Resize(columns, rows) => {
                self.set_size((*columns, *rows).into());
                self.keep_visible(snapshot);
                None
            }
            _ => None,
        }
    }

    fn key(&mut self, key: Key, snapshot: &Snapshot) -> Option<Intent> {
        let verb = self.settings.keys.verb(key);
        let (escape, enter) = (key.is(KeyCode::Esc), key.is(KeyCode::Enter));
        match self.overlay.take() {
            None => self.run(verb?, snapshot),
            Some(overlay @ (Overlay::Help(_) | Overlay::Facts(_))) => {
                self.overlay = Some(overlay);
                self.read(verb?, snapshot)
            }
            Some(Overlay::Palette(palette)) => self.key_for_palette(palette, key, snapshot),
            Some(Overlay::Filter(_, before, selected)) if escape => {
                self.filter_by(&before, selected, snapshot);
                None
            }
            // It stays open until it is right, or Esc takes it back.
            Some(Overlay::Filter(..)) if enter && self.listing.wrong().is_none() => None,
            Some(Overlay::Filter(mut edit, before, selected)) => {
                let taken = edit.key(key);
                self.filter_by(&edit.text(), selected, snapshot);
                self.overlay = Some(Overlay::Filter(edit, before, selected));
                if taken { None } else { Self::anywhere(key, verb) }
            }
            Some(Overlay::Save(_)) if escape => None,
            Some(Overlay::Save(edit)) if enter => {
                let name = edit.text().trim().to_owned();
                (!name.is_empty()).then_some(Intent::Save(name))
            }
            Some(Overlay::Save(mut edit)) => {
                let taken = edit.key(key);
                self.overlay = Some(Overlay::Save(edit));
                if taken { None } else { Self::anywhere(key, verb) }
            }
            Some(Overlay::Ask(Question { intent, asked, .. })) if key.is(KeyCode::Char('y')) => {
                self.notify(asked, false);
                Some(intent)
            }
            Some(Overlay::Ask(_)) if escape || key.is(KeyCode::Char('n')) => None,
            Some(overlay @ Overlay::Ask(_)) => {
                self.overlay = Some(overlay);
                Self::anywhere(key, verb)
            }
        }
    }

    /// What works even while something is typed: never a key that writes a character.
    fn anywhere(key: Key, verb: Option<Verb>) -> Option<Intent> {
        match verb? {
            _ if key.character().is_some() => None,
            Verb::Quit => Some(Intent::Quit),
            Verb::Suspend => Some(Intent::Suspend),
            Verb::Redraw => Some(Intent::Repaint),
            _ => None,
        }
    }

    fn key_for_palette(
        &mut self,
        mut palette: palette::Palette,
        key: Key,
        snapshot: &Snapshot,
    ) -> Option<Intent> {
        if key.is(KeyCode::Esc) {
            return None;
        }
        let items = self.palette_items();
        if key.is(KeyCode::Enter) {
            return match palette.chosen(&items) {
                Some(item) => self.run_item(item, snapshot),
                None => {
                    self.overlay = Some(Overlay::Palette(palette));
                    None
                }
            };
        }
        palette.key(key, &items);
        self.overlay = Some(Overlay::Palette(palette));
        Self::anywhere(key, self.settings.keys.verb(key))
    }

    fn paste(&mut self, text: &str, snapshot: &Snapshot) {
        self.changed = true;
        match &mut self.overlay {
            Some(Overlay::Filter(edit, _, selected)) => {
                edit.paste(text);
                let (text, selected) = (edit.text(), *selected);
                self.filter_by(&text, selected, snapshot);
            }
            Some(Overlay::Save(edit)) => edit.paste(text),
            Some(Overlay::Palette(palette)) => palette.paste(text),
            // Pasted text is no key: it must not start anything.
            Some(Overlay::Help(_) | Overlay::Facts(_) | Overlay::Ask(_)) | None => {}
        }
    }

    fn mouse(&mut self, mouse: MouseEvent, snapshot: &Snapshot) -> Option<Intent> {
        let at = Position::new(mouse.column, mouse.row);
        match mouse.kind {
            MouseEventKind::ScrollDown => self.wheel(true, at, snapshot),
            MouseEventKind::ScrollUp => self.wheel(false, at, snapshot),
            MouseEventKind::Down(MouseButton::Left) => {
                self.changed = true;
                self.notice = None;
                self.click(at, snapshot)
            }
            _ => None,
        }
    }

    fn wheel(&mut self, down: bool, at: Position, snapshot: &Snapshot) -> Option<Intent> {
        self.changed = true;
        match &self.overlay {
            Some(Overlay::Help(_) | Overlay::Facts(_)) => {
                self.scroll_text(if down { WHEEL.into() } else { -i32::from(WHEEL) }, snapshot);
                None
            }
            Some(Overlay::Palette(_)) => {
                let code = if down { KeyCode::Down } else { KeyCode::Up };
                self.key(Key::of(code.into()), snapshot)
            }
            Some(Overlay::Filter(..) | Overlay::Save(_) | Overlay::Ask(_)) => None,
            None if self.view == View::Vms => self.run(if down { Verb::Down } else { Verb::Up }, snapshot),
            None if self.parts(snapshot).body.contains(at) => {
                self.tell(Action::Wheel(if down { 1 } else { -1 }), snapshot);
                None
            }
            None => None,
        }
    }

    fn click(&mut self, at: Position, snapshot: &Snapshot) -> Option<Intent> {
        match &self.overlay {
            None => {}
            Some(Overlay::Palette(palette)) => {
                let area = self.palette_area(snapshot);
                let items = self.palette_items();
                let line = usize::from(at.y.saturating_sub(area.y));
                let item = palette.at(&items, line, area.height.into()).filter(|_| area.contains(at));
                return match item {
                    Some(item) => {
                        self.overlay = None;
                        self.run_item(item, snapshot)
                    }
                    None if area.contains(at) => None,
                    None => {
                        self.overlay = None;
                        None
                    }
                };
            }
            Some(_) => return None,
        }
        let parts = self.parts(snapshot);
        if parts.tabs.contains(at) {
            let (columns, column) = (parts.tabs.width.into(), usize::from(at.x - parts.tabs.x));
            if let Some(view) = tabs::at(self.view, columns, column) {
                self.show(view, snapshot);
            }
            return None;
        }
        if self.view != View::Vms {
            if parts.body.contains(at) {
                self.tell(Action::Click(at), snapshot);
            }
            return None;
        }
        let (table, _) = self.main(parts.body, snapshot);
        if !table.contains(at) {
            return None;
        }
        if at.y == table.y {
            let column = self.plan(table.width.into()).at(usize::from(at.x - table.x));
            if column.is_some() {
                self.sort_by(column, snapshot);
            }
        } else {
            let row = self.scroll + usize::from(at.y - table.y - 1);
            if row < self.listing.len() {
                self.select(snapshot, row);
            }
        }
        None
    }
}
