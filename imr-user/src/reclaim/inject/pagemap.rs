//! /proc/PID/pagemap: how much of an address range is there, and whether a huge page reaches over its ends.
//!
//! Input: an open pagemap and addresses. Output: bytes. Nothing is read from the memory itself, as that would bring it
//! back.

use std::fs::File;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::model::ids::FRAME_SIZE;

/// `_IOWR('f', 16, struct pm_scan_arg)`, Linux 6.7.
const PAGEMAP_SCAN: libc::Ioctl = {
    let size = size_of::<Scan>() as libc::Ioctl;
    (3 << 30) | (size << 16) | ((b'f' as libc::Ioctl) << 8) | 16
};
/// include/uapi/linux/fs.h, PAGE_IS_*: in the page tables; the zero page; mapped by a huge page as a whole.
const PRESENT: u64 = 1 << 3;
const ZERO: u64 = 1 << 5;
const HUGE: u64 = 1 << 6;
/// A word of pagemap: bit 63, the page is there.
const WORD_PRESENT: u64 = 1 << 63;
const WORD: usize = 8;
/// Words read at a time.
const WORDS: usize = 4096;
/// Ranges asked for at a time; from 512 on the kernel counts wrongly (do_pagemap_scan, 6.12).
const REGIONS: usize = 256;

/// struct pm_scan_arg.
#[repr(C)]
#[derive(Debug, Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<Scan>() == 96);

/// struct page_region.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

const _: () = assert!(size_of::<Region>() == 24);

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
            if region.categories & ZERO == 0 {
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
        match self.each(start, end, &mut |region| huge |= region.categories & HUGE != 0) {
            Ok(()) => Ok(Some(huge)),
            Err(Errno::NOTTY | Errno::INVAL) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn each(&self, start: u64, end: u64, look: &mut dyn FnMut(&Region)) -> Result<(), Errno> {
        let mut regions = [Region::default(); REGIONS];
        let mut from = start;
        while from < end {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                start: from,
                end,
                vec: regions.as_mut_ptr() as u64,
                vec_len: REGIONS as u64,
                category_anyof_mask: PRESENT,
                return_mask: PRESENT | ZERO | HUGE,
                ..Scan::default()
            };
            // SAFETY: `scan` is the structure that this request takes, and names `regions`, which is borrowed mutably
            // until the call is over and may hold any bytes.
            let found = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut scan) };
            let Ok(found) = usize::try_from(found) else {
                return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO));
            };
            regions.iter().take(found).for_each(&mut *look);
            if scan.walk_end <= from {
                return Err(Errno::IO);
            }
            from = scan.walk_end;
        }
        Ok(())
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

    use rustix::mm::MapFlags;

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
}
