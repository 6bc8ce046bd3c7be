//! What the shared table shows of a VM's memory while it is taken.
//!
//! Input: the table and where the VM's slots are in it. Output: answers to the executor. Reads only.

use imr_common::host_abi::FRAMES_PER_BLOCK;

use crate::ingest::tables::Tables;
use crate::model::ids::{FRAME_SIZE, Gfn};
use crate::reclaim::executor::Witness;
use crate::reclaim::guards::SlotFacts;

/// One VM in the table.
pub(super) struct TableWitness<'a> {
    pub(super) tables: &'a Tables,
    pub(super) index: u32,
    pub(super) slots: &'a [SlotFacts],
    /// The block that holds each slot's first frame; `None` for slots that are not followed.
    pub(super) block_bases: &'a [Option<u64>],
    /// Whether each invalidation is known to be of which VM.
    pub(super) sees_unmaps: bool,
}

impl Witness for TableWitness<'_> {
    fn mapped_bytes(&self, base_gfn: Gfn, npages: u64) -> u64 {
        let (first, end) = (base_gfn.get(), base_gfn.get().saturating_add(npages));
        let mut frames = 0;
        for (slot, base) in self.slots.iter().zip(self.block_bases) {
            let Some(base) = base else { continue };
            let start = slot.base_gfn.get();
            let (from, to) = (first.max(start), end.min(start + slot.npages));
            let mut gfn = from;
            while gfn < to {
                let block = gfn / FRAMES_PER_BLOCK;
                let stop = ((block + 1) * FRAMES_PER_BLOCK).min(to);
                let record = self.tables.block(base + (block - start / FRAMES_PER_BLOCK));
                frames += mapped(&record.mapped, gfn % FRAMES_PER_BLOCK, stop - gfn);
                gfn = stop;
            }
        }
        frames * FRAME_SIZE
    }

    fn invalidations(&self) -> Option<u64> {
        self.sees_unmaps.then(|| self.tables.unmaps(self.index))
    }
}

/// Bits set among `count` from `first` on.
fn mapped(words: &[u64; 8], first: u64, count: u64) -> u64 {
    let bits = u64::from(u64::BITS);
    let of_word = |(at, word): (u64, &u64)| {
        let from = first.max(at * bits);
        let to = (first + count).min((at + 1) * bits);
        match to.checked_sub(from) {
            None | Some(0) => 0,
            Some(len) => u64::from((word >> (from % bits) << (bits - len)).count_ones()),
        }
    };
    (0..).zip(words).map(of_word).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_are_counted_in_their_slots_only() {
        let tables = Tables::in_memory(8).unwrap();
        let slot = |base, npages| SlotFacts {
            base_gfn: Gfn::new(base),
            npages,
            readonly: false,
            followed: true,
            segments: Vec::new(),
        };
        // A slot that begins in the middle of a block, one right behind it that is elsewhere in the table, and one that
        // is not in it.
        let slots = [slot(256, 768), slot(1024, 512), slot(1536, 512)];
        let block_bases = [Some(1), Some(5), None];
        let witness = TableWitness {
            tables: &tables,
            index: 0,
            slots: &slots,
            block_bases: &block_bases,
            sees_unmaps: false,
        };
        assert_eq!((witness.mapped_bytes(Gfn::new(0), 4096), witness.invalidations()), (0, None));
        for (block, frame) in [(1, 0), (1, 256), (1, 511), (2, 0), (2, 511), (5, 0), (3, 7)] {
            tables.note_mapped(block, frame, 1);
        }
        let frames = |first, count| witness.mapped_bytes(Gfn::new(first), count) / FRAME_SIZE;
        assert_eq!(frames(0, 4096), 5, "frame 0 is in front of the first slot, block 3 in none");
        assert_eq!((frames(256, 256), frames(512, 512), frames(1024, 512)), (2, 2, 1));
        assert_eq!((frames(257, 254), frames(1023, 2), frames(u64::MAX, u64::MAX)), (0, 2, 0));
    }

    proptest! {
        #[test]
        fn bits_are_counted_one_by_one(words: [u64; 8], first in 0..512_u64, count in 0..=512_u64) {
            let count = count.min(512 - first);
            let bit = |at: u64| words[(at / 64) as usize] >> (at % 64) & 1;
            prop_assert_eq!(mapped(&words, first, count), (first..first + count).map(bit).sum::<u64>());
        }
    }
}
