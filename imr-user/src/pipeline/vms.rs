//! One followed VM in the pipeline: its process, its slots, its place in the shared tables, its worker.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;

use super::attach::AttachIds;
use super::debt::Debt;
use super::hazard_watch::HazardWatch;
use super::orders::{Changes, Orders, WorkerLayout};
use super::pageout::Paging;
use super::quota::Quota;
use super::stop_at::StopAt;
use super::worker::{Job, Report, Worker};
use super::{clock, look};
use crate::correlate::Call;
use crate::guest::lock::{LockError, VmLock};
use crate::guest::memory::{GuestMemory, RamRange};
use crate::guest::want::Request;
use crate::guest::want::Want;
use crate::ingest::IngestError;
use crate::ingest::discovery::{FoundSlot, VmFacts as FoundVm};
use crate::ingest::hazards::Hazards;
use crate::ingest::host::Mmu;
use crate::ingest::registry::Registration;
use crate::ingest::residency::ResidencyReader;
use crate::ingest::tables::Tables;
use crate::ingest::vmm::Vmm;
use crate::model::backing::Segment;
use crate::model::block::Residency;
use crate::model::free_memory::FreeParts;
use crate::model::ids::{FRAME_SIZE, Gfn, Hva, VmId};
use crate::model::snapshot::{GuestStatus, PolicyName, ReclaimStatus};
use crate::model::vm::{BlockAt, BlockReading, SlotDescription, VmModel};
use crate::policy::compact::CompactState;
use crate::policy::pressure::{Allowance, Taker, VmFigures, VmState};
use crate::policy::settings::Settings;
use crate::reclaim::by_mapping::backend_for;
use crate::reclaim::choose::{Allowed, Backends};
use crate::reclaim::guards::{self, Guard, SlotFacts, VmFacts};
use crate::reclaim::punch::KeptFiles;

/// Frames from 3 to 4 GiB.
const PCI_HOLE_GFNS: Range<u64> = 0xc_0000..0x10_0000;

/// Jobs that may wait for one worker. More are dropped and counted: the guest rings again.
const JOBS: usize = 256;

/// A VM's slots and what is behind them, read at one time.
pub(super) struct Layout {
    pub(super) found: FoundVm,
    pub(super) registration: Registration,
    pub(super) segments: Vec<Vec<Segment>>,
    pub(super) hazards: Hazards,
}

/// A followed VM.
pub(super) struct FollowedVm {
    pub(super) model: VmModel,
    pub(super) vmm: Arc<Vmm>,
    pub(super) found: FoundVm,
    pub(super) registration: Registration,
    pub(super) facts: VmFacts,
    allowed: Allowed,
    pub(super) hazards: Hazards,
    /// For the next slice of it; away while one is read.
    pub(super) residency: Option<ResidencyReader>,
    /// The slots changed and are to be read again.
    pub(super) dirty: bool,
    /// The VMM mapped something else behind its slots.
    pub(super) mappings_changed: bool,
    /// That is being read just now.
    pub(super) is_looked_at: bool,
    /// It is not read again before, ns of CLOCK_MONOTONIC.
    pub(super) look_from_ns: u64,
    /// Ends the wait for the VMM's end.
    pub(super) end_watch: Option<AbortHandle>,
    /// The reset generation that is known.
    pub(super) reset_seen: u64,
    /// Invalidations longer than [`MAX_UNMAP_BLOCKS`](imr_common::host_abi::MAX_UNMAP_BLOCKS) that are known.
    long_unmaps_seen: u64,
    /// Calls that the worker had no room for.
    pub(super) calls_dropped: u64,
    /// When a reset was told last, ns of CLOCK_MONOTONIC.
    pub(super) reset_told_ns: Option<u64>,
    /// What policy pressure knows of it.
    pub(super) pressure: VmState,
    /// What its worker has taken in all, as of its newest report, bytes.
    pub(super) taken_in_all: u64,
    /// What its worker was told newest.
    allowance: Allowance,
    want_seq: u64,
    /// What of its guest's doings is told.
    pub(super) quota: Quota,
    /// What was told newest of its guest's free memory.
    pub(super) told_free: Option<FreeParts>,
    /// When its guest was asked to compact.
    pub(super) compacting: CompactState,
    /// How its idle blocks go out.
    pub(super) paging: Paging,
    /// Since when idleness scans of it are followed, ns; `None` where the MMU does not show what they find.
    pub(super) young_since: Option<u64>,
    worker: Option<RunningWorker>,
}

struct RunningWorker {
    jobs: SyncSender<Job>,
    orders: Arc<Orders>,
    /// Says that the thread has ended, by being closed.
    ended: Receiver<()>,
}

/// A worker that gets no more jobs.
pub(super) struct EndingWorker(Option<Receiver<()>>);

