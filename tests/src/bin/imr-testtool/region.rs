//! Anonymous memory straight from the kernel, so that freeing it gives the pages back at once.
//!
//! In: a size. Out: words to read and write, unmapped on drop.
//! Must be the only place that dereferences a mapping.

use std::ptr::{self, NonNull};
use std::slice;

use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::{Failure, failed};

/// 2 MiB: memory is taken in multiples of it.
pub(crate) const BLOCK: usize = 2 << 20;
const PAGE: usize = 4096;

/// An anonymous private mapping.
#[derive(Debug)]
pub(crate) struct Region {
    start: NonNull<u64>,
    bytes: usize,
}

impl Region {
    /// Maps `bytes` bytes, a multiple of 4096.
    pub(crate) fn map(bytes: usize) -> Result<Self, Failure> {
        // SAFETY: a new private mapping at an address of the kernel's choice; no existing memory changes.
        let mapped = unsafe {
            rustix::mm::mmap_anonymous(
                ptr::null_mut(),
                bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        };
        let mapped = mapped.map_err(|error| failed(format!("mmap of {bytes} bytes"))(error.into()))?;
        let start =
            NonNull::new(mapped.cast()).ok_or_else(|| Failure::Failed("mmap returned NULL".into()))?;
        Ok(Self { start, bytes })
    }

    /// Its address.
    pub(crate) fn address(&self) -> u64 {
        self.start.as_ptr() as u64
    }

    /// Its words.
    pub(crate) fn words(&self) -> &[u64] {
        // SAFETY: the kernel mapped `bytes` readable bytes there, page-aligned and initialised with zeros;
        // they stay mapped while `self` lives.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.bytes / 8) }
    }

    /// Its words, to write.
    pub(crate) fn words_mut(&mut self) -> &mut [u64] {
        // SAFETY: as in `words`; the mapping is private and writable, and `self` is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes / 8) }
    }

    /// Makes every page the process' own by a write. A read alone would show the kernel's shared zero page.
    pub(crate) fn touch(&mut self) {
        for word in self.words_mut().iter_mut().step_by(PAGE / 8) {
            // SAFETY: an exclusive reference to a word. Volatile, or the store of the same value may be left out.
            unsafe { ptr::write_volatile(word, 0) };
        }
    }

    /// Asks for pages of 4 KiB, which come and go one by one.
    pub(crate) fn in_small_pages(&self) -> Result<(), Failure> {
        // SAFETY: the range is the mapping itself; the advice changes no content.
        let advised =
            unsafe { rustix::mm::madvise(self.start.as_ptr().cast(), self.bytes, Advice::LinuxNoHugepage) };
        advised.map_err(|error| failed("madvise(MADV_NOHUGEPAGE)")(error.into()))
    }

    /// Gives a page back to the kernel; it reads as zeros from then on.
    pub(crate) fn drop_page(&mut self, page: usize) -> Result<(), Failure> {
        let Some(words) =
            self.words_mut().get_mut(page * PAGE / 8..).and_then(|rest| rest.get_mut(..PAGE / 8))
        else {
            return Err(Failure::Failed(format!("page {page} is not in the region")));
        };
        // SAFETY: an exclusively borrowed page of a private anonymous mapping; it reads as zeros afterwards.
        let dropped = unsafe { rustix::mm::madvise(words.as_mut_ptr().cast(), PAGE, Advice::LinuxDontNeed) };
        dropped.map_err(|error| failed("madvise(MADV_DONTNEED)")(error.into()))
    }

    /// Keeps the pages where they are, in memory and not swapped.
    pub(crate) fn lock(&self) -> Result<(), Failure> {
        // SAFETY: the range is the mapping itself; locking changes no content.
        let locked = unsafe { rustix::mm::mlock(self.start.as_ptr().cast(), self.bytes) };
        locked.map_err(|error| failed("mlock")(error.into()))
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `map`, and no reference into it outlives `self`.
        let unmapped = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.bytes) };
        // It fails only for a range that was never mapped.
        debug_assert!(unmapped.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_zero_at_first_and_keeps_what_is_written() {
        let mut region = Region::map(2 * PAGE).unwrap();
        region.touch();
        assert!(region.words().iter().all(|&word| word == 0));
        region.words_mut()[600] = 7;
        assert_eq!(region.words()[600], 7);
        assert_eq!(region.address() % PAGE as u64, 0);
    }
}
