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
use super::inject::maps::{Maps, Vma};
use super::still_there;
use crate::model::backing::{BackingKind, Segment};

/// Unit of st_blocks, bytes, whatever the file system (stat(2)).
const STAT_BLOCK: u64 = 512;
/// include/uapi/linux/magic.h, TMPFS_MAGIC; memfds and shared anonymous memory are tmpfs files too.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// include/uapi/linux/magic.h, HUGETLBFS_MAGIC.
const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;

/// The backend.
#[derive(Debug)]
pub struct Punch<'a> {
    proc_dir: BorrowedFd<'a>,
    /// Prepared in this batch.
    files: Vec<OpenFile>,
    kept: Option<&'a mut KeptFiles>,
}

/// A file of this batch.
#[derive(Debug)]
struct OpenFile {
    dev: u64,
    inode: u64,
    page_size: u64,
    /// The mapping that it was opened through; `None` where the kernel does not tell of a single one.
    through: Option<Vma>,
    fd: OwnedFd,
}

/// Files that stay open from one batch to the next, for batches in huge pages, which take hardly longer than opening a
/// file with cold caches. Before each batch the kernel is asked whether the VMM still has the very same mapping.
///
/// They keep a dead VM's memory allocated: whoever has them lets go when nothing follows.
#[derive(Debug, Default)]
pub struct KeptFiles {
    maps: Option<Maps>,
    files: Vec<OpenFile>,
}

impl KeptFiles {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Closes them.
    pub fn let_go(&mut self) {
        *self = Self::default();
    }

    /// The file behind the segment, if it was kept and is still mapped there as it was.
    fn take(&mut self, segment: &Segment) -> Option<OpenFile> {
        let is_it = |file: &OpenFile| {
            (file.dev, file.inode, file.page_size) == (segment.dev, segment.inode, segment.page_size)
                && file.through.is_some_and(|vma| {
                    (vma.start, vma.end) == (segment.vma_start.get(), segment.vma_end.get())
                })
        };
        let file = self.files.swap_remove(self.files.iter().position(is_it)?);
        let now = self.maps.as_ref()?.query(segment.hva.get());
        // An inode that is open cannot become another file's.
        (now == Ok(file.through)).then_some(file)
    }

    /// What is mapped at the segment, where the kernel can be asked.
    fn look(&mut self, proc_dir: BorrowedFd<'_>, segment: &Segment) -> Option<Vma> {
        if self.maps.is_none() {
            self.maps = Maps::open(proc_dir).ok();
        }
        self.maps.as_ref()?.query(segment.hva.get()).ok().flatten()
    }
}

impl<'a> Punch<'a> {
    /// `proc_dir`: the directory /proc/PID of the VMM, opened when the VM was found. A pid that is used
    /// again is another directory, so it can never lead to another process.
    #[must_use]
    pub fn new(proc_dir: BorrowedFd<'a>) -> Self {
        Self { proc_dir, files: Vec::new(), kept: None }
    }

    /// As [`Punch::new`]; what can be kept open for the next batch goes to `kept`, which is this VMM's alone.
    #[must_use]
    pub fn keeping(proc_dir: BorrowedFd<'a>, kept: &'a mut KeptFiles) -> Self {
        Self { proc_dir, files: Vec::new(), kept: Some(kept) }
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

/// Whether the mapping shows that part of the file that the segment says.
fn shows(vma: &Vma, segment: &Segment) -> bool {
    let skipped = segment.hva.get().checked_sub(vma.start);
    let offset = skipped.and_then(|skipped| vma.offset.checked_add(skipped));
    offset == Some(segment.file_offset) && vma.shared && vma.writable && vma.inode == segment.inode
}

fn punch(fd: BorrowedFd<'_>, call: &Call<'_>) -> Result<Effect, Failure> {
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(fd, mode, call.file_offset, call.bytes).map_err(|errno| failed(call, errno))?;
    Ok(Effect::Taken)
}

#[cold]
fn failed(call: &Call<'_>, errno: Errno) -> Failure {
    let path = format!("inode {} at {:#x}+{:#x}", call.segment.inode, call.file_offset, call.bytes);
    Failure { operation: FALLOCATE, path, errno }
}

impl Backend for Punch<'_> {
    fn name(&self) -> &'static str {
        "punch"
    }

    fn prepare(&mut self, segment: &Segment) -> Result<(), Obstacle> {
        // Opened even where the file is open already: this mapping may have changed, not only that file.
        let file = match self.kept.as_mut().and_then(|kept| kept.take(segment)) {
            Some(file) => file,
            None => {
                // Looked at first: a mapping that is replaced in between is not the one that is found the next time.
                let through = self.kept.as_mut().and_then(|kept| kept.look(self.proc_dir, segment));
                if through.is_some_and(|vma| !shows(&vma, segment)) {
                    return Err(Obstacle::Guard(Guard::StaleMapping));
                }
                let fd = self.open(segment)?;
                let Segment { dev, inode, page_size, .. } = *segment;
                OpenFile { dev, inode, page_size, through, fd }
            }
        };
        self.files.push(file);
        Ok(())
    }

    fn held_bytes(&self) -> Result<u64, Failure> {
        // st_blocks, because a hugetlb page is in no RSS, and the VMM's RSS forgets what it did not touch.
        let mut sum: u64 = 0;
        for (index, file) in self.files.iter().enumerate() {
            // Mapped in several places it is one file.
            let same = |other: &OpenFile| (other.dev, other.inode) == (file.dev, file.inode);
            if self.files[..index].iter().any(same) {
                continue;
            }
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
        let fd = self.file(call.segment).ok_or_else(|| failed(call, Errno::BADF))?;
        punch(fd, call)
    }

    fn reclaim_all(&mut self, calls: &[Call<'_>], results: &mut Vec<Result<Effect, Failure>>) {
        for calls in calls.chunk_by(|a, b| std::ptr::eq(a.segment, b.segment)) {
            match calls.first().and_then(|call| self.file(call.segment)) {
                Some(fd) => results.extend(calls.iter().map(|call| punch(fd, call))),
                None => results.extend(calls.iter().map(|call| Err(failed(call, Errno::BADF)))),
            }
        }
    }

    fn left_bytes(&self, call: &Call<'_>) -> Option<u64> {
        if call.segment.kind == BackingKind::Hugetlbfs {
            return still_there::in_page_tables(self.proc_dir, call.hva, call.bytes);
        }
        still_there::in_file(self.file(call.segment)?, call.file_offset, call.bytes)
    }

    fn finish(&mut self) {
        match &mut self.kept {
            Some(kept) => {
                kept.files.extend(self.files.drain(..).filter(|file| file.through.is_some()));
            }
            None => self.files.clear(),
        }
    }
}
