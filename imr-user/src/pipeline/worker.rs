//! One thread for each VM whose guest module has called: answers its calls in order, so that a slow VM never
//! delays another.
//!
//! Input: jobs from the engine. Output: reports to it. It acts only on a live, proven call: younger than
//! [`CALL_LIFETIME_MS`] and of the reset generation that still holds.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use imr_common::guest_abi::{CALL_LIFETIME_MS, CLAIM_LIFETIME_MS, MODE_OBSERVING, MODE_RECLAIMING};
use tokio::sync::mpsc::UnboundedSender;

use super::attach::AttachIds;
use super::clock;
use super::debt::Debt;
use super::hazard_watch::HazardWatch;
use super::orders::{Changes, Orders, WorkerLayout};
use super::pulse::Pulse;
use super::stop_at::{Step, StopAt};
use super::witness::TableWitness;
use crate::correlate::{Call, CallOp};
use crate::guest::lock::VmLock;
use crate::guest::memory::{GuestMemory, MemoryError};
use crate::guest::page::{GuestStatistics, PageError};
use crate::guest::session::{Claim, Doorbell, HelloKind, HostIdentity, Offer, Session, SessionEnd};
use crate::guest::want::Request;
use crate::ingest::tables::Tables;
use crate::model::ids::{BlockId, FRAMES_PER_BLOCK, Gfn, Gpa, VmId};
use crate::model::latency::Stages;
use crate::model::snapshot::PolicyName;
use crate::policy;
use crate::policy::free_since::Seen;
use crate::policy::plan::Verdict;
use crate::policy::pressure::Taker;
use crate::reclaim::by_mapping::MakeBackend;
use crate::reclaim::choose::Allowed;
use crate::reclaim::executor::{self, Target};
use crate::reclaim::guards::{SlotFacts, VmFacts};
use crate::reclaim::inject;
use crate::reclaim::outcome::Outcome;
use crate::reclaim::punch::KeptFiles;

/// How long files stay open when no job follows. A dead VM's memory is kept as long at most.
const KEEP_OPEN: Duration = Duration::from_millis(200);

/// What the engine asks of a worker.
pub(super) enum Job {
    /// Answer a call.
    Call(Call),
    /// There are changes in [`Worker::orders`].
    Look,
}

/// What a worker tells the engine.
pub(super) enum Report {
    /// A HELLO was answered.
    Hello { kind: HelloKind, gpa: Gpa, cookie: u64, statistics: Box<GuestStatistics> },
    /// The session is over.
    Detached { why: String },
    /// An offer was claimed.
    Claimed(Offer),
    /// An offer was answered.
    Done(Done),
    /// An offer was given back, or given up: `taken` is what had been done with it by then, if anything had.
    Abandoned { seq: u64, revoked: bool, why: String, taken: Option<Box<Taken>> },
    /// The guest said something that makes no sense.
    Malformed { why: String },
    /// A call was too old, or of a generation that is over.
    Stale,
    /// A doorbell for an offer that was answered before.
    Settled,
    /// A doorbell that was not heard: the VM's offers cost too much ([`Debt`]).
    Limited,
    /// The VMM has ended.
    VmmGone,
}

/// What was done with an offer.
pub(super) struct Taken {
    pub(super) ranges: Vec<(Gfn, u64)>,
    pub(super) outcome: Outcome,
    /// All that the worker has ever taken, bytes ([`Taker::taken`]).
    pub(super) taken_in_all: u64,
    /// End of the reclaim calls, ns of CLOCK_MONOTONIC.
    pub(super) reclaimed_ns: u64,
}

/// An answered offer.
pub(super) struct Done {
    pub(super) taken: Taken,
    /// Doorbell, taken up by the worker, claim, last invalidation seen (0: none), done; ns of CLOCK_MONOTONIC.
    pub(super) rung_ns: u64,
    pub(super) heard_ns: u64,
    pub(super) claimed_ns: u64,
    pub(super) notified_ns: u64,
    pub(super) done_ns: u64,
}

