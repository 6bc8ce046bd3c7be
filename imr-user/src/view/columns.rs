//! The columns of the table of VMs: names, widths, what each shows and how it sorts.
//!
//! Input: a VM. Output: text of a known greatest width, and a key to sort by. Draws nothing.

use super::format;
use super::theme::Role;
use crate::model::snapshot::{GuestStatus, PolicyName, ReclaimStatus, VmSnapshot};

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the table below has a sentence for each")]
pub enum Column {
    Name,
    Pid,
    Ram,
    Res,
    Gfree,
    Freeheld,
    Recl,
    Out,
    Swap,
    Merge,
    Idle,
    Reflt,
    Flt,
    Latency,
    Offered,
    Faults,
    Done,
    Drift,
    Regret,
    Want,
    Mode,
    Status,
}

/// What is known of a [`Column`].
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Which.
    pub column: Column,
    /// Its name in the configuration file.
    pub name: &'static str,
    /// What it shows, for people.
    pub text: &'static str,
    /// Heading where there is little room.
    pub(crate) narrow: &'static str,
    /// Heading where there is much.
    pub(crate) wide: &'static str,
    /// Columns of the screen that it needs; the heading may need more.
    pub(crate) width: usize,
    /// The lowest leaves first where not all have room.
    pub(crate) weight: u8,
}

/// What VMs are sorted by. Only keys of the same column are ever compared.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SortKey {
    Number(u64),
    Text(String),
}

const fn entry(
    column: Column,
    name: &'static str,
    (narrow, wide): (&'static str, &'static str),
    (width, weight): (usize, u8),
    text: &'static str,
) -> Entry {
    Entry { column, name, text, narrow, wide, width, weight }
}

/// All there are, in the order of their numbers.
pub const COLUMNS: [Entry; 22] = [
    entry(Column::Name, "name", ("NAME", "NAME"), (8, 255), "QEMU's -name, else the process' name"),
    entry(Column::Pid, "pid", ("PID", "PID"), (7, 50), "process id of the VMM"),
    entry(Column::Ram, "ram", ("RAM", "RAM"), (5, 70), "guest RAM in all slots"),
    entry(Column::Res, "res", ("RES", "RESIDENT"), (5, 90), "how much of it has host memory of its own"),
    entry(
        Column::Gfree,
        "gfree",
        ("GFREE", "GUEST-FREE"),
        (5, 75),
        "what the guest calls free; - without module",
    ),
    entry(
        Column::Freeheld,
        "freeheld",
        ("FREEHELD", "FREE-HELD"),
        (8, 85),
        "resident in blocks that the guest says are free",
    ),
    entry(Column::Recl, "recl", ("RECL", "RECLAIMED"), (5, 80), "given back to the host since the start"),
    entry(Column::Out, "out", ("OUT", "OUT-NOW"), (5, 10), "reclaimed, and not touched since"),
    entry(Column::Swap, "swap", ("SWAP", "SWAPPED"), (5, 35), "in the host's swap"),
    entry(Column::Merge, "merge", ("MERGE", "MERGED"), (5, 25), "shares pages with equal ones (KSM)"),
    entry(Column::Idle, "idle", ("IDLE", "IDLE"), (5, 20), "resident, and not touched for a while"),
    entry(Column::Reflt, "reflt", ("REFLT", "REFAULTED"), (5, 45), "touched again after it was reclaimed"),
    entry(Column::Flt, "flt", ("FLT/S", "FAULTS/S"), (5, 40), "page faults a second (EPT or NPT violations)"),
    entry(
        Column::Latency,
        "latency",
        ("P50/P99", "OFFER-DONE P50/P99"),
        (11, 30),
        "from the guest's doorbell to the host's done",
    ),
    entry(Column::Offered, "offered", ("OFFER", "OFFERED"), (5, 9), "offered by the guest since the start"),
    entry(Column::Faults, "faults", ("FAULT", "FAULTS"), (5, 8), "page faults since the VM was found"),
    entry(Column::Done, "done", ("DONE", "DONE"), (5, 7), "offers answered"),
    entry(Column::Drift, "drift", ("DRIFT", "DRIFT"), (5, 6), "where events and page tables disagreed"),
    entry(
        Column::Regret,
        "regret",
        ("REGR", "REGRET"),
        (5, 5),
        "of what was taken lately, what came back soon",
    ),
    entry(
        Column::Want,
        "want",
        ("WANT", "WANTED"),
        (5, 4),
        "asked for by policy pressure; alone: left alone",
    ),
    entry(Column::Mode, "mode", ("MODE", "MODE"), (9, 65), "what is done with its offers"),
    entry(
        Column::Status,
        "status",
        ("STATUS", "STATUS"),
        (13, 200),
        "the guest module; !name is the guard that forbids reclaim",
    ),
];

impl Column {
    /// The columns shown where nothing else was configured.
    pub const DEFAULT: [Self; 16] = [
        Self::Name,
        Self::Pid,
        Self::Ram,
        Self::Res,
        Self::Gfree,
        Self::Freeheld,
        Self::Recl,
        Self::Out,
        Self::Swap,
        Self::Merge,
        Self::Idle,
        Self::Reflt,
        Self::Flt,
        Self::Latency,
        Self::Mode,
        Self::Status,
    ];

