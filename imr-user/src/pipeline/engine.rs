//! The loop: events and reports in, snapshots and records out.
//!
//! It waits for the ring buffer, the workers, the baselines, the VMMs' ends and the tick, whichever comes
//! first, and never blocks on a VM.

mod asks;
mod baselines;
mod commands;
mod follow;
mod free_memory;
mod pageouts;
mod pressure;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use imr_common::host_abi::{BlockRecord, Event};
use tokio::sync::mpsc::{Receiver, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout_at};

use self::follow::Looked;
use self::pageouts::Pageouts;
use super::attach::AttachIds;
use super::baseline::{self, Reading, Schedule};
use super::command::Command;
use super::ctl::Ask;
use super::pressure::HostWatch;
use super::record::{Happened, Record, Summary, VmRef};
use super::reports::{self, DecisionLog};
use super::vms::{FollowedVm, NoWorker, WorkerStart};
use super::worker::Report;
use super::{Config, PipelineError, clock};
use crate::correlate::{Call, Correlator, Observation};
use crate::guest::lock::LockError;
use crate::guest::session::HelloKind;
use crate::ingest::events::Events;
use crate::ingest::host;
use crate::ingest::loader::{LoadOptions, Probes};
use crate::ingest::registry::Registry;
use crate::ingest::tables::Tables;
use crate::model::block::BlockState;
use crate::model::ids::{Pid, VmId};
use crate::model::latency::LatencyWindow;
use crate::model::snapshot::{
    BlockDetail, EventCounters, HostSnapshot, ProbeState, ReclaimStatus, SCHEMA_VERSION, Snapshot,
};
use crate::model::vm::BLOCK_BYTES;
use crate::policy::free_since::FREE_SINCE_BYTES;

/// Slot changes come in bursts (a booting guest moves its PCI BARs): they are followed at most this often.
const SLOTS_INTERVAL: Duration = Duration::from_millis(200);
/// How long the offers that are being carried out have at the end. A batch takes milliseconds, unless the VMM stands still.
const LAST_OFFERS: Duration = Duration::from_secs(5);
/// So long VMs that run are looked at before anything else.
const FIRST_LOOKS_LIMIT: Duration = Duration::from_secs(1);
/// The first snapshot waits for the first baselines, but not longer than this.
const FIRST_BASELINE_LIMIT: Duration = Duration::from_secs(2);
/// Bytes that a block costs at most, with an older picture of it on a screen, and the bit that says that it changed.
const MOST_BYTES_A_BLOCK: usize = 128;
const _: () = assert!(
    size_of::<BlockRecord>() + BLOCK_BYTES + size_of::<BlockState>() + FREE_SINCE_BYTES < MOST_BYTES_A_BLOCK
);
/// Guest memory that the block table has room for, as a multiple of the host's memory.
const OVERCOMMIT: u64 = 8;
/// The least guest memory it has room for, bytes.
const LEAST_GUEST_BYTES: u64 = 64 << 30;

/// The pipeline's state.
pub(super) struct Engine {
    config: Config,
    attach_ids: AttachIds,
    probes: Probes,
    events: Events,
    tables: Tables,
    registry: Registry,
    correlator: Correlator,
    vms: BTreeMap<VmId, FollowedVm>,
    /// Files that were looked at and are no VM to follow, so that each is said once.
    refused_files: HashSet<(Pid, u32, u64)>,
    unknown: follow::Unknown,
    /// VMs that were found and are being looked at, by the address of their `struct kvm`.
    looking_at: HashSet<u64>,
    looks_in: UnboundedSender<Looked>,
    looks: UnboundedReceiver<Looked>,
    next_id: u32,
    log: DecisionLog,
    totals_of_ended: Summary,
    offer_to_done: LatencyWindow,
    /// Why no guest may be answered at all, if so.
    unanswerable: Option<String>,
    /// Whether each invalidation is known to be of which VM.
    sees_unmaps: bool,
    reports_in: UnboundedSender<(VmId, Report)>,
    reports: UnboundedReceiver<(VmId, Report)>,
    schedule: Schedule,
    readings_in: UnboundedSender<Reading>,
    readings: UnboundedReceiver<Reading>,
    pageouts: Pageouts,
    ended_in: UnboundedSender<VmId>,
    ended: UnboundedReceiver<VmId>,
    out: Channels,
    host: HostSnapshot,
    /// Whether the host is short of memory; looked at while a VM has policy pressure.
    host_watch: HostWatch,
    /// When the blocks of all VMs were looked at last, ns.
    refreshed_ns: u64,
    started: Instant,
    sequence: u64,
}