impl Done {
    /// Doorbell to done, ns.
    pub(super) fn total_ns(&self) -> u64 {
        self.done_ns.saturating_sub(self.rung_ns)
    }

    /// Adds the time that each stage took.
    pub(super) fn add_to(&self, stages: &mut Stages) {
        stages.offer.add_ns(self.heard_ns.saturating_sub(self.rung_ns));
        stages.claim.add_ns(self.claimed_ns.saturating_sub(self.heard_ns));
        stages.reclaim.add_ns(self.taken.reclaimed_ns.saturating_sub(self.claimed_ns));
        // An older one belongs to something else: nothing of this batch was mapped.
        if self.notified_ns >= self.claimed_ns {
            stages.notifier.add_ns(self.notified_ns - self.claimed_ns);
        }
        stages.done.add_ns(self.done_ns.saturating_sub(self.taken.reclaimed_ns));
        stages.total.add_ns(self.total_ns());
    }
}

/// All that one VM's worker owns.
pub(super) struct Worker {
    pub(super) vm: VmId,
    pub(super) index: u32,
    pub(super) watch: HazardWatch,
    pub(super) memory: GuestMemory,
    pub(super) facts: VmFacts,
    pub(super) sees_unmaps: bool,
    pub(super) allowed: Allowed,
    pub(super) make_backend: MakeBackend,
    /// Files that the newest batch left open.
    pub(super) kept: KeptFiles,
    pub(super) block_bases: Vec<Option<u64>>,
    pub(super) tables: Tables,
    pub(super) policy: PolicyName,
    pub(super) taker: Taker,
    /// Of this session; a new one for the next.
    pub(super) attach_id: u64,
    pub(super) attach_ids: AttachIds,
    pub(super) orders: Arc<Orders>,
    pub(super) reports: UnboundedSender<(VmId, Report)>,
    pub(super) session: Option<Session>,
    /// Reset generation of the VM when it began.
    pub(super) session_generation: u64,
    /// What answering this VM has cost.
    pub(super) debt: Debt,
    /// The newest request to the guest.
    pub(super) request: Request,
    /// The newest request to compact.
    pub(super) compaction: Request,
    /// For tests.
    pub(super) stop_at: Option<Arc<StopAt>>,
    pub(super) _lock: VmLock,
}