impl EndingWorker {
    /// Waits until it has ended; its last reports are in the queue then. `false`: not by `deadline`.
    pub(super) fn wait(self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        // A worker that panicked has said so on standard error; its session is over either way.
        self.0.is_none_or(|ended| ended.recv_timeout(left) != Err(RecvTimeoutError::Timeout))
    }
}

/// Why there is no worker for a VM.
pub(super) enum NoWorker {
    Lock(LockError),
    Ingest(IngestError),
    Thread(std::io::Error),
}

/// What a worker is started with.
pub(super) struct WorkerStart<'a> {
    pub(super) tables: &'a Tables,
    pub(super) attach_ids: &'a AttachIds,
    pub(super) settings: Settings,
    /// Whether invalidations are seen, and each is known to be of which VM.
    pub(super) sees_unmaps: bool,
    pub(super) reports: &'a UnboundedSender<(VmId, Report)>,
    pub(super) stop_at: Option<&'a Arc<StopAt>>,
}

impl FollowedVm {
    pub(super) fn new(id: VmId, vmm: Arc<Vmm>, layout: Layout, policy: PolicyName, allowed: Allowed) -> Self {
        let Layout { found, registration, segments, hazards } = layout;
        let mut vm = Self {
            model: VmModel::new(id, vmm.pid(), vmm.name(), policy),
            vmm,
            found,
            registration,
            facts: VmFacts::default(),
            allowed,
            hazards,
            residency: None,
            dirty: false,
            mappings_changed: false,
            is_looked_at: false,
            look_from_ns: 0,
            end_watch: None,
            reset_seen: 0,
            long_unmaps_seen: 0,
            calls_dropped: 0,
            reset_told_ns: None,
            pressure: VmState::default(),
            taken_in_all: 0,
            allowance: Allowance::Calm,
            want_seq: 0,
            quota: Quota::new(clock::monotonic_ns()),
            told_free: None,
            compacting: CompactState::default(),
            paging: Paging::default(),
            young_since: Mmu::read().shows_young().then(clock::monotonic_ns),
            worker: None,
        };
        vm.set_segments(segments);
        vm
    }

    /// Takes over a new slot layout, and what is behind it.
    pub(super) fn set_layout(&mut self, layout: Layout) {
        let Layout { found, registration, segments, hazards } = layout;
        self.found = found;
        self.registration = registration;
        self.hazards = hazards;
        self.set_segments(segments);
    }

    fn set_segments(&mut self, segments: Vec<Vec<Segment>>) {
        let slots = self.found.slots.iter().zip(segments).enumerate();
        self.facts = VmFacts {
            vfio: self.hazards.vfio,
            guest_memfd: self.hazards.guest_memfd,
            stale: false,
            slots: slots
                .map(|(position, (slot, segments))| SlotFacts {
                    base_gfn: Gfn::new(slot.base_gfn),
                    npages: slot.npages,
                    readonly: slot.is_readonly(),
                    followed: self.registration.block_base(position).is_some() && is_ram(slot),
                    segments,
                })
                .collect(),
        };
        self.model.set_slots(self.describe_slots());
        self.model.reclaim = status(guards::vm_guard(&self.facts, self.allowed), self.allowed);
        let layout = self.worker_layout();
        self.order(|changes| changes.layout = Some(layout));
    }

    fn worker_layout(&self) -> WorkerLayout {
        let slots = 0..self.facts.slots.len();
        WorkerLayout {
            ram: self.ram_ranges(),
            facts: self.facts.clone(),
            hazards: self.hazards,
            block_bases: slots.map(|position| self.registration.block_base(position)).collect(),
        }
    }

    fn describe_slots(&self) -> Vec<SlotDescription> {
        self.found
            .slots
            .iter()
            .zip(&self.facts.slots)
            .map(|(slot, facts)| SlotDescription {
                id: slot.id,
                base_gfn: facts.base_gfn,
                npages: facts.npages,
                userspace_addr: Hva::new(slot.userspace_addr),
                backing: describe_backing(&facts.segments),
                readonly: facts.readonly,
                followed: facts.followed,
                reclaim: status(guards::slot_guard(&self.facts, facts, self.allowed), self.allowed),
            })
            .collect()
    }

    /// Writable RAM, where a control page may be.
    fn ram_ranges(&self) -> Vec<RamRange> {
        let followed = self.found.slots.iter().zip(&self.facts.slots);
        followed
            .filter(|(_, facts)| facts.followed && !facts.readonly)
            .filter_map(|(slot, _)| RamRange::from_frames(slot.base_gfn, slot.npages, slot.userspace_addr))
            .collect()
    }

    /// Gives a call to the worker; starts it with the first. `false`: the worker has too much to do, the
    /// guest will ring again.
    pub(super) fn call(&mut self, call: Call, start: &WorkerStart<'_>) -> Result<bool, NoWorker> {
        if self.worker.is_none() {
            self.worker = Some(self.start_worker(start)?);
        }
        Ok(self.send(Job::Call(call)))
    }