/// The pipeline's ends of what its [`super::Handle`] holds.
pub(super) struct Channels {
    pub(super) snapshots: watch::Sender<Arc<Snapshot>>,
    pub(super) records: UnboundedSender<Record>,
    pub(super) commands: UnboundedReceiver<Command>,
    pub(super) asks: Receiver<Ask>,
    pub(super) details: watch::Sender<Option<Arc<BlockDetail>>>,
}

/// What the first look at the snapshot channel shows.
pub(super) fn empty_snapshot(config: &Config) -> Snapshot {
    Snapshot {
        schema_version: SCHEMA_VERSION,
        sequence: 0,
        unix_ms: clock::unix_ms(),
        uptime: Duration::ZERO,
        policy: config.policy,
        host: HostSnapshot::default(),
        vms: Vec::new(),
        decisions: Vec::new(),
    }
}

impl Engine {
    /// Loads the probes and follows the VMs that run.
    pub(super) fn start(config: Config, out: Channels) -> Result<Self, PipelineError> {
        let host = host::read()?;
        let max_guest_bytes = (host.mem_total * OVERCOMMIT).max(LEAST_GUEST_BYTES);
        let mut probes = Probes::load(&LoadOptions { max_guest_bytes, debug_bpf: config.debug_bpf })?;
        let events = probes.events()?;
        let tables = probes.tables()?;
        let registry = probes.registry()?;
        let unanswerable = probes.can_prove_calls().and_then(|()| probes.can_see_resets()).err();
        let sees_unmaps = probes.can_see_unmaps().is_ok();
        let attach_ids = AttachIds::new(host::random_u64()?);
        let (reports_in, reports) = unbounded_channel();
        let (readings_in, readings) = unbounded_channel();
        let (ended_in, ended) = unbounded_channel();
        let (looks_in, looks) = unbounded_channel();
        let mut engine = Self {
            config,
            attach_ids,
            probes,
            events,
            tables,
            registry,
            correlator: Correlator::default(),
            vms: BTreeMap::new(),
            refused_files: HashSet::new(),
            unknown: follow::Unknown::default(),
            looking_at: HashSet::new(),
            looks_in,
            looks,
            next_id: 1,
            log: DecisionLog::default(),
            totals_of_ended: Summary::default(),
            offer_to_done: LatencyWindow::default(),
            unanswerable,
            sees_unmaps,
            reports_in,
            reports,
            schedule: Schedule::default(),
            readings_in,
            readings,
            pageouts: Pageouts::default(),
            ended_in,
            ended,
            out,
            host,
            host_watch: HostWatch::new(),
            refreshed_ns: 0,
            started: Instant::now(),
            sequence: 0,
        };
        if engine.config.pids.is_empty() {
            engine.discover_all();
        } else {
            engine.discover_unknown(engine.config.pids.clone());
        }
        Ok(engine)
    }

