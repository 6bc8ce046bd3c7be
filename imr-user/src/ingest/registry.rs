//! Tells the eBPF programs which VMs there are: index, slots, and where each slot's blocks are in the block table.
//!
//! Input: what `discovery` found. Output: [`Registration`]. Slots that there is no room for are not followed, which the
//! registration shows. The order of the writes matters: slots before the VM can be found, and the other way round.

use std::collections::HashMap as StdMap;

use aya::maps::{Array, HashMap, Map, MapData};
use imr_common::host_abi::{BLOCK_ORDER, MAX_SLOTS, MAX_VMS, NO_VM, VmSlots};

use super::IngestError;
use super::discovery::{FoundSlot, VmFacts};
use super::tables::{Tables, whole};

/// 64-bit words of [`VmSlots`]: the count, then four a slot.
const SLOTS_WORDS: usize = size_of::<VmSlots>() / 8;
const _: () = assert!(SLOTS_WORDS == 1 + 4 * MAX_SLOTS);

/// Which VMs the eBPF programs know.
pub struct Registry {
    kvms: HashMap<MapData, u64, u32>,
    tgids: HashMap<MapData, u32, u32>,
    slots: Array<MapData, [u64; SLOTS_WORDS]>,
    limit: Array<MapData, u32>,
    used: Vec<bool>,
    blocks: FreeBlocks,
    by_tgid: StdMap<u32, Vec<u32>>,
}

/// A registered VM's place in the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    index: u32,
    kvm: u64,
    tgid: u32,
    /// By position of the slot in [`VmFacts::slots`].
    slots: Vec<Place>,
}

/// Where one slot's blocks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    slot: FoundSlot,
    /// First block record; `None`: not followed.
    base: Option<u64>,
}

impl Registration {
    /// Index in the VM table.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Record of the block that holds the slot's first frame; `None`: the slot is not followed.
    #[must_use]
    pub fn block_base(&self, position: usize) -> Option<u64> {
        self.slots.get(position)?.base
    }
}

impl Registry {
    pub(super) fn open(
        kvms: Map,
        tgids: Map,
        slots: Map,
        limit: Map,
        blocks: u64,
    ) -> Result<Self, IngestError> {
        Ok(Self {
            kvms: HashMap::try_from(kvms).map_err(|e| IngestError::map("KVMS", "open", e))?,
            tgids: HashMap::try_from(tgids).map_err(|e| IngestError::map("TGIDS", "open", e))?,
            slots: Array::try_from(slots).map_err(|e| IngestError::map("SLOTS", "open", e))?,
            limit: Array::try_from(limit).map_err(|e| IngestError::map("LIMIT", "open", e))?,
            used: vec![false; MAX_VMS as usize],
            blocks: FreeBlocks::new(blocks),
            by_tgid: StdMap::new(),
        })
    }

    /// Registers a VM: from now on its events are attributed to it.
    ///
    /// # Errors
    /// [`IngestError::TooManyVms`]; a table that cannot be written. Nothing stays registered then.
    pub fn register(&mut self, facts: &VmFacts, tables: &Tables) -> Result<Registration, IngestError> {
        let free = self.used.iter().position(|used| !used).and_then(|index| u32::try_from(index).ok());
        let index = free.ok_or(IngestError::TooManyVms { limit: MAX_VMS })?;
        let registration = Registration {
            index,
            kvm: facts.kvm,
            tgid: facts.pid.get(),
            slots: self.place(&[], &facts.slots, tables),
        };
        self.used[index as usize] = true;
        tables.reset_vm(index, facts.generation);
        if let Err(error) = self.announce(&registration, tables) {
            // The first failure is the one to tell of.
            let _ = self.unregister(registration, tables);
            return Err(error);
        }
        Ok(registration)
    }

    fn announce(&mut self, registration: &Registration, tables: &Tables) -> Result<(), IngestError> {
        self.write_slots(registration)?;
        self.write_limit()?;
        let index = registration.index;
        self.kvms.insert(registration.kvm, index, 0).map_err(|e| IngestError::map("KVMS", "insert", e))?;
        tables.set_kvm(index, registration.kvm);
        self.by_tgid.entry(registration.tgid).or_default().push(index);
        self.write_tgid(registration.tgid, tables)
    }

