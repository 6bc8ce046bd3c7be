//! Carries out the plan of one offer on one VM.
//!
//! Input: a [`Plan`], what is known of the VM, a backend, and a question: is the offer still live. Output: an
//! [`Outcome`]. It judges every range first, then makes calls, and asks its question right before each stretch of them, whose
//! length is bounded. It must not touch a range that any guard forbids, nor one that the plan keeps.

mod run;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod verify_tests;

use std::collections::BTreeMap;

use self::run::{Run, Work, neighbours, stride};
use super::backend::{Backend, Call, Effect, Failure, Obstacle};
use super::choose::Allowed;
use super::guards::{Guard, VmFacts, range_guard, vm_guard};
use super::outcome::{Measured, Outcome, RangeOutcome, RangeResult, Reason};
use crate::model::backing::Segment;
use crate::model::ids::{FRAME_SIZE, Gfn};
use crate::policy::plan::{Plan, PlannedRange, Verdict};

pub use self::run::MAX_CALL_BYTES;

/// A VM as the executor needs it, for one batch.
pub struct Target<'a> {
    /// What is known of it.
    pub facts: &'a VmFacts,
    /// What the operator has allowed.
    pub allowed: Allowed,
    /// How its memory is given back.
    pub backend: &'a mut dyn Backend,
    /// Who else sees what happens to it.
    pub witness: &'a dyn Witness,
}

/// What KVM shows of a VM's memory, beside what a backend says that it did.
pub trait Witness {
    /// Bytes of these frames that KVM has mapped for the guest: they are resident. 0 where nobody knows.
    fn mapped_bytes(&self, base_gfn: Gfn, npages: u64) -> u64;

    /// How often KVM has been told that memory of this VM goes (mmu notifier). `None`: that is not seen, or not for
    /// certain.
    fn invalidations(&self) -> Option<u64>;
}

/// Nobody sees anything.
#[derive(Debug, Clone, Copy)]
pub struct NoWitness;

impl Witness for NoWitness {
    fn mapped_bytes(&self, _: Gfn, _: u64) -> u64 {
        0
    }

    fn invalidations(&self) -> Option<u64> {
        None
    }
}

/// A call that succeeded, told as soon as it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallDone {
    /// First frame.
    pub base_gfn: Gfn,
    /// Length, frames.
    pub npages: u64,
    /// What it did.
    pub effect: Effect,
}

/// What is known of a range on the way.
#[derive(Default)]
struct Tally {
    /// The answer, where it needs no call.
    answer: Option<RangeResult>,
    /// Bytes of successful calls.
    covered: u64,
    /// Bytes of those that took memory.
    taken: u64,
    /// Bytes that no call may touch, as they share a huge page with what is not of the batch.
    trimmed: u64,
    /// The first failed call.
    failure: Option<Failure>,
}

/// What the calls of a batch add up to.
#[derive(Default)]
struct Calls<'a> {
    made: u64,
    asked_bytes: u64,
    /// Those that took memory.
    taken: Vec<Call<'a>>,
    taken_bytes: u64,
    /// Those that took what KVM has mapped, and KVM was not told.
    unnotified: u64,
}

