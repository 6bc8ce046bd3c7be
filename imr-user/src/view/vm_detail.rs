//! The facts of one VM in full: memory, guest module, reclaim, offers and how each ended, latency, slots.
//!
//! Input: a VM. Output: lines, the most important first.

use ratatui::text::{Line, Span};

use super::layout::{Piece, rule, wrap};
use super::theme::{Role, Theme};
use super::{format, free_memory};
use crate::model::ids::FRAME_SIZE;
use crate::model::pageout::{Pageout, PageoutCounters, PageoutState};
use crate::model::regret::VmPressure;
use crate::model::snapshot::{GuestStatus, PolicyName, ReclaimStatus, SlotSnapshot, VmSnapshot};

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
    // Nothing is left out where it is narrow: the text can be scrolled.
    let row = |label: &'static str, pieces: Vec<Piece>| -> Vec<Line<'static>> {
        let lines = wrap(pieces, columns.saturating_sub(LABEL), "  ").into_iter().enumerate();
        let labelled = lines.map(|(index, facts)| {
            let label = if index == 0 { label } else { "" };
            let mut line = Line::from(Span::styled(format!("{label:<LABEL$}"), theme.style(Role::Dim)));
            line.spans.extend(facts.spans);
            line
        });
        labelled.collect()
    };
    let optional = |label, pieces: Vec<Piece>| {
        if pieces.is_empty() { Vec::new() } else { row(label, pieces) }
    };
    let offers = vm.offers;
    let latency = vm.latency.total;
    let free = match vm.guest {
        GuestStatus::Attached { .. } => format::bytes(vm.guest_free_bytes),
        GuestStatus::NoModule | GuestStatus::Detached { .. } => "unknown".to_owned(),
    };
    let mut lines = vec![rule(theme, title, columns)];
    lines.extend(
        [
            row(
                "memory",
                vec![
                    fact(theme, "RAM", format::bytes(vm.ram_bytes)),
                    fact(theme, "resident", format::bytes(vm.resident_bytes)),
                    fact(theme, "guest says free", free),
                    fact(theme, "out now", format::bytes(vm.reclaimed_now_bytes)),
                    fact(theme, "free but held", format::bytes(vm.free_held_bytes)),
                    fact(theme, "swapped", format::bytes(vm.swapped_bytes)),
                    fact(theme, "merged", format::bytes(vm.merged_bytes)),
                    fact(theme, "idle", format::bytes(vm.idle_bytes)),
                ],
            ),
            optional("free", free_memory::facts(theme, vm)),
            optional("zones", free_memory::zones(theme, vm)),
            row(
                "in all",
                vec![
                    fact(theme, "offered", format::bytes(vm.offered_bytes)),
                    fact(theme, "reclaimed", format::bytes(vm.reclaimed_bytes)),
                    fact(theme, "refaulted", format::bytes(vm.refaulted_bytes)),
                    fact(theme, "faults/s", format::rate(vm.faults_per_s)),
                    fact(theme, "faults", format::count(vm.page_faults)),
                ],
            ),
        ]
        .into_iter()
        .flatten(),
    );
    let mode = match vm.policy {
        PolicyName::Observe => "observe: every offer is answered with \"kept\"",
        PolicyName::Pressure => {
            "pressure: what is offered is taken while the host is short of memory, up to the floor"
        }
        PolicyName::Immediate => "immediate: what is offered is taken, as far as no guard forbids it",
    };
    let texts = [
        ("mode", mode.to_owned(), Role::Text),
        ("guest", guest, guest_role),
        ("reclaim", reclaim, reclaim_role),
    ];
    let pageout = pageout(theme, vm).map(|(text, role)| ("pageout", text, role));
    for (label, text, role) in texts.into_iter().chain(pageout) {
        for (index, part) in format::words(&text, columns.saturating_sub(LABEL)).into_iter().enumerate() {
            let label = if index == 0 { label } else { "" };
            lines.extend(row(label, vec![Piece::new(0, vec![Span::styled(part, theme.style(role))])]));
        }
    }
    if vm.pageout != Pageout::default() {
        lines.extend(row("", pageout_pieces(theme, &vm.pageout.counters)));
    }
    lines.extend(
        [
            row(
                "offers",
                vec![
                    fact(theme, "claimed", format::count(offers.claimed)),
                    fact(theme, "done", format::count(offers.done)),
                    fact(theme, "revoked", format::count(offers.revoked)),
                    loss(theme, "abandoned", offers.abandoned),
                ],
            ),
            row(
                "ranges",
                vec![
                    fact(theme, "reclaimed", format::count(offers.ranges_reclaimed)),
                    fact(theme, "kept", format::count(offers.ranges_kept)),
                    loss(theme, "refused", offers.ranges_refused),
                ],
            ),
            row(
                "calls",
                vec![
                    fact(theme, "hello", format::count(offers.hellos)),
                    fact(theme, "doorbell", format::count(offers.doorbells)),
                    loss(theme, "denied", offers.denied_calls),
                    loss(theme, "malformed", offers.malformed),
                    loss(theme, "bad statistics", offers.bad_statistics),
                    loss(theme, "limited", offers.limited_calls),
                    loss(theme, "stale", offers.stale_calls),
                    fact(theme, "resets", format::count(offers.resets)),
                ],
            ),
            row(
                "latency",
                match latency.count {
                    0 => vec![Piece::new(0, vec![Span::raw("no offer answered yet")])],
                    answered => vec![
                        fact(theme, "offer to done p50", format::micros(latency.p50_us)),
                        fact(theme, "p99", format::micros(latency.p99_us)),
                        fact(theme, "max", format::micros(latency.max_us)),
                        fact(theme, "answered", format::count(answered)),
                    ],
                },
            ),
            row("pressure", pressure(theme, vm)),
            row(
                "drift",
                vec![
                    loss(theme, "frames with memory that no event told of", vm.drift.unseen_frames),
                    loss(theme, "without, though told of", vm.drift.stale_frames),
                ],
            ),
        ]
        .into_iter()
        .flatten(),
    );
    for (index, slot) in vm.slots.iter().enumerate() {
        lines.extend(row(if index == 0 { "slots" } else { "" }, slot_pieces(theme, slot)));
    }
    lines
}

