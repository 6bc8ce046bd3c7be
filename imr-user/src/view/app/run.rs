//! What each verb does to the state.
//!
//! Input: a verb and the snapshot on the screen. Output: a changed state, and an intent where the caller has to act.
//! Whatever changes a VM is asked about first.

use std::time::Duration;

use super::{Action, App, Column, Intent, LineEdit, Overlay, Palette, Question, Role, View};
use crate::model::ids::VmId;
use crate::model::snapshot::{PolicyName, ReclaimStatus, Snapshot};
use crate::view::palette::{self, Item};
use crate::view::verb::Verb;
use crate::view::{format, help, vm_detail};

/// The times between two samples that keys go through.
pub(super) const DELAYS: [Duration; 7] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

impl App {
    /// Does it, nothing lying over the view.
    pub(super) fn run(&mut self, verb: Verb, snapshot: &Snapshot) -> Option<Intent> {
        match verb {
            Verb::Quit => return Some(Intent::Quit),
            Verb::Redraw => return Some(Intent::Repaint),
            Verb::Suspend => return Some(Intent::Suspend),
            Verb::Help => self.overlay = Some(Overlay::Help(0)),
            Verb::Palette => self.overlay = Some(Overlay::Palette(Palette::default())),
            Verb::NextView => self.show(self.view.step(1), snapshot),
            Verb::PreviousView => self.show(self.view.step(View::ALL.len() - 1), snapshot),
            Verb::ViewVms => self.show(View::Vms, snapshot),
            Verb::ViewBlocks => self.show(View::Blocks, snapshot),
            Verb::ViewCross => self.show(View::Cross, snapshot),
            Verb::ViewTimeline => self.show(View::Timeline, snapshot),
            Verb::ViewStages => self.show(View::Stages, snapshot),
            Verb::ViewDecisions => self.show(View::Decisions, snapshot),
            Verb::ViewHealth => self.show(View::Health, snapshot),
            Verb::Back if self.view != View::Vms => self.show(View::Vms, snapshot),
            Verb::Back => self.filter_by("", self.selected, snapshot),
            Verb::NextVm => self.select(snapshot, self.row.saturating_add(1)),
            Verb::PreviousVm => self.select(snapshot, self.row.saturating_sub(1)),
            Verb::Facts if self.selected_vm(snapshot).is_some() => self.overlay = Some(Overlay::Facts(0)),
            Verb::Facts => self.no_vm(),
            Verb::Sort => {
                self.listing.sort_by_next(&self.settings.columns);
                self.sorted(snapshot);
            }
            Verb::Reverse => {
                self.listing.turn();
                self.sorted(snapshot);
            }
            Verb::Filter => {
                let text = self.listing.filter().to_owned();
                self.overlay = Some(Overlay::Filter(LineEdit::new(&text), text, self.selected));
            }
            Verb::Pause => self.paused = !self.paused,
            Verb::Faster => return self.step_delay(true),
            Verb::Slower => return self.step_delay(false),
            Verb::Mode => self.ask_mode(snapshot),
            Verb::ReclaimNow => self.ask_reclaim(snapshot),
            Verb::Save if snapshot.sequence == 0 => self.warn("there is no sample yet"),
            Verb::Save => {
                let time = format::clock_utc(snapshot.unix_ms).replace(':', "");
                self.overlay = Some(Overlay::Save(LineEdit::new(&format!("./imr-snapshot-{time}.json"))));
            }
            Verb::Up
            | Verb::Down
            | Verb::Left
            | Verb::Right
            | Verb::PageUp
            | Verb::PageDown
            | Verb::Home
            | Verb::End
            | Verb::Enter
            | Verb::ZoomIn
            | Verb::ZoomOut
            | Verb::Next
            | Verb::Previous => self.travel(verb, snapshot),
        }
        None
    }

    /// Does what the palette offers.
    pub(super) fn run_item(&mut self, item: Item, snapshot: &Snapshot) -> Option<Intent> {
        match item {
            Item::Verb(verb) => self.run(verb, snapshot),
            Item::Sort(column) => {
                self.sort_by(column, snapshot);
                None
            }
            Item::Delay(delay) => Some(self.set_delay(delay)),
        }
    }

