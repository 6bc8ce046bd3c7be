//! Looks whether memory that was given back is there after all.
//!
//! Input: an address range of a VMM, or a range of a file. Output: bytes with memory behind them; `None` where nobody can
//! tell. It never reads the memory itself: that would allocate it.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, SeekFrom, openat, seek};
use rustix::io::{Errno, pread};

use crate::model::ids::{FRAME_SIZE, Hva};

/// Pages of pagemap that are read at once.
const PAGES: usize = 4096;
/// "Present" and "swapped" of an entry (Documentation/admin-guide/mm/pagemap.rst).
const PRESENT_OR_SWAPPED: u64 = 1 << 63 | 1 << 62;

/// Bytes of the range that the VMM's page tables have memory for, in RAM or in swap. `proc_dir`: its /proc/PID.
#[must_use]
pub fn in_page_tables(proc_dir: BorrowedFd<'_>, hva: Hva, bytes: u64) -> Option<u64> {
    let pagemap = openat(proc_dir, c"pagemap", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let first = hva.get() / FRAME_SIZE;
    let count = bytes / FRAME_SIZE;
    let mut buffer = vec![0_u8; PAGES.min(usize::try_from(count).ok()?) * 8];
    let mut there = 0;
    let mut done = 0;
    while done < count {
        let pages = usize::try_from(count - done).ok()?.min(PAGES);
        let read = pread(&pagemap, &mut buffer[..pages * 8], (first + done) * 8).ok()?;
        let entries = buffer[..read].as_chunks::<8>().0;
        // A process that has ended has no pages.
        if entries.is_empty() {
            break;
        }
        let has = |entry: &&[u8; 8]| u64::from_ne_bytes(**entry) & PRESENT_OR_SWAPPED != 0;
        there += entries.iter().filter(has).count() as u64 * FRAME_SIZE;
        done += entries.len() as u64;
    }
    Some(there)
}

/// Bytes of the range that the file has content for. Only file systems that know their holes can tell: tmpfs does,
/// hugetlbfs calls everything data. Pages that fallocate has reserved and nobody has touched since are holes, too
/// (mm/filemap.c, mapping_seek_hole_data, 6.12).
#[must_use]
pub fn in_file(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> Option<u64> {
    let end = offset.checked_add(bytes)?;
    let mut there = 0;
    let mut at = offset;
    while at < end {
        let data = match seek(file, SeekFrom::Data(at)) {
            Ok(data) => data.min(end),
            // No data from here to the end of the file.
            Err(Errno::NXIO) => break,
            Err(_) => return None,
        };
        if data == end {
            break;
        }
        let hole = seek(file, SeekFrom::Hole(data)).ok()?.min(end);
        // Somebody punches beside us: what was data is none any more.
        at = hole.max(data + 1);
        there += hole - data;
    }
    Some(there)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{FallocateFlags, MemfdFlags, fallocate};
    use rustix::mm::MapFlags;

    use super::*;
    use crate::reclaim::testing::{MIB, Ram, memfd, proc_dir};

    #[test]
    fn what_is_there_is_counted_in_files_and_in_page_tables() {
        let file = memfd(4 * MIB, MemfdFlags::empty());
        let ram = Ram::shared(&file, 0, 4 * MIB);
        let own = proc_dir(std::process::id());
        let both = |start, bytes| {
            let hva = Hva::new(ram.address() + start);
            (in_file(file.as_fd(), start, bytes), in_page_tables(own.as_fd(), hva, bytes))
        };
        assert_eq!(both(0, 4 * MIB), (Some(0), Some(0)));
        ram.fill();
        assert_eq!(both(0, 4 * MIB), (Some(4 * MIB), Some(4 * MIB)));
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, hole, MIB, MIB).unwrap();
        fallocate(&file, hole, 3 * MIB + FRAME_SIZE, FRAME_SIZE).unwrap();
        assert_eq!(both(0, 4 * MIB), (Some(3 * MIB - FRAME_SIZE), Some(3 * MIB - FRAME_SIZE)));
        assert_eq!(both(MIB, MIB), (Some(0), Some(0)));
        assert_eq!(both(MIB, MIB + FRAME_SIZE), (Some(FRAME_SIZE), Some(FRAME_SIZE)));
    }

    #[test]
    fn anonymous_memory_is_in_page_tables() {
        let ram = Ram::anonymous(2 * MIB, MapFlags::PRIVATE);
        let own = proc_dir(std::process::id());
        let there = || in_page_tables(own.as_fd(), Hva::new(ram.address()), 2 * MIB);
        assert_eq!(there(), Some(0));
        ram.fill();
        assert_eq!(there(), Some(2 * MIB));
    }
}
