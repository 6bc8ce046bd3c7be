//! Carries out the plan of one offer on one VM.
//!
//! Input: a [`Plan`], what is known of the VM, a backend, and a question: is the offer still live. Output: an
//! [`Outcome`]. It judges every range first, then makes calls of bounded length, and asks its question right
//! before each. It must not touch a range that any guard forbids, nor one that the plan keeps.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::backend::{Backend, Call, Effect, Failure, Obstacle};
use super::choose::Allowed;
use super::guards::{Guard, SegmentPiece, VmFacts, range_guard, vm_guard};
use super::outcome::{Measured, Outcome, RangeOutcome, RangeResult, Reason};
use crate::model::backing::Segment;
use crate::model::ids::{BLOCK_SIZE, FRAME_SIZE, Gfn, Hva};
use crate::policy::plan::{Plan, PlannedRange, Verdict};

/// Longest call, bytes, unless one page of the backing is longer. It bounds the time until a reset of the VM is
/// noticed: about 4 ms in 4 KiB pages.
pub const MAX_CALL_BYTES: u64 = 16 << 20;

/// A VM as the executor needs it, for one batch.
pub struct Target<'a> {
    /// What is known of it.
    pub facts: &'a VmFacts,
    /// What the operator has allowed.
    pub allowed: Allowed,
    /// How its memory is given back.
    pub backend: &'a mut dyn Backend,
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

/// A piece and the range (index in the plan) that it belongs to.
struct Work<'a> {
    range: usize,
    piece: SegmentPiece<'a>,
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
    /// The first failed call.
    failure: Option<Failure>,
}

/// Carries out `plan`.
///
/// `still_live` is asked right before each call whether the offer is still one of the kernel that made it; after
/// the first `false` nothing is touched. `on_call` hears of each successful call. One VM's memory is taken by
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

    let before = target.backend.held_bytes();
    let mut calls = 0;
    let mut asked_bytes = 0;
    'batch: for run in work.chunk_by(|a, b| neighbours(&a.piece, &b.piece)) {
        let mut todo = Run::new(run);
        while let Some(call) = todo.next_call() {
            if !still_live() {
                break 'batch;
            }
            calls += 1;
            let result = target.backend.reclaim(&call);
            if let Ok(effect) = result {
                asked_bytes += call.bytes;
                let npages = call.bytes / FRAME_SIZE;
                on_call(CallDone { base_gfn: call.base_gfn, npages, effect });
            }
            todo.credit(&call, &result, &mut tallies);
        }
    }
    let taken = tallies.iter().map(|tally| tally.taken).sum();
    let (freed_bytes, measured) = measure(taken, before, || target.backend.held_bytes());
    target.backend.finish();

    let ranges = plan.ranges.iter().zip(tallies).map(|(range, tally)| tally.close(range)).collect();
    Outcome {
        vm: plan.vm,
        offer_seq: plan.offer_seq,
        backend: target.backend.name(),
        ranges,
        calls,
        asked_bytes,
        freed_bytes,
        measured,
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
            (Verdict::Reclaim, Ok(())) => match range_guard(facts, allowed, range.base_gfn, range.npages) {
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

/// Whether `b` goes on where `a` ends: in the guest, in the VMM and in the file.
fn neighbours(a: &SegmentPiece<'_>, b: &SegmentPiece<'_>) -> bool {
    // No overflow: range_guard has seen both ends of every piece.
    a.base_gfn.get() + a.npages == b.base_gfn.get()
        && a.hva.get() + a.bytes == b.hva.get()
        && a.file_offset + a.bytes == b.file_offset
        && (a.segment.dev, a.segment.inode) == (b.segment.dev, b.segment.inode)
        && a.segment.page_size == b.segment.page_size
}

/// Neighbouring pieces on their way through calls.
struct Run<'w, 'a> {
    first: SegmentPiece<'a>,
    /// Pieces that end behind the newest call's start.
    pending: &'w [Work<'a>],
    /// Bytes from the run's start to the next call.
    done: u64,
    /// Bytes of the run.
    bytes: u64,
}

impl<'w, 'a> Run<'w, 'a> {
    /// `pieces`: neighbours, not empty.
    fn new(pieces: &'w [Work<'a>]) -> Self {
        let bytes = pieces.iter().map(|item| item.piece.bytes).sum();
        Self { first: pieces[0].piece, pending: pieces, done: 0, bytes }
    }

    /// The next call, none past the end.
    fn next_call(&mut self) -> Option<Call<'a>> {
        if self.done == self.bytes {
            return None;
        }
        let first = &self.first;
        let file_offset = first.file_offset + self.done;
        let call = Call {
            segment: first.segment,
            base_gfn: Gfn::new(first.base_gfn.get() + self.done / FRAME_SIZE),
            hva: Hva::new(first.hva.get() + self.done),
            file_offset,
            bytes: call_length(file_offset, self.bytes - self.done, first.segment.page_size),
        };
        self.done += call.bytes;
        Some(call)
    }

    /// Books the newest call for the ranges that it touched.
    fn credit(&mut self, call: &Call<'_>, result: &Result<Effect, Failure>, tallies: &mut [Tally]) {
        let end_of = |item: &Work<'_>| item.piece.file_offset + item.piece.bytes;
        let call_end = call.file_offset + call.bytes;
        let behind = self.pending.iter().take_while(|item| end_of(item) <= call.file_offset).count();
        self.pending = &self.pending[behind..];
        for item in self.pending.iter().take_while(|item| item.piece.file_offset < call_end) {
            let bytes = end_of(item).min(call_end) - item.piece.file_offset.max(call.file_offset);
            let tally = &mut tallies[item.range];
            match result {
                Ok(effect) => {
                    tally.covered += bytes;
                    tally.taken += if *effect == Effect::Taken { bytes } else { 0 };
                }
                Err(failure) => {
                    tally.failure.get_or_insert_with(|| failure.clone());
                }
            }
        }
    }
}