    /// Takes over a new layout of a registered VM. Slots that stayed as they were keep their records.
    ///
    /// # Errors
    /// A table that cannot be written.
    pub fn update(
        &mut self,
        before: &Registration,
        facts: &VmFacts,
        tables: &Tables,
    ) -> Result<Registration, IngestError> {
        let slots = self.place(&before.slots, &facts.slots, tables);
        let registration = Registration { slots, ..before.clone() };
        tables.set_memslots_generation(before.index, facts.generation);
        self.write_slots(&registration)?;
        for gone in &before.slots {
            if !registration.slots.contains(gone) {
                self.release(gone);
            }
        }
        Ok(registration)
    }

    /// Forgets a VM.
    ///
    /// # Errors
    /// A table that cannot be written; the VM is forgotten all the same.
    pub fn unregister(&mut self, registration: Registration, tables: &Tables) -> Result<(), IngestError> {
        let index = registration.index;
        tables.set_kvm(index, 0);
        tables.set_tgid(index, 0);
        if let Some(indices) = self.by_tgid.get_mut(&registration.tgid) {
            indices.retain(|other| *other != index);
            if indices.is_empty() {
                self.by_tgid.remove(&registration.tgid);
            }
        }
        let kvm = match self.kvms.remove(&registration.kvm) {
            Err(aya::maps::MapError::KeyNotFound) => Ok(()),
            removed => removed.map_err(|e| IngestError::map("KVMS", "remove", e)),
        };
        let tgid = self.write_tgid(registration.tgid, tables);
        let slots =
            self.slots.set(index, [0; SLOTS_WORDS], 0).map_err(|e| IngestError::map("SLOTS", "clear", e));
        self.used[index as usize] = false;
        for place in &registration.slots {
            self.release(place);
        }
        kvm.and(tgid).and(slots).and(self.write_limit())
    }

    /// Gives each slot its blocks: those of `before` where the slot is the same, else new ones.
    fn place(&mut self, before: &[Place], found: &[FoundSlot], tables: &Tables) -> Vec<Place> {
        // The largest first: they are what matters when there is room for some only.
        let mut order: Vec<usize> = (0..found.len()).collect();
        order.sort_by_key(|position| std::cmp::Reverse(found[*position].npages));
        let mut places: Vec<Place> = found.iter().map(|slot| Place { slot: *slot, base: None }).collect();
        for position in order.into_iter().take(MAX_SLOTS) {
            let place = &mut places[position];
            let kept = before.iter().find(|old| old.base.is_some() && old.slot.is_same_memory(&place.slot));
            place.base = match kept {
                Some(old) => old.base,
                None => {
                    let base = self.blocks.take(place.slot.blocks());
                    if let Some(base) = base {
                        tables.reset_blocks(base..base + place.slot.blocks());
                    }
                    base
                }
            };
        }
        places
    }

    fn release(&mut self, place: &Place) {
        if let Some(base) = place.base {
            self.blocks.give(base, place.slot.blocks());
        }
    }

    /// Three writes: a program must not see some of the new slots with the old count or the other way round.
    fn write_slots(&mut self, registration: &Registration) -> Result<(), IngestError> {
        let index = registration.index;
        let failed = |e| IngestError::map("SLOTS", "write", e);
        let mut words = self.slots.get(&index, 0).map_err(failed)?;
        words[0] = 0;
        self.slots.set(index, words, 0).map_err(failed)?;

        let followed = registration.slots.iter().filter_map(|place| Some((place.slot, place.base?)));
        let mut words = [0; SLOTS_WORDS];
        let mut count = 0_u32;
        for (position, (slot, base)) in followed.take(MAX_SLOTS).enumerate() {
            let at = 1 + 4 * position;
            words[at..at + 4].copy_from_slice(&[slot.base_gfn, slot.npages, slot.userspace_addr, base]);
            count += 1;
        }
        self.slots.set(index, words, 0).map_err(failed)?;
        // `count` and its padding share the first word.
        words[0] = whole([count, 0]);
        self.slots.set(index, words, 0).map_err(failed)
    }

    fn write_limit(&mut self) -> Result<(), IngestError> {
        let limit = self.used.iter().rposition(|used| *used).map_or(0, |last| last + 1);
        let limit = u32::try_from(limit).unwrap_or(MAX_VMS);
        self.limit.set(0, limit, 0).map_err(|e| IngestError::map("LIMIT", "write", e))
    }