    /// What is done with offers from the next one on.
    pub(super) fn set_policy(&mut self, policy: PolicyName) {
        self.model.policy = policy;
        self.order(|changes| changes.policy = Some(policy));
    }

    /// Asks the guest for all the memory it can offer. See [`FollowedVm::want`].
    pub(super) fn want_all(&mut self) -> bool {
        self.want(self.model.ram_bytes())
    }

    /// Asks the guest for so much memory, bytes, with the next answer that it gets; 0: what it is asked for is wanted no
    /// more. `false`: nobody has answered it yet, so nobody can ask.
    pub(super) fn want(&mut self, bytes: u64) -> bool {
        self.want_seq += 1;
        let want = Want { seq: self.want_seq, pages: bytes / FRAME_SIZE };
        self.order(|changes| changes.want = Some(want));
        self.worker.is_some()
    }

    /// Asks the guest to make so much memory, bytes, part of blocks that it offers, with the next answer that it gets.
    pub(super) fn compact(&mut self, bytes: u64) {
        self.model.compact_requests += 1;
        let compact = Want { seq: self.model.compact_requests, pages: bytes / FRAME_SIZE };
        self.order(|changes| changes.compact = Some(compact));
    }

    /// What its worker may take under policy pressure from now on. One that takes is to be told again before it lapses.
    pub(super) fn allow(&mut self, allowance: Allowance) {
        if self.allowance != allowance {
            self.allowance = allowance;
            self.order(|changes| changes.allowance = Some(allowance));
        }
    }

    /// Its memory, for policy pressure; `None` where its guest cannot be asked, or its memory not be taken.
    pub(super) fn figures(&self) -> Option<VmFigures> {
        let attached = matches!(self.model.guest, GuestStatus::Attached { .. });
        let ready = matches!(self.model.reclaim, ReclaimStatus::Ready { .. });
        (attached && ready && self.worker.is_some()).then(|| VmFigures {
            ram_bytes: self.model.ram_bytes(),
            free_bytes: self.model.guest_free_bytes,
            held_bytes: self.model.held_bytes(),
        })
    }

    /// Leaves a change for the worker, if there is one; a new one begins with what is known then.
    fn order(&mut self, change: impl FnOnce(&mut Changes)) {
        if let Some(worker) = &self.worker {
            worker.orders.leave(change);
            // A worker whose queue is full looks at its orders anyway.
            self.send(Job::Look);
        }
    }

    /// Whether its slots and mappings may be read now.
    pub(super) fn may_look(&self, now_ns: u64) -> bool {
        !self.is_looked_at && now_ns >= self.look_from_ns
    }

    /// If the VM was reset since this was asked last: what its guest said counts for nothing, and its worker, if there is
    /// one, is told so.
    pub(super) fn follow_resets(&mut self, tables: &Tables) {
        let generation = tables.reset_generation(self.registration.index());
        if std::mem::replace(&mut self.reset_seen, generation) != generation {
            self.order(|changes| changes.reset = true);
            self.model.forget_claims(clock::monotonic_ns());
        }
    }