    /// Works until `stop`.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) -> Result<(), PipelineError> {
        let first_looks = tokio::time::Instant::now() + FIRST_LOOKS_LIMIT;
        while self.is_looking()
            && let Ok(Some(looked)) = timeout_at(first_looks, self.looks.recv()).await
        {
            self.take_look(looked);
        }
        let failed = |state: &ProbeState| matches!(state, ProbeState::Failed(_));
        let probes = self.probes.status();
        self.tell(
            None,
            Happened::Ready {
                vms: self.vms.len(),
                probes_attached: probes.iter().filter(|probe| probe.state == ProbeState::Attached).count(),
                probes_failed: probes.iter().filter(|probe| failed(&probe.state)).count(),
            },
        );
        if let Some(why) = self.unanswerable.clone() {
            self.tell(None, Happened::Problem { what: format!("no guest is answered: {why}") });
        }
        let mut tick = interval(self.config.delay);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut slots = interval(SLOTS_INTERVAL);
        slots.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut round = interval(baseline::INTERVAL);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut feel = interval(pressure::INTERVAL);
        feel.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pageouts = interval(pageouts::INTERVAL);
        pageouts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch: Vec<Event> = Vec::new();
        loop {
            let wait = self.wait_for_slice();
            tokio::select! {
                _ = &mut stop => break,
                read = self.events.next_batch(&mut batch) => {
                    read?;
                    for event in batch.drain(..) {
                        if let Some(observation) = self.correlator.observe(&event) {
                            self.observe(observation);
                        }
                    }
                }
                Some((vm, report)) = self.reports.recv() => self.report(vm, report),
                Some(command) = self.out.commands.recv() => {
                    if let Some(delay) = self.command(command) {
                        tick = interval(delay);
                        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    }
                }
                Some(ask) = self.out.asks.recv() => self.ask(ask),
                Some(vm) = self.ended.recv() => self.remove(vm),
                Some(reading) = self.readings.recv() => self.take_reading(reading),
                Some(looked) = self.looks.recv() => self.take_look(looked),
                Some(turn) = self.pageouts.next() => self.take_turn(turn),
                () = sleep(wait.unwrap_or_default()), if wait.is_some() => self.read_next_slice(),
                _ = slots.tick() => {
                    self.vms.values_mut().for_each(|vm| vm.follow_resets(&self.tables));
                    self.follow_slot_changes();
                    self.discover_unknown([]);
                }
                _ = round.tick() => self.start_round(),
                _ = feel.tick() => self.feel_pressure(),
                () = self.host_watch.woken() => self.feel_pressure(),
                _ = pageouts.tick(), if self.config.pageout => self.start_pageouts(),
                _ = tick.tick() => {
                    self.events.flush_log();
                    self.publish();
                }
            }
        }
        self.end_pageouts().await;
        self.finish();
        Ok(())
    }

    fn observe(&mut self, observation: Observation) {
        match observation {
            Observation::Called(vm, call) => self.call(vm, call),
            Observation::UnknownVm { pid, .. } => {
                if self.config.pids.is_empty() || self.config.pids.contains(&pid) {
                    self.discover_unknown([pid]);
                }
            }
            Observation::SlotsChanged(vm) => {
                if let Some(vm) = self.vms.get_mut(&vm) {
                    vm.dirty = true;
                }
            }
            Observation::Reset(id, cause) => {
                let Some(vm) = self.vms.get_mut(&id) else { return };
                vm.follow_resets(&self.tables);
                // Each vCPU's registers are written: one reset, several events.
                let already = vm.reset_told_ns.replace(clock::monotonic_ns());
                let burst_ns = 1_000_000_000;
                if already.is_none_or(|told| clock::monotonic_ns().saturating_sub(told) > burst_ns) {
                    vm.model.offers.resets += 1;
                    self.tell(Some(id), Happened::Reset { cause: cause.name().into() });
                }
            }
        }
    }

    fn call(&mut self, id: VmId, call: Call) {
        if !self.config.answer || self.unanswerable.is_some() {
            return;
        }
        let Some(vm) = self.vms.get_mut(&id) else { return };
        if matches!(call.op, crate::correlate::CallOp::Doorbell(_)) {
            vm.model.offers.doorbells += 1;
        }
        let start = WorkerStart {
            tables: &self.tables,
            attach_ids: &self.attach_ids,
            settings: self.config.pressure,
            sees_unmaps: self.sees_unmaps,
            reports: &self.reports_in,
            stop_at: self.config.stop_at.as_ref(),
        };
        let problem = match vm.call(call, &start) {
            Ok(true) => return,
            Ok(false) => {
                vm.calls_dropped += 1;
                return;
            }
            Err(NoWorker::Lock(error @ LockError::Taken { .. })) => {
                vm.model.reclaim =
                    ReclaimStatus::Forbidden { guard: "other-instance".into(), why: error.to_string() };
                return;
            }
            Err(NoWorker::Lock(error)) => error.to_string(),
            Err(NoWorker::Ingest(error)) => error.to_string(),
            Err(NoWorker::Thread(error)) => format!("cannot start a thread for the VM: {error}"),
        };
        // Each call of the guest tries again.
        if vm.quota.has_room(clock::monotonic_ns()) {
            self.tell(Some(id), Happened::Problem { what: problem });
        }
    }

    fn report(&mut self, id: VmId, report: Report) {
        if matches!(report, Report::VmmGone) {
            return self.remove(id);
        }
        let Some(vm) = self.vms.get_mut(&id) else { return };
        if let Report::Done(done) = &report {
            self.offer_to_done.add_ns(done.total_ns());
            // What is known of the VMM's mappings is out of date.
            vm.mappings_changed |= done.taken.outcome.mapping_stale();
            vm.dirty |= vm.mappings_changed;
        }
        if let Report::Hello { kind: HelloKind::New | HelloKind::RolledBack, .. } = &report {
            // The VMM may have moved, locked or registered memory since it was looked at last.
            vm.mappings_changed = true;
            vm.dirty = true;
        }
        let hello = matches!(report, Report::Hello { .. });
        let told = vm.quota.admits(&report, clock::monotonic_ns());
        let mut untold = DecisionLog::default();
        let log = if told { &mut self.log } else { &mut untold };
        match reports::apply(vm, &self.tables, log, report) {
            Some(happened) if told => self.tell(Some(id), happened),
            _ => {}
        }
        if hello {
            self.follow_free_memory(id);
        }
    }

    fn publish(&mut self) {
        if self.first_baseline_is_missing() {
            return;
        }
        match host::read() {
            Ok(host) => self.host = HostSnapshot { pressure: self.host_watch.snapshot(), ..host },
            Err(error) => self.tell(None, Happened::Problem { what: error.to_string() }),
        }
        self.host.counters = self.counters();
        self.host.probes = self.probes.status();
        self.host.baseline = self.schedule.status(clock::monotonic_ns());
        self.judge_pageouts();
        let now_ns = clock::monotonic_ns();
        let mut unknown = Vec::new();
        for (id, vm) in &mut self.vms {
            if vm.sample(&self.tables, now_ns) {
                unknown.push(*id);
            }
            vm.model.pressure = vm.pressure.snapshot(now_ns);
        }
        unknown.into_iter().for_each(|id| self.read_at_once(id));
        self.tell_held_back(now_ns);
        self.refresh_all(now_ns);
        self.host.model_bytes = self.model_bytes();
        self.sequence += 1;
        let snapshot = Snapshot {
            schema_version: SCHEMA_VERSION,
            sequence: self.sequence,
            unix_ms: clock::unix_ms(),
            uptime: self.started.elapsed(),
            policy: self.config.policy,
            host: self.host.clone(),
            vms: self.vms.values().map(|vm| vm.model.snapshot()).collect(),
            decisions: self.log.to_vec(),
        };
        self.out.snapshots.send_replace(Arc::new(snapshot));
    }

    fn tell_held_back(&mut self, now_ns: u64) {
        let due = |vm: &mut FollowedVm| Some((vm.model.id(), vm.quota.held_back(now_ns)?));
        let due: Vec<_> = self.vms.values_mut().filter_map(due).collect();
        for (id, records) in due {
            self.tell(Some(id), Happened::HeldBack { records });
        }
    }

    fn refresh_all(&mut self, now_ns: u64) {
        self.refreshed_ns = now_ns;
        self.vms.values_mut().for_each(|vm| vm.refresh(&self.tables, now_ns));
    }

    /// The model's records and the shared table's, of blocks that are followed, bytes.
    fn model_bytes(&self) -> u64 {
        let blocks: usize = self.vms.values().flat_map(|vm| vm.model.block_counts()).sum();
        (blocks * (BLOCK_BYTES + size_of::<BlockRecord>())) as u64
    }

    fn counters(&self) -> EventCounters {
        let totals = self.tables.totals();
        let unmatched = self.correlator.unmatched();
        EventCounters {
            page_faults: totals.page_faults,
            hypercalls: totals.hypercalls,
            sptes_set: totals.sptes_set,
            sptes_zapped: totals.sptes_zapped,
            unmaps: totals.unmaps,
            lost: totals.events_lost,
            undecodable: unmatched.undecodable + self.events.undecodable(),
            unattributed: unmatched.unattributed
                + totals.page_faults_unattributed
                + totals.sptes_set_unattributed
                + totals.sptes_zapped_unattributed
                + totals.calls_unattributed,
            unproven: totals.calls_unproven,
            ambiguous: totals.unmaps_ambiguous,
            table_full: totals.table_full,
        }
    }

    fn finish(mut self) {
        let ending: Vec<_> = self.vms.iter_mut().map(|(id, vm)| (*id, vm.let_worker_end())).collect();
        let deadline = Instant::now() + LAST_OFFERS;
        for (id, worker) in ending {
            if !worker.wait(deadline) {
                let what = "the offer it is at takes too long: its outcome is not in the summary".into();
                self.tell(Some(id), Happened::Problem { what });
            }
        }
        while let Ok((vm, report)) = self.reports.try_recv() {
            self.report(vm, report);
        }
        self.publish();
        let mut summary = std::mem::take(&mut self.totals_of_ended);
        for vm in self.vms.values() {
            add_to_summary(&mut summary, vm);
        }
        let latency = self.offer_to_done.summary();
        summary.offer_to_done_p50_us = latency.p50_us;
        summary.offer_to_done_p99_us = latency.p99_us;
        summary.events = self.counters();
        self.tell(None, Happened::Summary(summary));
    }

    fn tell(&self, vm: Option<VmId>, happened: Happened) {
        let vm = vm.and_then(|id| self.vms.get(&id)).map(reference);
        // Nobody listens: imr-top shows the snapshot instead.
        let _ = self.out.records.send(Record { unix_ms: clock::unix_ms(), vm, happened });
    }
}

