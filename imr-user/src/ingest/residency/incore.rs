//! mincore(2) on a mapping of our own: which pages of a file are in RAM, on kernels without cachestat(2).
//!
//! In: an open file, a range. Out: a byte for each page. The mapping is PROT_NONE, so that nothing can touch a page
//! through it: reading a hole would allocate it.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::model::ids::FRAME_SIZE;

/// A range of a file, mapped to be asked about.
#[derive(Debug)]
pub(super) struct Window {
    address: NonNull<libc::c_void>,
    bytes: usize,
}

impl Window {
    /// `offset` is page-aligned, `pages` is not 0.
    pub(super) fn new(file: BorrowedFd<'_>, offset: u64, pages: usize) -> io::Result<Self> {
        let bytes = pages * FRAME_SIZE as usize;
        // SAFETY: without MAP_FIXED the kernel picks addresses that nobody uses.
        let address = unsafe {
            mmap(null_mut(), bytes, ProtFlags::empty(), MapFlags::SHARED | MapFlags::NORESERVE, file, offset)
        }?;
        let address = NonNull::new(address).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { address, bytes })
    }

    /// Fills `in_core` for pages `first`, `first + 1`, ... of the window: the lowest bit is set for those in RAM.
    pub(super) fn read(&self, first: usize, in_core: &mut [u8]) -> io::Result<()> {
        let (skipped, bytes) = (first * FRAME_SIZE as usize, in_core.len() * FRAME_SIZE as usize);
        if skipped + bytes > self.bytes {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let address = self.address.as_ptr().wrapping_byte_add(skipped);
        // SAFETY: the kernel only looks at the range, which lies within this mapping, and writes one byte for each
        // of its pages: as many as `in_core` has.
        let result = unsafe { libc::mincore(address, bytes, in_core.as_mut_ptr()) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours alone, and no reference points into it.
        let _ = unsafe { munmap(self.address.as_ptr(), self.bytes) };
    }
}