    fn send(&mut self, job: Job) -> bool {
        let Some(worker) = &self.worker else { return true };
        match worker.jobs.try_send(job) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => false,
            Err(TrySendError::Disconnected(_)) => {
                self.worker = None;
                false
            }
        }
    }

    /// Lets the worker finish the offer it is at, and end, without waiting for it: a VMM may take its time, and other
    /// VMs must not wait for that.
    pub(super) fn let_worker_end(&mut self) -> EndingWorker {
        EndingWorker(self.worker.take().map(|worker| worker.ended))
    }

    fn start_worker(&mut self, start: &WorkerStart<'_>) -> Result<RunningWorker, NoWorker> {
        let lock =
            VmLock::take(self.vmm.pid(), self.vmm.start_ticks(), self.found.kvm).map_err(NoWorker::Lock)?;
        let mem = self.vmm.mem_file().map_err(NoWorker::Ingest)?;
        let orders = Arc::new(Orders::default());
        let WorkerLayout { ram, facts, hazards, block_bases } = self.worker_layout();
        // A new worker counts from nothing, and may take nothing until it is told.
        self.taken_in_all = 0;
        self.allowance = Allowance::Calm;
        let worker = Worker {
            vm: self.model.id(),
            index: self.registration.index(),
            watch: HazardWatch::new(Arc::clone(&self.vmm), hazards),
            memory: GuestMemory::new(mem.into(), ram),
            facts,
            block_bases,
            sees_unmaps: start.sees_unmaps,
            allowed: self.allowed,
            make_backend: backend_for,
            kept: KeptFiles::default(),
            tables: start.tables.clone(),
            policy: self.model.policy,
            taker: Taker::new(start.settings, clock::monotonic_ns()),
            attach_id: start.attach_ids.next(),
            attach_ids: start.attach_ids.clone(),
            orders: Arc::clone(&orders),
            reports: start.reports.clone(),
            session: None,
            session_generation: 0,
            debt: Debt::default(),
            request: Request::default(),
            compaction: Request::default(),
            stop_at: start.stop_at.cloned(),
            _lock: lock,
        };
        let (jobs, receiver) = sync_channel(JOBS);
        let (ending, ended) = sync_channel::<()>(0);
        let thread = thread::Builder::new()
            .name(format!("imr-{}", self.model.id()))
            .spawn(move || {
                // Dropped last, however it ends.
                let _ending = ending;
                worker.run(&receiver);
            })
            .map_err(NoWorker::Thread)?;
        // It goes on alone, and is waited for by `ended`.
        drop(thread);
        Ok(RunningWorker { jobs, orders, ended })
    }

    /// Takes over the counters of the VM. Returns whether more of its memory went at once than is followed block by block,
    /// since this was asked last: what is resident has to be read, then.
    pub(super) fn sample(&mut self, tables: &Tables, now_ns: u64) -> bool {
        let index = self.registration.index();
        let record = tables.vm(index);
        self.model.sample_faults(record.page_faults, now_ns);
        self.model.offers.denied_calls = record.denied_calls;
        self.model.offers.limited_calls = record.limited_calls + self.calls_dropped;
        std::mem::replace(&mut self.long_unmaps_seen, record.long_unmaps) != record.long_unmaps
    }

    /// Takes over what has changed in the shared table.
    pub(super) fn refresh(&mut self, tables: &Tables, now_ns: u64) {
        let registration = &self.registration;
        let blocks_of = |slot, count| registration.block_base(slot).map(|base| base..base + count as u64);
        look::at_changes(&mut self.model, tables, blocks_of, self.young_since, now_ns);
    }

    /// Takes over what reading a slice has given.
    pub(super) fn end_baseline(&mut self, tables: &Tables, slot: usize, truth: &[Residency]) {
        let now_ns = clock::monotonic_ns();
        // Changes that are not known yet are changes during the reading.
        self.refresh(tables, now_ns);
        let registration = &self.registration;
        let mut stale = Vec::new();
        let young_since = self.young_since;
        let look = |index| read(registration, tables, young_since, (slot, index));
        self.model.end_baseline(slot, truth, now_ns, look, |index| stale.push(index));
        if let Some(base) = registration.block_base(slot) {
            stale.into_iter().for_each(|index| tables.forget_mapped(base + index as u64));
        }
    }

    /// The guest said that these frames are free.
    pub(super) fn offered(&mut self, tables: &Tables, base_gfn: Gfn, npages: u64, now_ns: u64) {
        let registration = &self.registration;
        let young_since = self.young_since;
        self.model.offered(base_gfn, npages, now_ns, |at| read(registration, tables, young_since, at));
    }
}

/// The shared table's word on a block.
fn read(
    registration: &Registration,
    tables: &Tables,
    young_since: Option<u64>,
    (slot, block): BlockAt,
) -> BlockReading {
    let base = registration.block_base(slot);
    base.map_or_else(BlockReading::default, |base| {
        look::reading(&tables.block(base + block as u64), young_since)
    })
}

/// Whether a slot is the guest's RAM, and not ROM or a device's. RAM below 4 GiB begins at its bottom on every
/// x86 machine type; a slot that begins in the 32-bit PCI hole is a device's (a display's, mostly).
fn is_ram(slot: &FoundSlot) -> bool {
    !slot.is_readonly() && !PCI_HOLE_GFNS.contains(&slot.base_gfn)
}

/// What the operator is told: the backends, or the guard.
fn status(backends: Result<Backends, Guard>, allowed: Allowed) -> ReclaimStatus {
    match backends {
        Ok(backends) if allowed.dry_run => {
            ReclaimStatus::Ready { backend: format!("dry-run ({})", backends.name()) }
        }
        Ok(backends) => ReclaimStatus::Ready { backend: backends.name().into() },
        Err(guard) => ReclaimStatus::Forbidden { guard: guard.name().into(), why: guard.to_string() },
    }
}

fn describe_backing(segments: &[Segment]) -> String {
    let Some(first) = segments.first() else { return "unknown".into() };
    let sharing = if first.shared { "shared" } else { "private" };
    let pages = match first.page_size {
        4096 => String::new(),
        bytes => format!(", {} KiB pages", bytes / 1024),
    };
    let more = match segments.len() {
        1 => String::new(),
        count => format!(", {count} mappings"),
    };
    format!("{} ({sharing}{pages}{more})", first.kind)
}
