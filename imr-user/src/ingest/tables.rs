//! The tables that the eBPF programs write and user space reads in place: blocks, VMs, totals.
//!
//! Output: copies of single records. Every access is one atomic load or store of an aligned word, because the kernel
//! side changes them at any time; a record as a whole may be a moment out of step with itself.

use std::io;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData, PerCpuArray};
use imr_common::host_abi::{BlockRecord, MAX_VMS, Totals, VmRecord};
use rustix::mm::{MapFlags, ProtFlags};

use super::IngestError;

/// 64-bit words of a block record.
const BLOCK_WORDS: usize = size_of::<BlockRecord>() / 8;
/// 64-bit words of a VM record.
const VM_WORDS: usize = size_of::<VmRecord>() / 8;
/// 64-bit words of the totals.
const TOTALS_WORDS: usize = size_of::<Totals>() / 8;
/// Where the reset generation is in a VM record.
const RESET_GENERATION: usize = std::mem::offset_of!(VmRecord, reset_generation) / 8;
/// Where the memslot generation is in a VM record.
const MEMSLOTS_GENERATION: usize = std::mem::offset_of!(VmRecord, memslots_generation) / 8;

/// The shared tables. Cheap to clone.
#[derive(Clone)]
pub struct Tables(Arc<Inner>);

struct Inner {
    blocks: Mapping,
    vms: Mapping,
    totals: PerCpuArray<MapData, [u64; TOTALS_WORDS]>,
}

/// A memory-mapped array map, as words.
struct Mapping {
    start: NonNull<u64>,
    words: usize,
    bytes: usize,
    /// Keeps the map alive.
    _map: MapData,
}

