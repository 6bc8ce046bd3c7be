//! Shared memory as a slice of atomic words: a memory-mapped array map, or a piece of a file.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Map, MapData};
use rustix::mm::{MapFlags, ProtFlags};

use crate::ingest::IngestError;

/// Mapped words.
pub(super) struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
    /// Keeps the eBPF map alive, where it is one.
    _map: Option<MapData>,
}

// SAFETY: the mapping is shared memory that is only ever touched through atomics, and it lives until `Mapping` drops.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// The first `words` words of an array map whose elements are `record` bytes long.
    pub(super) fn of_map(
        map: Map,
        name: &'static str,
        words: usize,
        record: usize,
    ) -> Result<Self, IngestError> {
        let Map::Array(data) = map else { return Err(IngestError::WrongObject { what: name }) };
        let info = data.info().map_err(|e| IngestError::map(name, "describe", e))?;
        if info.value_size() as usize != record
            || (info.max_entries() as usize).saturating_mul(record) < words.saturating_mul(8)
        {
            return Err(IngestError::WrongObject { what: name });
        }
        // The kernel rounds up to whole pages, of an array whose elements lie one after the other
        // (kernel/bpf/arraymap.c).
        let start = map_shared(data.fd().as_fd(), 0, words)
            .map_err(|source| IngestError::io("mmap", format!("eBPF map {name}"), source))?;
        Ok(Self { start, words, _map: Some(data) })
    }

    /// `words` words of a file, which has them, from byte `offset` on, a multiple of the page size.
    pub(super) fn of_file(fd: BorrowedFd<'_>, offset: u64, words: usize) -> io::Result<Self> {
        Ok(Self { start: map_shared(fd, offset, words)?, words, _map: None })
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped with this length while `self` lives, page-aligned; every access on this side is atomic, and
        // whoever else maps it writes aligned words.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }

    /// Zero past the end.
    pub(super) fn load(&self, index: usize) -> u64 {
        self.words().get(index).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Nothing past the end.
    pub(super) fn store(&self, index: usize, value: u64) {
        if let Some(word) = self.words().get(index) {
            word.store(value, Ordering::Release);
        }
    }
}

fn map_shared(fd: BorrowedFd<'_>, offset: u64, words: usize) -> io::Result<NonNull<AtomicU64>> {
    // SAFETY: a new mapping at an address of the kernel's choice; it overlaps nothing.
    let start = unsafe {
        rustix::mm::mmap(
            ptr::null_mut(),
            words.saturating_mul(8),
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            fd,
            offset,
        )
    };
    NonNull::new(start?.cast()).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map_shared` made, and nobody borrows from it any more.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.words * 8) };
        debug_assert!(unmapped.is_ok(), "munmap of a mapping of our own");
    }
}
