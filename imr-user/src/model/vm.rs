//! One VM: its slots, the two axes of each of its blocks, what they add up to, and its counters.
//!
//! Input: slots, block readings, offers, outcomes and baselines, each with its CLOCK_MONOTONIC time. Output:
//! [`VmSnapshot`]. A block becomes reclaimed only by an outcome, refaulted only by memory that came after it.

use super::block::{GuestClaim, HostFact, Residency};
use super::blocks::BlockMap;
use super::free_memory::FreeMemory;
use super::ids::{BlockId, FRAME_SIZE, FRAMES_PER_BLOCK, Gfn, Hva, Pid, VmId};
use super::latency::Stages;
use super::pageout::Pageout;
use super::regret::{FreeHeld, Refaults, VmPressure};
pub use super::slot::{BLOCK_BYTES, BlockReading};
use super::slot::{Ledger, SlotBlocks};
use super::snapshot::{
    BlockDetail, DriftCounters, GuestStatus, OfferCounters, PolicyName, ReclaimStatus, ReturnCounters,
    SlotSnapshot, VmSnapshot,
};
use super::sums::CrossTable;

/// Longest name kept, characters.
const NAME_CHARS: usize = 64;

/// A memslot as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotDescription {
    /// Slot id of KVM.
    pub id: i32,
    /// First frame.
    pub base_gfn: Gfn,
    /// Length, frames.
    pub npages: u64,
    /// Where the VMM has it mapped.
    pub userspace_addr: Hva,
    /// What backs it, for people.
    pub backing: String,
    /// Read-only slot.
    pub readonly: bool,
    /// Guest RAM whose blocks are followed.
    pub followed: bool,
    /// Whether its memory can be taken.
    pub reclaim: ReclaimStatus,
}

/// A block by its slot's position in the layout and its own number in the slot.
pub type BlockAt = (usize, usize);

/// One VM.
#[derive(Debug, Clone)]
pub struct VmModel {
    id: VmId,
    pid: Pid,
    name: String,
    slots: Vec<SlotBlocks>,
    /// Raised with each new slot layout.
    layout: u64,
    cross: CrossTable,
    /// What is done with its offers.
    pub policy: PolicyName,
    /// What the guest module is doing.
    pub guest: GuestStatus,
    /// Whether its memory can be reclaimed.
    pub reclaim: ReclaimStatus,
    /// How its idle memory is swapped out.
    pub pageout: Pageout,
    /// Offers and how they ended.
    pub offers: OfferCounters,
    /// Whether what was taken came back.
    pub returns: ReturnCounters,
    /// How long each stage of an offer took.
    pub stages: Stages,
    /// Free memory by the guest's own statistics, bytes.
    pub guest_free_bytes: u64,
    /// What it is good for.
    pub free_memory: Option<FreeMemory>,
    /// Times that the guest was asked to compact.
    pub compact_requests: u64,
    /// Offered since the start, bytes.
    pub offered_bytes: u64,
    /// Given back since the start as measured, bytes.
    pub reclaimed_bytes: u64,
    /// What policy pressure makes of it.
    pub pressure: VmPressure,
    drift: DriftCounters,
    refaults: Refaults,
    page_faults: u64,
    faults_per_s: f64,
    sampled_ns: Option<u64>,
}

impl VmModel {
    /// A VM without slots. In its name, which the VMM's owner chose, nothing that a terminal obeys is kept.
    #[must_use]
    pub fn new(id: VmId, pid: Pid, name: &str, policy: PolicyName) -> Self {
        Self {
            id,
            pid,
            name: name.chars().take(NAME_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect(),
            slots: Vec::new(),
            layout: 0,
            cross: CrossTable::default(),
            policy,
            guest: GuestStatus::NoModule,
            reclaim: ReclaimStatus::Forbidden { guard: "starting".into(), why: "not looked at yet".into() },
            pageout: Pageout::default(),
            offers: OfferCounters::default(),
            returns: ReturnCounters::default(),
            stages: Stages::default(),
            guest_free_bytes: 0,
            free_memory: None,
            compact_requests: 0,
            offered_bytes: 0,
            reclaimed_bytes: 0,
            pressure: VmPressure::default(),
            drift: DriftCounters::default(),
            refaults: Refaults::default(),
            page_faults: 0,
            faults_per_s: 0.0,
            sampled_ns: None,
        }
    }

    /// Identity of the VM.
    #[must_use]
    pub fn id(&self) -> VmId {
        self.id
    }

    /// Its VMM.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Guest RAM in all followed slots, bytes.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        let followed = self.slots.iter().filter(|slot| slot.description.followed);
        followed.map(|slot| slot.description.npages * FRAME_SIZE).sum()
    }

    /// Bytes that refaulted since the start.
    #[must_use]
    pub fn refaulted_bytes(&self) -> u64 {
        self.refaults.refaulted_frames * FRAME_SIZE
    }

