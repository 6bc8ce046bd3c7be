//! Neighbouring pieces of memory as one run, cut into calls that never split a huge page.
//!
//! Input: pieces that guards let pass, sorted by guest frame. Output: calls, and what each means for the ranges it
//! touched. Pure.

#[cfg(test)]
mod tests;

use super::super::backend::{Call, Effect, Failure};
use super::super::guards::SegmentPiece;
use super::Tally;
use crate::model::backing::BackingKind;
use crate::model::ids::{BLOCK_SIZE, FRAME_SIZE, Gfn, Hva};

/// Longest call, bytes, unless one page of the backing is longer. It bounds the time until a reset of the VM is
/// noticed: about 4 ms in 4 KiB pages.
pub const MAX_CALL_BYTES: u64 = 16 << 20;

/// Longest call in huge pages of hugetlbfs: less than a millisecond.
const MAX_HUGE_CALL_BYTES: u64 = 256 << 20;

/// A piece and the range (index in the plan) that it belongs to.
pub(super) struct Work<'a> {
    pub(super) range: usize,
    pub(super) piece: SegmentPiece<'a>,
}

/// Whether `b` goes on where `a` ends: in the guest, in the VMM, and in the file or, without one, in the same VMA.
pub(super) fn neighbours(a: &SegmentPiece<'_>, b: &SegmentPiece<'_>) -> bool {
    let (of_a, of_b) = (a.segment, b.segment);
    // No overflow: range_guard has seen both ends of every piece.
    let contiguous = a.base_gfn.get() + a.npages == b.base_gfn.get() && a.hva.get() + a.bytes == b.hva.get();
    let same_memory = if of_a.kind == BackingKind::Anonymous {
        (of_a.vma_start, of_a.vma_end) == (of_b.vma_start, of_b.vma_end)
    } else {
        a.file_offset + a.bytes == b.file_offset && (of_a.dev, of_a.inode) == (of_b.dev, of_b.inode)
    };
    contiguous && same_memory && of_a.kind == of_b.kind && of_a.page_size == of_b.page_size
}

/// Neighbouring pieces on their way through calls. Positions are bytes from the run's first byte, the same in the guest,
/// in the VMM and in the file.
pub(super) struct Run<'w, 'a> {
    first: SegmentPiece<'a>,
    /// Pieces that end behind the newest call's start.
    pending: &'w [Work<'a>],
    /// Where the next call begins.
    next: u64,
    /// Where the last call ends.
    end: u64,
}

impl<'w, 'a> Run<'w, 'a> {
    /// `pieces`: neighbours, not empty. What must be left out of them, because it lies in a huge page with memory that
    /// is not of the run, is booked at once.
    pub(super) fn new(pieces: &'w [Work<'a>], tallies: &mut [Tally]) -> Self {
        let bytes: u64 = pieces.iter().map(|item| item.piece.bytes).sum();
        let first = pieces[0].piece;
        let last = pieces.last().map_or(first, |item| item.piece);
        let (mut next, mut end) = (0, bytes);
        if pieces.iter().any(|item| item.piece.segment.flags.huge) {
            let start = first.place();
            // A huge page without a file ends with its VMA.
            let in_vma = first.segment.kind == BackingKind::Anonymous;
            if !(in_vma && first.hva == first.segment.vma_start) {
                next = start.next_multiple_of(BLOCK_SIZE) - start;
            }
            if !(in_vma && last.hva.get() + last.bytes == last.segment.vma_end.get()) {
                end = ((start + bytes) / BLOCK_SIZE * BLOCK_SIZE).saturating_sub(start);
            }
            if next >= end {
                (next, end) = (bytes, bytes);
            }
        }
        let run = Self { first, pending: pieces, next, end };
        for item in pieces {
            let from = run.position(item);
            let to = from + item.piece.bytes;
            let kept = to.min(end).saturating_sub(from.max(next));
            tallies[item.range].trimmed += item.piece.bytes - kept;
        }
        run
    }

    /// Where a piece of the run begins.
    fn position(&self, item: &Work<'_>) -> u64 {
        (item.piece.base_gfn.get() - self.first.base_gfn.get()) * FRAME_SIZE
    }

    /// The next call, none past the end.
    pub(super) fn next_call(&mut self) -> Option<Call<'a>> {
        if self.next >= self.end {
            return None;
        }
        // The mapping of the call's own first byte: the run may have begun in another one.
        let holding = self.pending.iter().find(|item| self.position(item) + item.piece.bytes > self.next)?;
        let (first, at) = (&self.first, self.next);
        let place = first.place() + at;
        let bytes = call_length(place, self.end - at, first.segment.page_size);
        let has_file = first.segment.kind != BackingKind::Anonymous;
        self.next += bytes;
        Some(Call {
            segment: holding.piece.segment,
            base_gfn: Gfn::new(first.base_gfn.get() + at / FRAME_SIZE),
            hva: Hva::new(first.hva.get() + at),
            file_offset: if has_file { first.file_offset + at } else { 0 },
            bytes,
        })
    }

    /// Books the newest call for the ranges that it touched.
    pub(super) fn credit(
        &mut self,
        call: &Call<'_>,
        result: &Result<Effect, Failure>,
        tallies: &mut [Tally],
    ) {
        let start = (call.base_gfn.get() - self.first.base_gfn.get()) * FRAME_SIZE;
        let end = start + call.bytes;
        let end_of = |item: &Work<'_>| self.position(item) + item.piece.bytes;
        let behind = self.pending.iter().take_while(|item| end_of(item) <= start).count();
        let pending = &self.pending[behind..];
        for item in pending.iter().take_while(|item| self.position(item) < end) {
            let bytes = end_of(item).min(end) - self.position(item).max(start);
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
        self.pending = pending;
    }
}

/// Length of the call that begins at `place` with `left` bytes to go.
///
/// A run is cut only where a 2 MiB page of the backing or a page of hugetlbfs can end, so that no cut splits one.
pub(super) fn call_length(place: u64, left: u64, page_size: u64) -> u64 {
    let unit = page_size.max(BLOCK_SIZE);
    let limit = longest(page_size);
    if left <= limit {
        return left;
    }
    let end = (place + limit) / unit * unit;
    end - place
}

/// The longest call in pages of that size, bytes.
fn longest(page_size: u64) -> u64 {
    let limit = if page_size > FRAME_SIZE { MAX_HUGE_CALL_BYTES } else { MAX_CALL_BYTES };
    page_size.max(BLOCK_SIZE).max(limit)
}

/// How many of the first calls may be made without a look at the VM in between: as many as are together no longer than one
/// alone may be, at least one.
pub(super) fn stride(calls: &[Call<'_>]) -> usize {
    let Some(first) = calls.first() else { return 0 };
    let page_size = first.segment.page_size;
    let mut left = longest(page_size);
    let fits = |call: &&Call<'_>| {
        let rest = left.checked_sub(call.bytes).filter(|_| call.segment.page_size == page_size);
        left = rest.unwrap_or(0);
        rest.is_some()
    };
    calls.iter().take_while(fits).count().max(1)
}