fn slot_pieces(theme: Theme, slot: &SlotSnapshot) -> Vec<Piece> {
    let first = slot.base_gfn.get().saturating_mul(FRAME_SIZE);
    let bytes = slot.npages.saturating_mul(FRAME_SIZE);
    let place = match bytes {
        0 => format!("{first:#x}"),
        bytes => format!("{first:#x}-{:#x}", first.saturating_add(bytes - 1)),
    };
    let raw = |text: String| Piece::new(0, vec![Span::raw(text)]);
    let mut pieces = vec![
        fact(theme, "id", slot.id.to_string()),
        raw(place),
        raw(format::bytes(bytes)),
        raw(format::printable(&slot.backing, theme.ascii())),
    ];
    if slot.readonly {
        pieces.push(raw("read-only".to_owned()));
    }
    pieces.push(fact(theme, "at", slot.userspace_addr.to_string()));
    pieces
}

fn fact(theme: Theme, label: &'static str, value: String) -> Piece {
    Piece::new(0, vec![Span::styled(format!("{label} "), theme.style(Role::Dim)), Span::raw(value)])
}

/// What taking from it costs, whatever its mode; the rest only where policy pressure has something to say.
fn pressure(theme: Theme, vm: &VmSnapshot) -> Vec<Piece> {
    let VmPressure { regret_percent, left_alone_ms, wanted_bytes } = vm.pressure;
    let mut pieces = vec![
        fact(theme, "recent regret", format!("{regret_percent:.0} %")),
        fact(theme, "refaulted soon", format::bytes(vm.soon_refaulted_bytes)),
    ];
    if vm.policy == PolicyName::Pressure {
        pieces.push(fact(theme, "wanted", format::bytes(wanted_bytes)));
    }
    if left_alone_ms > 0 {
        let text = format!("left alone for {} s", left_alone_ms.div_ceil(1000));
        pieces.push(Piece::new(0, vec![Span::styled(text, theme.style(Role::Warn))]));
    }
    pieces
}

/// A count that is remarkable as soon as it is not zero.
fn loss(theme: Theme, label: &'static str, value: u64) -> Piece {
    let role = if value > 0 { Role::Warn } else { Role::Text };
    let value = Span::styled(format::count(value), theme.style(role));
    Piece::new(0, vec![Span::styled(format!("{label} "), theme.style(Role::Dim)), value])
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

fn pageout_pieces(theme: Theme, counters: &PageoutCounters) -> Vec<Piece> {
    vec![
        fact(theme, "called cold", format::bytes(counters.cold_bytes)),
        fact(theme, "advised to go", format::bytes(counters.asked_bytes)),
        fact(theme, "went to swap", format::bytes(counters.out_bytes)),
        fact(theme, "soon back", format::bytes(counters.back_bytes)),
        loss(theme, "calls with less than asked", counters.mismatches),
        fact(theme, "not advised", format::bytes(counters.skipped_bytes)),
        fact(theme, "times left alone", format::count(counters.rests)),
    ]
}

/// `None` where nobody asked for it.
fn pageout(theme: Theme, vm: &VmSnapshot) -> Option<(String, Role)> {
    let named = |name: &str, why: &str| format::printable(&format!("{name}: {why}"), theme.ascii());
    match &vm.pageout.state {
        PageoutState::Off => None,
        PageoutState::Ready => Some(("ready: idle memory goes to swap".to_owned(), Role::Good)),
        PageoutState::Waiting { reason, why } => Some((format!("waits, {}", named(reason, why)), Role::Text)),
        PageoutState::Forbidden { guard, why } => {
            Some((format!("forbidden by {}", named(guard, why)), Role::Warn))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{THEME, forbidden_vm};

    fn text(vm: &VmSnapshot) -> String {
        lines(THEME, vm, 200).iter().map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn pageout_shows_where_it_was_asked_for() {
        let mut vm = forbidden_vm(1, "guest");
        assert!(!text(&vm).contains("pageout"));
        let why = "no idleness scan".to_owned();
        vm.pageout.state = PageoutState::Waiting { reason: "no-idle-information".to_owned(), why };
        assert!(text(&vm).contains("waits, no-idle-information: no idleness scan"), "{}", text(&vm));
        vm.pageout.state = PageoutState::Forbidden { guard: "no-swap".to_owned(), why: "none".to_owned() };
        assert!(text(&vm).contains("forbidden by no-swap: none"), "{}", text(&vm));
        vm.pageout.state = PageoutState::Ready;
        vm.pageout.counters = PageoutCounters { out_bytes: 3 << 20, rests: 2, ..PageoutCounters::default() };
        let shown = text(&vm);
        assert!(shown.contains("went to swap 3.00 MiB") && shown.contains("times left alone 2"), "{shown}");
    }
}
