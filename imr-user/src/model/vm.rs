//! One VM: its slots, the two axes of each of its blocks, and its counters.
//!
//! Input: slots, block readings, offers and outcomes, each with its CLOCK_MONOTONIC time. Output:
//! [`VmSnapshot`]. A block becomes reclaimed only by an outcome, refaulted only by a mapping made after it.

use std::sync::Arc;

use super::block::{BlockState, GuestClaim, HostFact};
use super::ids::{BLOCK_SIZE, FRAME_SIZE, FRAMES_PER_BLOCK, Gfn, Hva, Pid, VmId};
use super::latency::LatencyWindow;
use super::snapshot::{GuestStatus, OfferCounters, ReclaimStatus, SlotSnapshot, VmSnapshot};

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
}

/// What the shared table says of a block.
#[derive(Debug, Clone, Copy, Default)]
pub struct BlockReading {
    /// Frames with a leaf SPTE, 0 to 512.
    pub mapped_frames: u16,
    /// When the newest SPTE was installed, ns; 0: never seen.
    pub last_map_ns: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    state: BlockState,
    /// Frames with memory at the last baseline; 0 after a reclaim.
    baseline_frames: u16,
    /// Frames counted as refaulted since the last reclaim.
    refaulted_frames: u16,
    /// When the guest offered it last, ns.
    offered_ns: u64,
    /// When it was reclaimed last, ns.
    reclaimed_ns: u64,
}

#[derive(Debug, Clone)]
struct Slot {
    description: SlotDescription,
    blocks: Vec<Block>,
}

/// One VM.
#[derive(Debug, Clone)]
pub struct VmModel {
    id: VmId,
    pid: Pid,
    name: String,
    slots: Vec<Slot>,
    /// What the guest module is doing.
    pub guest: GuestStatus,
    /// Whether its memory can be reclaimed.
    pub reclaim: ReclaimStatus,
    /// Offers and how they ended.
    pub offers: OfferCounters,
    /// Doorbell to done.
    pub offer_to_done: LatencyWindow,
    /// Free memory by the guest's own statistics, bytes.
    pub guest_free_bytes: u64,
    /// Offered since the start, bytes.
    pub offered_bytes: u64,
    /// Given back since the start as measured, bytes.
    pub reclaimed_bytes: u64,
    refaulted_bytes: u64,
    page_faults: u64,
    faults_per_s: f64,
    sampled_ns: Option<u64>,
}

