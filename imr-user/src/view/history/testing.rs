//! A busy host for the tests of the views of figures: every state of blocks, probes, calls and decisions occurs in it.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::History;
use crate::model::block::{BlockState, GuestClaim, HostFact};
use crate::model::decision::{Decision, DecisionKind};
use crate::model::ids::{FRAMES_PER_BLOCK, Pid, VmId};
use crate::model::latency::{LatencySummary, StageSummaries};
use crate::model::snapshot::{BaselineStatus, DriftCounters, ProbeState, ProbeStatus, Snapshot, VmSnapshot};
use crate::model::sums::CrossTable;
use crate::view::context::Context;
use crate::view::testing::{THEME, forbidden_vm, snapshot, vm};
use crate::view::theme::{Palette, Symbols, Theme};

const MIB: u64 = 1 << 20;

/// Symbols of ASCII only, no colours.
pub(crate) const ASCII: Theme = Theme { palette: Palette::Mono, symbols: Symbols::Ascii };

/// The sizes at which every view is looked at.
pub(crate) const SIZES: [(u16, u16); 4] = [(80, 20), (200, 46), (40, 9), (20, 3)];

/// What a view is given.
pub(crate) fn context<'a>(snapshot: &'a Snapshot, history: &'a History, selected: usize) -> Context<'a> {
    Context { theme: THEME, snapshot, vm: snapshot.vms.get(selected), history, detail: None }
}

/// What a view paints into an area of this size, as text without the blanks at the ends of lines.
pub(crate) fn painted((columns, rows): (u16, u16), paint: impl FnOnce(&mut Buffer, Rect)) -> String {
    // Not at the origin, with a margin that has to stay as it is.
    let area = Rect::new(1, 1, columns, rows);
    let mut buffer = Buffer::empty(Rect::new(0, 0, columns + 2, rows + 2));
    for at in buffer.area.positions().filter(|at| !area.contains(*at)) {
        buffer[at].set_symbol("@");
    }
    paint(&mut buffer, area);
    assert!(buffer.area.positions().all(|at| area.contains(at) || buffer[at].symbol() == "@"));
    let line = |y| {
        // The second cell of a wide character is empty.
        let cells = area.columns().map(|column| buffer[(column.x, y)].symbol()).collect::<String>();
        cells.trim_end().to_owned()
    };
    (area.top()..area.bottom()).map(line).collect::<Vec<_>>().join("\n")
}

/// Compares a view with its expected screens: at every size, and in ASCII. `$shown` paints a context and a state.
macro_rules! assert_at_every_size {
    ($shown:ident, $context:expr, $state:expr) => {
        let (context, state) = ($context, $state);
        for size in $crate::view::history::testing::SIZES {
            insta::assert_snapshot!(format!("{}x{}", size.0, size.1), $shown(&context, &state, size));
        }
        let ascii = Context { theme: $crate::view::history::testing::ASCII, ..context };
        let ascii = $shown(&ascii, &state, (80, 20));
        assert!(ascii.is_ascii());
        insta::assert_snapshot!("ascii_80x20", ascii);
    };
}
pub(crate) use assert_at_every_size;

/// Gives the VM these blocks, and every sum that follows from them.
pub(crate) fn of_blocks(vm: &mut VmSnapshot, blocks: &[(u64, BlockState)]) {
    vm.cross = CrossTable::default();
    for (count, state) in blocks {
        for _ in 0..*count {
            vm.cross.enter(*state, FRAMES_PER_BLOCK as u16);
        }
    }
    let total = vm.cross.total();
    vm.ram_bytes = total.bytes();
    vm.resident_bytes = total.resident_bytes();
    vm.swapped_bytes = total.swapped_bytes();
    vm.merged_bytes = total.merged_bytes();
    vm.free_held_bytes = vm.cross.sum(|claim, _| claim == GuestClaim::Free).resident_bytes();
    vm.reclaimed_now_bytes = vm.cross.sum(|_, fact| fact == HostFact::Reclaimed).bytes();
}

