//! The facts of one VM in full: memory, guest module, reclaim, offers and how each ended, latency.
//!
//! Input: a VM. Output: lines, the most important first.

use ratatui::text::{Line, Span};

use super::format;
use super::layout::{Piece, fit, rule};
use super::theme::{Role, Theme};
use crate::model::snapshot::{GuestStatus, ReclaimStatus, VmSnapshot};

/// Columns of the label before each line.
const LABEL: usize = 9;

/// The facts in lines of `columns`, the title first.
pub(crate) fn lines(theme: Theme, vm: &VmSnapshot, columns: usize) -> Vec<Line<'static>> {
    let title = vec![
        Span::styled(format::printable(&vm.name, theme.ascii()), theme.style(Role::Title)),
        Span::styled(
            format!("{}{}{}pid {}", theme.dot(), vm.id, theme.dot(), vm.pid),
            theme.style(Role::Dim),
        ),
    ];
    let (guest, guest_role) = guest(theme, vm);
    let (reclaim, reclaim_role) = reclaim(theme, vm);
    let row = |label: &'static str, pieces: Vec<Piece>| {
        let mut line = Line::from(Span::styled(format!("{label:<LABEL$}"), theme.style(Role::Dim)));
        line.spans.extend(fit(pieces, columns.saturating_sub(LABEL), "  ").spans);
        line
    };
    let offers = vm.offers;
    let latency = vm.latency.total;
    let free = match vm.guest {
        GuestStatus::Attached { .. } => format::bytes(vm.guest_free_bytes),
        GuestStatus::NoModule | GuestStatus::Detached { .. } => "unknown".to_owned(),
    };
    let mut lines = vec![
        rule(theme, title, columns),
        row(
            "memory",
            vec![
                fact(theme, 9, "RAM", format::bytes(vm.ram_bytes)),
                fact(theme, 8, "resident", format::bytes(vm.resident_bytes)),
                fact(theme, 7, "guest says free", free),
                fact(theme, 6, "out now", format::bytes(vm.reclaimed_now_bytes)),
            ],
        ),
        row(
            "in all",
            vec![
                fact(theme, 7, "offered", format::bytes(vm.offered_bytes)),
                fact(theme, 9, "reclaimed", format::bytes(vm.reclaimed_bytes)),
                fact(theme, 8, "refaulted", format::bytes(vm.refaulted_bytes)),
                fact(theme, 6, "faults/s", format::rate(vm.faults_per_s)),
                fact(theme, 5, "faults", format::count(vm.page_faults)),
            ],
        ),
    ];
    for (label, text, role) in [("guest", guest, guest_role), ("reclaim", reclaim, reclaim_role)] {
        for (index, part) in words(&text, columns.saturating_sub(LABEL)).into_iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            lines.push(row(label, vec![Piece::new(1, vec![Span::styled(part, theme.style(role))])]));
        }
    }
    lines.extend([
        row(
            "offers",
            vec![
                fact(theme, 9, "claimed", format::count(offers.claimed)),
                fact(theme, 8, "done", format::count(offers.done)),
                fact(theme, 7, "revoked", format::count(offers.revoked)),
                loss(theme, 6, "abandoned", offers.abandoned),
            ],
        ),
        row(
            "ranges",
            vec![
                fact(theme, 9, "reclaimed", format::count(offers.ranges_reclaimed)),
                fact(theme, 8, "kept", format::count(offers.ranges_kept)),
                loss(theme, 7, "refused", offers.ranges_refused),
            ],
        ),
        row(
            "calls",
            vec![
                fact(theme, 3, "hello", format::count(offers.hellos)),
                fact(theme, 4, "doorbell", format::count(offers.doorbells)),
                loss(theme, 9, "denied", offers.denied_calls),
                loss(theme, 8, "malformed", offers.malformed),
                loss(theme, 7, "limited", offers.limited_calls),
                loss(theme, 6, "stale", offers.stale_calls),
                fact(theme, 5, "resets", format::count(offers.resets)),
            ],
        ),
        row(
            "latency",
            match latency.count {
                0 => vec![Piece::new(1, vec![Span::raw("no offer answered yet")])],
                answered => vec![
                    fact(theme, 9, "offer to done p50", format::micros(latency.p50_us)),
                    fact(theme, 8, "p99", format::micros(latency.p99_us)),
                    fact(theme, 7, "max", format::micros(latency.max_us)),
                    fact(theme, 6, "answered", format::count(answered)),
                ],
            },
        ),
    ]);
    lines
}

/// The text in lines of at most `columns`, broken between words; a word longer than a line stays whole.
fn words(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let taken = lines.last().map_or(0, |line| format::width(line));
        if taken > 0 && taken + 1 + format::width(word) > columns {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

fn fact(theme: Theme, weight: u8, label: &'static str, value: String) -> Piece {
    Piece::new(weight, vec![Span::styled(format!("{label} "), theme.style(Role::Dim)), Span::raw(value)])
}

/// A count that is remarkable as soon as it is not zero.
fn loss(theme: Theme, weight: u8, label: &'static str, value: u64) -> Piece {
    let role = if value > 0 { Role::Warn } else { Role::Text };
    let value = Span::styled(format::count(value), theme.style(role));
    Piece::new(weight, vec![Span::styled(format!("{label} "), theme.style(Role::Dim)), value])
}

fn guest(theme: Theme, vm: &VmSnapshot) -> (String, Role) {
    match &vm.guest {
        GuestStatus::NoModule => {
            ("no module: load imr_guest.ko in the guest to have its free memory back".to_owned(), Role::Text)
        }
        GuestStatus::Attached { control_gpa, cookie } => {
            (format!("module attached  control page {control_gpa:#x}  cookie {cookie:#x}"), Role::Good)
        }
        GuestStatus::Detached { why } => {
            (format!("module detached: {}", format::printable(why, theme.ascii())), Role::Warn)
        }
    }
}

fn reclaim(theme: Theme, vm: &VmSnapshot) -> (String, Role) {
    match &vm.reclaim {
        ReclaimStatus::Ready { backend } => {
            (format!("ready, by {}", format::printable(backend, theme.ascii())), Role::Good)
        }
        ReclaimStatus::Forbidden { guard, why } => {
            (format::printable(&format!("forbidden by {guard}: {why}"), theme.ascii()), Role::Warn)
        }
    }
}
