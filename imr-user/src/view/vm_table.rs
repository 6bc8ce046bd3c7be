//! The table of VMs: one row a VM, columns that widen with the screen and leave when it is narrow.
//!
//! Input: a snapshot, the selection, the size. Output: lines, the heading first.

use ratatui::text::{Line, Span};

use super::app::App;
use super::format;
use super::layout::scroll;
use super::theme::{Role, Theme};
use crate::model::snapshot::{GuestStatus, ReclaimStatus, Snapshot, VmSnapshot};

/// From this width on columns carry their full names.
const WIDE: usize = 120;
/// Longest name shown on a wide screen.
const NAME_MOST: usize = 32;
/// Columns left to the status before others leave.
const STATUS_LEAST: usize = 13;

/// A column between the name and the status.
struct Column {
    narrow: &'static str,
    wide: &'static str,
    /// Columns on a narrow screen; wide ones take the heading's if it is longer.
    width: usize,
    /// The lowest leaves first.
    weight: u8,
    text: fn(&VmSnapshot) -> String,
}

const COLUMNS: [Column; 9] = [
    Column { narrow: "PID", wide: "PID", width: 7, weight: 5, text: |vm| vm.pid.to_string() },
    Column { narrow: "RAM", wide: "RAM", width: 5, weight: 6, text: |vm| format::bytes_short(vm.ram_bytes) },
    Column {
        narrow: "RES",
        wide: "RESIDENT",
        width: 5,
        weight: 9,
        text: |vm| format::bytes_short(vm.resident_bytes),
    },
    Column { narrow: "FREE", wide: "GUEST-FREE", width: 5, weight: 7, text: guest_free },
    Column {
        narrow: "RECL",
        wide: "RECLAIMED",
        width: 5,
        weight: 8,
        text: |vm| format::bytes_short(vm.reclaimed_bytes),
    },
    Column {
        narrow: "",
        wide: "OUT-NOW",
        width: 7,
        weight: 1,
        text: |vm| format::bytes_short(vm.reclaimed_now_bytes),
    },
    Column {
        narrow: "REFLT",
        wide: "REFAULTED",
        width: 5,
        weight: 4,
        text: |vm| format::bytes_short(vm.refaulted_bytes),
    },
    Column {
        narrow: "FLT/S",
        wide: "FAULTS/S",
        width: 5,
        weight: 3,
        text: |vm| format::rate(vm.faults_per_s),
    },
    Column { narrow: "P50/P99", wide: "OFFER-DONE P50/P99", width: 11, weight: 2, text: latency },
];

/// Columns that are shown, with their widths, and what is left for name and status.
struct Plan {
    columns: Vec<(&'static Column, usize)>,
    name: usize,
    status: usize,
    wide: bool,
}

/// The table in at most `rows` lines of `columns`.
pub(crate) fn lines(app: &App, snapshot: &Snapshot, columns: usize, rows: usize) -> Vec<Line<'static>> {
    let theme = app.theme();
    let plan = plan(columns, snapshot.vms.iter().map(|vm| format::width(&vm.name)).max().unwrap_or(0));
    let mut lines = vec![heading(theme, &plan, columns)];
    let selected = app.selected_index(snapshot).unwrap_or(0);
    let visible = rows.saturating_sub(1);
    let first = scroll(app.scroll(), selected, visible, snapshot.vms.len());
    for (index, vm) in snapshot.vms.iter().enumerate().skip(first).take(visible) {
        lines.push(row(theme, &plan, vm, index == selected, columns));
    }
    lines
}

