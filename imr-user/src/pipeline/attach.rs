//! Who answers a guest: a number that no other process, VM or session of it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Hands out `attach_id`s: never zero, never the same twice. A guest that finds another one than before (it was migrated
/// to another VMM, or rolled back to a snapshot, under the same imr) knows that what it remembers of the host, memory
/// that was taken and requests that were made, is not so here.
#[derive(Debug, Clone)]
pub(super) struct AttachIds(Arc<AtomicU64>);

impl AttachIds {
    /// `start`: random, so that another process has others.
    pub(super) fn new(start: u64) -> Self {
        Self(Arc::new(AtomicU64::new(start)))
    }

    /// One more.
    pub(super) fn next(&self) -> u64 {
        match self.0.fetch_add(1, Relaxed) {
            // Nobody.
            0 => self.0.fetch_add(1, Relaxed),
            id => id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_zero_and_none_comes_twice() {
        let ids = AttachIds::new(u64::MAX);
        let other = ids.clone();
        assert_eq!([ids.next(), other.next(), ids.next()], [u64::MAX, 1, 2]);
    }
}
