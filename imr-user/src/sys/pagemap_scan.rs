//! The ioctl PAGEMAP_SCAN (Linux 6.7): ranges of pages that are alike, without a word for each page.
//!
//! In: an open pagemap, addresses. Out: the ranges in them that are of the wanted categories. It asks for no write protection
//! and so changes nothing (fs/proc/task_mmu.c, do_pagemap_scan, 6.12).

use std::fs::File;
use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::fd::AsRawFd as _;

/// include/uapi/linux/fs.h: the page is in the page tables.
pub(crate) const PRESENT: u64 = 1 << 3;
/// Not there, but the entry is not empty: swapped out, on its way to another frame, or a marker.
pub(crate) const SWAPPED: u64 = 1 << 4;
/// The zero page of 4 KiB.
pub(crate) const ZERO: u64 = 1 << 5;
/// Mapped by a huge page as a whole: the entry is a PMD's or hugetlbfs' (fs/proc/task_mmu.c, pagemap_thp_category and
/// pagemap_hugetlb_category, 6.12).
pub(crate) const HUGE: u64 = 1 << 6;

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::Ioctl = {
    let size = size_of::<ScanArgument>() as libc::Ioctl;
    (3 << 30) | (size << 16) | ((b'f' as libc::Ioctl) << 8) | 16
};

/// struct pm_scan_arg.
#[repr(C)]
#[derive(Debug, Default)]
struct ScanArgument {
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

const _: () = assert!(size_of::<ScanArgument>() == 96);

/// struct page_region: addresses `start..end` are alike.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Region {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) categories: u64,
}

const _: () = assert!(size_of::<Region>() == 24);

/// More than these the kernel collects in lots of as many, and where the walk ends within a later lot it still says
/// that it came to the end of the first: what lies between would be counted twice (fs/proc/task_mmu.c,
/// do_pagemap_scan, walk_end, 6.12; seen on 6.18).
pub(crate) const MAX_REGIONS: usize = 512;

/// Calls `look` with the ranges of `addresses` whose pages are of any of the categories `wanted`, in order. `regions` is
/// room for what one call of the kernel finds: 1 at least, and no more than [`MAX_REGIONS`] of them are used.
///
/// # Errors
/// What the kernel says, with its errno: ENOTTY or EINVAL where it does not have the request. Without one where the walk
/// does not come further.
pub(crate) fn each_region(
    pagemap: &File,
    wanted: u64,
    addresses: Range<u64>,
    regions: &mut [Region],
    mut look: impl FnMut(&Region),
) -> io::Result<()> {
    let Range { mut start, end } = addresses;
    while start < end {
        let (found, walked_to) = scan(pagemap, wanted, start, end, regions)?;
        regions[..found].iter().for_each(&mut look);
        if walked_to <= start {
            return Err(io::Error::other(format!("from {start:#x} it came to {walked_to:#x}")));
        }
        start = walked_to;
    }
    Ok(())
}

/// Whether the kernel has it: older ones refuse every ioctl on pagemap.
pub(crate) fn is_available(pagemap: &File) -> bool {
    scan(pagemap, PRESENT, 0, 0, &mut [Region::default()]).is_ok()
}

/// Looks in the addresses `start..end` for pages of any of the categories `wanted`. Returns how many of `regions` were
/// filled, and up to where the kernel came: before `end` when there was no more room.
fn scan(
    pagemap: &File,
    wanted: u64,
    start: u64,
    end: u64,
    regions: &mut [Region],
) -> io::Result<(usize, u64)> {
    let mut argument = ScanArgument {
        size: size_of::<ScanArgument>() as u64,
        start,
        end,
        vec: regions.as_mut_ptr() as u64,
        vec_len: regions.len().min(MAX_REGIONS) as u64,
        category_anyof_mask: wanted,
        // Not PAGE_IS_FILE: the kernel would have to look at the struct page of each.
        return_mask: PRESENT | SWAPPED | ZERO | HUGE,
        ..ScanArgument::default()
    };
    // SAFETY: `argument` is the structure this request takes, and `vec` and `vec_len` name `regions`, which is
    // borrowed mutably until the call is over and may hold any bytes.
    let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
    let found = usize::try_from(found).map_err(|_| io::Error::last_os_error())?;
    Ok((found.min(regions.len()), argument.walk_end))
}
