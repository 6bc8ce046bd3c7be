//! Backend for memfd, tmpfs and hugetlbfs: punches a hole into the file behind guest RAM.
//!
//! Input: a descriptor of the VMM's /proc/PID and the segments of a batch. Output: holes. A file is reached
//! only through the VMM's own mapping (/proc/PID/map_files), never by a path, and only after it was seen to be
//! the file it should be, on a file system that holds nothing but memory.

#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fstat, fstatfs, openat, readlinkat};
use rustix::io::Errno;

use super::backend::{Backend, Call, Effect, FALLOCATE, Failure, Obstacle};
use super::guards::Guard;
use super::still_there;
use crate::model::backing::{BackingKind, Segment};

/// Unit of st_blocks, bytes, whatever the file system (stat(2)).
const STAT_BLOCK: u64 = 512;
/// include/uapi/linux/magic.h, TMPFS_MAGIC; memfds and shared anonymous memory are tmpfs files too.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// include/uapi/linux/magic.h, HUGETLBFS_MAGIC.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// The backend.
///
/// Files are opened anew in every batch. A descriptor kept for longer would keep all of a dead VM's memory
/// allocated, and opening costs a few microseconds in a batch of many milliseconds.
#[derive(Debug)]
pub struct Punch<'a> {
    proc_dir: BorrowedFd<'a>,
    files: Vec<OpenFile>,
}

/// A file of this batch.
#[derive(Debug)]
struct OpenFile {
    dev: u64,
    inode: u64,
    fd: OwnedFd,
}

impl<'a> Punch<'a> {
    /// `proc_dir`: the directory /proc/PID of the VMM, opened when the VM was found. A pid that is used
    /// again is another directory, so it can never lead to another process.
    #[must_use]
    pub fn new(proc_dir: BorrowedFd<'a>) -> Self {
        Self { proc_dir, files: Vec::new() }
    }

    /// Why a lookup in the VMM's map_files found nothing.
    fn lost(&self) -> Guard {
        // Gone for a process that was reaped, a zombie and one that is exiting alike: none has an mm
        // (fs/proc/base.c, proc_exe_link, 6.12).
        match readlinkat(self.proc_dir, c"exe", Vec::new()) {
            Ok(_) => Guard::StaleMapping,
            Err(_) => Guard::VmmGone,
        }
    }

    /// Opens the file mapped at the segment and makes sure that it is the one.
    fn open(&self, segment: &Segment) -> Result<OwnedFd, Obstacle> {
        // The kernel wants exactly the bounds of the VMA (fs/proc/base.c, proc_map_files_lookup, 6.12): a
        // mapping that was replaced by a smaller or larger one is not found.
        let path = format!("map_files/{:x}-{:x}", segment.vma_start.get(), segment.vma_end.get());
        let failure = |operation, errno| Obstacle::Failure(Failure { operation, path: path.clone(), errno });
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let fd = match openat(self.proc_dir, path.as_str(), flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT | Errno::SRCH) => return Err(Obstacle::Guard(self.lost())),
            Err(errno) => return Err(failure("open", errno)),
        };
        let stat = fstat(&fd).map_err(|errno| failure("fstat", errno))?;
        if (stat.st_dev, stat.st_ino) != (segment.dev, segment.inode) {
            return Err(Obstacle::Guard(Guard::StaleMapping));
        }
        let fs = fstatfs(&fd).map_err(|errno| failure("fstatfs", errno))?;
        // The magic is 32 bits wide; hugetlbfs's would come sign-extended from a narrower type.
        let magic = fs.f_type as u64 & 0xffff_ffff;
        if magic != TMPFS_MAGIC && magic != HUGETLBFS_MAGIC {
            return Err(Obstacle::Guard(Guard::OtherFile(self.mapped_path(&path))));
        }
        // 4096 on tmpfs, the huge page size on hugetlbfs (fs/hugetlbfs/inode.c, hugetlbfs_statfs, 6.12).
        if fs.f_bsize as u64 != segment.page_size {
            return Err(Obstacle::Guard(Guard::StaleMapping));
        }
        Ok(fd)
    }

    /// What the map_files entry points to, for people.
    fn mapped_path(&self, entry: &str) -> String {
        readlinkat(self.proc_dir, entry, Vec::new())
            .map_or_else(|_| entry.to_owned(), |path| path.to_string_lossy().into_owned())
    }

    fn file(&self, segment: &Segment) -> Option<BorrowedFd<'_>> {
        let same = |file: &&OpenFile| (file.dev, file.inode) == (segment.dev, segment.inode);
        self.files.iter().find(same).map(|file| file.fd.as_fd())
    }
}

impl Backend for Punch<'_> {
    fn name(&self) -> &'static str {
        "punch"
    }

    fn prepare(&mut self, segment: &Segment) -> Result<(), Obstacle> {
        // Opened even where the file is open already: this mapping may have changed, not only that file.
        let fd = self.open(segment)?;
        if self.file(segment).is_none() {
            self.files.push(OpenFile { dev: segment.dev, inode: segment.inode, fd });
        }
        Ok(())
    }

    fn held_bytes(&self) -> Result<u64, Failure> {
        // st_blocks, because a hugetlb page is in no RSS, and the VMM's RSS forgets what it did not touch.
        let mut sum: u64 = 0;
        for file in &self.files {
            let stat = fstat(&file.fd).map_err(|errno| Failure {
                operation: "fstat",
                path: format!("inode {}", file.inode),
                errno,
            })?;
            sum = sum.saturating_add(u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(STAT_BLOCK));
        }
        Ok(sum)
    }

    fn reclaim(&mut self, call: &Call<'_>) -> Result<Effect, Failure> {
        let failure = |errno| Failure {
            operation: FALLOCATE,
            path: format!("inode {} at {:#x}+{:#x}", call.segment.inode, call.file_offset, call.bytes),
            errno,
        };
        let fd = self.file(call.segment).ok_or_else(|| failure(Errno::BADF))?;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(fd, mode, call.file_offset, call.bytes).map_err(failure)?;
        Ok(Effect::Taken)
    }

    fn left_bytes(&self, call: &Call<'_>) -> Option<u64> {
        if call.segment.kind == BackingKind::Hugetlbfs {
            return still_there::in_page_tables(self.proc_dir, call.hva, call.bytes);
        }
        still_there::in_file(self.file(call.segment)?, call.file_offset, call.bytes)
    }

    fn finish(&mut self) {
        self.files.clear();
    }
}
