//! Reads and writes guest-physical memory through the VMM's `/proc/PID/mem`.
//!
//! The descriptor is bound to the address space it was opened on, so a reused pid is never reached, and it
//! works for every backing. A page that has no memory is *given* some by a read: read only what the guest
//! named just now.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{Ordering, fence};

use thiserror::Error;

use crate::model::ids::{FRAME_SIZE, Gpa, Hva};

/// A piece of guest RAM and where the VMM has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamRange {
    /// First byte, guest-physical; frame-aligned.
    pub start: Gpa,
    /// Length, bytes; a multiple of the frame size.
    pub len: u64,
    /// Where the first byte is in the VMM.
    pub hva: Hva,
}

/// Why guest memory could not be reached.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The address range is not completely inside one RAM slot.
    #[error("guest-physical {start}, {len} bytes: not inside a RAM slot")]
    OutsideRam {
        /// First byte.
        start: Gpa,
        /// Length, bytes.
        len: u64,
    },
    /// The VMM has exited: its address space is gone.
    #[error("the VMM has exited")]
    VmmGone,
    /// The kernel refused.
    #[error("{operation} guest-physical {start}, {len} bytes through /proc/PID/mem: {source}")]
    Io {
        /// `read` or `write`.
        operation: &'static str,
        /// First byte.
        start: Gpa,
        /// Length, bytes.
        len: u64,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the handshake needs of guest-physical memory. [`GuestMemory`] is the real one; a model checker has one of its
/// own, so that it runs the very code that answers a guest.
pub trait PageMemory {
    /// Whether `len` bytes from `start` lie completely inside one RAM slot.
    fn is_ram(&self, start: Gpa, len: u64) -> bool;

    /// Copies `buffer.len()` bytes from guest-physical `start`.
    ///
    /// # Errors
    /// [`MemoryError`]; the buffer's content is then undefined.
    fn read(&self, start: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError>;

    /// Copies `bytes` to guest-physical `start`.
    ///
    /// # Errors
    /// [`MemoryError`]; some of the bytes may have been written.
    fn write(&self, start: Gpa, bytes: &[u8]) -> Result<(), MemoryError>;

    /// Full fence: whatever was written before it is seen by the guest before anything after it is read.
    fn fence(&self);
}

/// Access to the RAM of one VM.
#[derive(Debug)]
pub struct GuestMemory {
    mem: File,
    ranges: Vec<RamRange>,
}

impl GuestMemory {
    /// `mem`: `/proc/PID/mem`, opened for reading and writing; `ranges`: the VM's writable RAM slots.
    #[must_use]
    pub fn new(mem: File, ranges: Vec<RamRange>) -> Self {
        Self { mem, ranges }
    }

    /// Takes over a new slot layout.
    pub fn set_ranges(&mut self, ranges: Vec<RamRange>) {
        self.ranges = ranges;
    }

    fn hva(&self, start: Gpa, len: u64) -> Result<Hva, MemoryError> {
        self.ranges
            .iter()
            .find_map(|range| {
                let into = start.get().checked_sub(range.start.get())?;
                let end = into.checked_add(len)?;
                (end <= range.len).then(|| Hva::new(range.hva.get() + into))
            })
            .ok_or(MemoryError::OutsideRam { start, len })
    }
}

impl PageMemory for GuestMemory {
    fn is_ram(&self, start: Gpa, len: u64) -> bool {
        self.hva(start, len).is_ok()
    }

    fn read(&self, start: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let len = buffer.len() as u64;
        let hva = self.hva(start, len)?;
        self.mem.read_exact_at(buffer, hva.get()).map_err(|source| failed("read", start, len, source))
    }

    fn write(&self, start: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        let len = bytes.len() as u64;
        let hva = self.hva(start, len)?;
        self.mem.write_all_at(bytes, hva.get()).map_err(|source| failed("write", start, len, source))
    }

    fn fence(&self) {
        fence(Ordering::SeqCst);
    }
}

impl RamRange {
    /// From a slot's frame numbers; `None` when they do not fit into 64-bit addresses.
    #[must_use]
    pub fn from_frames(base_gfn: u64, npages: u64, hva: u64) -> Option<Self> {
        let start = base_gfn.checked_mul(FRAME_SIZE)?;
        let len = npages.checked_mul(FRAME_SIZE)?;
        start.checked_add(len)?;
        hva.checked_add(len)?;
        Some(Self { start: Gpa::new(start), len, hva: Hva::new(hva) })
    }
}

// mem_rw() (fs/proc/base.c) returns 0 once mm_users is gone, which read_exact_at reports as UnexpectedEof
// and write_all_at as WriteZero.
fn failed(operation: &'static str, start: Gpa, len: u64, source: io::Error) -> MemoryError {
    match source.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::WriteZero => MemoryError::VmmGone,
        _ if source.raw_os_error() == Some(libc::ESRCH) => MemoryError::VmmGone,
        _ => MemoryError::Io { operation, start, len, source },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number() -> impl Strategy<Value = u64> {
        prop_oneof![0..12_u64, 0..0xa000_u64, any::<u64>(), (0..16_u64).prop_map(|less| u64::MAX - less)]
    }

    proptest! {
        #[test]
        fn a_range_of_frames_has_addresses_or_is_none(gfn in number(), npages in number(), hva in number()) {
            let [start, len] = [gfn, npages].map(|frames| u128::from(frames) * u128::from(FRAME_SIZE));
            let end = (start + len).max(u128::from(hva) + len);
            prop_assert_eq!(RamRange::from_frames(gfn, npages, hva).is_some(), end <= u128::from(u64::MAX));
        }

        #[test]
        fn only_what_is_completely_inside_a_slot_has_an_address(
            slots in proptest::collection::vec((0..8_u64, 0..4_u64, 0..8_u64), 0..4),
            start in number(),
            len in number(),
        ) {
            let ranges = slots.iter().filter_map(|(gfn, npages, at)| {
                RamRange::from_frames(*gfn, *npages, at * FRAME_SIZE)
            });
            let memory = GuestMemory::new(tempfile::tempfile().unwrap(), ranges.collect());
            let inside = |(gfn, npages, _): &(u64, u64, u64)| {
                let end = u128::from(start) + u128::from(len);
                start >= gfn * FRAME_SIZE && end <= u128::from((gfn + npages) * FRAME_SIZE)
            };
            let found = memory.hva(Gpa::new(start), len).ok().map(Hva::get);
            let first = slots.iter().find(|slot| inside(slot));
            let expected = first.map(|(gfn, _, at)| at * FRAME_SIZE + (start - gfn * FRAME_SIZE));
            prop_assert_eq!(found, expected);
            prop_assert_eq!(memory.is_ram(Gpa::new(start), len), expected.is_some());
        }
    }
}
