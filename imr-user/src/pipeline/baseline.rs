//! What the VMM's page tables say of guest RAM, read off the main loop: how blocks that were touched before
//! the probes were there become known.

use std::sync::Arc;

use super::clock;
use crate::ingest::IngestError;
use crate::ingest::vmm::Vmm;
use crate::model::ids::{FRAMES_PER_BLOCK, Gfn};
use crate::reclaim::guards::VmFacts;

/// Resident frames per block of every followed slot.
pub(super) struct Baseline {
    /// When reading began, ns of CLOCK_MONOTONIC.
    pub(super) taken_ns: u64,
    /// By position of the slot.
    pub(super) slots: Vec<(usize, Vec<u16>)>,
}

/// Reads it. Takes about 5 ms for each GiB of guest RAM: call it where nothing waits for it.
pub(super) fn read(vmm: &Arc<Vmm>, facts: &VmFacts) -> Result<Baseline, IngestError> {
    let taken_ns = clock::monotonic_ns();
    let mut slots = Vec::new();
    for (position, slot) in facts.slots.iter().enumerate().filter(|(_, slot)| slot.followed) {
        let first = slot.base_gfn.block().get();
        let last = Gfn::new(slot.base_gfn.get() + slot.npages.max(1) - 1).block().get();
        let mut frames = vec![0_u16; usize::try_from(last - first + 1).unwrap_or(0)];
        for segment in &slot.segments {
            vmm.resident_frames(segment, |gfn| {
                let block = gfn.get() / FRAMES_PER_BLOCK - first;
                if let Some(count) = usize::try_from(block).ok().and_then(|block| frames.get_mut(block)) {
                    *count += 1;
                }
            })?;
        }
        slots.push((position, frames));
    }
    Ok(Baseline { taken_ns, slots })
}
