//! The tables that the eBPF programs write and user space reads in place: blocks, VMs, totals.
//!
//! Output: copies of single records, and which blocks changed. Every access is one atomic load or store of an aligned
//! word, because the kernel side changes them at any time; a record as a whole may be a moment out of step with itself.

mod mapping;
mod synthetic;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData, PerCpuArray};
use imr_common::host_abi::{
    BLOCKS_PER_DIRTY_WORD, BlockRecord, CpuRecord, FRAMES_PER_BLOCK, MAX_VMS, Totals, VmRecord,
};

use super::IngestError;
use mapping::Mapping;

/// 64-bit words of a block record.
const BLOCK_WORDS: usize = size_of::<BlockRecord>() / 8;
/// Of these, the bitmap of mapped frames, which comes first.
const MAPPED_WORDS: usize = FRAMES_PER_BLOCK as usize / 64;
/// 64-bit words of a VM record.
const VM_WORDS: usize = size_of::<VmRecord>() / 8;
/// 64-bit words of a CPU's record.
const CPU_WORDS: usize = size_of::<CpuRecord>() / 8;
/// 64-bit words of the totals, which come first in it.
const TOTALS_WORDS: usize = size_of::<Totals>() / 8;
/// Where the address of `struct kvm` is in a VM record.
const KVM: usize = std::mem::offset_of!(VmRecord, kvm) / 8;
/// Where its process and its index are in a VM record.
const TGID: usize = std::mem::offset_of!(VmRecord, tgid) / 8;
/// Where the reset generation is in a VM record.
const RESET_GENERATION: usize = std::mem::offset_of!(VmRecord, reset_generation) / 8;
/// Word of `unmaps` in a VM's record.
const UNMAPS: usize = std::mem::offset_of!(VmRecord, unmaps) / 8;
/// Where the memslot generation is in a VM record.
const MEMSLOTS_GENERATION: usize = std::mem::offset_of!(VmRecord, memslots_generation) / 8;

/// The shared tables. Cheap to clone.
#[derive(Clone)]
pub struct Tables(Arc<Inner>);

struct Inner {
    blocks: Mapping,
    dirty: Mapping,
    vms: Mapping,
    totals: TotalsSource,
}

enum TotalsSource {
    PerCpu(PerCpuArray<MapData, [u64; CPU_WORDS]>),
    /// Of tables that are no eBPF maps.
    Shared(Mapping),
}

/// What the loader hands over.
pub(super) struct TableMaps {
    pub(super) blocks: Map,
    pub(super) dirty: Map,
    pub(super) vms: Map,
    pub(super) cpus: Map,
}

/// Words of the dirty map that `blocks` blocks need.
pub(super) fn dirty_words(blocks: u64) -> u64 {
    blocks.div_ceil(BLOCKS_PER_DIRTY_WORD)
}

impl Tables {
    pub(super) fn open(maps: TableMaps, blocks: u64) -> Result<Self, IngestError> {
        let totals = PerCpuArray::try_from(maps.cpus).map_err(|e| IngestError::map("CPUS", "open", e))?;
        let words = |count: u64, record: usize| {
            usize::try_from(count).unwrap_or(usize::MAX).saturating_mul(record / size_of::<u64>())
        };
        let block = size_of::<BlockRecord>();
        let vm = size_of::<VmRecord>();
        Ok(Self(Arc::new(Inner {
            blocks: Mapping::of_map(maps.blocks, "BLOCKS", words(blocks, block), block)?,
            dirty: Mapping::of_map(maps.dirty, "DIRTY", words(dirty_words(blocks), 8), 8)?,
            vms: Mapping::of_map(maps.vms, "VMS", words(u64::from(MAX_VMS), vm), vm)?,
            totals: TotalsSource::PerCpu(totals),
        })))
    }

