//! One VM's worker without its thread and without the engine: the whole host side of an offer, one call at a time.
//!
//! Input: a VMM, its slots, calls that are taken for proven ones. Output: what became of each. For benchmarks and tests
//! that need the real worker where no guest kernel can call.

use std::num::NonZeroU64;
use std::sync::Arc;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::attach::AttachIds;
use super::clock;
use super::debt::Debt;
use super::hazard_watch::HazardWatch;
use super::orders::Orders;
use super::worker::{Done, Job, Report, Taken, Worker};
use crate::correlate::{Call, CallOp};
use crate::guest::lock::{LockError, VmLock};
use crate::guest::memory::{GuestMemory, RamRange};
use crate::guest::want::Request;
use crate::ingest::IngestError;
use crate::ingest::discovery::FoundSlot;
use crate::ingest::hazards::Hazards;
use crate::ingest::tables::Tables;
use crate::ingest::vmm::Vmm;
use crate::model::ids::{Gfn, Gpa, VmId};
use crate::model::snapshot::PolicyName;
use crate::policy::pressure::Taker;
use crate::policy::settings::Settings;
use crate::reclaim::by_mapping::backend_for;
use crate::reclaim::choose::Allowed;
use crate::reclaim::guards::{SlotFacts, VmFacts};
use crate::reclaim::outcome::Outcome;
use crate::reclaim::punch::KeptFiles;

/// Why a VM cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum AnswererError {
    /// Another imr answers it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The VMM is gone, or what is behind its memory cannot be read.
    #[error(transparent)]
    Ingest(#[from] IngestError),
}

/// An offer that was answered.
#[derive(Debug)]
pub struct Answered {
    /// What was done with each range.
    pub outcome: Outcome,
    /// From the call to the claim, ns.
    pub claim_ns: u64,
    /// From the claim to the end of the reclaim calls, ns.
    pub reclaim_ns: u64,
    /// From there to done, ns.
    pub done_ns: u64,
}

/// One VM's worker.
pub struct Answerer {
    worker: Worker,
    reports: UnboundedReceiver<(VmId, Report)>,
}

impl Answerer {
    /// Takes the VM's lock. `vm_fd` is the VM's descriptor in the VMM; all of `slots` count as followed RAM.
    ///
    /// # Errors
    /// [`AnswererError`].
    pub fn start(
        vmm: &Vmm,
        vm_fd: u32,
        slots: &[FoundSlot],
        policy: PolicyName,
        allowed: Allowed,
    ) -> Result<Self, AnswererError> {
        let (worker, reports) = worker_of(vmm, vm_fd, slots, policy, allowed)?;
        Ok(Self { worker, reports })
    }

    /// The module says HELLO just now.
    ///
    /// # Errors
    /// Why it was not accepted.
    pub fn hello(&mut self, gpa: Gpa, cookie: u64) -> Result<(), String> {
        self.call(CallOp::Hello(gpa), cookie);
        match self.reports.try_recv() {
            Ok((_, Report::Hello { .. })) => Ok(()),
            other => Err(said(other.ok().map(|(_, report)| report))),
        }
    }

    /// The module rings for offer `seq` just now: it is claimed, decided upon, carried out and answered.
    ///
    /// # Errors
    /// Why it was not.
    pub fn doorbell(&mut self, seq: u64, cookie: u64) -> Result<Answered, String> {
        self.call(CallOp::Doorbell(seq), cookie);
        while let Ok((_, report)) = self.reports.try_recv() {
            match report {
                Report::Claimed(_) => {}
                Report::Done(Done { taken, rung_ns, claimed_ns, done_ns, .. }) => {
                    let Taken { outcome, reclaimed_ns, .. } = taken;
                    return Ok(Answered {
                        outcome,
                        claim_ns: claimed_ns.saturating_sub(rung_ns),
                        reclaim_ns: reclaimed_ns.saturating_sub(claimed_ns),
                        done_ns: done_ns.saturating_sub(reclaimed_ns),
                    });
                }
                other => return Err(said(Some(other))),
            }
        }
        Err(said(None))
    }

    fn call(&mut self, op: CallOp, cookie: u64) {
        let generation = self.worker.tables.reset_generation(self.worker.index);
        // The VMM locks and opens nothing while it is called this way.
        let call = Call {
            time_ns: clock::monotonic_ns(),
            generation,
            cookie,
            fingerprint: Some(NonZeroU64::MIN),
            op,
        };
        self.worker.answer(Job::Call(call));
    }
}

/// The worker, and where it reports to. As [`Answerer::start`].
pub(super) fn worker_of(
    vmm: &Vmm,
    vm_fd: u32,
    slots: &[FoundSlot],
    policy: PolicyName,
    allowed: Allowed,
) -> Result<(Worker, UnboundedReceiver<(VmId, Report)>), AnswererError> {
    let vmm = Arc::new(Vmm::open(vmm.pid())?);
    let hazards = Hazards::of(&vmm);
    let segments = vmm.segments(slots)?;
    let facts = VmFacts {
        vfio: hazards.vfio,
        guest_memfd: hazards.guest_memfd,
        stale: false,
        slots: slots
            .iter()
            .zip(segments)
            .map(|(slot, segments)| SlotFacts {
                base_gfn: Gfn::new(slot.base_gfn),
                npages: slot.npages,
                readonly: slot.is_readonly(),
                followed: true,
                segments,
            })
            .collect(),
    };
    let ranges = slots
        .iter()
        .filter_map(|slot| RamRange::from_frames(slot.base_gfn, slot.npages, slot.userspace_addr))
        .collect();
    let (sender, reports) = unbounded_channel();
    let worker = Worker {
        vm: VmId::new(1),
        index: 0,
        memory: GuestMemory::new(vmm.mem_file()?.into(), ranges),
        block_bases: vec![None; facts.slots.len()],
        facts,
        allowed,
        make_backend: backend_for,
        kept: KeptFiles::default(),
        tables: Tables::in_memory(1)?,
        policy,
        taker: Taker::new(Settings::default(), clock::monotonic_ns()),
        attach_id: 1,
        attach_ids: AttachIds::new(1),
        stop_at: None,
        orders: Arc::new(Orders::default()),
        reports: sender,
        session: None,
        session_generation: 0,
        debt: Debt::default(),
        request: Request::default(),
        compaction: Request::default(),
        _lock: VmLock::take(vmm.pid(), vmm.start_ticks(), vm_fd.into())?,
        sees_unmaps: false,
        watch: HazardWatch::new(vmm, hazards),
    };
    Ok((worker, reports))
}

fn said(report: Option<Report>) -> String {
    match report {
        Some(Report::Malformed { why } | Report::Detached { why } | Report::Abandoned { why, .. }) => why,
        Some(Report::Stale) => "the call was too old".into(),
        Some(Report::Limited) => "its offers cost too much".into(),
        Some(Report::Settled) => "nothing was open under that number".into(),
        Some(Report::VmmGone) => "the VMM has ended".into(),
        Some(Report::Hello { .. } | Report::Claimed(_) | Report::Done(_)) => {
            "an answer to something else".into()
        }
        None => "nothing was said".into(),
    }
}
