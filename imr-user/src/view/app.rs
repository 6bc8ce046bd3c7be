//! The state of the screen and what keys and the mouse do to it.
//!
//! Input: terminal events and the snapshot on the screen. Output: a changed state, and an [`Intent`] where the
//! caller has to act. Performs nothing itself: no I/O, no clock.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, MouseButton, MouseEventKind};
use ratatui::layout::{Position, Rect, Size};

use super::theme::Theme;
use super::{help, host_line, layout};
use crate::model::ids::{Pid, VmId};
use crate::model::snapshot::Snapshot;

/// Rows that a turn of the wheel moves the help.
const WHEEL: u16 = 3;

/// What the caller has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    /// Leave the program.
    Quit,
    /// Give the terminal back and stop, as Ctrl-Z does.
    Suspend,
    /// Draw every cell anew: something else wrote on the terminal.
    Repaint,
}

/// Which screen is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Screen {
    /// Table, map of the selected VM, newest decisions.
    Main,
    /// One VM.
    Vm,
}

/// The state of the screen. Two equal states and equal snapshots give the same picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    theme: Theme,
    waiting_for: Vec<Pid>,
    size: Size,
    screen: Screen,
    selected: Option<VmId>,
    /// Where the selected VM was when it was last seen.
    row: usize,
    scroll: usize,
    help: Option<u16>,
    paused: bool,
    stale: Option<u64>,
    notice: Option<String>,
}

impl App {
    /// The state at the start. `waiting_for` are the only processes to be shown, if any are given.
    #[must_use]
    pub fn new(theme: Theme, waiting_for: Vec<Pid>) -> Self {
        Self {
            theme,
            waiting_for,
            size: Size::default(),
            screen: Screen::Main,
            selected: None,
            row: 0,
            scroll: 0,
            help: None,
            paused: false,
            stale: None,
            notice: None,
        }
    }

    /// Tells the size of the terminal; needed for clicks and for moves by a screenful.
    pub fn set_size(&mut self, size: Size) {
        self.size = size;
    }

    /// Tells that there has been no sample for so many seconds; `None`: samples come as they should.
    pub fn set_stale(&mut self, seconds: Option<u64>) {
        self.stale = seconds;
    }

    /// Takes note of a new snapshot: keeps the selection on its VM, or moves it where that VM has ended.
    pub fn accept(&mut self, snapshot: &Snapshot) {
        if let Some(row) = self.selected_index(snapshot) {
            self.row = row;
        } else {
            if self.selected.is_some() && self.screen == Screen::Vm {
                self.screen = Screen::Main;
                self.notice = Some("the VM that was open has ended".to_owned());
            }
            self.select(snapshot, self.row);
        }
        self.keep_visible(snapshot);
    }