fn state(claim: GuestClaim, fact: HostFact, resident: u16, swapped: u16, merged: u16) -> BlockState {
    BlockState { claim, fact, resident_frames: resident, swapped_frames: swapped, merged_frames: merged }
}

/// Three VMs: one that gives memory back, one that may not, one that has been swapped out and misbehaves.
pub(crate) fn busy() -> Snapshot {
    use GuestClaim::{Free, InUse, Unknown};
    use HostFact::{Idle, Merged, Reclaimed, Refaulted, Resident2m, Resident4k, Swapped, Untouched};
    let mut gives = vm(1, "alpha");
    of_blocks(
        &mut gives,
        &[
            (40, state(Unknown, Untouched, 0, 0, 0)),
            (60, state(Unknown, Resident4k, 500, 0, 0)),
            (16, state(Unknown, Resident2m, 512, 0, 0)),
            (14, state(Unknown, Idle, 300, 0, 0)),
            (22, state(InUse, Refaulted, 300, 0, 0)),
            (8, state(InUse, Resident4k, 512, 0, 0)),
            (24, state(Free, Resident4k, 512, 0, 0)),
            (6, state(Free, Resident2m, 512, 0, 0)),
            (66, state(Free, Reclaimed, 0, 0, 0)),
        ],
    );
    gives.latency = latency(350);
    gives.drift = DriftCounters { unseen_frames: 1234, stale_frames: 7 };
    let mut forbidden = forbidden_vm(2, "build-server-with-a-long-name");
    of_blocks(
        &mut forbidden,
        &[
            (1000, state(Unknown, Untouched, 0, 0, 0)),
            (2500, state(Unknown, Resident4k, 512, 0, 0)),
            (596, state(Unknown, Merged, 12, 0, 500)),
        ],
    );
    let mut odd = vm(3, "odd\u{1b}[31mone");
    of_blocks(
        &mut odd,
        &[
            (100, state(Unknown, Swapped, 20, 480, 0)),
            (20, state(Free, Swapped, 0, 512, 0)),
            (10, state(Free, Idle, 512, 0, 0)),
            (126, state(Unknown, Resident4k, 512, 0, 0)),
        ],
    );
    odd.latency = latency(9_000);
    odd.offers.denied_calls = 3;
    odd.offers.malformed = 2;
    odd.offers.resets = 1;
    let mut snapshot = snapshot(vec![gives, forbidden, odd]);
    snapshot.decisions = decisions(&snapshot);
    let host = &mut snapshot.host;
    host.counters.lost = 12;
    host.counters.unattributed = 4_567_000;
    host.swap_used = 280 * MIB;
    let failed = "this kernel was built without CONFIG_KPROBES".to_owned();
    let reason = "this kernel was built without CONFIG_KPROBES".to_owned();
    let by = "raw_tp kvm_unmap_hva_range (matches by address)".to_owned();
    let not_needed = "kretprobe kvm_emulate_hypercall proves calls".to_owned();
    host.probes.extend([
        probe("kprobe kvm_arch_vcpu_ioctl_set_sregs", ProbeState::Failed(failed)),
        probe("kprobe kvm_mmu_notifier_invalidate_range_start", ProbeState::StoodIn { reason, by }),
        probe("raw_tp kvm_entry", ProbeState::NotNeeded(not_needed)),
    ]);
    snapshot
}

/// A host on which everything is as it should be.
pub(crate) fn quiet() -> Snapshot {
    let mut quiet = snapshot(vec![vm(1, "alpha")]);
    quiet.host.baseline = BaselineStatus { rounds: 12, round_ms: 41, cpu_percent: 0.31 };
    quiet
}

/// `count` VMs.
pub(crate) fn many(count: u32) -> Snapshot {
    let pattern = busy().vms;
    let vms = (0..count).map(|id| {
        let mut vm = pattern[id as usize % pattern.len()].clone();
        vm.slots.clear();
        (vm.id, vm.pid, vm.name) = (VmId::new(id), Pid::new(1000 + id), format!("vm-{id}"));
        vm
    });
    let mut many = busy();
    many.vms = vms.collect();
    many
}