    /// What is known of it.
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        &COLUMNS[self as usize]
    }

    /// The column of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        COLUMNS.iter().find(|entry| entry.name == name).map(|entry| entry.column)
    }

    /// Whether its text starts at the left and may be cut.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Self::Name | Self::Mode | Self::Status)
    }

    /// Whether the largest come first where nobody reversed the order.
    pub(crate) fn descends(self) -> bool {
        !self.is_text() && self != Self::Pid
    }

    /// What stands in it; not yet safe to print, and cut to no width.
    pub(crate) fn text(self, vm: &VmSnapshot, wide: bool) -> String {
        let bytes = format::bytes_short;
        match self {
            Self::Name => vm.name.clone(),
            Self::Pid => vm.pid.to_string(),
            Self::Ram => bytes(vm.ram_bytes),
            Self::Res => bytes(vm.resident_bytes),
            Self::Gfree => guest_free(vm),
            Self::Freeheld => bytes(vm.free_held_bytes),
            Self::Recl => bytes(vm.reclaimed_bytes),
            Self::Out => bytes(vm.reclaimed_now_bytes),
            Self::Swap => bytes(vm.swapped_bytes),
            Self::Merge => bytes(vm.merged_bytes),
            Self::Idle => bytes(vm.idle_bytes),
            Self::Reflt => bytes(vm.refaulted_bytes),
            Self::Flt => format::rate(vm.faults_per_s),
            Self::Latency => latency(vm),
            Self::Offered => bytes(vm.offered_bytes),
            Self::Faults => format::count(vm.page_faults),
            Self::Done => format::count(vm.offers.done),
            Self::Drift => format::count(drift(vm)),
            Self::Regret => format!("{:.0}%", vm.pressure.regret_percent),
            Self::Want => wanted(vm),
            Self::Mode => vm.policy.name().to_owned(),
            Self::Status => status(vm, !wide).0,
        }
    }

    pub(crate) fn key(self, vm: &VmSnapshot) -> SortKey {
        SortKey::Number(match self {
            Self::Name => return SortKey::Text(vm.name.to_lowercase()),
            Self::Mode => return SortKey::Text(vm.policy.name().to_owned()),
            Self::Status => return SortKey::Text(status(vm, false).0),
            Self::Pid => vm.pid.get().into(),
            Self::Ram => vm.ram_bytes,
            Self::Res => vm.resident_bytes,
            Self::Gfree if matches!(vm.guest, GuestStatus::Attached { .. }) => vm.guest_free_bytes,
            Self::Gfree => 0,
            Self::Freeheld => vm.free_held_bytes,
            Self::Recl => vm.reclaimed_bytes,
            Self::Out => vm.reclaimed_now_bytes,
            Self::Swap => vm.swapped_bytes,
            Self::Merge => vm.merged_bytes,
            Self::Idle => vm.idle_bytes,
            Self::Reflt => vm.refaulted_bytes,
            // Milli-faults: the rate is never negative, and what is not a number becomes 0.
            Self::Flt => (vm.faults_per_s * 1000.0) as u64,
            Self::Latency => vm.latency.total.p99_us,
            Self::Offered => vm.offered_bytes,
            Self::Faults => vm.page_faults,
            Self::Done => vm.offers.done,
            Self::Drift => drift(vm),
            // Hundredths of a percent.
            Self::Regret => (vm.pressure.regret_percent * 100.0) as u64,
            Self::Want => vm.pressure.wanted_bytes,
        })
    }
}

/// What the guest's own statistics call free; `-` where nobody in the guest tells.
pub(crate) fn guest_free(vm: &VmSnapshot) -> String {
    match vm.guest {
        GuestStatus::Attached { .. } => format::bytes_short(vm.guest_free_bytes),
        GuestStatus::NoModule | GuestStatus::Detached { .. } => "-".to_owned(),
    }
}

/// What policy pressure wants of it; `-` where it has another policy.
fn wanted(vm: &VmSnapshot) -> String {
    match vm.policy {
        PolicyName::Pressure if vm.pressure.left_alone_ms > 0 => "alone".to_owned(),
        PolicyName::Pressure => format::bytes_short(vm.pressure.wanted_bytes),
        PolicyName::Observe | PolicyName::Immediate => "-".to_owned(),
    }
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

fn drift(vm: &VmSnapshot) -> u64 {
    vm.drift.unseen_frames.saturating_add(vm.drift.stale_frames)
}

fn latency(vm: &VmSnapshot) -> String {
    match vm.latency.total.count {
        0 => "-".to_owned(),
        _ => {
            format!("{}/{}", format::micros(vm.latency.total.p50_us), format::micros(vm.latency.total.p99_us))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{forbidden_vm, vm};

    #[test]
    fn the_table_is_in_the_order_of_the_numbers() {
        for (index, entry) in COLUMNS.iter().enumerate() {
            assert_eq!(entry.column as usize, index, "{}", entry.name);
            assert_eq!(Column::named(entry.name), Some(entry.column), "names are unique");
        }
    }

    #[test]
    fn numbers_never_pass_their_width() {
        let mut odd = vm(1, "odd");
        odd.faults_per_s = f64::NAN;
        odd.page_faults = u64::MAX;
        for vm in [vm(1, "a"), forbidden_vm(2, "b"), odd] {
            for entry in COLUMNS.iter().filter(|entry| !entry.column.is_text()) {
                let text = entry.column.text(&vm, true);
                assert!(text.len() <= entry.width, "{}: {text}", entry.name);
            }
        }
    }

    #[test]
    fn what_is_not_a_number_sorts_as_nothing() {
        let mut odd = vm(1, "odd");
        odd.faults_per_s = f64::NAN;
        assert_eq!(Column::Flt.key(&odd), SortKey::Number(0));
    }
}
