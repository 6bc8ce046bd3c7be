//! /proc/PID/pagemap: how much of an address range is there, and whether a huge page reaches over its ends.
//!
//! Input: an open pagemap and addresses. Output: bytes. Nothing is read from the memory itself, as that would bring it
//! back.

use std::fs::File;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::model::ids::FRAME_SIZE;
use crate::sys::pagemap_scan::{self as scan, Region};

/// A word of pagemap: bit 63, the page is there.
const WORD_PRESENT: u64 = 1 << 63;
const WORD: usize = 8;
/// Words read at a time.
const WORDS: usize = 4096;
/// Ranges asked for at a time.
const REGIONS: usize = 256;

/// An open pagemap. Holds no memory of the VMM.
#[derive(Debug)]
pub(super) struct Pagemap {
    file: File,
}

impl Pagemap {
    pub(super) fn open(proc_dir: BorrowedFd<'_>) -> Result<Self, Errno> {
        let fd = openat(proc_dir, c"pagemap", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { file: File::from(fd) })
    }

    /// Bytes of `start..end` that are there and not the zero page. Older kernels count the zero page, too.
    pub(super) fn present_bytes(&self, start: u64, end: u64) -> Result<u64, Errno> {
        let mut sum = 0;
        match self.each(start, end, &mut |region| {
            if region.categories & scan::ZERO == 0 {
                sum += region.end - region.start;
            }
        }) {
            Ok(()) => Ok(sum),
            Err(Errno::NOTTY | Errno::INVAL) => self.present_words(start, end),
            Err(errno) => Err(errno),
        }
    }

    /// Whether a huge page is mapped there; `None` where the kernel does not say.
    pub(super) fn has_huge_page(&self, start: u64, end: u64) -> Result<Option<bool>, Errno> {
        let mut huge = false;
        match self.each(start, end, &mut |region| huge |= region.categories & scan::HUGE != 0) {
            Ok(()) => Ok(Some(huge)),
            Err(Errno::NOTTY | Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn each(&self, start: u64, end: u64, look: &mut dyn FnMut(&Region)) -> Result<(), Errno> {
        let mut regions = [Region::default(); REGIONS];
        scan::each_region(&self.file, scan::PRESENT, start..end, &mut regions, look)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }

    fn present_words(&self, start: u64, end: u64) -> Result<u64, Errno> {
        let mut bytes = vec![0; WORDS * WORD];
        let (mut page, last) = (start / FRAME_SIZE, end / FRAME_SIZE);
        let mut present = 0;
        while page < last {
            let words = WORDS.min(usize::try_from(last - page).unwrap_or(WORDS));
            let read = self.file.read_exact_at(&mut bytes[..words * WORD], page * WORD as u64);
            read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            let is_present = |word: &&[u8]| word[WORD - 1] & (WORD_PRESENT >> 56) as u8 != 0;
            present += bytes[..words * WORD].chunks_exact(WORD).filter(is_present).count() as u64;
            page += words as u64;
        }
        Ok(present * FRAME_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use rustix::mm::{Advice, MapFlags, madvise};

    use super::*;
    use crate::reclaim::testing::{MIB, Ram, proc_dir};

    #[test]
    fn both_ways_count_the_same() {
        let ram = Ram::anonymous(4 * MIB, MapFlags::PRIVATE);
        let proc_dir = proc_dir(std::process::id());
        let pagemap = Pagemap::open(proc_dir.as_fd()).unwrap();
        let (start, end) = (ram.address(), ram.address() + 4 * MIB);
        assert_eq!(pagemap.present_words(start, end), Ok(0));
        assert_eq!(pagemap.present_bytes(start, end), Ok(0));
        ram.fill();
        assert_eq!(pagemap.present_words(start, end), Ok(4 * MIB));
        assert_eq!(pagemap.present_bytes(start, end), Ok(4 * MIB));
        assert_eq!(pagemap.present_bytes(start + MIB, start + 2 * MIB), Ok(MIB));
    }

    /// More ranges than one call has room for.
    #[test]
    fn every_second_page_is_counted_once() {
        let ram = Ram::anonymous_in_frames(4 * MIB);
        ram.fill();
        for address in (ram.address()..ram.address() + 4 * MIB).step_by(2 * FRAME_SIZE as usize) {
            // SAFETY: gives a page of a mapping back that `ram` owns and that nothing refers to.
            unsafe { madvise(address as *mut _, FRAME_SIZE as usize, Advice::LinuxDontNeed) }.unwrap();
        }
        let pagemap = Pagemap::open(proc_dir(std::process::id()).as_fd()).unwrap();
        let (start, end) = (ram.address(), ram.address() + 4 * MIB);
        assert_eq!(pagemap.present_words(start, end), Ok(2 * MIB));
        assert_eq!(pagemap.present_bytes(start, end), Ok(2 * MIB));
    }
}
