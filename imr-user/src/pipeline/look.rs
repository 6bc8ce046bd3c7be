//! From the shared table to the model: only the blocks that changed are looked at.

use std::ops::Range;

use imr_common::host_abi::BlockRecord;

use crate::ingest::tables::Tables;
use crate::model::vm::{BlockReading, VmModel};

/// Takes over what has changed in the table. `blocks_of` gives the place of a slot's blocks in it, by the slot's
/// position and its number of blocks; `None` for slots that are not followed. `shows_young`: see
/// [`reading`].
pub fn at_changes(
    model: &mut VmModel,
    tables: &Tables,
    blocks_of: impl Fn(usize, usize) -> Option<Range<u64>>,
    shows_young: bool,
    now_ns: u64,
) {
    let counts: Vec<usize> = model.block_counts().collect();
    for (slot, count) in counts.into_iter().enumerate() {
        let Some(blocks) = blocks_of(slot, count) else { continue };
        let base = blocks.start;
        tables.take_changed(blocks, |index, record| {
            let block = usize::try_from(index - base).unwrap_or(usize::MAX);
            model.look((slot, block), reading(&record, shows_young), now_ns);
        });
    }
}

/// The table's word on a block, as the model takes it. Unless the MMU shows what idleness scans found accessed
/// (`shows_young`), nothing is idle: memory that is touched all the time would look untouched.
#[must_use]
pub fn reading(record: &BlockRecord, shows_young: bool) -> BlockReading {
    BlockReading {
        mapped_frames: record.mapped_frames(),
        large: record.is_large(),
        last_map_ns: record.last_map_ns(),
        last_young_ns: record.last_young_ns(),
        last_age_ns: if shows_young { record.last_age_ns() } else { 0 },
    }
}
