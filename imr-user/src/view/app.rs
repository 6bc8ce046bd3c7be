//! The state of the screen: what is shown, which VM is selected, what somebody is being asked.
//!
//! Input: settings, snapshots, terminal events (`input`). Output: a picture (`paint`), and an [`Intent`] where the
//! caller has to act. Performs nothing itself: no I/O, no clock.

mod input;
mod paint;
mod run;

use std::sync::Arc;
use std::time::Duration;

use ratatui::layout::{Position, Rect, Size};

use super::columns::Column;
use super::context::{Action, Context, Response};
use super::edit::LineEdit;
use super::history::History;
use super::keys::KeyMap;
use super::listing::Listing;
use super::palette::Palette;
use super::tabs::View;
use super::theme::{Role, Theme};
use super::{blocks, cross, health, host_line, layout, log, stages, timeline};
use crate::model::ids::{BlockId, Pid, VmId};
use crate::model::snapshot::{BlockDetail, PolicyName, Snapshot, VmSnapshot};

/// What the caller has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// Leave the program.
    Quit,
    /// Give the terminal back and stop, as Ctrl-Z does.
    Suspend,
    /// Draw every cell anew: something else wrote on the terminal.
    Repaint,
    /// Change what is done with a VM's offers. Somebody has said yes to it.
    SetPolicy(VmId, PolicyName),
    /// Ask a VM's guest for its free memory. Somebody has said yes to it.
    ReclaimNow(VmId),
    /// Write the snapshot on the screen to a new file of this name.
    Save(String),
    /// Change the time between two samples.
    SetDelay(Duration),
}

/// How the screen is to look at the start, and what its keys do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Colours and symbols.
    pub theme: Theme,
    /// Keys.
    pub keys: KeyMap,
    /// Columns of the table of VMs, from left to right.
    pub columns: Vec<Column>,
    /// What VMs are sorted by; none: in order of discovery.
    pub sort: Option<Column>,
    /// The other way round.
    pub reverse: bool,
    /// The first view.
    pub view: View,
    /// Time between two samples.
    pub delay: Duration,
}

impl Settings {
    /// What is built in.
    #[must_use]
    pub fn new(theme: Theme) -> Self {
        Self {
            theme,
            keys: KeyMap::default(),
            columns: Column::DEFAULT.to_vec(),
            sort: None,
            reverse: false,
            view: View::Vms,
            delay: Duration::from_secs(1),
        }
    }
}

/// What lies over the view, or stands in its last line, and has the keys.
#[derive(Debug, Clone)]
enum Overlay {
    /// The help, from this line on.
    Help(u16),
    /// The facts of the selected VM, from this line on.
    Facts(u16),
    Palette(Palette),
    /// The filter that is typed; the one before, and the VM that was selected under it.
    Filter(LineEdit, String, Option<VmId>),
    /// The name of the file that is to be written.
    Save(LineEdit),
    Ask(Question),
}

/// What somebody has to say yes to.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Question {
    vm: VmId,
    /// Without the "y/n".
    text: String,
    intent: Intent,
    /// What to say when it is asked for.
    asked: String,
}

/// The states of all views but the first.
#[derive(Debug, Clone, Default)]
struct Views {
    blocks: blocks::BlocksState,
    cross: cross::CrossState,
    timeline: timeline::TimelineState,
    stages: stages::StagesState,
    log: log::LogState,
    health: health::HealthState,
}

/// The state of the screen.
#[derive(Debug, Clone)]
pub struct App {
    settings: Settings,
    waiting_for: Vec<Pid>,
    size: Size,
    view: View,
    views: Views,
    listing: Listing,
    selected: Option<VmId>,
    /// Where the selected VM was when it was last seen.
    row: usize,
    scroll: usize,
    overlay: Option<Overlay>,
    paused: bool,
    stale: Option<u64>,
    notice: Option<(String, Role)>,
    history: History,
    detail: Option<Arc<BlockDetail>>,
    /// Whether the picture may have changed since [`App::take_changed`].
    changed: bool,
}

impl App {
    /// The state at the start. `waiting_for` are the only processes to be shown, if any are given.
    #[must_use]
    pub fn new(settings: Settings, waiting_for: Vec<Pid>) -> Self {
        Self {
            waiting_for,
            size: Size::default(),
            view: settings.view,
            views: Views::default(),
            listing: Listing::new(settings.sort, settings.reverse),
            settings,
            selected: None,
            row: 0,
            scroll: 0,
            overlay: None,
            paused: false,
            stale: None,
            notice: None,
            history: History::default(),
            detail: None,
            changed: true,
        }
    }

    /// Tells the size of the terminal; needed for clicks and for moves by a screenful.
    pub fn set_size(&mut self, size: Size) {
        self.changed |= self.size != size;
        self.size = size;
    }

    /// Tells that there has been no sample for so many seconds; `None`: samples come as they should.
    pub fn set_stale(&mut self, seconds: Option<u64>) {
        self.changed |= self.stale != seconds;
        self.stale = seconds;
    }

    /// Tells what became of something; `bad`: it failed. Stands until the next key.
    pub fn notify(&mut self, text: String, bad: bool) {
        self.notice = Some((text, if bad { Role::Bad } else { Role::Good }));
        self.changed = true;
    }

    /// Tells all that is known of a block, perhaps not of [`App::inspect_target`] any more.
    pub fn set_detail(&mut self, detail: Option<Arc<BlockDetail>>) {
        self.changed |= self.view == View::Blocks && self.detail != detail;
        self.detail = detail;
    }

