//! What workers report -> counters, block states, decisions and records.

use std::collections::{BTreeSet, VecDeque};

use imr_common::guest_abi::{RESULT_KEPT, RESULT_RECLAIMED, RESULT_REFUSED};

use super::clock;
use super::record::Happened;
use super::vms::FollowedVm;
use super::worker::{Done, Report, Taken};
use crate::guest::page::GuestStatistics;
use crate::guest::session::HelloKind;
use crate::ingest::tables::Tables;
use crate::model::decision::{Decision, DecisionKind};
use crate::model::free_memory::{FreeMemory, ZONES, ZoneCounts};
use crate::model::ids::{FRAME_SIZE, Pid, VmId};
use crate::model::snapshot::{GuestStatus, ReturnCounters};
use crate::model::vm::VmModel;
use crate::reclaim::outcome::{Measured, Outcome};

/// Decisions kept for the view.
const DECISIONS: usize = 200;

/// The newest decisions.
#[derive(Debug, Default)]
pub(super) struct DecisionLog(VecDeque<Decision>);

impl DecisionLog {
    pub(super) fn add(
        &mut self,
        vm: &FollowedVm,
        kind: DecisionKind,
        guard: Option<String>,
        why: String,
        offer_seq: u64,
        bytes: u64,
    ) {
        let (vm, pid) = (vm.model.id(), vm.model.pid());
        self.push(Decision { unix_ms: clock::unix_ms(), vm, pid, kind, guard, why, offer_seq, bytes });
    }

    /// Of the host as a whole.
    pub(super) fn add_of_host(&mut self, kind: DecisionKind, why: String) {
        self.push(Decision {
            unix_ms: clock::unix_ms(),
            vm: VmId::HOST,
            pid: Pid::new(0),
            kind,
            guard: None,
            why,
            offer_seq: 0,
            bytes: 0,
        });
    }

    fn push(&mut self, decision: Decision) {
        if self.0.len() == DECISIONS {
            self.0.pop_front();
        }
        self.0.push_back(decision);
    }

    pub(super) fn to_vec(&self) -> Vec<Decision> {
        self.0.iter().cloned().collect()
    }
}

/// Takes over one report. Returns what is to be told, if anything.
pub(super) fn apply(
    vm: &mut FollowedVm,
    tables: &Tables,
    log: &mut DecisionLog,
    report: Report,
) -> Option<Happened> {
    let offers = &mut vm.model.offers;
    match report {
        Report::Hello { kind, gpa, cookie, statistics } => {
            offers.hellos += 1;
            free_memory(&mut vm.model, &statistics);
            let kind = match kind {
                HelloKind::Repeated => return None,
                HelloKind::New => "new",
                HelloKind::RolledBack => "rolled_back",
            };
            vm.model.guest = GuestStatus::Attached { control_gpa: gpa.get(), cookie };
            log.add(vm, DecisionKind::Attached, None, format!("HELLO ({kind}), control page at {gpa}"), 0, 0);
            Some(Happened::Hello { control_gpa: gpa.get(), kind: kind.into() })
        }
        Report::Detached { why } => {
            vm.model.guest = GuestStatus::Detached { why: why.clone() };
            vm.model.guest_free_bytes = 0;
            vm.model.free_memory = None;
            vm.told_free = None;
            log.add(vm, DecisionKind::Detached, None, why.clone(), 0, 0);
            Some(Happened::Detached { why })
        }
        Report::Claimed(offer) => {
            offers.claimed += 1;
            let bytes = offer.ranges.iter().map(|range| range.npages.saturating_mul(FRAME_SIZE)).sum();
            let now_ns = clock::monotonic_ns();
            for range in &offer.ranges {
                vm.offered(tables, range.base_gfn, range.npages, now_ns);
            }
            Some(Happened::Claim { seq: offer.seq, ranges: offer.ranges.len(), bytes, redone: offer.redone })
        }
        Report::Done(done) => Some(finished(vm, log, &done)),
        Report::Abandoned { seq, revoked, why, taken } => {
            if revoked {
                offers.revoked += 1;
            } else {
                offers.abandoned += 1;
            }
            // The guest hears nothing of it; what is with the host is there all the same.
            let taken_bytes = taken.map_or(0, |taken| note(vm, &taken).reclaimed_bytes);
            log.add(vm, DecisionKind::Abandoned, None, why.clone(), seq, taken_bytes);
            Some(Happened::Abandoned { seq, why, taken_bytes })
        }
        Report::Malformed { why } => {
            offers.malformed += 1;
            log.add(vm, DecisionKind::Refused, None, why.clone(), 0, 0);
            Some(Happened::Refused { why })
        }
        Report::Stale => {
            offers.stale_calls += 1;
            None
        }
        Report::Limited => {
            vm.calls_dropped += 1;
            None
        }
        // The end of the VMM is the engine's business.
        Report::Settled | Report::VmmGone => None,
    }
}

