//! From the shared table to the model: only the blocks that changed are looked at.

use std::ops::Range;

use imr_common::host_abi::BlockRecord;

use crate::ingest::tables::Tables;
use crate::model::vm::{BlockReading, VmModel};

/// Takes over what has changed in the table. `blocks_of` gives the place of a slot's blocks in it, by the slot's
/// position and its number of blocks; `None` for slots that are not followed. `young_since`: see
/// [`reading`].
pub fn at_changes(
    model: &mut VmModel,
    tables: &Tables,
    blocks_of: impl Fn(usize, usize) -> Option<Range<u64>>,
    young_since: Option<u64>,
    now_ns: u64,
) {
    let counts: Vec<usize> = model.block_counts().collect();
    for (slot, count) in counts.into_iter().enumerate() {
        let Some(blocks) = blocks_of(slot, count) else { continue };
        let base = blocks.start;
        tables.take_changed(blocks, |index, record| {
            let block = usize::try_from(index - base).unwrap_or(usize::MAX);
            model.look((slot, block), reading(&record, young_since), now_ns);
        });
    }
}

/// The table's word on a block, as the model takes it. `young_since` is since when idleness scans are followed, ns: what
/// was touched before, nobody knows. `None` where the MMU does not show what a scan found accessed; nothing is idle
/// then, or memory that is touched all the time would look untouched.
#[must_use]
pub fn reading(record: &BlockRecord, young_since: Option<u64>) -> BlockReading {
    BlockReading {
        mapped_frames: record.mapped_frames(),
        large: record.is_large(),
        last_map_ns: record.last_map_ns(),
        last_young_ns: record.last_young_ns().max(young_since.unwrap_or(0)),
        last_age_ns: if young_since.is_some() { record.last_age_ns() } else { 0 },
    }
}

#[cfg(test)]
mod tests {
    use imr_common::host_abi::coarse;

    use super::*;
    use crate::model::block::IDLE_NS;

    #[test]
    fn nothing_is_idle_by_scans_that_nobody_saw() {
        let since = 100 * IDLE_NS;
        let aged = |ns| BlockRecord { last_age: coarse(ns), ..BlockRecord::default() };
        let soon = aged(since + IDLE_NS / 2);
        assert!(reading(&soon, Some(0)).is_idle());
        assert!(!reading(&soon, Some(since)).is_idle(), "the first scan says nothing of the time before");
        assert!(!reading(&soon, None).is_idle());
        assert!(reading(&aged(since + 2 * IDLE_NS), Some(since)).is_idle());
    }
}