    /// A process with one VM is that VM; with several it is none of them.
    fn write_tgid(&mut self, tgid: u32, tables: &Tables) -> Result<(), IngestError> {
        let vm = match self.by_tgid.get(&tgid).map(Vec::as_slice) {
            Some([only]) => {
                tables.set_tgid(*only, tgid);
                *only
            }
            Some(several @ [_, _, ..]) => {
                several.iter().for_each(|vm| tables.set_tgid(*vm, 0));
                NO_VM
            }
            Some([]) | None => {
                return match self.tgids.remove(&tgid) {
                    Err(aya::maps::MapError::KeyNotFound) => Ok(()),
                    removed => removed.map_err(|e| IngestError::map("TGIDS", "remove", e)),
                };
            }
        };
        self.tgids.insert(tgid, vm, 0).map_err(|e| IngestError::map("TGIDS", "insert", e))
    }
}

/// Runs of unused block records, first fit.
#[derive(Debug)]
struct FreeBlocks {
    /// Start and length, by start, none touching the next.
    runs: Vec<(u64, u64)>,
}

impl FreeBlocks {
    fn new(count: u64) -> Self {
        Self { runs: if count == 0 { Vec::new() } else { vec![(0, count)] } }
    }

    fn take(&mut self, count: u64) -> Option<u64> {
        let position = self.runs.iter().position(|(_, length)| *length >= count)?;
        let (start, length) = self.runs[position];
        if length == count {
            self.runs.remove(position);
        } else {
            self.runs[position] = (start + count, length - count);
        }
        Some(start)
    }

    fn give(&mut self, start: u64, count: u64) {
        let position = self.runs.partition_point(|(other, _)| *other < start);
        self.runs.insert(position, (start, count));
        let joins = |left: (u64, u64), right: (u64, u64)| left.0 + left.1 == right.0;
        if let Some(next) = self.runs.get(position + 1).copied()
            && joins(self.runs[position], next)
        {
            self.runs[position].1 += next.1;
            self.runs.remove(position + 1);
        }
        if let Some(previous) = position.checked_sub(1)
            && joins(self.runs[previous], self.runs[position])
        {
            self.runs[previous].1 += self.runs[position].1;
            self.runs.remove(position);
        }
    }
}

impl FoundSlot {
    /// Blocks it touches.
    fn blocks(&self) -> u64 {
        let first = self.base_gfn >> BLOCK_ORDER;
        let last = (self.base_gfn + self.npages.max(1) - 1) >> BLOCK_ORDER;
        last - first + 1
    }

    /// Same frames at the same place: its block records still hold.
    fn is_same_memory(&self, other: &Self) -> bool {
        (self.base_gfn, self.npages, self.userspace_addr)
            == (other.base_gfn, other.npages, other.userspace_addr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(base_gfn: u64, npages: u64) -> FoundSlot {
        FoundSlot { id: 0, base_gfn, npages, userspace_addr: 0x7f00_0000_0000, flags: 0 }
    }

    #[test]
    fn a_slot_has_all_blocks_that_it_touches() {
        assert_eq!(slot(0, 512).blocks(), 1);
        assert_eq!(slot(0xa0, 0x20).blocks(), 1);
        assert_eq!(slot(511, 2).blocks(), 2);
        assert_eq!(slot(0, 0x20000).blocks(), 256);
    }

    #[test]
    fn freed_runs_grow_together_again() {
        let mut free = FreeBlocks::new(100);
        let a = free.take(10).unwrap();
        let b = free.take(20).unwrap();
        let c = free.take(70).unwrap();
        assert_eq!((a, b, c), (0, 10, 30));
        assert_eq!(free.take(1), None);
        free.give(a, 10);
        free.give(c, 70);
        assert_eq!(free.runs, [(0, 10), (30, 70)]);
        free.give(b, 20);
        assert_eq!(free.runs, [(0, 100)]);
    }

    #[test]
    fn first_fit_skips_runs_that_are_too_short() {
        let mut free = FreeBlocks { runs: vec![(0, 3), (10, 5)] };
        assert_eq!(free.take(4), Some(10));
        assert_eq!(free.runs, [(0, 3), (14, 1)]);
    }
}
