//! What stands there while there is no VM: what is waited for, and what to do.
//!
//! Input: the snapshot, the processes asked for, the room. Output: lines in its middle.

use ratatui::text::{Line, Span};

use super::theme::{Role, Theme};
use crate::model::ids::Pid;
use crate::model::snapshot::Snapshot;

/// The text, in the middle of so many columns and rows.
pub(crate) fn lines(
    theme: Theme,
    snapshot: &Snapshot,
    waiting_for: &[Pid],
    (columns, rows): (usize, usize),
) -> Vec<Line<'static>> {
    let title = |text: String| Line::from(Span::styled(text, theme.style(Role::Title)));
    let mut lines = Vec::new();
    if snapshot.sequence == 0 {
        lines.push(title("Attaching the probes and looking for KVM guests.".to_owned()));
    } else if waiting_for.is_empty() {
        lines.push(title("No KVM guest runs on this host. Waiting for one.".to_owned()));
    } else {
        let pids: Vec<String> = waiting_for.iter().map(ToString::to_string).collect();
        lines.push(title(format!("No KVM guest with pid {} is running. Waiting for it.", pids.join(", "))));
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