/// Carries out `plan`.
///
/// `still_live` is asked right before each call, or several that are together no longer than one may be, whether the offer is
/// still one of the kernel that made it; after the first `false` nothing is touched. `on_call` hears of each successful call. One VM's memory is taken by
/// one call of this at a time.
pub fn execute(
    plan: &Plan,
    target: &mut Target<'_>,
    still_live: &mut dyn FnMut() -> bool,
    on_call: &mut dyn FnMut(CallDone),
) -> Outcome {
    let (mut tallies, mut work) = judge(plan, target.facts, target.allowed);
    prepare(target.backend, &mut tallies, &work);
    work.retain(|item| tallies[item.range].answer.is_none());
    work.sort_unstable_by_key(|item| item.piece.base_gfn);

    let before = if work.is_empty() { Ok(0) } else { target.backend.held_bytes() };
    // All at once: other CPUs have written that table, and so their caches are waited for together.
    let mapped_bytes =
        work.iter().map(|item| target.witness.mapped_bytes(item.piece.base_gfn, item.piece.npages)).sum();
    let mut runs = Vec::new();
    let (mut planned, mut run_of) = (Vec::with_capacity(work.len()), Vec::with_capacity(work.len()));
    for pieces in work.chunk_by(|a, b| neighbours(&a.piece, &b.piece)) {
        let mut run = Run::new(pieces, &mut tallies);
        while let Some(call) = run.next_call() {
            planned.push(call);
            run_of.push(runs.len());
        }
        runs.push(run);
    }
    let (mut calls, mut results) = (Calls::default(), Vec::with_capacity(planned.len()));
    let mut at = 0;
    while at < planned.len() && still_live() {
        let count = stride(&planned[at..]);
        let made = &planned[at..at + count];
        results.clear();
        calls.make(made, target, &mut results);
        for ((call, result), run) in made.iter().zip(&results).zip(&run_of[at..]) {
            if let Ok(effect) = *result {
                let npages = call.bytes / FRAME_SIZE;
                on_call(CallDone { base_gfn: call.base_gfn, npages, effect });
            }
            runs[*run].credit(call, result, &mut tallies);
        }
        at += count;
    }
    let (freed_bytes, left_bytes, measured) = calls.measure(before, mapped_bytes, target.backend);
    target.backend.finish();

    let ranges = plan.ranges.iter().zip(tallies).map(|(range, tally)| tally.close(range)).collect();
    Outcome {
        vm: plan.vm,
        offer_seq: plan.offer_seq,
        backend: target.backend.name(),
        ranges,
        calls: calls.made,
        asked_bytes: calls.asked_bytes,
        freed_bytes,
        measured,
        left_bytes,
        unnotified_calls: calls.unnotified,
    }
}

impl<'a> Calls<'a> {
    /// Makes calls, and adds the result of each to `results`, which is empty.
    fn make(
        &mut self,
        calls: &[Call<'a>],
        target: &mut Target<'_>,
        results: &mut Vec<Result<Effect, Failure>>,
    ) {
        let told_before = target.witness.invalidations();
        target.backend.reclaim_all(calls, results);
        let told = target.witness.invalidations().zip(told_before);
        self.made += calls.len() as u64;
        let first = self.taken.len();
        for (call, result) in calls.iter().zip(results.iter()) {
            let Ok(effect) = result else { continue };
            self.asked_bytes += call.bytes;
            if *effect == Effect::Taken {
                self.taken.push(*call);
                self.taken_bytes += call.bytes;
            }
        }
        // KVM is told before a call returns, of each VMA that maps the range, whether or not a page is in it
        // (mm/memory.c, zap_page_range_single; mm/hugetlb.c, unmap_hugepage_range; 6.1 and 6.12).
        let taken = &self.taken[first..];
        let missing = told
            .map_or(0, |(after, before)| (taken.len() as u64).saturating_sub(after.saturating_sub(before)));
        if missing > 0 {
            let mapped =
                |call: &&Call<'_>| target.witness.mapped_bytes(call.base_gfn, call.bytes / FRAME_SIZE) > 0;
            self.unnotified += missing.min(taken.iter().filter(mapped).count() as u64);
        }
    }

    /// Bytes that came back, bytes that are there after all, and how that compares with what was taken. `mapped_bytes` of
    /// what was to be taken KVM had mapped, so they were there.
    fn measure(
        &self,
        before: Result<u64, Failure>,
        mapped_bytes: u64,
        backend: &dyn Backend,
    ) -> (u64, u64, Measured) {
        let taken = self.taken_bytes;
        if taken == 0 {
            return (0, 0, Measured::Nothing);
        }
        let (Ok(before), Ok(after)) = (before, backend.held_bytes()) else {
            return (0, 0, Measured::Unknown);
        };
        let freed = before.saturating_sub(after);
        if freed > taken {
            return (taken, 0, Measured::More);
        }
        if freed == taken {
            return (freed, 0, Measured::Agrees);
        }
        if freed == 0 && mapped_bytes == 0 {
            return (0, 0, Measured::NothingResident);
        }
        if freed >= mapped_bytes {
            return (freed, 0, Measured::Less);
        }
        // Less than was there. Others may have taken memory in the same file or process meanwhile, so the numbers alone
        // accuse nobody: what counts is what the taken ranges hold now.
        let left: Option<u64> = self.taken.iter().map(|call| backend.left_bytes(call)).sum();
        match left {
            Some(0) => (freed, 0, Measured::Less),
            Some(left) => (freed, left, Measured::Left),
            None => (freed, 0, Measured::Unknown),
        }
    }
}

/// Answers each range that needs no call, and cuts the others into pieces.
fn judge<'a>(plan: &Plan, facts: &'a VmFacts, allowed: Allowed) -> (Vec<Tally>, Vec<Work<'a>>) {
    let vm = vm_guard(facts, allowed);
    let mut tallies = Vec::with_capacity(plan.ranges.len());
    let mut work = Vec::new();
    // Every earlier range counts, whatever its verdict: a kept one must not be taken by way of a later one.
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for (index, range) in plan.ranges.iter().enumerate() {
        let start = range.base_gfn.get();
        let end = start.saturating_add(range.npages);
        let overlaps = seen.range(..end).next_back().is_some_and(|(_, seen_end)| *seen_end > start);
        let answer = match (&range.verdict, &vm) {
            (Verdict::Refuse(why), _) => Some(RangeResult::Refused(Reason::Policy(why.clone()))),
            _ if overlaps => Some(answer(Guard::Overlapping)),
            (Verdict::Keep(why), _) => Some(RangeResult::Kept(Reason::Policy(why.clone()))),
            (Verdict::Reclaim, Err(guard)) => Some(answer(guard.clone())),
            (Verdict::Reclaim, Ok(_)) => match range_guard(facts, allowed, range.base_gfn, range.npages) {
                Ok(pieces) => {
                    work.extend(pieces.into_iter().map(|piece| Work { range: index, piece }));
                    None
                }
                Err(guard) => Some(answer(guard)),
            },
        };
        if !overlaps && start < end {
            seen.insert(start, end);
        }
        tallies.push(Tally { answer, ..Tally::default() });
    }
    (tallies, work)
}