    /// Filters by this text. The VM selected before stays so if it is shown.
    pub(super) fn filter_by(&mut self, text: &str, selected: Option<VmId>, snapshot: &Snapshot) {
        self.listing.filter_by(text);
        self.selected = selected;
        self.arrange(snapshot);
    }

    pub(super) fn palette_items(&self) -> Vec<Item> {
        palette::items(&self.settings.columns, &DELAYS)
    }

    pub(super) fn show(&mut self, view: View, snapshot: &Snapshot) {
        self.view = view;
        self.keep_visible(snapshot);
    }

    pub(super) fn sort_by(&mut self, column: Option<Column>, snapshot: &Snapshot) {
        self.listing.sort_by(column);
        self.sorted(snapshot);
    }

    /// Does it while a text lies over the view.
    pub(super) fn read(&mut self, verb: Verb, snapshot: &Snapshot) -> Option<Intent> {
        let help = matches!(self.overlay, Some(Overlay::Help(_)));
        let page = i32::from(self.size.height.saturating_sub(3).max(1));
        match verb {
            Verb::Quit => return Some(Intent::Quit),
            Verb::Redraw => return Some(Intent::Repaint),
            Verb::Suspend => return Some(Intent::Suspend),
            Verb::Back | Verb::Enter => self.overlay = None,
            Verb::Help if help => self.overlay = None,
            Verb::Facts if !help => self.overlay = None,
            Verb::Help | Verb::Palette => return self.run(verb, snapshot),
            Verb::NextVm | Verb::PreviousVm if !help => return self.run(verb, snapshot),
            Verb::Pause => self.paused = !self.paused,
            Verb::Up => self.scroll_text(-1, snapshot),
            Verb::Down => self.scroll_text(1, snapshot),
            Verb::PageUp => self.scroll_text(-page, snapshot),
            Verb::PageDown => self.scroll_text(page, snapshot),
            Verb::Home => self.scroll_text(-i32::from(u16::MAX), snapshot),
            Verb::End => self.scroll_text(i32::from(u16::MAX), snapshot),
            _ => {}
        }
        None
    }

    pub(super) fn scroll_text(&mut self, by: i32, snapshot: &Snapshot) {
        let most = i32::from(self.text_most(snapshot));
        if let Some(Overlay::Help(first) | Overlay::Facts(first)) = &mut self.overlay {
            let to = i32::from(*first).saturating_add(by).clamp(0, most);
            *first = u16::try_from(to).unwrap_or(0);
        }
    }

    /// The last first line of the text over the view that leaves no empty rows below it.
    pub(super) fn text_most(&self, snapshot: &Snapshot) -> u16 {
        let theme = self.theme();
        let lines = match &self.overlay {
            Some(Overlay::Help(_)) => help::lines(theme, &self.settings.keys, self.size.width.into()).len(),
            Some(Overlay::Facts(_)) => match self.selected_vm(snapshot) {
                // Its title has a line of its own.
                Some(vm) => vm_detail::lines(theme, vm, self.size.width.into()).len().saturating_sub(1),
                None => 0,
            },
            _ => 0,
        };
        u16::try_from(lines).unwrap_or(u16::MAX).saturating_sub(self.size.height.saturating_sub(2))
    }

    fn travel(&mut self, verb: Verb, snapshot: &Snapshot) {
        let action = match verb {
            Verb::Up => Action::Up,
            Verb::Down => Action::Down,
            Verb::Left => Action::Left,
            Verb::Right => Action::Right,
            Verb::PageUp => Action::PageUp,
            Verb::PageDown => Action::PageDown,
            Verb::Home => Action::Home,
            Verb::End => Action::End,
            Verb::Enter => Action::Enter,
            Verb::ZoomIn => Action::ZoomIn,
            Verb::ZoomOut => Action::ZoomOut,
            Verb::Next => Action::Next,
            Verb::Previous => Action::Previous,
            _ => return,
        };
        if self.view != View::Vms {
            return self.tell(action, snapshot);
        }
        let page = self.visible_rows(snapshot).max(1);
        match action {
            Action::Up => self.select(snapshot, self.row.saturating_sub(1)),
            Action::Down => self.select(snapshot, self.row.saturating_add(1)),
            Action::PageUp => self.select(snapshot, self.row.saturating_sub(page)),
            Action::PageDown => self.select(snapshot, self.row.saturating_add(page)),
            Action::Home => self.select(snapshot, 0),
            Action::End => self.select(snapshot, usize::MAX),
            Action::Enter if self.selected.is_some() => self.show(View::Blocks, snapshot),
            _ => {}
        }
    }

