//! Since when offered memory has been free, as far as the host can know: since it was first offered without having
//! been touched since.
//!
//! Input: offered ranges and what the shared table says of their blocks. Output: how long each range has been free. Four
//! bytes a block of guest RAM that was ever offered and kept, a GiB at a time.

use std::collections::BTreeMap;

use crate::model::ids::{BlockId, FRAMES_PER_BLOCK, Gfn};

/// Blocks that are kept together.
const CHUNK: u64 = 512;
/// Bytes that a block of RAM costs at most.
pub const FREE_SINCE_BYTES: usize = size_of::<u32>();
const SECOND_NS: u64 = 1_000_000_000;

/// What is known of a block besides the guest's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// It is guest RAM that is followed; of anything else nothing is kept.
    pub ram: bool,
    /// When it was last seen to be touched, ns; 0: never.
    pub touched_ns: u64,
}

/// What is known of a free range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreeFor {
    /// How long all of it has been free, s.
    pub seconds: u64,
    /// When any of it was last seen to be touched, ns.
    pub touched_ns: u64,
}

/// Since when each block has been free.
#[derive(Debug, Clone, Default)]
pub struct FreeSince {
    /// Seconds, one more than they are; 0: not known to be free.
    chunks: BTreeMap<u64, Box<[u32; CHUNK as usize]>>,
}

impl FreeSince {
    /// Notes that these frames are free, and says for how long.
    pub fn note(
        &mut self,
        now_ns: u64,
        (base_gfn, npages): (Gfn, u64),
        seen: impl Fn(BlockId) -> Seen,
    ) -> FreeFor {
        let now = whole_seconds(now_ns);
        let mut range = FreeFor { seconds: u64::from(now), touched_ns: 0 };
        for block in blocks(base_gfn, npages) {
            let Seen { ram, touched_ns } = seen(BlockId::new(block));
            if !ram {
                // No guest should offer it, and it may be any number: the guards will say so.
                return FreeFor::default();
            }
            let chunk = self.chunks.entry(block / CHUNK).or_insert_with(|| Box::new([0; CHUNK as usize]));
            let since = &mut chunk[(block % CHUNK) as usize];
            // Touched within the same second: that may have been before.
            if *since == 0 || whole_seconds(touched_ns) >= *since {
                *since = now.saturating_add(1);
            }
            range.seconds = range.seconds.min(u64::from(now.saturating_sub(*since - 1)));
            range.touched_ns = range.touched_ns.max(touched_ns);
        }
        range
    }

    /// They were taken: the next offer of them is of memory that was used in between.
    pub fn forget(&mut self, base_gfn: Gfn, npages: u64) {
        for block in blocks(base_gfn, npages) {
            if let Some(chunk) = self.chunks.get_mut(&(block / CHUNK)) {
                chunk[(block % CHUNK) as usize] = 0;
            }
        }
    }

    /// The VM was reset or has other slots: what its guest said counts for nothing.
    pub fn clear(&mut self) {
        self.chunks.clear();
    }
}

fn whole_seconds(ns: u64) -> u32 {
    u32::try_from(ns / SECOND_NS).unwrap_or(u32::MAX - 1)
}

/// Blocks that the frames lie in.
fn blocks(base_gfn: Gfn, npages: u64) -> std::ops::Range<u64> {
    let end = base_gfn.get().saturating_add(npages);
    base_gfn.get() / FRAMES_PER_BLOCK..end.div_ceil(FRAMES_PER_BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: u64) -> u64 {
        second * SECOND_NS
    }

    fn touched(second: u64) -> impl Fn(BlockId) -> Seen {
        move |_| Seen { ram: true, touched_ns: at(second) }
    }

    #[test]
    fn free_since_it_was_offered_first_unless_it_was_touched() {
        let mut free = FreeSince::default();
        let range = (Gfn::new(512), 1024);
        assert_eq!(free.note(at(100), range, touched(90)).seconds, 0);
        assert_eq!(free.note(at(130), range, touched(90)).seconds, 30);
        let wider = (Gfn::new(512), 1536);
        assert_eq!(free.note(at(131), wider, touched(90)).seconds, 0, "a part of it is new");
        assert_eq!(free.note(at(140), range, touched(90)).seconds, 40);
        let again = free.note(at(150), range, touched(145));
        assert_eq!((again.seconds, again.touched_ns), (0, at(145)));
        assert_eq!(free.note(at(160), range, touched(145)).seconds, 10);
        free.forget(range.0, range.1);
        assert_eq!(free.note(at(170), range, touched(145)).seconds, 0);
        free.clear();
        assert!(free.chunks.is_empty());
    }

    #[test]
    fn nothing_is_kept_of_what_is_no_ram() {
        let mut free = FreeSince::default();
        let huge = free.note(at(5), (Gfn::new(u64::MAX - 5), u64::MAX), |_| Seen::default());
        assert_eq!(huge, FreeFor::default());
        assert!(free.chunks.is_empty());
    }
}
