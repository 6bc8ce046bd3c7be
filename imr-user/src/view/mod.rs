//! Snapshot to screen: the picture that people look at, and plain text for `imr-top -b`.
//!
//! Input: [`Snapshot`]s and terminal events. Output: cells of a ratatui frame, text, and [`app::Intent`]s for the
//! caller to act on. Performs no I/O, reads no clock, no environment, and knows of the crate only the model.

pub mod app;
pub mod batch;
mod blocks;
mod cells;
mod context;
mod cross;
mod decisions;
pub mod format;
mod health;
mod heatmap;
mod help;
mod history;
mod host_line;
mod layout;
mod log;
mod stages;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod theme;
mod timeline;
mod vm_detail;
mod vm_table;

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use self::app::Screen;
pub use self::app::{App, Intent};
pub use self::cells::CellKind;
use self::layout::{Piece, draw};
use self::theme::{Role, Theme};
use crate::model::snapshot::{Snapshot, VmSnapshot};

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
        if let Some(first) = self.help() {
            self.paint_help(buffer, area, first);
            return;
        }
        let columns = usize::from(area.width);
        let open = self.selected_index(snapshot).and_then(|index| snapshot.vms.get(index));
        let wanted = host_line::wanted_rows(snapshot);
        let hints = match (self.screen(), open) {
            (Screen::Vm, Some(vm)) => {
                // One line of the host is enough here, two where something is wrong with it.
                let (header, body, hints) = layout::frame(area, wanted.saturating_sub(2));
                draw(buffer, header, &host_line::lines(self, snapshot, columns, header.height.into()));
                self.paint_vm(buffer, body, snapshot, vm);
                hints
            }
            _ => {
                let parts = layout::main(area, wanted, snapshot.vms.len());
                draw(
                    buffer,
                    parts.header,
                    &host_line::lines(self, snapshot, columns, parts.header.height.into()),
                );
                self.paint_main(buffer, &parts, snapshot, open);
                parts.hints
            }
        };
        draw(buffer, hints, &[self.hint_line(columns)]);
    }

    fn paint_main(
        &self,
        buffer: &mut Buffer,
        parts: &layout::MainLayout,
        snapshot: &Snapshot,
        open: Option<&VmSnapshot>,
    ) {
        let columns = usize::from(parts.table.width);
        if snapshot.vms.is_empty() {
            draw(buffer, parts.rest, &self.nothing(snapshot, columns, parts.rest.height.into()));
            return;
        }
        draw(buffer, parts.table, &vm_table::lines(self, snapshot, columns, parts.table.height.into()));
        let Some(vm) = open else { return };
        let wanted = heatmap::wanted_rows(self.theme(), vm, columns, layout::heat_most(parts.rest));
        let (heat, log) = layout::rest(parts.rest, wanted);
        draw(buffer, heat, &heatmap::lines(self.theme(), vm, columns, heat.height.into()));
        draw(buffer, log, &decisions::lines(self.theme(), snapshot, None, columns, log.height.into()));
    }

    fn paint_vm(&self, buffer: &mut Buffer, body: Rect, snapshot: &Snapshot, vm: &VmSnapshot) {
        let theme = self.theme();
        let columns = usize::from(body.width);
        let facts = vm_detail::lines(theme, vm, columns);
        // The map never gets less than half.
        let rows = u16::try_from(facts.len()).unwrap_or(u16::MAX).min(body.height / 2);
        let (above, below) = layout::split(body, rows);
        draw(buffer, above, &facts);
        let wanted = heatmap::wanted_rows(theme, vm, columns, layout::heat_most(below));
        let (heat, log) = layout::rest(below, wanted);
        draw(buffer, heat, &heatmap::lines(theme, vm, columns, heat.height.into()));
        draw(buffer, log, &decisions::lines(theme, snapshot, Some(vm.id), columns, log.height.into()));
    }

    fn paint_help(&self, buffer: &mut Buffer, area: Rect, first: u16) {
        let theme = self.theme();
        let (title, body) = layout::split(area, 1);
        let (body, hint) = layout::split(body, body.height.saturating_sub(1));
        let name = Span::styled("imr-top: help", theme.style(Role::Title));
        draw(buffer, title, &[layout::rule(theme, vec![name], area.width.into())]);
        let most = app::help_most(theme, area.as_size());
        let first = first.min(most);
        draw(buffer, body, &help::lines(theme)[usize::from(first)..]);
        let mut pieces = vec![key(theme, 9, "Esc", "back"), key(theme, 8, "q", "quit")];
        if first < most {
            pieces.push(key(theme, 7, theme.up_down(), "more below"));
        } else if most > 0 {
            pieces.push(key(theme, 7, theme.up_down(), "more above"));
        }
        draw(buffer, hint, &[layout::fit(pieces, area.width.into(), "  ")]);
    }

    fn hint_line(&self, columns: usize) -> Line<'static> {
        let theme = self.theme();
        let mut pieces = Vec::new();
        if let Some(notice) = self.notice() {
            pieces.push(Piece::new(100, vec![Span::styled(notice.to_owned(), theme.style(Role::Warn))]));
        }
        pieces.push(key(theme, 90, "q", "quit"));
        pieces.push(key(theme, 80, "?", "help"));
        pieces.push(key(theme, 40, theme.up_down(), "VM"));
        match self.screen() {
            Screen::Main => pieces.push(key(theme, 60, "Enter", "open")),
            Screen::Vm => pieces.push(key(theme, 70, "Esc", "back")),
        }
        pieces.push(key(theme, 50, "Space", if self.paused() { "go on" } else { "pause" }));
        layout::fit(pieces, columns, "  ")
    }

    /// What stands there while there is no VM: what is waited for, and what to do.
    fn nothing(&self, snapshot: &Snapshot, columns: usize, rows: usize) -> Vec<Line<'static>> {
        let theme = self.theme();
        let title = |text: String| Line::from(Span::styled(text, theme.style(Role::Title)));
        let mut lines = Vec::new();
        if snapshot.sequence == 0 {
            lines.push(title("Attaching the probes and looking for KVM guests.".to_owned()));
        } else if self.waiting_for().is_empty() {
            lines.push(title("No KVM guest runs on this host. Waiting for one.".to_owned()));
        } else {
            let pids: Vec<String> = self.waiting_for().iter().map(ToString::to_string).collect();
            lines.push(title(format!(
                "No KVM guest with pid {} is running. Waiting for it.",
                pids.join(", ")
            )));
        }
        let text = [
            "",
            "A guest shows here within a second of its start; nothing has to be",
            "restarted, neither here nor there.",
            "",
            "To have its free memory back as well:",
            "  - load imr_guest.ko in the guest,",
            "  - give it RAM that can be given back: memfd, tmpfs or hugetlbfs,",
            "    such as -object memory-backend-memfd,share=on,... with QEMU.",
            "",
            "A guest runs and does not show? `imr doctor` says what is missing.",
        ];
        lines.extend(text.iter().map(|text| Line::from(Span::raw(*text))));
        let widest = lines.iter().map(Line::width).max().unwrap_or(0);
        let indent = " ".repeat(columns.saturating_sub(widest) / 2);
        let above = rows.saturating_sub(lines.len()) / 2;
        let mut placed = vec![Line::default(); above];
        for mut line in lines {
            line.spans.insert(0, Span::raw(indent.clone()));
            placed.push(line);
        }
        placed
    }
}

fn key(theme: Theme, weight: u8, key: &'static str, action: &'static str) -> Piece {
    Piece::new(
        weight,
        vec![
            Span::styled(key, theme.style(Role::Key)),
            Span::styled(format!(" {action}"), theme.style(Role::Dim)),
        ],
    )
}
