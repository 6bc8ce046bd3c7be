//! Cuts what is asked for into pieces: frames of one segment, few enough for one call into the kernel.
//!
//! In: a segment and a range of blocks. Out: pieces, and where in the answer each begins. Pure arithmetic: slots and
//! VMAs begin and end anywhere within a block.

use std::ops::Range;

use crate::model::backing::Segment;
use crate::model::ids::{BlockId, FRAME_SIZE, FRAMES_PER_BLOCK};

/// Blocks of a piece at most: 128 MiB. The kernel holds the VMM's mmap_lock for as long as it walks, which the
/// VMM's own mmap and munmap wait for.
const MAX_BLOCKS: u64 = 64;

/// Consecutive frames of one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// First page in the VMM's address space: the address divided by the frame size.
    pub(super) first_page: u64,
    /// Length, at least 1.
    pub(super) frames: u64,
    /// Where the first frame is in the segment's file, bytes; means nothing without a file.
    pub(super) file_offset: u64,
    /// Frames of the first block that come before the piece, 0..512.
    lead: u64,
}

impl Piece {
    /// Guest frames `gfn..gfn + frames`, the first at the address of the same number.
    #[cfg(test)]
    pub(super) fn at(gfn: u64, frames: u64) -> Self {
        Self { first_page: gfn, frames, file_offset: 0, lead: gfn % FRAMES_PER_BLOCK }
    }

    /// Whether what is aligned to a block in the guest is so in the VMM's address space too. Where it is not, KVM maps
    /// nothing of the slot by more than 4 KiB, whatever the VMM has (arch/x86/kvm/x86.c, kvm_alloc_memslot_metadata,
    /// disallow_lpage, 6.1 and 6.12).
    pub(super) fn is_aligned(&self) -> bool {
        self.first_page % FRAMES_PER_BLOCK == self.lead
    }

    /// Blocks it has frames of.
    pub(super) fn blocks(&self) -> usize {
        usize::try_from((self.lead + self.frames).div_ceil(FRAMES_PER_BLOCK)).unwrap_or(0)
    }

    /// The block, counted from the piece's first, that holds a frame, counted from the piece's first.
    pub(super) fn block_of(&self, frame: u64) -> usize {
        usize::try_from((self.lead + frame) / FRAMES_PER_BLOCK).unwrap_or(usize::MAX)
    }

    /// Where in its block a frame is that is counted from the piece's first, 0..512.
    pub(super) fn place_in_block(&self, frame: u64) -> u64 {
        (self.lead + frame) % FRAMES_PER_BLOCK
    }

    /// The piece's frames of some of its blocks, counted from the piece's first.
    pub(super) fn frames_of(&self, blocks: Range<usize>) -> Range<u64> {
        let edge =
            |block: usize| (block as u64 * FRAMES_PER_BLOCK).saturating_sub(self.lead).min(self.frames);
        edge(blocks.start)..edge(blocks.end)
    }

    /// Calls `each` with a block and how many frames of it are in the range.
    pub(super) fn split(&self, frames: Range<u64>, mut each: impl FnMut(usize, u16)) {
        let mut at = frames.start;
        while at < frames.end.min(self.frames) {
            let block = self.block_of(at);
            let end = self.frames_of(block..block + 1).end.min(frames.end);
            each(block, u16::try_from(end - at).unwrap_or(u16::MAX));
            at = end;
        }
    }
}

/// What of the segment lies in the `blocks` blocks from `first` on. With each piece: the number of its first block,
/// counted from `first`.
pub(super) fn pieces(
    segment: &Segment,
    first: BlockId,
    blocks: usize,
) -> impl Iterator<Item = (usize, Piece)> {
    let base = segment.base_gfn.get();
    let wanted = first.get().saturating_mul(FRAMES_PER_BLOCK);
    let wanted_end = wanted.saturating_add((blocks as u64).saturating_mul(FRAMES_PER_BLOCK));
    let end = base.saturating_add(segment.npages).min(wanted_end);
    let (hva, file_offset) = (segment.hva.get(), segment.file_offset);
    let mut gfn = base.max(wanted);
    std::iter::from_fn(move || {
        if gfn >= end {
            return None;
        }
        let block = gfn / FRAMES_PER_BLOCK;
        let stop = end.min((block + MAX_BLOCKS) * FRAMES_PER_BLOCK);
        let piece = Piece {
            first_page: hva / FRAME_SIZE + (gfn - base),
            frames: stop - gfn,
            file_offset: file_offset + (gfn - base) * FRAME_SIZE,
            lead: gfn % FRAMES_PER_BLOCK,
        };
        gfn = stop;
        usize::try_from(block - first.get()).ok().map(|at| (at, piece))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::backing::{BackingKind, VmaFlags};
    use crate::model::ids::{Gfn, Hva};

    proptest! {
        #[test]
        fn pieces_are_the_wanted_frames_each_once(
            base in 0..2000_u64,
            npages in 0..100_000_u64,
            page in 0..1_u64 << 36,
            first in 0..300_u64,
            blocks in 0..300_usize,
        ) {
            let segment = Segment {
                base_gfn: Gfn::new(base),
                npages,
                hva: Hva::new(page * FRAME_SIZE),
                vma_start: Hva::new(0),
                vma_end: Hva::new(0),
                file_offset: 8 * FRAME_SIZE,
                dev: 0,
                inode: 0,
                kind: BackingKind::Memfd,
                shared: true,
                writable: true,
                page_size: FRAME_SIZE,
                flags: VmaFlags::default(),
            };
            let wanted = first * FRAMES_PER_BLOCK..(first + blocks as u64) * FRAMES_PER_BLOCK;
            let mut next = base.max(wanted.start);
            for (at, piece) in pieces(&segment, BlockId::new(first), blocks) {
                prop_assert!(piece.frames > 0 && piece.blocks() as u64 <= MAX_BLOCKS);
                prop_assert_eq!(piece.first_page, page + next - base);
                prop_assert_eq!(piece.file_offset, (8 + next - base) * FRAME_SIZE);
                prop_assert_eq!(at as u64, next / FRAMES_PER_BLOCK - first);
                prop_assert!(at + piece.blocks() <= blocks);
                let mut counted = vec![0; piece.blocks()];
                piece.split(0..piece.frames, |block, frames| counted[block] += u64::from(frames));
                for (block, frames) in counted.iter().enumerate() {
                    let expected = piece.frames_of(block..block + 1);
                    prop_assert_eq!(*frames, expected.end - expected.start);
                    prop_assert!((1..=FRAMES_PER_BLOCK).contains(frames));
                }
                next += piece.frames;
            }
            prop_assert_eq!(next.max(base.max(wanted.start)), (base + npages).min(wanted.end).max(base.max(wanted.start)));
        }
    }
}