impl Worker {
    /// Works until the engine drops the other end of `jobs`.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            // Threads of the VMM that have not been let go of wait for this very OS thread.
            let job = if inject::settle() {
                jobs.recv_timeout(inject::SETTLE)
            } else if self.kept.is_empty() {
                jobs.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                jobs.recv_timeout(KEEP_OPEN)
            };
            match job {
                Ok(job) => self.answer(job),
                Err(RecvTimeoutError::Timeout) => self.kept.let_go(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Does one job.
    pub(super) fn answer(&mut self, job: Job) {
        self.obey();
        if let Job::Call(call) = job {
            self.call(call);
        }
    }

    fn obey(&mut self) {
        let Changes { reset, layout, policy, allowance, want, compact } = self.orders.take();
        if reset {
            self.taker.forget_claims();
            self.end_if_reset();
        }
        if let Some(WorkerLayout { ram, facts, hazards, block_bases }) = layout {
            self.memory.set_ranges(ram);
            self.facts = facts;
            self.block_bases = block_bases;
            self.watch.expect(hazards);
        }
        if let Some(allowance) = allowance {
            self.taker.allow(allowance);
        }
        self.policy = policy.unwrap_or(self.policy);
        if let Some(want) = want {
            self.request.ask(want);
        }
        if let Some(compact) = compact {
            self.compaction.ask(compact);
        }
    }

    /// Of a session that began before the VM's newest reset nothing holds. The one that told of a reset may be older than the
    /// session.
    fn end_if_reset(&mut self) {
        if self.session_generation != self.tables.reset_generation(self.index) && self.session.is_some() {
            self.taker.forget_claims();
            self.end("the VM was reset, restored or shut down".into());
        }
    }

    fn call(&mut self, call: Call) {
        if matches!(call.op, CallOp::Doorbell(_)) {
            self.reached(Step::Heard);
        }
        if !self.is_live(&call) {
            return self.report(Report::Stale);
        }
        // Not every reset is told of.
        self.end_if_reset();
        match call.op {
            CallOp::Hello(gpa) => self.hello(gpa, call),
            CallOp::Doorbell(seq) => self.doorbell(seq, call),
            CallOp::Bye => self.bye(call.cookie),
            CallOp::Unknown(op) => self.report(Report::Malformed { why: format!("unknown call {op}") }),
        }
    }

    fn is_live(&self, call: &Call) -> bool {
        age_ns(call, clock::monotonic_ns()) <= CALL_LIFETIME_MS * 1_000_000 && self.is_same_boot(call)
    }

    fn is_same_boot(&self, call: &Call) -> bool {
        self.tables.reset_generation(self.index) == call.generation
    }

    /// Why what was claimed on this call may not be gone on with, if it may not. It is now `now_ns`.
    fn void(&self, call: &Call, now_ns: u64) -> Option<&'static str> {
        why_void(self.is_same_boot(call), age_ns(call, now_ns))
    }

    fn hello(&mut self, gpa: Gpa, call: Call) {
        let cookie = call.cookie;
        match Session::hello(self.session.as_ref(), &self.memory, gpa, cookie, self.identity(cookie)) {
            Ok((session, statistics, kind)) => {
                if kind == HelloKind::RolledBack {
                    // It sees the new one with the next answer.
                    self.renew();
                }
                self.session = Some(session);
                self.session_generation = call.generation;
                self.told(cookie);
                self.report(Report::Hello { kind, gpa, cookie, statistics: Box::new(statistics) });
            }
            Err(PageError::Memory(MemoryError::VmmGone)) => self.gone(),
            // The valid one before it stands: a bad HELLO must not silence a good one.
            Err(error) => self.report(Report::Malformed { why: format!("HELLO: {error}") }),
        }
    }

    fn doorbell(&mut self, seq: u64, call: Call) {
        let heard_ns = clock::monotonic_ns();
        if self.debt.is_over(heard_ns) {
            return self.report(Report::Limited);
        }
        let identity = self.identity(call.cookie);
        // Without a session there is no page to answer in; the guest says HELLO about once a second then.
        let Some(session) = self.session.as_mut() else { return self.report(Report::Settled) };
        let doorbell = Doorbell { seq, cookie: call.cookie, rung_ns: call.time_ns };
        let claim = session.claim(&self.memory, doorbell, identity, clock::monotonic_ns);
        if let Ok(Claim::Taken(_) | Claim::Revoked | Claim::Malformed(_)) = claim {
            self.told(call.cookie);
        }
        match claim {
            Ok(Claim::Taken(offer)) => self.take(&offer, call, heard_ns),
            Ok(Claim::Revoked) => {
                let why = "the guest had withdrawn it".into();
                self.report(Report::Abandoned { seq, revoked: true, why, taken: None });
            }
            Ok(Claim::Settled) => self.report(Report::Settled),
            Ok(Claim::Malformed(error)) => {
                self.report(Report::Malformed { why: format!("offer {seq}: {error}") });
                let why = error.to_string();
                self.report(Report::Abandoned { seq, revoked: false, why, taken: None });
            }
            Err(end) => self.ended(&end),
        }
    }

    fn take(&mut self, offer: &Offer, call: Call, heard_ns: u64) {
        let claimed_ns = clock::monotonic_ns();
        self.debt.add(claimed_ns, &offer.ranges);
        self.report(Report::Claimed(offer.clone()));
        let ranges: Vec<_> = offer.ranges.iter().map(|range| (range.base_gfn, range.npages)).collect();
        self.reached(Step::Claimed);
        let offer_of = (self.vm, offer.seq);
        let Self { policy, taker, facts, block_bases, tables, .. } = &mut *self;
        let seen = |block| seen(facts, block_bases, tables, block);
        let plan = policy::decide(*policy, offer_of, &ranges, taker, claimed_ns, seen);
        let mut pulse = Pulse::new(claimed_ns);
        let mut half_way = false;
        self.watch.before(call.fingerprint, &mut self.facts, clock::monotonic_ns);
        let mut kept = std::mem::take(&mut self.kept);
        let outcome = {
            let (vmm, allowed) = (self.watch.vmm(), self.allowed);
            let mut backend = (self.make_backend)(vmm.proc_dir(), vmm.pid(), allowed, &mut kept);
            let witness = TableWitness {
                tables: &self.tables,
                index: self.index,
                slots: &self.facts.slots,
                block_bases: &self.block_bases,
                sees_unmaps: self.sees_unmaps,
            };
            let mut target =
                Target { facts: &self.facts, allowed, backend: backend.as_mut(), witness: &witness };
            // The generation last: it has to be as young as can be when the call is made.
            let mut still_live =
                || self.still_rings(&mut pulse).is_some_and(|now_ns| self.void(&call, now_ns).is_none());
            executor::execute(&plan, &mut target, &mut still_live, &mut |_| {
                if !std::mem::replace(&mut half_way, true) {
                    self.reached(Step::Half);
                }
            })
        };
        self.kept = kept;
        let reclaimed_ns = clock::monotonic_ns();
        let planned = plan.ranges.iter().zip(&outcome.ranges).zip(&ranges);
        let to_take = planned.filter(|((range, _), _)| range.verdict == Verdict::Reclaim);
        let done = to_take.map(|((_, range), at)| (*at, range.done_bytes));
        self.taker.settle(self.policy == PolicyName::Pressure, done);
        let notified_ns = self.tables.vm(self.index).last_unmap_ns;
        self.reached(Step::Reclaimed);
        if outcome.vmm_gone() {
            return self.gone();
        }
        let stopped = outcome.stopped();
        let results: Vec<u8> = outcome.ranges.iter().map(|range| range.result.wire()).collect();
        let taken = Taken { ranges, outcome, taken_in_all: self.taker.taken(), reclaimed_ns };
        let rings = self.still_rings(&mut pulse).is_some();
        // Once void, always void.
        if let Some(why) = self.void(&call, clock::monotonic_ns()) {
            return self.give_up(offer.seq, taken, why);
        }
        if stopped || !rings {
            return self.give_up(offer.seq, taken, "the VM is not running: paused, or migrated away");
        }
        let Some(session) = self.session.as_mut() else { return };
        match session.finish(&self.memory, offer.seq, &results) {
            Ok(()) => {
                let done_ns = clock::monotonic_ns();
                let rung_ns = call.time_ns;
                self.report(Report::Done(Done {
                    taken,
                    rung_ns,
                    heard_ns,
                    claimed_ns,
                    notified_ns,
                    done_ns,
                }));
                self.reached(Step::Done);
                self.watch.after(call.fingerprint, &mut self.facts, clock::monotonic_ns);
            }
            Err(end) => {
                let (seq, taken) = (offer.seq, Some(Box::new(taken)));
                self.report(Report::Abandoned { seq, revoked: false, why: end.to_string(), taken });
                self.ended(&end);
            }
        }
    }

    /// The time, if the VM runs, where that is in doubt: a process that was stopped or starved for long, in the middle of an
    /// offer, may find a VM that is paused, or whose guest goes on elsewhere. Its memory is not ours to touch then.
    fn still_rings(&self, pulse: &mut Pulse) -> Option<u64> {
        pulse.beats(clock::monotonic_ns, || self.tables.vm(self.index).calls)
    }

    /// The offer can be neither taken nor answered: its page may be somebody else's by now. A guest that is there after
    /// all says HELLO, and has it done again.
    fn give_up(&mut self, seq: u64, taken: Taken, why: &str) {
        let (why_now, taken) = (format!("{why} meanwhile"), Some(Box::new(taken)));
        self.report(Report::Abandoned { seq, revoked: false, why: why_now, taken });
        self.end(why.into());
    }

    fn reached(&self, step: Step) {
        if let Some(stop_at) = &self.stop_at {
            stop_at.reached(step);
        }
    }

    fn bye(&mut self, cookie: u64) {
        match self.session.take() {
            Some(session) if session.cookie() == cookie => match session.bye(&self.memory) {
                Ok(()) => self.report(Report::Detached { why: "the module said BYE".into() }),
                Err(end) => self.ended(&end),
            },
            other => {
                self.session = other;
                self.report(Report::Settled);
            }
        }
    }

    fn identity(&self, cookie: u64) -> HostIdentity {
        let mode = match self.policy {
            PolicyName::Observe => MODE_OBSERVING,
            // Also while the host is calm: a guest that sees another mode has page reporting begin anew.
            PolicyName::Immediate | PolicyName::Pressure => MODE_RECLAIMING,
        };
        HostIdentity {
            attach_id: self.attach_id,
            mode,
            want: self.request.for_module(cookie),
            compact: self.compaction.for_module(cookie),
        }
    }

    fn ended(&mut self, end: &SessionEnd) {
        if matches!(end, SessionEnd::Page(PageError::Memory(MemoryError::VmmGone))) {
            self.gone();
        } else {
            self.end(end.to_string());
        }
    }

    fn end(&mut self, why: String) {
        if self.session.take().is_some() {
            self.renew();
            self.report(Report::Detached { why });
        }
    }

    /// Whatever the guest remembers of us is not so in the next session.
    fn renew(&mut self) {
        self.attach_id = self.attach_ids.next();
        self.request.renew();
        self.compaction.renew();
    }

    /// The module with this cookie has been answered.
    fn told(&mut self, cookie: u64) {
        self.request.told(cookie);
        self.compaction.told(cookie);
    }

    fn gone(&mut self) {
        self.session = None;
        self.report(Report::VmmGone);
    }

    fn report(&self, report: Report) {
        // The engine is gone only when everything stops; then nobody asks.
        let _ = self.reports.send((self.vm, report));
    }
}

/// How long ago it was made, ns.
fn age_ns(call: &Call, now_ns: u64) -> u64 {
    now_ns.saturating_sub(call.time_ns)
}

/// What the shared table knows of a block.
fn seen(facts: &VmFacts, block_bases: &[Option<u64>], tables: &Tables, block: BlockId) -> Seen {
    let holds_all = |slot: &SlotFacts| {
        let start = block.get().checked_mul(FRAMES_PER_BLOCK);
        let ends = start.and_then(|start| start.checked_add(FRAMES_PER_BLOCK));
        let slot_end = slot.base_gfn.get().checked_add(slot.npages);
        let inside = ends.zip(slot_end).is_some_and(|(end, slot_end)| end <= slot_end);
        slot.followed && inside && start >= Some(slot.base_gfn.get())
    };
    let mut slots = facts.slots.iter().zip(block_bases);
    let place = slots.find(|(slot, base)| base.is_some() && holds_all(slot));
    place.and_then(|(slot, base)| Some((*base)? + block.get() - slot.base_gfn.block().get())).map_or_else(
        Seen::default,
        |index| {
            let record = tables.block(index);
            Seen { ram: true, touched_ns: record.last_map_ns().max(record.last_young_ns()) }
        },
    )
}

/// See [`Worker::void`].
fn why_void(same_boot: bool, age_ns: u64) -> Option<&'static str> {
    if !same_boot {
        Some("the VM was reset, restored or shut down")
    } else if age_ns > CLAIM_LIFETIME_MS * 1_000_000 {
        Some("imr was stopped, or had no CPU, for too long")
    } else {
        None
    }
}