// SAFETY: the mapping is shared memory that is only ever touched through atomics, and it lives until `Mapping` drops.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Tables {
    pub(super) fn open(blocks: Map, vms: Map, totals: Map, count: u64) -> Result<Self, IngestError> {
        let totals = PerCpuArray::try_from(totals).map_err(|e| IngestError::map("TOTALS", "open", e))?;
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        Ok(Self(Arc::new(Inner {
            blocks: Mapping::of(
                blocks,
                "BLOCKS",
                count.saturating_mul(BLOCK_WORDS),
                size_of::<BlockRecord>(),
            )?,
            vms: Mapping::of(vms, "VMS", MAX_VMS as usize * VM_WORDS, size_of::<VmRecord>())?,
            totals,
        })))
    }

    /// A VM's counters. All zero for an index past the table.
    #[must_use]
    pub fn vm(&self, index: u32) -> VmRecord {
        let word = |at| self.0.vms.load(index as usize * VM_WORDS + at);
        VmRecord {
            page_faults: word(0),
            sptes_set: word(1),
            sptes_zapped: word(2),
            unmaps: word(3),
            long_unmaps: word(4),
            hypercalls: word(5),
            calls: word(6),
            denied_calls: word(7),
            limited_calls: word(8),
            reset_generation: word(9),
            memslots_generation: word(10),
            window_start_ns: word(11),
            window_calls: word(12),
            reserved: [word(13), word(14), word(15)],
        }
    }

    /// How often the VM was reset, restored or shut down; one load. What was said before counts for nothing.
    #[must_use]
    pub fn reset_generation(&self, index: u32) -> u64 {
        self.0.vms.load(index as usize * VM_WORDS + RESET_GENERATION)
    }

    /// A block's record. All zero for an index past the table.
    #[must_use]
    pub fn block(&self, index: u64) -> BlockRecord {
        let Ok(index) = usize::try_from(index) else { return EMPTY_BLOCK };
        let word = |at| self.0.blocks.load(index.saturating_mul(BLOCK_WORDS).saturating_add(at));
        let [maps, maps_large] = halves(word(10));
        let [unmaps, ages] = halves(word(11));
        BlockRecord {
            mapped: [word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)],
            last_map_ns: word(8),
            last_unmap_ns: word(9),
            maps,
            maps_large,
            unmaps,
            ages,
            reserved: [0; 4],
        }
    }

    /// Forgets what was in these records: they get another owner.
    pub fn reset_blocks(&self, blocks: Range<u64>) {
        for index in blocks {
            let Ok(index) = usize::try_from(index) else { return };
            for word in 0..BLOCK_WORDS {
                self.0.blocks.store(index.saturating_mul(BLOCK_WORDS).saturating_add(word), 0);
            }
        }
    }

    /// Forgets a VM's counters. The reset generation goes on: a call of the index' former owner must not fit.
    pub(super) fn reset_vm(&self, index: u32, memslots_generation: u64) {
        let start = index as usize * VM_WORDS;
        let reset_generation = self.reset_generation(index);
        for word in (0..VM_WORDS).filter(|word| *word != RESET_GENERATION) {
            self.0.vms.store(start + word, 0);
        }
        self.0.vms.store(start + RESET_GENERATION, reset_generation + 1);
        self.set_memslots_generation(index, memslots_generation);
    }

    /// Says which slots are known, so that the fault probe tells of the next change.
    pub(super) fn set_memslots_generation(&self, index: u32, generation: u64) {
        self.0.vms.store(index as usize * VM_WORDS + MEMSLOTS_GENERATION, generation);
    }

    /// The counters of no VM in particular, all CPUs.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut sums = [0_u64; TOTALS_WORDS];
        match self.0.totals.get(&0, 0) {
            Ok(cpus) => {
                for cpu in cpus.iter() {
                    for (sum, value) in sums.iter_mut().zip(cpu) {
                        *sum = sum.wrapping_add(*value);
                    }
                }
            }
            // The only element of an array map: looking it up has no way to fail but a lack of memory.
            Err(error) => log::error!("eBPF map TOTALS, look up: {error}"),
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

const EMPTY_BLOCK: BlockRecord = BlockRecord {
    mapped: [0; 8],
    last_map_ns: 0,
    last_unmap_ns: 0,
    maps: 0,
    maps_large: 0,
    unmaps: 0,
    ages: 0,
    reserved: [0; 4],
};

/// The two 32-bit fields in a word, in memory order.
fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

impl Mapping {
    fn of(map: Map, name: &'static str, words: usize, record: usize) -> Result<Self, IngestError> {
        let Map::Array(data) = map else { return Err(IngestError::WrongObject { what: name }) };
        // The kernel rounds up to whole pages, of an array whose elements lie one after the other
        // (kernel/bpf/arraymap.c).
        let bytes = words.saturating_mul(8);
        let failed = |source: io::Error| IngestError::io("mmap", format!("eBPF map {name}"), source);
        let length = NonZeroUsize::new(bytes).ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
        let info = data.info().map_err(|e| IngestError::map(name, "describe", e))?;
        if info.value_size() as usize != record
            || (info.max_entries() as usize).saturating_mul(record) < bytes
        {
            return Err(IngestError::WrongObject { what: name });
        }
        // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing.
        let start = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                length.get(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                data.fd().as_fd(),
                0,
            )
        };
        let start = start.map_err(|error| failed(error.into()))?;
        let start = NonNull::new(start.cast()).ok_or_else(|| failed(io::ErrorKind::InvalidData.into()))?;
        Ok(Self { start, words, bytes, _map: data })
    }

    fn word(&self, index: usize) -> Option<&AtomicU64> {
        if index >= self.words {
            return None;
        }
        // SAFETY: within the mapping, by the check above.
        let word = unsafe { self.start.add(index) };
        // SAFETY: mapped while `self` lives, aligned to 8 (a page start plus a multiple of 8), and every access on
        // this side is atomic; the kernel side writes aligned words.
        Some(unsafe { AtomicU64::from_ptr(word.as_ptr()) })
    }

    fn load(&self, index: usize) -> u64 {
        self.word(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Release);
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `of` made, and nobody borrows from it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        debug_assert!(unmapped.is_ok(), "munmap of a mapping of our own");
    }
}
