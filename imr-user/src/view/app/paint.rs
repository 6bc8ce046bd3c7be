//! The state to a picture: host lines, the names of the views, the view, and what lies over it.
//!
//! Input: the state and the snapshot. Output: cells. Changes nothing; any size will do, down to one cell.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use super::{App, Overlay, View};
use crate::model::snapshot::{Snapshot, VmSnapshot};
use crate::view::layout::{self, Parts, Piece, draw};
use crate::view::theme::Role;
use crate::view::verb::Verb;
use crate::view::{
    blocks, cross, decisions, empty, format, health, heatmap, help, host_line, log, stages, tabs, timeline,
    vm_detail, vm_table,
};

impl App {
    /// Draws the snapshot. Any size will do, down to one cell.
    pub fn render(&self, frame: &mut Frame<'_>, snapshot: &Snapshot) {
        let area = frame.area();
        self.paint(frame.buffer_mut(), area, snapshot);
    }

    fn paint(&self, buffer: &mut Buffer, area: Rect, snapshot: &Snapshot) {
        if area.is_empty() {
            return;
        }
        match (&self.overlay, self.selected_vm(snapshot)) {
            (Some(Overlay::Help(first)), _) => {
                let title = vec![Span::styled("imr-top: help", self.theme().style(Role::Title))];
                let title = layout::rule(self.theme(), title, area.width.into());
                let lines = help::lines(self.theme(), &self.settings.keys, area.width.into());
                return self.paint_text(buffer, area, (title, &lines), *first);
            }
            (Some(Overlay::Facts(first)), Some(vm)) => {
                let mut lines = vm_detail::lines(self.theme(), vm, area.width.into());
                let title = if lines.is_empty() { Line::default() } else { lines.remove(0) };
                return self.paint_text(buffer, area, (title, &lines), *first);
            }
            _ => {}
        }
        let wanted = if self.view == View::Vms { 0 } else { 2 };
        let parts = layout::frame(area, host_line::wanted_rows(snapshot).saturating_sub(wanted));
        self.paint_frame(buffer, &parts, snapshot);
        let context = self.context(snapshot);
        let views = &self.views;
        match self.view {
            View::Vms => self.paint_main(buffer, parts.body, snapshot),
            View::Blocks => blocks::paint(&views.blocks, &context, buffer, parts.body),
            View::Cross => cross::paint(&views.cross, &context, buffer, parts.body),
            View::Timeline => timeline::paint(&views.timeline, &context, buffer, parts.body),
            View::Stages => stages::paint(&views.stages, &context, buffer, parts.body),
            View::Decisions => log::paint(&views.log, &context, buffer, parts.body),
            View::Health => health::paint(&views.health, &context, buffer, parts.body),
        }
        self.paint_overlay(buffer, area, &parts);
    }

    fn paint_frame(&self, buffer: &mut Buffer, parts: &Parts, snapshot: &Snapshot) {
        let room = (usize::from(parts.header.width), usize::from(parts.header.height));
        let named = (parts.tabs.height == 0).then_some(self.view);
        draw(buffer, parts.header, &host_line::lines(self, snapshot, named, room));
        if parts.tabs.height > 0 {
            draw(buffer, parts.tabs, &[self.tab_line(snapshot, parts.tabs.width.into())]);
        }
        draw(buffer, parts.hints, &[self.hint_line(parts.hints.width.into(), snapshot)]);
    }

