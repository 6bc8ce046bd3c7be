//! Guest memory as the VMM maps it: of the wanted kind, with pages of the wanted size.
//!
//! In: the kind and the size. Out: a mapping aligned to a block. Must not touch what the guest is to touch.

use std::ffi::c_void;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr::null_mut;

use anyhow::{Context as _, Result};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};

use crate::ask::{BLOCK, Backing};
use crate::missing::Missing;

/// Guest memory, mapped until the process ends.
pub(crate) struct Memory {
    address: *mut u8,
    bytes: u64,
    file: Option<OwnedFd>,
}

// SAFETY: the mapping belongs to no thread; whoever holds the pointer reaches it by single volatile accesses or system
// calls only.
unsafe impl Send for Memory {}

impl Memory {
    /// Maps `bytes`, a multiple of a block.
    pub(crate) fn map(backing: Backing, bytes: u64) -> Result<Self> {
        let length = usize::try_from(bytes)?;
        let block = usize::try_from(BLOCK)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no MAP_FIXED: the kernel picks addresses that nobody uses.
        let whole = unsafe {
            mmap_anonymous(
                null_mut(),
                length + 2 * block,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .context("no address space for guest memory")?;
        // Some of what cannot be accessed stays on both sides: a VMA of guest memory alone.
        let inside = whole.cast::<u8>().wrapping_add(1);
        let address = inside.wrapping_add(inside.align_offset(block));
        let at = address.cast::<c_void>();
        let file = match backing {
            Backing::Private4k | Backing::Private2m => {
                // SAFETY: replaces what was mapped just now, to which nobody has a pointer.
                unsafe { mmap_anonymous(at, length, access, MapFlags::PRIVATE | MapFlags::FIXED) }
                    .context("cannot map anonymous guest memory")?;
                None
            }
            Backing::Shared4k | Backing::Shared2m | Backing::Hugetlb => {
                let huge = if backing == Backing::Hugetlb {
                    MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB
                } else {
                    MemfdFlags::empty()
                };
                let file =
                    memfd_create("imr-bench-guest", MemfdFlags::CLOEXEC | huge).context("memfd_create")?;
                ftruncate(&file, bytes).context("cannot give guest memory its size")?;
                // Pages of hugetlbfs are reserved here, so that the guest finds them later.
                let flags = MapFlags::SHARED | MapFlags::FIXED;
                // SAFETY: as above.
                let mapped = unsafe { mmap(at, length, access, flags, &file, 0) };
                mapped.map_err(|error| Missing(format!("no {bytes} bytes of guest memory: {error}")))?;
                Some(file)
            }
        };
        let memory = Self { address, bytes, file };
        match backing {
            Backing::Shared4k | Backing::Private4k => memory.advise(Advice::LinuxNoHugepage)?,
            Backing::Shared2m | Backing::Private2m => memory.advise(Advice::LinuxHugepage)?,
            Backing::Hugetlb => {}
        }
        Ok(memory)
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> u64 {
        self.address as u64
    }

    /// Its length, bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Its file's descriptor; -1 without a file.
    pub(crate) fn file(&self) -> i32 {
        self.file.as_ref().map_or(-1, |file| file.as_raw_fd())
    }

    /// Advice for the whole of it.
    pub(crate) fn advise(&self, advice: Advice) -> Result<()> {
        self.advise_part(0, self.bytes, advice)
    }

    /// Advice for a part; `start` and `bytes` inside it.
    pub(crate) fn advise_part(&self, start: u64, bytes: u64, advice: Advice) -> Result<()> {
        let at = self.at(start, bytes)?;
        // SAFETY: the range lies inside this mapping, into which nobody has a reference.
        unsafe { madvise(at.cast(), usize::try_from(bytes)?, advice) }
            .with_context(|| format!("madvise({advice:?}) of guest memory"))
    }

    /// Writes bytes at a guest-physical address.
    pub(crate) fn write(&self, gpa: u64, bytes: &[u8]) -> Result<()> {
        let at = self.at(gpa, bytes.len() as u64)?;
        for (offset, byte) in bytes.iter().enumerate() {
            // SAFETY: `at` has seen that all of them lie inside the mapping; any byte may be written there.
            unsafe { at.wrapping_add(offset).write_volatile(*byte) };
        }
        Ok(())
    }

    /// Reads bytes at a guest-physical address.
    pub(crate) fn read(&self, gpa: u64, bytes: &mut [u8]) -> Result<()> {
        let at = self.at(gpa, bytes.len() as u64)?;
        for (offset, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: as in `write`.
            *byte = unsafe { at.wrapping_add(offset).read_volatile() };
        }
        Ok(())
    }

    fn at(&self, start: u64, bytes: u64) -> Result<*mut u8> {
        let inside = start.checked_add(bytes).is_some_and(|end| end <= self.bytes);
        anyhow::ensure!(inside, "{start:#x}+{bytes:#x} is outside guest memory of {:#x} bytes", self.bytes);
        Ok(self.address.wrapping_add(usize::try_from(start)?))
    }
}