    /// The block that the screen shows all of now. To be asked for when it is another one than before, and again with
    /// every sample.
    #[must_use]
    pub fn inspect_target(&self, snapshot: &Snapshot) -> Option<(VmId, BlockId)> {
        if self.view != View::Blocks {
            return None;
        }
        blocks::inspect_target(&self.views.blocks, &self.context(snapshot), self.parts(snapshot).body)
    }

    /// Takes a sample into the history, whether it will be shown or not.
    pub fn note(&mut self, snapshot: &Snapshot) {
        self.history.note(snapshot);
    }

    /// Takes note of the snapshot that is shown from now on: keeps the selection on its VM, or moves it where that
    /// VM has ended.
    pub fn accept(&mut self, snapshot: &Snapshot) {
        let before = self.selected;
        let ended = before.is_some_and(|id| snapshot.vms.iter().all(|vm| vm.id != id));
        self.arrange(snapshot);
        if ended {
            self.after_the_end(before);
        }
        self.changed = true;
    }

    /// Whether the screen stands still.
    #[must_use]
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// Whether the picture may have changed since this was last asked.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Tells that the terminal lost the picture.
    pub fn redraw(&mut self) {
        self.changed = true;
    }

    /// Whatever was about the VM that was selected ends with it.
    fn after_the_end(&mut self, ended: Option<VmId>) {
        let asked = matches!(&self.overlay, Some(Overlay::Ask(question)) if Some(question.vm) == ended);
        let facts = matches!(self.overlay, Some(Overlay::Facts(_)));
        if asked || facts {
            self.overlay = None;
        }
        let open = self.view == View::Blocks;
        if open {
            self.view = View::Vms;
        }
        if asked || facts || open {
            self.notice = Some(("the VM that was open has ended".to_owned(), Role::Warn));
        }
    }

    /// Sorts and filters anew, and finds the selected VM again.
    fn arrange(&mut self, snapshot: &Snapshot) {
        self.listing.arrange(snapshot);
        match self.selected.and_then(|id| self.listing.row(snapshot, id)) {
            Some(row) => self.row = row,
            None => self.select(snapshot, self.row),
        }
        self.keep_visible(snapshot);
    }

    fn select(&mut self, snapshot: &Snapshot, row: usize) {
        self.row = row.min(self.listing.len().saturating_sub(1));
        self.selected = self.listing.vm(snapshot, self.row).map(|vm| vm.id);
        self.keep_visible(snapshot);
    }

    fn keep_visible(&mut self, snapshot: &Snapshot) {
        let rows = self.visible_rows(snapshot);
        self.scroll = layout::scroll(self.scroll, self.row, rows, self.listing.len());
    }

    fn visible_rows(&self, snapshot: &Snapshot) -> usize {
        let (table, _) = self.main(self.parts(snapshot).body, snapshot);
        usize::from(table.height).saturating_sub(1)
    }

    fn area(&self) -> Rect {
        Rect::from((Position::ORIGIN, self.size))
    }

    fn parts(&self, snapshot: &Snapshot) -> layout::Parts {
        let wanted = host_line::wanted_rows(snapshot);
        // One line of the host is enough over the other views, two where something is wrong with it.
        let rows = if self.view == View::Vms { wanted } else { wanted.saturating_sub(2) };
        layout::frame(self.area(), rows)
    }

    /// Table, and what is below it, of the first view.
    fn main(&self, body: Rect, snapshot: &Snapshot) -> (Rect, Rect) {
        let rows = if snapshot.vms.is_empty() { None } else { Some(self.listing.len()) };
        layout::main(body, rows)
    }

    fn selected_vm<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a VmSnapshot> {
        // The row is right unless the snapshot is not the one that was accepted.
        let id = self.selected?;
        let at_row = self.listing.vm(snapshot, self.row).filter(|vm| vm.id == id);
        at_row.or_else(|| snapshot.vms.iter().find(|vm| vm.id == id))
    }

    fn context<'a>(&'a self, snapshot: &'a Snapshot) -> Context<'a> {
        Context {
            theme: self.settings.theme,
            snapshot,
            vm: self.selected_vm(snapshot),
            history: &self.history,
            detail: self.detail.as_deref(),
        }
    }

    /// Tells the view on the screen, which is not the first, what somebody wants of it.
    fn tell(&mut self, action: Action, snapshot: &Snapshot) {
        let area = self.parts(snapshot).body;
        let mut views = std::mem::take(&mut self.views);
        let context = self.context(snapshot);
        // What became of it shows in the picture; what is to be inspected, the caller asks anyway, since a change of
        // the view or of the VM makes it another block as well.
        let _: Response = match self.view {
            View::Vms => Response::Ignored,
            View::Blocks => blocks::act(&mut views.blocks, action, &context, area),
            View::Cross => cross::act(&mut views.cross, action, &context, area),
            View::Timeline => timeline::act(&mut views.timeline, action, &context, area),
            View::Stages => stages::act(&mut views.stages, action, &context, area),
            View::Decisions => log::act(&mut views.log, action, &context, area),
            View::Health => health::act(&mut views.health, action, &context, area),
        };
        self.views = views;
    }

    pub(crate) fn theme(&self) -> Theme {
        self.settings.theme
    }

    pub(crate) fn delay(&self) -> Duration {
        self.settings.delay
    }

    pub(crate) fn stale(&self) -> Option<u64> {
        self.stale
    }
}

#[cfg(test)]
mod tests;
