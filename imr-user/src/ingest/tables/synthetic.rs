//! The tables without eBPF, on a file that several processes map, and the writer's side of the block table in Rust. For
//! benchmarks and tests that need more guests, or changes at other times, than a machine has.
//!
//! A writer does what the eBPF side does, in the same order (imr-ebpf/src/blocks.rs): a benchmark of the reading side
//! must not be easier than the real thing.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use imr_common::host_abi::{BLOCKS_PER_DIRTY_WORD, FRAMES_PER_BLOCK, MAX_VMS, coarse, last_map};
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};

use super::{
    BLOCK_WORDS, Inner, Mapping, RESET_GENERATION, TOTALS_WORDS, Tables, TotalsSource, VM_WORDS, dirty_words,
    halves, whole,
};
use crate::ingest::IngestError;

/// Where a mapping may begin in a file, bytes.
const PAGE: u64 = 4096;
/// Bits of a bitmap word.
const WORD: u32 = u64::BITS;
/// Where `last_map` is in a block record.
const LAST_MAP: usize = 8;
/// Where `last_young` and `last_age` are.
const LAST_SCANS: usize = 9;

/// Which half of [`LAST_SCANS`].
#[derive(Clone, Copy)]
enum Scan {
    Young,
    Age,
}

impl Tables {
    /// Empty tables of this process, with room for `blocks` blocks.
    ///
    /// # Errors
    /// Memory that cannot be had.
    pub fn in_memory(blocks: u64) -> Result<Self, IngestError> {
        let fd = memfd_create("imr-tables", MemfdFlags::CLOEXEC)
            .map_err(|error| IngestError::io("memfd_create", "imr-tables", error))?;
        Self::on_file(fd, blocks)
    }

    /// The tables in a file (a memfd), with room for `blocks` blocks; a new file gets its length. All processes that map
    /// it with the same `blocks` share them.
    ///
    /// # Errors
    /// A file that cannot be given its length or be mapped.
    pub fn on_file(fd: OwnedFd, blocks: u64) -> Result<Self, IngestError> {
        let failed =
            |operation: &'static str| move |error| IngestError::io(operation, "file of the tables", error);
        let mut end = 0;
        let mut part = |words: u64| {
            let start = end;
            end = (start + words * 8).next_multiple_of(PAGE);
            (start, usize::try_from(words).unwrap_or(usize::MAX))
        };
        let parts = [
            part(blocks * BLOCK_WORDS as u64),
            part(dirty_words(blocks)),
            part(u64::from(MAX_VMS) * VM_WORDS as u64),
            part(TOTALS_WORDS as u64),
        ];
        let length = fstat(&fd).map_err(failed("fstat"))?.st_size;
        if u64::try_from(length).unwrap_or(0) < end {
            ftruncate(&fd, end).map_err(failed("ftruncate"))?;
        }
        let map = |(start, words)| {
            Mapping::of_file(fd.as_fd(), start, words)
                .map_err(|error| IngestError::io("mmap", "file of the tables", error))
        };
        let [blocks, dirty, vms, totals] = parts;
        Ok(Self(Arc::new(Inner {
            blocks: map(blocks)?,
            dirty: map(dirty)?,
            vms: map(vms)?,
            totals: TotalsSource::Shared(map(totals)?),
        })))
    }

    /// The VM is reset, restored or shut down.
    pub fn note_reset(&self, index: u32) {
        let at = index as usize * VM_WORDS + RESET_GENERATION;
        if let Some(word) = self.0.vms.words().get(at) {
            word.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Frame `frame` (0-511) of a block gets a 4 KiB SPTE. Nothing happens for an index past the table, here and below.
    pub fn note_mapped(&self, index: u64, frame: u32, now_ns: u64) {
        let Some(words) = self.block_words(index) else { return };
        let (word, bit) = place(frame);
        words[LAST_MAP].store(last_map(now_ns, false), Ordering::Release);
        words[word].fetch_or(bit, Ordering::SeqCst);
        self.note_changed(index);
    }

    /// A block gets a 2 MiB SPTE.
    pub fn note_mapped_large(&self, index: u64, now_ns: u64) {
        let Some(words) = self.block_words(index) else { return };
        words[LAST_MAP].store(last_map(now_ns, true), Ordering::Release);
        for word in &words[..LAST_MAP - 1] {
            word.store(u64::MAX, Ordering::Release);
        }
        words[LAST_MAP - 1].fetch_or(u64::MAX, Ordering::SeqCst);
        self.note_changed(index);
    }

    /// The 4 KiB SPTE of frame `frame` (0-511) of a block goes.
    pub fn note_unmapped(&self, index: u64, frame: u32) {
        let Some(words) = self.block_words(index) else { return };
        let (word, bit) = place(frame);
        if words[word].load(Ordering::SeqCst) & bit != 0 {
            words[word].fetch_and(!bit, Ordering::SeqCst);
            self.note_changed(index);
        }
    }

    /// A scan at `now_ns` finds a frame of a block accessed.
    pub fn note_young(&self, index: u64, now_ns: u64) {
        self.note_scan(index, Scan::Young, coarse(now_ns));
    }

    /// A scan at `now_ns` covers a block.
    pub fn note_aged(&self, index: u64, now_ns: u64) {
        self.note_scan(index, Scan::Age, coarse(now_ns));
    }

    fn note_scan(&self, index: u64, scan: Scan, time: u32) {
        let Some(words) = self.block_words(index) else { return };
        let merged = |word| {
            let [young, age] = halves(word);
            whole(match scan {
                Scan::Young => [time, age],
                Scan::Age => [young, time],
            })
        };
        // The eBPF side exchanges 32 bits; the same word is one atomic here.
        let changed = words[LAST_SCANS].fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
            Some(merged(word)).filter(|new| *new != word)
        });
        if changed.is_ok() {
            self.note_changed(index);
        }
    }

    /// Last, and after an atomic read-modify-write of the record: why is in imr-ebpf/src/blocks.rs.
    fn note_changed(&self, index: u64) {
        let word = usize::try_from(index / BLOCKS_PER_DIRTY_WORD).ok();
        let Some(word) = word.and_then(|word| self.0.dirty.words().get(word)) else { return };
        let bit = 1 << (index % BLOCKS_PER_DIRTY_WORD);
        if word.load(Ordering::SeqCst) & bit == 0 {
            word.fetch_or(bit, Ordering::SeqCst);
        }
    }
}

/// Word and bit of a frame.
fn place(frame: u32) -> (usize, u64) {
    let frame = frame % FRAMES_PER_BLOCK as u32;
    ((frame / WORD) as usize, 1 << (frame % WORD))
}