    fn sorted(&mut self, snapshot: &Snapshot) {
        self.arrange(snapshot);
        let text = match (self.listing.sort(), self.listing.ascends()) {
            (None, true) => "VMs in order of discovery".to_owned(),
            (None, false) => "VMs in order of discovery, the newest on top".to_owned(),
            (Some(column), true) => format!("sorted by {}, ascending", column.entry().name),
            (Some(column), false) => format!("sorted by {}, descending", column.entry().name),
        };
        self.notify(text, false);
    }

    fn step_delay(&mut self, faster: bool) -> Option<Intent> {
        let now = self.settings.delay;
        let next = if faster {
            DELAYS.into_iter().rev().find(|delay| *delay < now)
        } else {
            DELAYS.into_iter().find(|delay| *delay > now)
        };
        if next.is_none() {
            let delay = format::delay(now);
            self.warn(&if faster {
                format!("a sample every {delay}: faster it does not go")
            } else {
                format!("a sample every {delay}: slower it does not go")
            });
        }
        next.map(|delay| self.set_delay(delay))
    }

    fn set_delay(&mut self, delay: Duration) -> Intent {
        self.settings.delay = delay;
        self.notify(format!("a sample every {}", format::delay(delay)), false);
        Intent::SetDelay(delay)
    }

    fn ask_mode(&mut self, snapshot: &Snapshot) {
        let Some(vm) = self.selected_vm(snapshot) else { return self.no_vm() };
        let (to, what) = match vm.policy {
            PolicyName::Observe => (PolicyName::Immediate, "take the memory that its guest offers"),
            PolicyName::Immediate => (PolicyName::Pressure, "take memory only under pressure"),
            PolicyName::Pressure => (PolicyName::Observe, "stop taking memory"),
        };
        let name = self.short(&vm.name);
        let question = Question {
            vm: vm.id,
            text: format!("VM {name}: {what} ({})?", to.name()),
            intent: Intent::SetPolicy(vm.id, to),
            asked: format!("VM {name}: asked for {}; the decisions tell what became of it", to.name()),
        };
        self.overlay = Some(Overlay::Ask(question));
    }

    fn ask_reclaim(&mut self, snapshot: &Snapshot) {
        let Some(vm) = self.selected_vm(snapshot) else { return self.no_vm() };
        let but = match (&vm.reclaim, vm.policy) {
            (ReclaimStatus::Forbidden { guard, .. }, _) => format!(" ({guard} forbids to take it)"),
            (_, PolicyName::Pressure) => " (mode pressure: taken only while the host is short)".to_owned(),
            (_, PolicyName::Observe) => " (mode observe: nothing will be taken)".to_owned(),
            _ => String::new(),
        };
        let name = self.short(&vm.name);
        let question = Question {
            vm: vm.id,
            text: format!("VM {name}: ask its guest for its free memory now{but}?"),
            intent: Intent::ReclaimNow(vm.id),
            asked: format!("VM {name}: asked its guest; the decisions tell what became of it"),
        };
        self.overlay = Some(Overlay::Ask(question));
    }

    /// The name, cut so that what is asked stays readable.
    fn short(&self, name: &str) -> String {
        let most = usize::from(self.size.width / 3).clamp(8, 24);
        format::cut(name, most, self.theme().ellipsis())
    }

    fn no_vm(&mut self) {
        self.warn("no VM is selected");
    }

    fn warn(&mut self, text: &str) {
        self.notice = Some((text.to_owned(), Role::Warn));
    }
}
