//! Synthetic snapshots for the tests of the view: the same every time, nothing read from the machine.

use std::time::Duration;

use super::theme::{Palette, Symbols, Theme};
use crate::model::block::{BlockState, GuestClaim, HostFact};
use crate::model::decision::{Decision, DecisionKind};
use crate::model::free_memory::{FreeMemory, ZONES, ZoneCounts};
use crate::model::ids::{BLOCK_SIZE, FRAMES_PER_BLOCK, Gfn, Hva, Pid, VmId};
use crate::model::latency::{LatencySummary, StageSummaries};
use crate::model::pageout::Pageout;
use crate::model::regret::VmPressure;
use crate::model::snapshot::{
    BaselineStatus, DriftCounters, EventCounters, GuestStatus, HostSnapshot, OfferCounters, PolicyName,
    ProbeState, ProbeStatus, ReclaimStatus, ReturnCounters, SCHEMA_VERSION, SlotSnapshot, Snapshot,
    VmSnapshot,
};
use crate::model::sums::CrossTable;

/// The theme of most tests: symbols, no colours.
pub(crate) const THEME: Theme = Theme { palette: Palette::Mono, symbols: Symbols::Unicode };

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A block.
pub(crate) const fn block(claim: GuestClaim, fact: HostFact, resident_frames: u16) -> BlockState {
    BlockState { claim, fact, resident_frames, swapped_frames: 0, merged_frames: 0 }
}

/// A memfd slot of whole blocks.
pub(crate) fn slot(id: i32, first_block: u64, blocks: &[BlockState]) -> SlotSnapshot {
    SlotSnapshot {
        id,
        base_gfn: Gfn::new(first_block.saturating_mul(FRAMES_PER_BLOCK)),
        npages: blocks.len() as u64 * FRAMES_PER_BLOCK,
        userspace_addr: Hva::new(0x7f00_0000_0000),
        backing: "memfd".to_owned(),
        readonly: false,
        reclaim: ReclaimStatus::Ready { backend: "punch".to_owned() },
        blocks: blocks.iter().copied().collect(),
    }
}

/// What the blocks of these slots add up to.
pub(crate) fn cross_of(slots: &[SlotSnapshot]) -> CrossTable {
    let mut cross = CrossTable::default();
    for state in slots.iter().flat_map(|slot| slot.blocks.iter()) {
        cross.enter(state, 512);
    }
    cross
}

/// Blocks of a guest that has used some of its memory, freed most of it and come back for a little.
pub(crate) fn lived_in(count: usize) -> Vec<BlockState> {
    (0..count)
        .map(|index| match index * 100 / count {
            0..30 => block(GuestClaim::Unknown, HostFact::Resident4k, 512),
            30..38 => block(GuestClaim::Unknown, HostFact::Resident4k, 40),
            38..46 => block(GuestClaim::Free, HostFact::Resident4k, 512),
            46..72 => block(GuestClaim::Free, HostFact::Reclaimed, 0),
            72..78 => block(GuestClaim::InUse, HostFact::Refaulted, 300),
            _ => block(GuestClaim::Unknown, HostFact::Untouched, 0),
        })
        .collect()
}

/// A VM of 512 MiB with the module attached.
pub(crate) fn vm(id: u32, name: &str) -> VmSnapshot {
    let mut low = slot(0, 0, &lived_in(256)[..1]);
    low.npages = 160;
    let mut high = slot(3, 0, &lived_in(256));
    high.base_gfn = Gfn::new(256);
    high.npages = 256 * FRAMES_PER_BLOCK - 256;
    VmSnapshot {
        id: VmId::new(id),
        pid: Pid::new(4000 + id),
        name: name.to_owned(),
        policy: PolicyName::Immediate,
        ram_bytes: 256 * BLOCK_SIZE,
        resident_bytes: 230 * MIB,
        swapped_bytes: 0,
        merged_bytes: 0,
        idle_bytes: 0,
        free_held_bytes: 40 * MIB,
        guest_free_bytes: 310 * MIB,
        free_memory: Some(free_memory()),
        compact_requests: 0,
        offered_bytes: 2 * GIB,
        reclaimed_bytes: 1945 * MIB,
        reclaimed_now_bytes: 132 * MIB,
        refaulted_bytes: 96 * MIB,
        soon_refaulted_bytes: 12 * MIB,
        pressure: VmPressure { regret_percent: 4.5, ..VmPressure::default() },
        faults_per_s: 12_345.6,
        page_faults: 9_876_543,
        guest: GuestStatus::Attached { control_gpa: 0x1f3_4000, cookie: 0x1234_5678_9abc_def0 },
        offers: OfferCounters {
            hellos: 1,
            doorbells: 71,
            claimed: 70,
            done: 69,
            revoked: 1,
            ranges_reclaimed: 972,
            ranges_kept: 12,
            ..OfferCounters::default()
        },
        returns: ReturnCounters { full: 66, partial: 3, ..ReturnCounters::default() },
        latency: StageSummaries {
            total: LatencySummary { count: 69, p50_us: 350, p99_us: 1234, max_us: 5678 },
            ..StageSummaries::default()
        },
        cross: cross_of(&[low.clone(), high.clone()]),
        drift: DriftCounters::default(),
        reclaim: ReclaimStatus::Ready { backend: "punch".to_owned() },
        pageout: Pageout::default(),
        slots: vec![low, high],
    }
}

