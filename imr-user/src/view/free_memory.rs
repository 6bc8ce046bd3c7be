//! What a VM's free memory is good for, in one row of facts and one of zones.
//!
//! Input: a VM. Output: pieces of lines, none where its guest does not say.

use ratatui::text::Span;

use super::format;
use super::layout::Piece;
use super::theme::{Role, Theme};
use crate::model::free_memory::{FreeMemory, FreeParts};
use crate::model::snapshot::VmSnapshot;

/// Cells of the gauge.
const GAUGE: u64 = 12;
/// Stranded memory of this share of what is free is remarkable, percent.
const MUCH: u64 = 25;

/// Reclaimable now, stranded, kept, and compaction.
pub(super) fn facts(theme: Theme, vm: &VmSnapshot) -> Vec<Piece> {
    let Some(free) = vm.free_memory else { return Vec::new() };
    let FreeParts { free_bytes, reclaimable_bytes, kept_bytes, stranded_bytes } = free.all;
    let share = format::percent(stranded_bytes, free_bytes);
    let stranded = match share {
        0 => format::bytes(stranded_bytes),
        share => format!("{} ({share} %)", format::bytes(stranded_bytes)),
    };
    let role = if share >= MUCH { Role::Warn } else { Role::Text };
    let mut pieces = vec![
        gauge(theme, free.all),
        fact(theme, "reclaimable now", format::bytes(reclaimable_bytes), Role::Text),
        fact(theme, "stranded by fragmentation", stranded, role),
    ];
    if kept_bytes > 0 {
        pieces.push(fact(theme, "kept by the guest", format::bytes(kept_bytes), Role::Text));
    }
    pieces.extend(compaction(theme, vm.compact_requests, &free));
    pieces
}

/// Where it is, by zone; only zones that have free memory, and only where there is more than one.
pub(super) fn zones(theme: Theme, vm: &VmSnapshot) -> Vec<Piece> {
    let Some(free) = vm.free_memory else { return Vec::new() };
    let some: Vec<_> = free.zones.named().into_iter().filter(|(_, parts)| parts.free_bytes > 0).collect();
    if some.len() < 2 {
        return Vec::new();
    }
    let zone = |(name, parts): (&'static str, FreeParts)| {
        let parts = [
            (parts.reclaimable_bytes, "reclaimable"),
            (parts.stranded_bytes, "stranded"),
            (parts.kept_bytes, "kept"),
        ];
        let some = parts.into_iter().filter(|(bytes, _)| *bytes > 0);
        let text: Vec<String> =
            some.map(|(bytes, what)| format!("{} {what}", format::bytes(bytes))).collect();
        fact(theme, name, text.join(", "), Role::Text)
    };
    some.into_iter().map(zone).collect()
}

/// The full part is what can be taken.
fn gauge(theme: Theme, parts: FreeParts) -> Piece {
    let full = (format::percent(parts.reclaimable_bytes, parts.free_bytes) * GAUGE).div_ceil(100).min(GAUGE);
    let (on, off) = theme.gauge();
    let cells = |mark: char, count: u64| mark.to_string().repeat(usize::try_from(count).unwrap_or(0));
    Piece::new(
        0,
        vec![
            Span::styled(cells(on, full), theme.style(Role::Good)),
            Span::styled(cells(off, GAUGE - full), theme.style(Role::Warn)),
        ],
    )
}

fn compaction(theme: Theme, requests: u64, free: &FreeMemory) -> Option<Piece> {
    match (requests, free.compacted_blocks) {
        (0, 0) if free.compacts => None,
        (0, 0) => Some(fact(theme, "compaction", "refused by the guest".to_owned(), Role::Text)),
        (requests, blocks) => {
            let text = format!("{} times, {} blocks", format::count(requests), format::count(blocks));
            Some(fact(theme, "asked to compact", text, Role::Text))
        }
    }
}

fn fact(theme: Theme, label: &'static str, value: String, role: Role) -> Piece {
    let label = Span::styled(format!("{label} "), theme.style(Role::Dim));
    Piece::new(0, vec![label, Span::styled(value, theme.style(role))])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::snapshot::GuestStatus;
    use crate::view::testing::{THEME, vm};
    use crate::view::vm_detail;

    fn text(vm: &VmSnapshot) -> String {
        let lines = vm_detail::lines(THEME, vm, 160);
        lines.iter().map(|line| format!("{line}\n")).collect::<String>()
    }

    #[test]
    fn what_is_stranded_shows_by_zone_and_with_what_was_done_about_it() {
        let mut vm = vm(1, "guest");
        let shown = text(&vm);
        assert!(
            shown.contains("reclaimable now 262 MiB  stranded by fragmentation 40.0 MiB (13 %)"),
            "{shown}"
        );
        assert!(shown.contains("dma 8.00 MiB kept  dma32 262 MiB reclaimable, 40.0 MiB stranded"), "{shown}");
        assert!(!shown.contains("compact"), "{shown}");
        vm.compact_requests = 2;
        let free = vm.free_memory.as_mut().unwrap();
        free.compacted_blocks = 17;
        assert!(text(&vm).contains("asked to compact 2 times, 17 blocks"));
        vm.compact_requests = 0;
        let free = vm.free_memory.as_mut().unwrap();
        (free.compacted_blocks, free.compacts) = (0, false);
        assert!(text(&vm).contains("compaction refused by the guest"));
        vm.free_memory = None;
        vm.guest = GuestStatus::NoModule;
        assert!(!text(&vm).contains("stranded"));
    }
}
