//! The system call cachestat(2) (Linux 6.5): how many pages of a range of a file are in RAM, and how many were
//! evicted from it, which on tmpfs means swapped out.
//!
//! In: an open file, a range. Out: two numbers. It walks the page cache under RCU only, no longer than the range
//! (mm/filemap.c, filemap_cachestat, 6.12), where SEEK_HOLE takes the inode's lock and does not stop before a hole.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::file::FilePages;

/// The same number on every architecture (scripts/syscall.tbl).
const SYS_CACHESTAT: libc::c_long = 451;

/// struct cachestat_range.
#[repr(C)]
struct Range {
    offset: u64,
    length: u64,
}

/// struct cachestat.
#[repr(C)]
#[derive(Default)]
struct Statistics {
    cache: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Pages of the `length` bytes from `offset` on. `length` is not 0.
///
/// # Errors
/// ENOSYS before Linux 6.5; EPERM for a file that this process could not write.
pub(super) fn cachestat(file: BorrowedFd<'_>, offset: u64, length: u64) -> io::Result<FilePages> {
    let range = Range { offset, length };
    let mut statistics = Statistics::default();
    // SAFETY: the two structures are what this system call reads and writes, and outlive the call.
    let result = unsafe {
        libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut statistics, 0_u32)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(FilePages { in_core: statistics.cache, swapped: statistics.evicted })
}