    /// The views, and the VM that all of them are about.
    fn tab_line(&self, snapshot: &Snapshot, columns: usize) -> Line<'static> {
        let theme = self.theme();
        let mut line = tabs::line(theme, self.view, columns);
        let left = columns.saturating_sub(line.width() + 1);
        let Some(vm) = self.selected_vm(snapshot).filter(|_| self.view != View::Vms && left >= 8) else {
            return line;
        };
        let place = format!(" {}/{}", self.row + 1, self.listing.len());
        let room = left.saturating_sub(format::width(&place));
        let name = format::printable(&vm.name, theme.ascii());
        // The name is worth more than its place in the list.
        let place = if room >= format::width(&name).min(8) { place } else { String::new() };
        let name = format::cut(&name, left - format::width(&place), theme.ellipsis());
        let gap = left + 1 - format::width(&name) - format::width(&place);
        line.push_span(Span::raw(" ".repeat(gap)));
        line.push_span(Span::styled(name, theme.style(Role::Title)));
        line.push_span(Span::styled(place, theme.style(Role::Dim)));
        line
    }

    pub(super) fn plan(&self, columns: usize) -> vm_table::Plan {
        vm_table::plan(&self.listing, &self.settings.columns, columns)
    }

    fn paint_main(&self, buffer: &mut Buffer, body: Rect, snapshot: &Snapshot) {
        let theme = self.theme();
        let (table, rest) = self.main(body, snapshot);
        let columns = usize::from(body.width);
        if snapshot.vms.is_empty() {
            let lines = empty::lines(theme, snapshot, &self.waiting_for, (columns, rest.height.into()));
            draw(buffer, rest, &lines);
            return;
        }
        let plan = self.plan(columns);
        let at = (self.row, self.scroll);
        let room = (columns, usize::from(table.height));
        let mut lines = vm_table::lines(theme, &plan, &self.listing, snapshot, at, room);
        if self.listing.len() == 0 {
            let filter = format::printable(self.listing.filter(), theme.ascii());
            let text = format!(" none of the {} VMs matches {filter}", snapshot.vms.len());
            lines.push(Line::from(Span::styled(text, theme.style(Role::Warn))));
        }
        draw(buffer, table, &lines);
        let Some(vm) = self.selected_vm(snapshot) else { return };
        self.paint_preview(buffer, rest, snapshot, vm);
    }

    /// What the selected VM's memory looks like, and the newest decisions.
    fn paint_preview(&self, buffer: &mut Buffer, area: Rect, snapshot: &Snapshot, vm: &VmSnapshot) {
        let theme = self.theme();
        let columns = usize::from(area.width);
        let wanted = heatmap::wanted_rows(theme, vm, columns, layout::heat_most(area));
        let (heat, log) = layout::rest(area, wanted);
        draw(buffer, heat, &heatmap::lines(theme, vm, columns, heat.height.into()));
        draw(buffer, log, &decisions::lines(theme, snapshot, None, columns, log.height.into()));
    }

    /// A text over everything: its title, its lines from `first` on, and how to leave it.
    fn paint_text(
        &self,
        buffer: &mut Buffer,
        area: Rect,
        (title, lines): (Line<'static>, &[Line<'static>]),
        first: u16,
    ) {
        let (above, body) = layout::split(area, 1);
        let (body, hint) = layout::split(body, body.height.saturating_sub(1));
        draw(buffer, above, &[title]);
        let most =
            u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_sub(area.height.saturating_sub(2));
        let first = first.min(most);
        draw(buffer, body, lines.get(usize::from(first)..).unwrap_or_default());
        let mut pieces = vec![self.hint(9, Verb::Back, "back"), self.hint(6, Verb::Quit, "quit")];
        if matches!(self.overlay, Some(Overlay::Facts(_))) {
            pieces.push(self.hint(7, Verb::NextVm, "next VM"));
        }
        let more = if first < most { "more below" } else { "more above" };
        if most > 0 {
            pieces.push(self.piece(8, self.theme().up_down().to_owned(), more));
        }
        draw(buffer, hint, &[layout::fit(pieces, area.width.into(), "  ")]);
    }

    /// What lies over the view: in the last line, or instead of the view.
    fn paint_overlay(&self, buffer: &mut Buffer, area: Rect, parts: &Parts) {
        let theme = self.theme();
        let columns = usize::from(area.width);
        let line = match &self.overlay {
            None | Some(Overlay::Help(_) | Overlay::Facts(_)) => return,
            Some(Overlay::Palette(palette)) => {
                let over = palette_area(area, parts);
                let items = self.palette_items();
                let room = (over.width.into(), over.height.into());
                clear(buffer, over);
                draw(buffer, over, &palette.lines(theme, &self.settings.keys, &items, room));
                return;
            }
            Some(Overlay::Filter(edit, ..)) => {
                let mut line = edit.line(theme, "filter: ", columns);
                if let Some(wrong) = self.listing.wrong() {
                    let wrong = format!("  no regex: {}", format::printable(wrong, theme.ascii()));
                    line.push_span(Span::styled(wrong, theme.style(Role::Bad)));
                }
                line
            }
            Some(Overlay::Save(edit)) => edit.line(theme, "save as: ", columns),
            Some(Overlay::Ask(question)) => {
                let answers = " y/n";
                let text = format::printable(&question.text, theme.ascii());
                let text = format::cut(&text, columns.saturating_sub(answers.len()), theme.ellipsis());
                Line::from(vec![
                    Span::styled(text, theme.style(Role::Warn)),
                    Span::styled(answers, theme.style(Role::Key)),
                ])
            }
        };
        let last = Rect { y: area.bottom().saturating_sub(1), height: 1, ..area };
        clear(buffer, last);
        draw(buffer, last, &[line]);
    }

    pub(super) fn palette_area(&self, snapshot: &Snapshot) -> Rect {
        palette_area(self.area(), &self.parts(snapshot))
    }

    fn hint_line(&self, columns: usize, snapshot: &Snapshot) -> Line<'static> {
        let theme = self.theme();
        let mut pieces = Vec::new();
        if let Some((notice, role)) = &self.notice {
            let text = format::cut(&format::printable(notice, theme.ascii()), columns, theme.ellipsis());
            pieces.push(Piece::new(100, vec![Span::styled(text, theme.style(*role))]));
        }
        if !self.listing.filter().is_empty() {
            let filter = format::printable(self.listing.filter(), theme.ascii());
            let filter = format::cut(&filter, 20, theme.ellipsis());
            let text = format!("{filter}: {} of {} VMs", self.listing.len(), snapshot.vms.len());
            pieces.push(Piece::new(95, vec![Span::styled(text, theme.style(Role::Warn))]));
        }
        pieces.push(self.hint(90, Verb::Quit, "quit"));
        pieces.push(self.hint(80, Verb::Help, "help"));
        if self.view == View::Vms {
            pieces.push(self.piece(40, theme.up_down().to_owned(), "VM"));
            pieces.push(self.hint(60, Verb::Enter, "blocks"));
            pieces.push(self.hint(35, Verb::Sort, "sort"));
            pieces.push(self.hint(30, Verb::Filter, "filter"));
        } else {
            pieces.push(self.hint(70, Verb::Back, "back"));
            pieces.push(self.hint(40, Verb::NextVm, "next VM"));
            if matches!(self.view, View::Cross | View::Timeline | View::Decisions) {
                pieces.push(self.hint(42, Verb::Enter, "VM/all"));
            }
        }
        pieces.push(self.hint(32, Verb::Facts, "facts"));
        pieces.push(self.hint(50, Verb::Pause, if self.paused { "go on" } else { "pause" }));
        pieces.push(self.hint(45, Verb::Palette, "commands"));
        pieces.retain(|piece| !piece.spans.is_empty());
        layout::fit(pieces, columns, "  ")
    }

    /// A key hint; nothing where the verb has no key.
    fn hint(&self, weight: u8, verb: Verb, action: &'static str) -> Piece {
        self.piece(weight, self.settings.keys.first(verb), action)
    }

    fn piece(&self, weight: u8, key: String, action: &'static str) -> Piece {
        if key.is_empty() {
            return Piece::new(weight, Vec::new());
        }
        let theme = self.theme();
        let key = format::printable(&key, theme.ascii());
        let action = Span::styled(format!(" {action}"), theme.style(Role::Dim));
        Piece::new(weight, vec![Span::styled(key, theme.style(Role::Key)), action])
    }
}

/// The palette lies over the view, and over all where that is small.
fn palette_area(area: Rect, parts: &Parts) -> Rect {
    if parts.body.height >= 8 { parts.body } else { area }
}

fn clear(buffer: &mut Buffer, area: Rect) {
    let area = area.intersection(buffer.area);
    for y in area.top()..area.bottom() {
        for x in area.left()..area.right() {
            buffer[(x, y)].reset();
        }
    }
}
