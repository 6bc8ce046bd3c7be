//! The states of a slot's blocks, shared between the model and the pictures of it: a copy costs a pointer for each
//! 256 MiB of guest memory, and only those that change afterwards are copied.

use std::sync::Arc;

use super::block::BlockState;

/// Blocks that are copied together: 256 MiB of guest memory, 1 KiB of states.
const CHUNK: usize = 128;

/// States by number of the block in its slot.
#[derive(Debug, Clone, Default)]
pub struct BlockMap {
    chunks: Vec<Arc<[BlockState; CHUNK]>>,
    len: usize,
}

impl BlockMap {
    /// `len` blocks that were never touched.
    #[must_use]
    pub fn untouched(len: usize) -> Self {
        // One chunk for all until they differ.
        let empty = Arc::new([BlockState::default(); CHUNK]);
        Self { chunks: vec![empty; len.div_ceil(CHUNK)], len }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The state of block `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<BlockState> {
        let chunk = self.chunks.get(index / CHUNK).filter(|_| index < self.len)?;
        Some(chunk[index % CHUNK])
    }

    /// Changes the state of block `index`; nothing past the end.
    pub fn set(&mut self, index: usize, state: BlockState) {
        if index < self.len
            && let Some(chunk) = self.chunks.get_mut(index / CHUNK)
            && chunk[index % CHUNK] != state
        {
            Arc::make_mut(chunk)[index % CHUNK] = state;
        }
    }

    /// All states in order.
    pub fn iter(&self) -> impl Iterator<Item = BlockState> + '_ {
        self.range(0, self.len)
    }

    /// The states of `count` blocks from `first` on, as far as there are any.
    pub fn range(&self, first: usize, count: usize) -> impl Iterator<Item = BlockState> + '_ {
        let first = first.min(self.len);
        let end = first.saturating_add(count).min(self.len);
        let chunks = first / CHUNK..end.div_ceil(CHUNK).max(first / CHUNK);
        self.chunks[chunks.clone()].iter().zip(chunks).flat_map(move |(chunk, number)| {
            let start = number * CHUNK;
            chunk[first.saturating_sub(start).min(CHUNK)..(end - start).min(CHUNK)].iter().copied()
        })
    }
}

impl FromIterator<BlockState> for BlockMap {
    fn from_iter<I: IntoIterator<Item = BlockState>>(states: I) -> Self {
        let mut map = Self::default();
        let mut chunk = Vec::with_capacity(CHUNK);
        let close = |chunk: &mut Vec<BlockState>, map: &mut Self| {
            map.len += chunk.len();
            chunk.resize(CHUNK, BlockState::default());
            if let Ok(full) = <[BlockState; CHUNK]>::try_from(std::mem::take(chunk)) {
                map.chunks.push(Arc::new(full));
            }
        };
        for state in states {
            chunk.push(state);
            if chunk.len() == CHUNK {
                close(&mut chunk, &mut map);
            }
        }
        if !chunk.is_empty() {
            close(&mut chunk, &mut map);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn state(frames: u16) -> BlockState {
        BlockState { resident_frames: frames, ..BlockState::default() }
    }

    #[test]
    fn a_copy_stays_as_it_was() {
        let mut map = BlockMap::untouched(1500);
        let before = map.clone();
        map.set(1499, state(7));
        map.set(1500, state(9));
        assert_eq!((map.get(1499), before.get(1499), map.get(1500)), (Some(state(7)), Some(state(0)), None));
        assert!(Arc::ptr_eq(&map.chunks[0], &before.chunks[0]), "what did not change is shared");
        assert!(BlockMap::untouched(0).iter().next().is_none());
    }

    proptest! {
        #[test]
        fn it_is_a_list(states in proptest::collection::vec(0..512_u16, 0..1600), first in 0..1700_usize, count in 0..1700_usize) {
            let map: BlockMap = states.iter().map(|frames| state(*frames)).collect();
            prop_assert_eq!(map.len(), states.len());
            prop_assert!(map.iter().map(|state| state.resident_frames).eq(states.iter().copied()));
            let part = map.range(first, count).map(|state| state.resident_frames);
            prop_assert!(part.eq(states.iter().copied().skip(first).take(count)));
        }
    }
}