    /// Whether the screen stands still.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Changes the state as the event says.
    pub fn handle(&mut self, event: &Event, snapshot: &Snapshot) -> Option<Intent> {
        let intent = match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.key(*key, snapshot),
            Event::Mouse(mouse) => {
                match mouse.kind {
                    MouseEventKind::ScrollDown => self.down(1, WHEEL, snapshot),
                    MouseEventKind::ScrollUp => self.up(1, WHEEL, snapshot),
                    MouseEventKind::Down(MouseButton::Left) => {
                        self.click(Position::new(mouse.column, mouse.row), snapshot);
                    }
                    _ => {}
                }
                None
            }
            Event::Resize(columns, rows) => {
                self.size = Size::new(*columns, *rows);
                None
            }
            _ => None,
        };
        self.keep_visible(snapshot);
        intent
    }

    fn key(&mut self, key: KeyEvent, snapshot: &Snapshot) -> Option<Intent> {
        self.notice = None;
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return match key.code {
                KeyCode::Char('c') => Some(Intent::Quit),
                KeyCode::Char('z') => Some(Intent::Suspend),
                KeyCode::Char('l') => Some(Intent::Repaint),
                _ => None,
            };
        }
        let page = u16::try_from(self.visible_rows(snapshot)).unwrap_or(u16::MAX).max(1);
        let help_page = self.size.height.saturating_sub(2).max(1);
        match key.code {
            KeyCode::Char('q') => return Some(Intent::Quit),
            KeyCode::Char('?') => self.help = if self.help.is_some() { None } else { Some(0) },
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char('j') | KeyCode::Down => self.down(1, 1, snapshot),
            KeyCode::Char('k') | KeyCode::Up => self.up(1, 1, snapshot),
            KeyCode::PageDown => self.down(page.into(), help_page, snapshot),
            KeyCode::PageUp => self.up(page.into(), help_page, snapshot),
            KeyCode::Char('g') | KeyCode::Home => self.up(usize::MAX, u16::MAX, snapshot),
            KeyCode::Char('G') | KeyCode::End => self.down(usize::MAX, u16::MAX, snapshot),
            KeyCode::Enter if self.help.is_some() => self.help = None,
            KeyCode::Enter if self.selected_index(snapshot).is_some() => self.screen = Screen::Vm,
            KeyCode::Esc if self.help.is_some() => self.help = None,
            KeyCode::Esc => self.screen = Screen::Main,
            _ => {}
        }
        None
    }

    fn down(&mut self, vms: usize, help_rows: u16, snapshot: &Snapshot) {
        match &mut self.help {
            Some(first) => *first = first.saturating_add(help_rows).min(help_most(self.theme, self.size)),
            None => self.select(snapshot, self.row.saturating_add(vms)),
        }
    }

    fn up(&mut self, vms: usize, help_rows: u16, snapshot: &Snapshot) {
        match &mut self.help {
            Some(first) => *first = first.saturating_sub(help_rows),
            None => self.select(snapshot, self.row.saturating_sub(vms)),
        }
    }

    fn click(&mut self, at: Position, snapshot: &Snapshot) {
        if self.help.is_some() || self.screen != Screen::Main {
            return;
        }
        let table = self.table(snapshot);
        if table.contains(at) && at.y > table.y {
            let row = self.scroll + usize::from(at.y - table.y - 1);
            if row < snapshot.vms.len() {
                self.select(snapshot, row);
            }
        }
    }

    fn select(&mut self, snapshot: &Snapshot, row: usize) {
        self.row = row.min(snapshot.vms.len().saturating_sub(1));
        self.selected = snapshot.vms.get(self.row).map(|vm| vm.id);
    }

    fn keep_visible(&mut self, snapshot: &Snapshot) {
        self.scroll = layout::scroll(self.scroll, self.row, self.visible_rows(snapshot), snapshot.vms.len());
    }

    fn visible_rows(&self, snapshot: &Snapshot) -> usize {
        usize::from(self.table(snapshot).height).saturating_sub(1)
    }

    fn table(&self, snapshot: &Snapshot) -> Rect {
        let area = Rect::from((Position::ORIGIN, self.size));
        layout::main(area, host_line::wanted_rows(snapshot), snapshot.vms.len()).table
    }

    pub(crate) fn theme(&self) -> Theme {
        self.theme
    }

    pub(crate) fn waiting_for(&self) -> &[Pid] {
        &self.waiting_for
    }

    pub(crate) fn screen(&self) -> Screen {
        self.screen
    }

    pub(crate) fn help(&self) -> Option<u16> {
        self.help
    }

    pub(crate) fn stale(&self) -> Option<u64> {
        self.stale
    }

    pub(crate) fn notice(&self) -> Option<&str> {
        self.notice.as_deref()
    }

    pub(crate) fn scroll(&self) -> usize {
        self.scroll
    }

    pub(crate) fn selected_index(&self, snapshot: &Snapshot) -> Option<usize> {
        let id = self.selected?;
        snapshot.vms.iter().position(|vm| vm.id == id)
    }
}

/// The last first line of the help that leaves no empty rows below it.
pub(crate) fn help_most(theme: Theme, size: Size) -> u16 {
    let lines = u16::try_from(help::lines(theme).len()).unwrap_or(u16::MAX);
    lines.saturating_sub(size.height.saturating_sub(2))
}

#[cfg(test)]
mod tests;
