//! What the VMM has behind guest RAM, read off the main loop: how blocks that were touched before
//! the probes were there become known.

use std::sync::Arc;

use super::clock;
use crate::ingest::IngestError;
use crate::ingest::residency::{BlockResidency, ResidencyReader};
use crate::ingest::vmm::Vmm;
use crate::model::ids::Gfn;
use crate::reclaim::guards::VmFacts;

/// Resident frames per block of every followed slot.
pub(super) struct Baseline {
    /// When reading began, ns of CLOCK_MONOTONIC.
    pub(super) taken_ns: u64,
    /// By position of the slot.
    pub(super) slots: Vec<(usize, Vec<u16>)>,
}

/// Reads it. Takes a few milliseconds for each GiB of guest RAM: call it where nothing waits for it.
pub(super) fn read(vmm: &Arc<Vmm>, facts: &VmFacts) -> Result<Baseline, IngestError> {
    let taken_ns = clock::monotonic_ns();
    let mut reader = ResidencyReader::open(vmm)?;
    let mut slots = Vec::new();
    for (position, slot) in facts.slots.iter().enumerate().filter(|(_, slot)| slot.followed) {
        let first = slot.base_gfn.block();
        let last = Gfn::new(slot.base_gfn.get() + slot.npages.max(1) - 1).block();
        let blocks = usize::try_from(last.get() - first.get() + 1).unwrap_or(0);
        let mut found = vec![BlockResidency::default(); blocks];
        reader.read(&slot.segments, first, &mut found)?;
        slots.push((position, found.iter().map(BlockResidency::frames).collect()));
    }
    Ok(Baseline { taken_ns, slots })
}