    /// A VM's counters. All zero for an index past the table.
    #[must_use]
    pub fn vm(&self, index: u32) -> VmRecord {
        let word = |at| self.0.vms.load(index as usize * VM_WORDS + at);
        VmRecord {
            kvm: word(0),
            tgid: halves(word(1))[0],
            index: halves(word(1))[1],
            memslots_generation: word(2),
            page_faults: word(3),
            sptes_set: word(4),
            sptes_zapped: word(5),
            unmaps: word(6),
            long_unmaps: word(7),
            hypercalls: word(8),
            calls: word(9),
            denied_calls: word(10),
            limited_calls: word(11),
            reset_generation: word(12),
            window_start_ns: word(13),
            window_calls: word(14),
            last_unmap_ns: word(15),
            reset_told_ns: word(16),
            reserved: std::array::from_fn(|at| word(17 + at)),
        }
    }

    /// mmu-notifier invalidations of the VM's followed slots so far; one load.
    #[must_use]
    pub fn unmaps(&self, index: u32) -> u64 {
        self.0.vms.load(index as usize * VM_WORDS + UNMAPS)
    }

    /// How often the VM was reset, restored or shut down; one load. What was said before counts for nothing.
    #[must_use]
    pub fn reset_generation(&self, index: u32) -> u64 {
        self.0.vms.load(index as usize * VM_WORDS + RESET_GENERATION)
    }