impl VmModel {
    /// A VM without slots. In its name, which the VMM's owner chose, nothing that a terminal obeys is kept.
    #[must_use]
    pub fn new(id: VmId, pid: Pid, name: &str) -> Self {
        Self {
            id,
            pid,
            name: name.chars().take(NAME_CHARS).map(|c| if c.is_control() { '?' } else { c }).collect(),
            slots: Vec::new(),
            guest: GuestStatus::NoModule,
            reclaim: ReclaimStatus::Forbidden { guard: "starting".into(), why: "not looked at yet".into() },
            offers: OfferCounters::default(),
            offer_to_done: LatencyWindow::default(),
            guest_free_bytes: 0,
            offered_bytes: 0,
            reclaimed_bytes: 0,
            refaulted_bytes: 0,
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

    /// Takes over a new slot layout; blocks of slots that stayed as they were keep what is known of them.
    pub fn set_slots(&mut self, slots: Vec<SlotDescription>) {
        let mut old = std::mem::take(&mut self.slots);
        self.slots = slots
            .into_iter()
            .map(|description| {
                if let Some(at) = old.iter().position(|slot| same_memory(&slot.description, &description)) {
                    return Slot { blocks: old.swap_remove(at).blocks, description };
                }
                let count = if description.followed { blocks_of(&description) } else { 0 };
                Slot { blocks: vec![Block::default(); count], description }
            })
            .collect();
    }

    /// The guest said that these frames are free.
    pub fn offered(&mut self, base_gfn: Gfn, npages: u64, now_ns: u64) {
        self.offered_bytes = self.offered_bytes.saturating_add(npages.saturating_mul(FRAME_SIZE));
        self.whole_blocks(base_gfn, npages, |block| {
            block.state.claim = GuestClaim::Free;
            block.offered_ns = now_ns;
        });
    }

    /// The memory of these frames was given back to the host, not later than `now_ns`.
    pub fn reclaimed(&mut self, base_gfn: Gfn, npages: u64, now_ns: u64) {
        self.whole_blocks(base_gfn, npages, |block| {
            block.state.fact = HostFact::Reclaimed;
            block.state.resident_frames = 0;
            block.baseline_frames = 0;
            block.refaulted_frames = 0;
            block.reclaimed_ns = now_ns;
        });
    }

    /// The VM was reset or restored: what its guest said counts for nothing.
    pub fn forget_claims(&mut self) {
        for block in self.slots.iter_mut().flat_map(|slot| &mut slot.blocks) {
            block.state.claim = GuestClaim::Unknown;
        }
    }

    /// Compares every followed block with the shared table. `read` gets the slot's position in the layout and
    /// the block's number in the slot.
    pub fn refresh(&mut self, mut read: impl FnMut(usize, usize) -> BlockReading) {
        let mut refaulted_frames = 0;
        for (slot_index, slot) in self.slots.iter_mut().enumerate() {
            for (index, block) in slot.blocks.iter_mut().enumerate() {
                refaulted_frames += block.refresh(read(slot_index, index));
            }
        }
        self.refaulted_bytes += refaulted_frames * FRAME_SIZE;
    }

    /// Takes over what the VMM's page tables say: `frames[i]` frames of block `i` of the slot have memory.
    /// `taken_ns` is when reading began: blocks reclaimed after it are left alone.
    pub fn baseline(&mut self, slot_index: usize, first: usize, frames: &[u16], taken_ns: u64) {
        let Some(slot) = self.slots.get_mut(slot_index) else { return };
        for (block, &frames) in slot.blocks.iter_mut().skip(first).zip(frames) {
            if block.reclaimed_ns < taken_ns {
                block.baseline_frames = frames;
            }
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

    /// The picture of this VM.
    #[must_use]
    pub fn snapshot(&self) -> VmSnapshot {
        let mut resident_frames = 0;
        let mut reclaimed_now_bytes = 0;
        let mut slots = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            for block in &slot.blocks {
                resident_frames += u64::from(block.state.resident_frames);
                reclaimed_now_bytes += u64::from(block.state.fact == HostFact::Reclaimed) * BLOCK_SIZE;
            }
            slots.push(slot.snapshot());
        }
        VmSnapshot {
            id: self.id,
            pid: self.pid,
            name: self.name.clone(),
            ram_bytes: self.ram_bytes(),
            resident_bytes: resident_frames * FRAME_SIZE,
            guest_free_bytes: self.guest_free_bytes,
            offered_bytes: self.offered_bytes,
            reclaimed_bytes: self.reclaimed_bytes,
            reclaimed_now_bytes,
            refaulted_bytes: self.refaulted_bytes,
            faults_per_s: self.faults_per_s,
            page_faults: self.page_faults,
            guest: self.guest.clone(),
            offers: self.offers,
            offer_to_done: self.offer_to_done.summary(),
            reclaim: self.reclaim.clone(),
            slots,
        }
    }

    fn whole_blocks(&mut self, base_gfn: Gfn, npages: u64, mut change: impl FnMut(&mut Block)) {
        let Some(end) = base_gfn.get().checked_add(npages) else { return };
        for slot in &mut self.slots {
            let slot_start = slot.description.base_gfn.get();
            let first_block = slot.description.base_gfn.block().get();
            let slot_end = slot_start + slot.description.npages;
            let from = base_gfn.get().max(slot_start).div_ceil(FRAMES_PER_BLOCK);
            let to = end.min(slot_end) / FRAMES_PER_BLOCK;
            for block in from..to {
                let index = usize::try_from(block - first_block).ok();
                if let Some(block) = index.and_then(|index| slot.blocks.get_mut(index)) {
                    change(block);
                }
            }
        }
    }
}

impl Slot {
    fn snapshot(&self) -> SlotSnapshot {
        let description = &self.description;
        SlotSnapshot {
            id: description.id,
            base_gfn: description.base_gfn,
            npages: description.npages,
            userspace_addr: description.userspace_addr,
            backing: description.backing.clone(),
            readonly: description.readonly,
            blocks: self.blocks.iter().map(|block| block.state).collect::<Arc<[_]>>(),
        }
    }
}

impl Block {
    /// Returns the frames that refaulted since the last call.
    fn refresh(&mut self, reading: BlockReading) -> u64 {
        if self.state.claim == GuestClaim::Free && reading.last_map_ns > self.offered_ns {
            self.state.claim = GuestClaim::InUse;
        }
        let untouched = self.reclaimed_ns > 0 && reading.last_map_ns <= self.reclaimed_ns;
        if untouched {
            return 0;
        }
        let frames = reading.mapped_frames.max(self.baseline_frames);
        self.state.resident_frames = frames;
        match self.state.fact {
            HostFact::Reclaimed => self.state.fact = HostFact::Refaulted,
            HostFact::Untouched if frames > 0 => self.state.fact = HostFact::Resident,
            HostFact::Resident if frames == 0 => self.state.fact = HostFact::Untouched,
            _ => {}
        }
        if self.state.fact != HostFact::Refaulted {
            return 0;
        }
        let more = reading.mapped_frames.saturating_sub(self.refaulted_frames);
        self.refaulted_frames += more;
        u64::from(more)
    }
}

/// Blocks that a slot touches, the first and last perhaps in part.
fn blocks_of(slot: &SlotDescription) -> usize {
    let last = Gfn::new(slot.base_gfn.get() + slot.npages.max(1) - 1).block();
    usize::try_from(last.get() - slot.base_gfn.block().get() + 1).unwrap_or(0)
}

fn same_memory(one: &SlotDescription, other: &SlotDescription) -> bool {
    (one.base_gfn, one.npages, one.userspace_addr, one.followed)
        == (other.base_gfn, other.npages, other.userspace_addr, other.followed)
}

#[cfg(test)]
mod tests;