/// The answer that a guard means for a range.
fn answer(guard: Guard) -> RangeResult {
    if guard.is_guest_fault() {
        RangeResult::Refused(Reason::Guard(guard))
    } else {
        RangeResult::Kept(Reason::Guard(guard))
    }
}

/// Prepares every segment once; a range with a piece in one that cannot be had gets its answer here.
fn prepare(backend: &mut dyn Backend, tallies: &mut [Tally], work: &[Work<'_>]) {
    let mut prepared: Vec<(&Segment, Result<(), Obstacle>)> = Vec::new();
    let mut gone = false;
    for item in work {
        let segment = item.piece.segment;
        let known = prepared.iter().position(|(known, _)| std::ptr::eq(*known, segment));
        let index = known.unwrap_or_else(|| {
            let result = if gone { Err(Obstacle::Guard(Guard::VmmGone)) } else { backend.prepare(segment) };
            gone |= result == Err(Obstacle::Guard(Guard::VmmGone));
            prepared.push((segment, result));
            prepared.len() - 1
        });
        let tally = &mut tallies[item.range].answer;
        if let (Err(obstacle), None) = (&prepared[index].1, &tally) {
            *tally = Some(match obstacle {
                Obstacle::Guard(guard) => answer(guard.clone()),
                Obstacle::Failure(failure) => RangeResult::Failed(failure.clone()),
            });
        }
    }
    if gone {
        // What was prepared before is a dead VM's memory now, and goes back as a whole.
        for tally in tallies.iter_mut().filter(|tally| tally.answer.is_none()) {
            tally.answer = Some(answer(Guard::VmmGone));
        }
    }
}

impl Tally {
    /// The range's outcome, once no more calls will be made.
    fn close(self, range: &PlannedRange) -> RangeOutcome {
        let result = match (self.answer, self.failure) {
            (Some(answer), _) => answer,
            (None, Some(failure)) => RangeResult::Failed(failure),
            (None, None) if self.covered + self.trimmed < range.npages.saturating_mul(FRAME_SIZE) => {
                RangeResult::Stopped
            }
            (None, None) if self.trimmed > 0 => answer(Guard::PartOfHugePage),
            (None, None) if self.taken < self.covered => RangeResult::Kept(Reason::DryRun),
            (None, None) => RangeResult::Reclaimed,
        };
        RangeOutcome { result, done_bytes: self.taken }
    }
}