/// What the guest and the guards say of a VM, in a few words.
pub(crate) fn status(vm: &VmSnapshot, short: bool) -> (String, Role) {
    let forbidden = match &vm.reclaim {
        ReclaimStatus::Ready { .. } => None,
        ReclaimStatus::Forbidden { guard, .. } => Some(guard),
    };
    let module = match &vm.guest {
        GuestStatus::NoModule => "no module",
        GuestStatus::Attached { .. } => "attached",
        GuestStatus::Detached { .. } => "detached",
    };
    match (forbidden, &vm.guest) {
        (Some(guard), _) if short => (format!("!{guard}"), Role::Warn),
        (Some(guard), _) => (format!("{module}, forbidden: {guard}"), Role::Warn),
        (None, GuestStatus::NoModule) => (module.to_owned(), Role::Dim),
        (None, GuestStatus::Attached { .. }) => (module.to_owned(), Role::Good),
        (None, GuestStatus::Detached { why }) if !short => (format!("{module}: {why}"), Role::Warn),
        (None, GuestStatus::Detached { .. }) => (module.to_owned(), Role::Warn),
    }
}

/// What the guest's own statistics call free; `-` where nobody in the guest tells.
pub(crate) fn guest_free(vm: &VmSnapshot) -> String {
    match vm.guest {
        GuestStatus::Attached { .. } => format::bytes_short(vm.guest_free_bytes),
        GuestStatus::NoModule | GuestStatus::Detached { .. } => "-".to_owned(),
    }
}

fn latency(vm: &VmSnapshot) -> String {
    match vm.latency.total.count {
        0 => "-".to_owned(),
        _ => {
            format!("{}/{}", format::micros(vm.latency.total.p50_us), format::micros(vm.latency.total.p99_us))
        }
    }
}

fn plan(columns: usize, longest_name: usize) -> Plan {
    let wide = columns >= WIDE;
    let mut shown: Vec<(&'static Column, usize)> = COLUMNS
        .iter()
        .filter(|column| wide || !column.narrow.is_empty())
        .map(|column| (column, if wide { column.width.max(column.wide.len()) } else { column.width }))
        .collect();
    let taken = |shown: &[(&Column, usize)]| shown.iter().map(|(_, width)| width + 1).sum::<usize>();
    // Mark, name, gap, then the columns with a gap each, then the status.
    let name_least = 9;
    while !shown.is_empty() && 1 + name_least + taken(&shown) + 1 + STATUS_LEAST > columns {
        let lightest = shown.iter().map(|(column, _)| column.weight).min().unwrap_or(0);
        shown.retain(|(column, _)| column.weight != lightest);
    }
    let left = columns.saturating_sub(2 + taken(&shown));
    let name =
        longest_name.clamp(name_least, NAME_MOST).min(left.saturating_sub(STATUS_LEAST).max(name_least));
    Plan { columns: shown, name, status: left.saturating_sub(name), wide }
}

fn heading(theme: Theme, plan: &Plan, columns: usize) -> Line<'static> {
    let mut text = format!(" {}", format::left("NAME", plan.name, theme.ellipsis()));
    for (column, width) in &plan.columns {
        let label = if plan.wide { column.wide } else { column.narrow };
        text.push(' ');
        text.push_str(&format::right(label, *width, theme.ellipsis()));
    }
    text.push_str(" STATUS");
    let text = format::left(&text, columns, ' ');
    Line::from(Span::styled(text, theme.style(Role::Heading)))
}

fn row(theme: Theme, plan: &Plan, vm: &VmSnapshot, selected: bool, columns: usize) -> Line<'static> {
    let base = theme.style(if selected { Role::Selected } else { Role::Text });
    let cut = theme.ellipsis();
    let mark = if selected { theme.mark() } else { ' ' };
    let name = format::printable(&vm.name, theme.ascii());
    let mut text = format!("{mark}{}", format::left(&name, plan.name, cut));
    for (column, width) in &plan.columns {
        text.push(' ');
        text.push_str(&format::right(&(column.text)(vm), *width, cut));
    }
    text.push(' ');
    let (status, role) = status(vm, !plan.wide);
    let status = format::left(&format::printable(&status, theme.ascii()), plan.status, cut);
    let style = if selected { base } else { theme.style(role) };
    let mut spans = vec![Span::styled(text, base), Span::styled(status, style)];
    let taken: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::styled(" ".repeat(columns.saturating_sub(taken)), base));
    Line::from(spans)
}