/// `samples` seconds that lead up to the snapshot: memory grows, is freed, goes back, and some of it is wanted again.
pub(crate) fn history(now: &Snapshot, samples: u64) -> History {
    let mut history = History::default();
    for at in 0..samples {
        let mut sample = now.clone();
        sample.sequence = at + 1;
        sample.unix_ms = now.unix_ms - (samples - 1 - at) * 1000;
        for vm in &mut sample.vms {
            vm.slots.clear();
            let step = |from: u64| at.saturating_sub(from).min(samples / 4) * 4;
            let percent = |step: u64| step * 100 / samples;
            vm.refaulted_bytes = vm.refaulted_bytes * percent(step(samples * 3 / 4)) / 100;
            vm.reclaimed_now_bytes = vm.reclaimed_now_bytes * percent(step(samples / 2)) / 100;
            let free = vm.cross.sum(|claim, _| claim == GuestClaim::Free).resident_bytes();
            vm.resident_bytes = free + (vm.resident_bytes - free) * percent(step(0)).max(10) / 100;
            vm.swapped_bytes = vm.swapped_bytes * percent(step(samples / 4)) / 100;
        }
        sample.host.swap_used = now.host.swap_used * at / samples;
        sample.host.pressure_some_avg10 = Some((at % 20) as f32 / 4.0);
        history.note(&sample);
    }
    history
}

fn probe(hook: &str, state: ProbeState) -> ProbeStatus {
    ProbeStatus { hook: hook.to_owned(), state }
}

fn latency(us: u64) -> StageSummaries {
    let stage = |part: u64, count: u64| LatencySummary {
        count,
        p50_us: us * part / 100,
        p99_us: us * part / 25,
        max_us: us * part / 10,
    };
    StageSummaries {
        offer: stage(10, 69),
        claim: stage(15, 69),
        reclaim: stage(70, 69),
        notifier: stage(40, 51),
        done: stage(5, 69),
        total: stage(100, 69),
    }
}

fn decisions(snapshot: &Snapshot) -> Vec<Decision> {
    let decision = |at: u64, vm: usize, kind: DecisionKind, guard: Option<&str>, why: &str| Decision {
        unix_ms: snapshot.unix_ms - 60_000 + at * 1000,
        vm: snapshot.vms[vm].id,
        pid: snapshot.vms[vm].pid,
        kind,
        guard: guard.map(str::to_owned),
        why: why.to_owned(),
        offer_seq: if of_offer(kind) { 40 + at } else { 0 },
        bytes: if of_offer(kind) { (at + 1) * 4 * MIB } else { 0 },
    };
    fn of_offer(kind: DecisionKind) -> bool {
        !matches!(kind, DecisionKind::Attached | DecisionKind::Detached | DecisionKind::Operator)
    }
    let private = "guest RAM is a private mapping, which no other process can discard; give the VM shared memory \
                   (QEMU: -object memory-backend-memfd,share=on; libvirt: <access mode='shared'/>)";
    let mut decisions = vec![
        decision(0, 0, DecisionKind::Attached, None, "HELLO (new), control page at 0x1f34000"),
        decision(1, 1, DecisionKind::Attached, None, "HELLO (new), control page at 0x7f000"),
        decision(2, 1, DecisionKind::Kept, Some("private-mapping"), private),
        decision(
            3,
            2,
            DecisionKind::Refused,
            Some("outside-ram"),
            "the range is not in\u{202e} memory slots",
        ),
        decision(4, 0, DecisionKind::Kept, Some("policy-observe"), "policy observe takes nothing"),
        decision(5, 0, DecisionKind::Operator, None, "the operator set the policy to immediate"),
        decision(6, 0, DecisionKind::Abandoned, None, "the guest had withdrawn it"),
    ];
    for at in 7..40 {
        let vm = if at % 3 == 0 { 2 } else { 0 };
        decisions.push(decision(at, vm, DecisionKind::Reclaimed, None, "16 ranges by punch"));
    }
    decisions.push(decision(40, 1, DecisionKind::Kept, Some("private-mapping"), private));
    decisions
}
