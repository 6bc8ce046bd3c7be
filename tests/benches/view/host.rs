//! The measured process: imr-top's screen and the model behind it, fed from the shared tables in place of eBPF maps.
//!
//! In: the tables, by path. Out: the screen. Takes the same way as the pipeline: changed blocks are looked at, the sums
//! kept, a snapshot published, once a second.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use imr_user::ingest::tables::Tables;
use imr_user::model::decision::{Decision, DecisionKind};
use imr_user::model::ids::{FRAMES_PER_BLOCK, Gfn, Hva, Pid, VmId};
use imr_user::model::snapshot::{
    GuestStatus, HostSnapshot, PolicyName, ReclaimStatus, SCHEMA_VERSION, Snapshot,
};
use imr_user::model::vm::{SlotDescription, VmModel};
use imr_user::pipeline::look;
use tokio::sync::watch;

use crate::load::{BLOCKS, BLOCKS_PER_VM, VMS, now_ns};

/// Time between two samples.
const DELAY: Duration = Duration::from_secs(1);
/// Blocks below the 32-bit PCI hole.
const LOW_BLOCKS: u64 = 1536;

/// The tables in the file at `path`.
pub(crate) fn open_tables(path: &Path) -> Result<Tables> {
    let file = File::options().read(true).write(true).open(path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    Ok(Tables::on_file(file.into(), BLOCKS)?)
}

/// Guests as a host has them: RAM below and above the hole, a third reclaimed, some of it free and still held.
pub(crate) fn guests() -> Vec<VmModel> {
    (0..VMS).map(guest).collect()
}

fn guest(number: u64) -> VmModel {
    let id = u32::try_from(number).unwrap_or(u32::MAX) + 1;
    let policy = PolicyName::Immediate;
    let mut vm = VmModel::new(VmId::new(id), Pid::new(1000 + id), &format!("guest-{id}"), policy);
    let slot = |id, first: u64, blocks: u64| SlotDescription {
        id,
        base_gfn: Gfn::new(first * FRAMES_PER_BLOCK),
        npages: blocks * FRAMES_PER_BLOCK,
        userspace_addr: Hva::new(0x7f00_0000_0000 + first * (2 << 20)),
        backing: "memfd (shared)".into(),
        readonly: false,
        followed: true,
        reclaim: ReclaimStatus::Ready { backend: "punch".into() },
    };
    vm.set_slots(vec![slot(0, 0, LOW_BLOCKS), slot(1, 2048, BLOCKS_PER_VM - LOW_BLOCKS)]);
    vm.guest = GuestStatus::Attached { control_gpa: 0x1000, cookie: number };
    vm.reclaim = ReclaimStatus::Ready { backend: "punch".into() };
    let now_ns = now_ns();
    for block in (2048..BLOCKS_PER_VM).step_by(16) {
        let gfn = |block: u64| Gfn::new(block * FRAMES_PER_BLOCK);
        vm.offered(gfn(block), 8 * FRAMES_PER_BLOCK, now_ns, |_| Default::default());
        vm.reclaimed(gfn(block), 5 * FRAMES_PER_BLOCK, now_ns);
    }
    vm
}

/// Publishes a snapshot each second, for ever.
pub(crate) fn publish(
    mut vms: Vec<VmModel>,
    tables: Tables,
    first: Arc<Snapshot>,
) -> watch::Receiver<Arc<Snapshot>> {
    let (sender, receiver) = watch::channel(first);
    thread::spawn(move || {
        let started = Instant::now();
        let mut due = started;
        for sequence in 1.. {
            let snapshot = sample(&mut vms, &tables, sequence, started.elapsed());
            if sender.send(Arc::new(snapshot)).is_err() {
                return;
            }
            due += DELAY;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    });
    receiver
}

/// One sample, made as the pipeline makes it.
pub(crate) fn sample(vms: &mut [VmModel], tables: &Tables, sequence: u64, uptime: Duration) -> Snapshot {
    let now_ns = now_ns();
    let mut faults = 0;
    for (number, vm) in (0_u64..).zip(vms.iter_mut()) {
        let first = number * BLOCKS_PER_VM;
        vm.sample_faults(sequence * 10_000, now_ns);
        faults += 10_000;
        let place = |slot, count: usize| {
            let start = first + if slot == 0 { 0 } else { LOW_BLOCKS };
            Some(start..start + count as u64)
        };
        look::at_changes(vm, tables, place, Some(0), now_ns);
    }
    Snapshot {
        schema_version: SCHEMA_VERSION,
        sequence,
        unix_ms: 1_700_000_000_000 + sequence * 1000,
        uptime,
        policy: PolicyName::Immediate,
        host: host(faults * sequence),
        vms: vms.iter().map(VmModel::snapshot).collect(),
        decisions: decisions(sequence),
    }
}

fn host(page_faults: u64) -> HostSnapshot {
    let mut host = HostSnapshot {
        kernel: "6.12.0".into(),
        name: "bench".into(),
        mem_total: 4 << 40,
        mem_available: 1 << 40,
        pressure_some_avg10: Some(0.5),
        ..HostSnapshot::default()
    };
    host.counters.page_faults = page_faults;
    host
}

/// A full log.
fn decisions(sequence: u64) -> Vec<Decision> {
    let decision = |at: u64| Decision {
        unix_ms: 1_700_000_000_000 + at * 5,
        vm: VmId::new(u32::try_from(at % VMS).unwrap_or(0) + 1),
        pid: Pid::new(1001),
        kind: DecisionKind::Reclaimed,
        guard: None,
        why: "32 ranges by punch".into(),
        offer_seq: at,
        bytes: 128 << 20,
    };
    (sequence * 200..sequence * 200 + 200).map(decision).collect()
}