fn reference(vm: &FollowedVm) -> VmRef {
    VmRef { id: vm.model.id(), pid: vm.model.pid(), name: vm.model.name().to_owned() }
}

fn add_to_summary(summary: &mut Summary, vm: &FollowedVm) {
    let snapshot = vm.model.snapshot();
    let offers = snapshot.offers;
    summary.vms += 1;
    summary.offered_bytes += snapshot.offered_bytes;
    summary.reclaimed_bytes += snapshot.reclaimed_bytes;
    summary.refaulted_bytes += snapshot.refaulted_bytes;
    summary.paged_out_bytes += snapshot.pageout.counters.out_bytes;
    summary.claimed += offers.claimed;
    summary.done += offers.done;
    summary.revoked += offers.revoked;
    summary.abandoned += offers.abandoned;
    summary.denied_calls += offers.denied_calls;
    summary.limited_calls += offers.limited_calls;
    summary.stale_calls += offers.stale_calls;
    summary.malformed += offers.malformed;
    summary.held_back += vm.quota.held_back_in_all();
    summary.left += snapshot.returns.left;
    summary.left_bytes += snapshot.returns.left_bytes;
    summary.unnotified_calls += snapshot.returns.unnotified_calls;
    summary.unmeasured += snapshot.returns.unmeasured;
}