/// Length of the call that begins at `file_offset` with `left` bytes to go.
///
/// A run is cut only where a 2 MiB page of tmpfs or a page of hugetlbfs can end, so that no cut splits one.
fn call_length(file_offset: u64, left: u64, page_size: u64) -> u64 {
    let unit = page_size.max(BLOCK_SIZE);
    let limit = unit.max(MAX_CALL_BYTES);
    if left <= limit {
        return left;
    }
    let end = (file_offset + limit) / unit * unit;
    end - file_offset
}

/// What came back, and how that compares with `taken`.
fn measure(
    taken: u64,
    before: Result<u64, Failure>,
    after: impl FnOnce() -> Result<u64, Failure>,
) -> (u64, Measured) {
    if taken == 0 {
        return (0, Measured::Nothing);
    }
    let (Ok(before), Ok(after)) = (before, after()) else { return (0, Measured::Unknown) };
    let freed = before.saturating_sub(after);
    match freed.cmp(&taken) {
        std::cmp::Ordering::Less => (freed, Measured::Less),
        std::cmp::Ordering::Equal => (freed, Measured::Agrees),
        std::cmp::Ordering::Greater => (taken, Measured::More),
    }
}

impl Tally {
    /// The range's outcome, once no more calls will be made.
    fn close(self, range: &PlannedRange) -> RangeOutcome {
        let result = match (self.answer, self.failure) {
            (Some(answer), _) => answer,
            (None, Some(failure)) => RangeResult::Failed(failure),
            (None, None) if self.covered < range.npages.saturating_mul(FRAME_SIZE) => RangeResult::Stopped,
            (None, None) if self.taken < self.covered => RangeResult::Kept(Reason::DryRun),
            (None, None) => RangeResult::Reclaimed,
        };
        RangeOutcome { result, done_bytes: self.taken }
    }
}