/// Takes over what the guest says of its free memory, as far as it makes sense.
fn free_memory(model: &mut VmModel, statistics: &GuestStatistics) {
    let ram_bytes = model.ram_bytes();
    model.guest_free_bytes = statistics.free_pages.saturating_mul(FRAME_SIZE).min(ram_bytes);
    let mut zones = [ZoneCounts::default(); ZONES];
    let said = statistics.zone_free_blocks.iter().zip(&statistics.zone_kept_pages);
    for (zone, (&blocks, &kept_pages)) in zones.iter_mut().zip(said) {
        *zone = ZoneCounts { blocks, kept_pages };
    }
    let free = FreeMemory::of(statistics.offer_order, &zones, ram_bytes);
    model.offers.bad_statistics += u64::from(free.is_err());
    let GuestStatistics { compacts, compacted_blocks, .. } = *statistics;
    model.free_memory = free.ok().map(|free| FreeMemory { compacts, compacted_blocks, ..free });
}

fn add_returns(returns: &mut ReturnCounters, outcome: &Outcome) {
    let counter = match outcome.measured {
        Measured::Agrees | Measured::More => Some(&mut returns.full),
        Measured::Less => Some(&mut returns.partial),
        Measured::NothingResident => Some(&mut returns.not_resident),
        Measured::Left => Some(&mut returns.left),
        Measured::Unknown => Some(&mut returns.unmeasured),
        Measured::Nothing => None,
    };
    if let Some(counter) = counter {
        *counter += 1;
    }
    returns.left_bytes += outcome.left_bytes;
    returns.unnotified_calls += outcome.unnotified_calls;
}

/// What was done with an offer's ranges.
#[derive(Default)]
struct Sums {
    reclaimed: usize,
    kept: usize,
    refused: usize,
    offered_bytes: u64,
    /// Of ranges that are kept, too, where a call after the first one failed.
    reclaimed_bytes: u64,
    /// Reasons for what was not taken, and the guard among them, if there is one.
    why: BTreeSet<String>,
    guard: Option<String>,
}

/// Takes over what was taken: blocks and counters.
fn note(vm: &mut FollowedVm, taken: &Taken) -> Sums {
    let mut sums = Sums::default();
    for (&(base_gfn, npages), range) in taken.ranges.iter().zip(&taken.outcome.ranges) {
        sums.offered_bytes += npages.saturating_mul(FRAME_SIZE);
        sums.reclaimed_bytes += range.done_bytes;
        match range.result.wire() {
            RESULT_RECLAIMED => {
                sums.reclaimed += 1;
                vm.model.reclaimed(base_gfn, npages, taken.reclaimed_ns);
                continue;
            }
            RESULT_KEPT => sums.kept += 1,
            RESULT_REFUSED => sums.refused += 1,
            _ => {}
        }
        sums.why.insert(range.result.to_string());
        sums.guard = sums.guard.or_else(|| range.result.guard());
    }
    vm.taken_in_all = taken.taken_in_all;
    let model = &mut vm.model;
    model.reclaimed_bytes += taken.outcome.freed_bytes;
    add_returns(&mut model.returns, &taken.outcome);
    model.offers.ranges_reclaimed += sums.reclaimed as u64;
    model.offers.ranges_kept += sums.kept as u64;
    model.offers.ranges_refused += sums.refused as u64;
    sums
}

fn finished(vm: &mut FollowedVm, log: &mut DecisionLog, done: &Done) -> Happened {
    let outcome = &done.taken.outcome;
    let Sums { reclaimed, kept, refused, offered_bytes, reclaimed_bytes, why, guard } = note(vm, &done.taken);
    done.add_to(&mut vm.model.stages);
    vm.model.offers.done += 1;
    let why: Vec<String> = why.into_iter().collect();
    let seq = outcome.offer_seq;
    if reclaimed_bytes > 0 || reclaimed > 0 {
        log.add(
            vm,
            DecisionKind::Reclaimed,
            None,
            format!("{reclaimed} ranges by {}", outcome.backend),
            seq,
            reclaimed_bytes,
        );
    }
    if kept > 0 {
        log.add(vm, DecisionKind::Kept, guard, why.join("; "), seq, offered_bytes - reclaimed_bytes);
    } else if refused > 0 {
        log.add(vm, DecisionKind::Refused, guard, why.join("; "), seq, offered_bytes - reclaimed_bytes);
    }
    Happened::Done {
        seq,
        offered_bytes,
        reclaimed_bytes,
        freed_bytes: outcome.freed_bytes,
        reclaimed,
        kept,
        refused,
        why,
        claim_us: done.claimed_ns.saturating_sub(done.rung_ns) / 1000,
        reclaim_us: done.taken.reclaimed_ns.saturating_sub(done.claimed_ns) / 1000,
        total_us: done.total_ns() / 1000,
    }
}