fn free_memory() -> FreeMemory {
    let mut zones = [ZoneCounts::default(); ZONES];
    zones[0].blocks[10] = 2;
    zones[0].kept_pages = 2048;
    zones[1].blocks[9] = 3;
    zones[1].blocks[10] = 64;
    zones[1].blocks[0] = 10_240;
    FreeMemory { compacts: true, ..FreeMemory::of(9, &zones, 256 * BLOCK_SIZE).unwrap() }
}

/// A VM of 8 GiB with a hole below 4 GiB, no module and anonymous memory, which no backend may take.
pub(crate) fn forbidden_vm(id: u32, name: &str) -> VmSnapshot {
    let mut slots = vec![slot(0, 0, &lived_in(1536)), slot(4, 2048, &lived_in(2560)), slot(5, 2000, &[])];
    for slot in &mut slots {
        slot.backing = "anonymous".to_owned();
    }
    VmSnapshot {
        ram_bytes: 8 * GIB,
        resident_bytes: 5 * GIB,
        guest_free_bytes: 0,
        free_memory: None,
        offered_bytes: 0,
        reclaimed_bytes: 0,
        reclaimed_now_bytes: 0,
        refaulted_bytes: 0,
        soon_refaulted_bytes: 0,
        pressure: VmPressure::default(),
        faults_per_s: 0.0,
        guest: GuestStatus::NoModule,
        offers: OfferCounters::default(),
        returns: ReturnCounters::default(),
        latency: StageSummaries::default(),
        cross: cross_of(&slots),
        reclaim: ReclaimStatus::Forbidden {
            guard: "private-mapping".to_owned(),
            why: "guest RAM is private anonymous memory; start QEMU with memory-backend-memfd,share=on"
                .to_owned(),
        },
        slots,
        ..vm(id, name)
    }
}

/// A host with these VMs and a few decisions about the first.
pub(crate) fn snapshot(vms: Vec<VmSnapshot>) -> Snapshot {
    let decisions = vms.first().map_or_else(Vec::new, |vm| {
        let decision = |at: u64, kind: DecisionKind, offer_seq: u64, bytes: u64, why: &str| Decision {
            unix_ms: 1_700_000_000_000 + at * 1000,
            vm: vm.id,
            pid: vm.pid,
            kind,
            guard: None,
            why: why.to_owned(),
            offer_seq,
            bytes,
        };
        vec![
            decision(1, DecisionKind::Attached, 0, 0, "HELLO from the guest kernel"),
            decision(2, DecisionKind::Reclaimed, 68, 64 * MIB, "policy immediate takes every offered range"),
            decision(3, DecisionKind::Abandoned, 69, 4 * MIB, "the guest had withdrawn it"),
            decision(4, DecisionKind::Reclaimed, 70, 28 * MIB, "policy immediate takes every offered range"),
        ]
    });
    Snapshot {
        schema_version: SCHEMA_VERSION,
        sequence: 42,
        unix_ms: 1_700_000_005_000,
        uptime: Duration::from_secs(751),
        policy: PolicyName::Immediate,
        host: HostSnapshot {
            kernel: "6.12.9-cloud-amd64".to_owned(),
            name: "host1".to_owned(),
            mem_total: 24 * GIB,
            mem_available: 13 * GIB,
            swap_total: 2 * GIB,
            swap_used: 0,
            pressure_some_avg10: Some(0.12),
            pressure: None,
            counters: EventCounters {
                page_faults: 12_345_678,
                hypercalls: 73,
                sptes_set: 1_000_000,
                sptes_zapped: 500_000,
                unmaps: 1945,
                ..EventCounters::default()
            },
            probes: ["raw_tp kvm_page_fault", "raw_tp kvm_hypercall"]
                .map(|hook| ProbeStatus { hook: hook.to_owned(), state: ProbeState::Attached })
                .to_vec(),
            baseline: BaselineStatus { rounds: 12, round_ms: 41, cpu_percent: 0.31 },
            model_bytes: 96 << 20,
        },
        vms,
        decisions,
    }
}

/// The usual two VMs: one that gives memory back, one that may not.
pub(crate) fn two() -> Snapshot {
    snapshot(vec![vm(1, "alpha"), forbidden_vm(2, "build-server-with-a-long-name")])
}