    /// A block's record. All zero for an index past the table.
    #[must_use]
    pub fn block(&self, index: u64) -> BlockRecord {
        let Some(words) = self.block_words(index) else { return BlockRecord::default() };
        // In this order: see the proof in `take_changed`.
        let word = |at: usize| words[at].load(Ordering::SeqCst);
        let mapped = [word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)];
        let last_map = word(8);
        let [last_young, last_age] = halves(word(9));
        BlockRecord { mapped, last_map, last_young, last_age }
    }

    /// Calls `each` for every block of the range that changed since it was last called for it, with its number and its
    /// record as it is now. Blocks outside the range keep their marks. Where nothing changed it costs a load for 64
    /// blocks.
    ///
    /// Every change is in a record that is given to `each` after it, here or the next time: the mark is cleared, with a
    /// full barrier, before the record is read, and the writer looks for the mark after its change and a full barrier. It
    /// either finds the mark cleared and sets it again, or has looked before it was cleared, and then its change is seen.
    pub fn take_changed(&self, blocks: Range<u64>, mut each: impl FnMut(u64, BlockRecord)) {
        for (first, word, mask) in self.dirty_words_of(blocks) {
            if word.load(Ordering::Relaxed) & mask == 0 {
                continue;
            }
            let mut changed = word.fetch_and(!mask, Ordering::SeqCst) & mask;
            while changed != 0 {
                let index = first + u64::from(changed.trailing_zeros());
                each(index, self.block(index));
                changed &= changed - 1;
            }
        }
    }

    /// More of the block is called mapped than has memory: forgets what is called mapped. The baseline's number
    /// stands then, and what is mapped just now shows with the next one.
    pub fn forget_mapped(&self, index: u64) {
        let Ok(index) = usize::try_from(index) else { return };
        for word in 0..MAPPED_WORDS {
            self.0.blocks.store(index.saturating_mul(BLOCK_WORDS).saturating_add(word), 0);
        }
    }

    /// Forgets what was in these records, changes not looked at included: they get another owner.
    pub fn reset_blocks(&self, blocks: Range<u64>) {
        // The marks first: should a program of the former owner still be at it, its change is seen and not lost.
        for (_, word, mask) in self.dirty_words_of(blocks.clone()) {
            word.fetch_and(!mask, Ordering::SeqCst);
        }
        for index in blocks {
            let Some(words) = self.block_words(index) else { return };
            for word in words {
                word.store(0, Ordering::Release);
            }
        }
    }

    fn block_words(&self, index: u64) -> Option<&[AtomicU64; BLOCK_WORDS]> {
        let start = usize::try_from(index).ok()?.checked_mul(BLOCK_WORDS)?;
        self.0.blocks.words().get(start..)?.first_chunk()
    }

    /// The dirty words that the range touches: each with its first block and with the bits that are in the range.
    fn dirty_words_of(&self, blocks: Range<u64>) -> impl Iterator<Item = (u64, &AtomicU64, u64)> {
        let words = self.0.dirty.words();
        let limit = words.len();
        let clamp = move |word: u64| usize::try_from(word).unwrap_or(limit).min(limit);
        let first = clamp(blocks.start / BLOCKS_PER_DIRTY_WORD);
        let end = if blocks.is_empty() { first } else { clamp(dirty_words(blocks.end)) };
        words[first..end].iter().zip(first as u64..).map(move |(word, position)| {
            let base = position * BLOCKS_PER_DIRTY_WORD;
            let mut mask = u64::MAX;
            if blocks.start > base {
                mask <<= blocks.start - base;
            }
            if blocks.end < base + BLOCKS_PER_DIRTY_WORD {
                mask &= (1 << (blocks.end - base)) - 1;
            }
            (base, word, mask)
        })
    }

    /// Forgets a VM's counters. The reset generation goes on: a call of the index' former owner must not fit.
    pub(super) fn reset_vm(&self, index: u32, memslots_generation: u64) {
        let start = index as usize * VM_WORDS;
        let reset_generation = self.reset_generation(index);
        self.set_tgid(index, 0);
        for word in (0..VM_WORDS).filter(|word| ![RESET_GENERATION, TGID].contains(word)) {
            self.0.vms.store(start + word, 0);
        }
        self.0.vms.store(start + RESET_GENERATION, reset_generation + 1);
        self.set_memslots_generation(index, memslots_generation);
    }

    /// Says whose the VM is: the address of its `struct kvm`. Zero: nobody's.
    pub(super) fn set_kvm(&self, index: u32, kvm: u64) {
        self.0.vms.store(index as usize * VM_WORDS + KVM, kvm);
    }

    /// Says whose only VM it is: its process. Zero: nobody's.
    pub(super) fn set_tgid(&self, index: u32, tgid: u32) {
        self.0.vms.store(index as usize * VM_WORDS + TGID, whole([tgid, index]));
    }

    /// Says which slots are known, so that the fault probe tells of the next change.
    pub(super) fn set_memslots_generation(&self, index: u32, generation: u64) {
        self.0.vms.store(index as usize * VM_WORDS + MEMSLOTS_GENERATION, generation);
    }

    /// The counters of no VM in particular, all CPUs.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut sums = [0_u64; TOTALS_WORDS];
        match &self.0.totals {
            TotalsSource::PerCpu(map) => match map.get(&0, 0) {
                Ok(cpus) => {
                    for cpu in cpus.iter() {
                        for (sum, value) in sums.iter_mut().zip(cpu) {
                            *sum = sum.wrapping_add(*value);
                        }
                    }
                }
                // The only element of an array map: looking it up has no way to fail but a lack of memory.
                Err(error) => log::error!("eBPF map CPUS, look up: {error}"),
            },
            TotalsSource::Shared(words) => {
                for (sum, word) in sums.iter_mut().zip(words.words()) {
                    *sum = word.load(Ordering::Relaxed);
                }
            }
        }
        let [
            page_faults,
            page_faults_unattributed,
            hypercalls,
            sptes_set,
            sptes_set_unattributed,
            sptes_zapped,
            sptes_zapped_unattributed,
            unmaps,
            unmaps_ambiguous,
            ages,
            events_lost,
            calls_unproven,
            table_full,
            calls_unattributed,
        ] = sums;
        Totals {
            page_faults,
            page_faults_unattributed,
            hypercalls,
            sptes_set,
            sptes_set_unattributed,
            sptes_zapped,
            sptes_zapped_unattributed,
            unmaps,
            unmaps_ambiguous,
            ages,
            events_lost,
            calls_unproven,
            table_full,
            calls_unattributed,
        }
    }
}

/// The two 32-bit fields in a word, in memory order.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

/// The word that these fields are in memory order.
pub(super) fn whole([first, second]: [u32; 2]) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests;