    /// Bytes of blocks that became reclaimed, since the start.
    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        self.refaults.taken_frames * FRAME_SIZE
    }

    /// Bytes of those that refaulted soon, since the start.
    #[must_use]
    pub fn soon_refaulted_bytes(&self) -> u64 {
        self.refaults.soon_frames * FRAME_SIZE
    }

    /// How soon after its reclaim a refault counts as soon, ms; of refaults from now on.
    pub fn set_soon_ms(&mut self, soon_ms: u64) {
        self.refaults.soon_ms = soon_ms;
    }

    /// Guest RAM with memory of the host behind it, in RAM or in swap, bytes.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let total = self.cross.total();
        total.resident_bytes() + total.swapped_bytes() + total.merged_bytes()
    }

    /// What the guest says is free and the host still holds. Looks at every block, so not for every sample.
    #[must_use]
    pub fn free_held(&self, now_ns: u64) -> FreeHeld {
        let mut sum = FreeHeld::default();
        self.slots.iter().for_each(|slot| slot.add_free_held(now_ns, &mut sum));
        sum
    }

    /// What its blocks add up to.
    #[must_use]
    pub fn cross(&self) -> &CrossTable {
        &self.cross
    }

    /// Blocks in each slot, by position; none in slots that are not followed.
    pub fn block_counts(&self) -> impl Iterator<Item = usize> + '_ {
        self.slots.iter().map(|slot| slot.states().len())
    }

    /// The states of the blocks of each slot, by position.
    #[must_use]
    pub fn block_maps(&self) -> Vec<BlockMap> {
        self.slots.iter().map(|slot| BlockMap::clone(slot.states())).collect()
    }

    /// Number of the present slot layout; a reading that was begun under another one is of no use.
    #[must_use]
    pub fn layout(&self) -> u64 {
        self.layout
    }

    /// Takes over a new slot layout; blocks of slots that stayed as they were keep what is known of them.
    pub fn set_slots(&mut self, slots: Vec<SlotDescription>) {
        self.layout += 1;
        let mut old = std::mem::take(&mut self.slots);
        self.slots = slots
            .into_iter()
            .map(|description| {
                match old.iter().position(|slot| same_memory(&slot.description, &description)) {
                    Some(at) => old.swap_remove(at).described(description),
                    None => SlotBlocks::new(description, &mut self.cross),
                }
            })
            .collect();
        for slot in old {
            slot.leave(&mut self.cross);
        }
    }

    /// The guest said that these frames are free. `read` gives the shared table's word on a block.
    pub fn offered(
        &mut self,
        base_gfn: Gfn,
        npages: u64,
        now_ns: u64,
        mut read: impl FnMut(BlockAt) -> BlockReading,
    ) {
        self.offered_bytes = self.offered_bytes.saturating_add(npages.saturating_mul(FRAME_SIZE));
        self.whole_blocks(base_gfn, npages, now_ns, |at, slot, ledger| {
            // What was touched before the offer must not look like touched after it.
            slot.look(at.1, read(at), ledger);
            slot.offer(at.1, ledger);
        });
    }

    /// The memory of these frames was given back to the host, not later than `at_ns`.
    pub fn reclaimed(&mut self, base_gfn: Gfn, npages: u64, at_ns: u64) {
        self.whole_blocks(base_gfn, npages, at_ns, |at, slot, ledger| slot.take_back(at.1, at_ns, ledger));
    }

    /// The VM was reset or restored: what its guest said counts for nothing.
    pub fn forget_claims(&mut self, now_ns: u64) {
        // A guest can bring resets about as often as it likes.
        if self.cross.sum(|claim, _| claim != GuestClaim::Unknown).blocks == 0 {
            return;
        }
        self.each_slot(now_ns, |_, slot, ledger| slot.forget_claims(ledger));
    }

    /// Takes over what the shared table says of a block that has changed.
    pub fn look(&mut self, (slot, index): BlockAt, reading: BlockReading, now_ns: u64) {
        let Self { slots, cross, refaults, .. } = self;
        if let Some(slot) = slots.get_mut(slot) {
            slot.look(index, reading, &mut Ledger { cross, refaults, now_ns });
        }
    }

    /// `count` blocks of a slot from `first` on are read from now on. One reading a VM at a time.
    pub fn begin_baseline(&mut self, slot: usize, first: usize, count: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.begin_baseline(first, count);
        }
    }

    /// Takes over what that reading gave. The table must have been looked at just before; see
    /// [`BlockReading`] for `read`; `stale` gets each block that the table calls mapped though nothing is there.
    pub fn end_baseline(
        &mut self,
        slot: usize,
        truth: &[Residency],
        now_ns: u64,
        read: impl FnMut(usize) -> BlockReading,
        stale: impl FnMut(usize),
    ) {
        let Self { slots, cross, refaults, drift, .. } = self;
        if let Some(slot) = slots.get_mut(slot) {
            let mut ledger = Ledger { cross, refaults, now_ns };
            slot.end_baseline(truth, read, stale, drift, &mut ledger);
        }
    }

    /// Takes over the counter of page faults; the rate is over the time since the last call.
    pub fn sample_faults(&mut self, page_faults: u64, now_ns: u64) {
        if let Some(before_ns) = self.sampled_ns {
            let seconds = now_ns.saturating_sub(before_ns) as f64 / 1e9;
            if seconds > 0.0 {
                self.faults_per_s = page_faults.saturating_sub(self.page_faults) as f64 / seconds;
            }
        }
        self.sampled_ns = Some(now_ns);
        self.page_faults = page_faults;
    }

    /// All that is known of one block; `None` where no followed slot has it. Where two slots share a block, the one
    /// that has more of it.
    #[must_use]
    pub fn block(&self, block: BlockId, now_ns: u64) -> Option<BlockDetail> {
        let holding = self.slots.iter().filter_map(|slot| slot.index_of(block).map(|index| (slot, index)));
        let (slot, index) = holding.max_by_key(|(slot, index)| slot.frames_of(*index))?;
        Some(BlockDetail {
            vm: self.id,
            block,
            slot: slot.description.id,
            frames: slot.frames_of(index),
            state: slot.states().get(index)?,
            life: slot.life(index, now_ns),
        })
    }

    /// The picture of this VM.
    #[must_use]
    pub fn snapshot(&self) -> VmSnapshot {
        let total = self.cross.total();
        let of = |fact: HostFact| self.cross.sum(|_, other| other == fact);
        VmSnapshot {
            id: self.id,
            pid: self.pid,
            name: self.name.clone(),
            policy: self.policy,
            ram_bytes: self.ram_bytes(),
            resident_bytes: total.resident_bytes(),
            swapped_bytes: total.swapped_bytes(),
            merged_bytes: total.merged_bytes(),
            idle_bytes: of(HostFact::Idle).resident_bytes(),
            free_held_bytes: self.cross.sum(|claim, _| claim == GuestClaim::Free).resident_bytes(),
            guest_free_bytes: self.guest_free_bytes,
            free_memory: self.free_memory,
            compact_requests: self.compact_requests,
            offered_bytes: self.offered_bytes,
            reclaimed_bytes: self.reclaimed_bytes,
            reclaimed_now_bytes: of(HostFact::Reclaimed).bytes(),
            refaulted_bytes: self.refaulted_bytes(),
            soon_refaulted_bytes: self.soon_refaulted_bytes(),
            pressure: self.pressure,
            faults_per_s: self.faults_per_s,
            page_faults: self.page_faults,
            cross: self.cross,
            guest: self.guest.clone(),
            offers: self.offers,
            returns: self.returns,
            latency: self.stages.summary(),
            reclaim: self.reclaim.clone(),
            pageout: self.pageout.clone(),
            drift: self.drift,
            slots: self.slots.iter().map(snapshot_of).collect(),
        }
    }

    fn each_slot(&mut self, now_ns: u64, mut change: impl FnMut(usize, &mut SlotBlocks, &mut Ledger<'_>)) {
        let Self { slots, cross, refaults, .. } = self;
        let mut ledger = Ledger { cross, refaults, now_ns };
        for (position, slot) in slots.iter_mut().enumerate() {
            change(position, slot, &mut ledger);
        }
    }

    fn whole_blocks(
        &mut self,
        base_gfn: Gfn,
        npages: u64,
        now_ns: u64,
        mut change: impl FnMut(BlockAt, &mut SlotBlocks, &mut Ledger<'_>),
    ) {
        let Some(end) = base_gfn.get().checked_add(npages) else { return };
        self.each_slot(now_ns, |position, slot, ledger| {
            let start = slot.description.base_gfn.get();
            let from = base_gfn.get().max(start).div_ceil(FRAMES_PER_BLOCK);
            let to = end.min(start + slot.description.npages) / FRAMES_PER_BLOCK;
            for block in from..to {
                if let Some(index) = slot.index_of(BlockId::new(block)) {
                    change((position, index), slot, ledger);
                }
            }
        });
    }
}

fn snapshot_of(slot: &SlotBlocks) -> SlotSnapshot {
    let description = &slot.description;
    SlotSnapshot {
        id: description.id,
        base_gfn: description.base_gfn,
        npages: description.npages,
        userspace_addr: description.userspace_addr,
        backing: description.backing.clone(),
        readonly: description.readonly,
        reclaim: description.reclaim.clone(),
        blocks: BlockMap::clone(slot.states()),
    }
}

fn same_memory(one: &SlotDescription, other: &SlotDescription) -> bool {
    (one.base_gfn, one.npages, one.userspace_addr, one.followed)
        == (other.base_gfn, other.npages, other.userspace_addr, other.followed)
}

#[cfg(test)]
mod tests;
