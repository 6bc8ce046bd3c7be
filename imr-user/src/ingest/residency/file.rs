//! What the file behind a shared mapping holds that the VMM's page tables do not show: pages that were swapped out,
//! and pages that only others have touched (a vhost-user back end, whoever wrote a snapshot into the file).
//!
//! In: pieces, and what the page tables said of their blocks. Out: completed counts. Blocks whose every frame the
//! VMM has mapped are not asked about.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{OFlags, SeekFrom, fstat, seek};
use rustix::io::Errno;
use rustix::system::sysinfo;

use super::cachestat::cachestat;
use super::incore::Window;
use super::piece::Piece;
use crate::ingest::IngestError;
use crate::ingest::vmm::Vmm;
use crate::model::backing::Segment;
use crate::model::block::Residency;
use crate::model::ids::FRAME_SIZE;

/// How the kernel is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// cachestat(2), Linux 6.5. What is in a swap area counts as swapped, also while the swap cache still has it, as
    /// in the page tables.
    Cachestat,
    /// mincore(2) and SEEK_DATA. What the swap cache still has counts as in RAM (mm/mincore.c, mincore_swap), and
    /// memory that fallocate(2) reserved and nobody touched yet is not seen (mm/filemap.c, folio_seek_hole_data).
    Mincore,
}

/// Pages of a range of a file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct FilePages {
    /// In the page cache.
    pub(super) in_core: u64,
    /// In a swap area.
    pub(super) swapped: u64,
}

/// The files of one reading. A descriptor kept for longer would keep all of a dead VM's memory allocated.
#[derive(Debug)]
pub(super) struct OpenFiles<'a> {
    vmm: &'a Vmm,
    source: &'a mut Source,
    files: Vec<OpenFile>,
    in_core: Vec<u8>,
}

#[derive(Debug)]
struct OpenFile {
    dev: u64,
    inode: u64,
    link: String,
    fd: OwnedFd,
}

impl<'a> OpenFiles<'a> {
    pub(super) fn new(vmm: &'a Vmm, source: &'a mut Source) -> Self {
        Self { vmm, source, files: Vec::new(), in_core: Vec::new() }
    }

    /// `counts` holds what the page tables say of the piece's blocks.
    pub(super) fn complete(
        &mut self,
        segment: &Segment,
        piece: &Piece,
        counts: &mut [Residency],
    ) -> Result<(), IngestError> {
        let mut block = 0;
        while block < counts.len() {
            let open = |counts: &[Residency], block: usize| {
                let frames = piece.frames_of(block..block + 1);
                u64::from(counts[block].resident) < frames.end - frames.start
            };
            let end = block + (block..counts.len()).take_while(|block| open(counts, *block)).count();
            if end == block {
                block += 1;
                continue;
            }
            let file = self.file(segment)?;
            self.complete_run(file, piece, block..end, counts).map_err(|(operation, error)| {
                self.vmm.io_failure(operation, &self.files[file].link, error)
            })?;
            block = end;
        }
        Ok(())
    }

    /// Blocks none of which the page tables show full.
    fn complete_run(
        &mut self,
        file: usize,
        piece: &Piece,
        blocks: Range<usize>,
        counts: &mut [Residency],
    ) -> Result<(), Failure> {
        if *self.source == Source::Cachestat {
            match complete_by_cachestat(self.files[file].fd.as_fd(), piece, blocks.clone(), counts) {
                // Not there; or forbidden, by kernels that are stricter here than mincore(2) is (6.14), or by a
                // sandbox.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    *self.source = Source::Mincore;
                }
                result => return result.map_err(|error| ("cachestat", error)),
            }
        }
        let fd = self.files[file].fd.as_fd();
        complete_by_mincore(fd, piece, blocks, counts, &mut self.in_core)
    }

    /// The segment's file, opened through the VMM's own mapping, and seen to be the one.
    fn file(&mut self, segment: &Segment) -> Result<usize, IngestError> {
        let same = |file: &OpenFile| (file.dev, file.inode) == (segment.dev, segment.inode);
        if let Some(open) = self.files.iter().position(same) {
            return Ok(open);
        }
        let changed = || IngestError::MappingChanged { pid: self.vmm.pid(), hva: segment.hva };
        let link = format!("map_files/{:x}-{:x}", segment.vma_start.get(), segment.vma_end.get());
        // The kernel wants exactly the bounds of the VMA (fs/proc/base.c, proc_map_files_lookup, 6.12).
        let fd = match self.vmm.open_at(&link, OFlags::RDONLY) {
            Err(IngestError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(changed());
            }
            opened => opened?,
        };
        let stat = fstat(&fd).map_err(|error| self.vmm.io_failure("stat", &link, error.into()))?;
        if (stat.st_dev, stat.st_ino) != (segment.dev, segment.inode) {
            return Err(changed());
        }
        self.files.push(OpenFile { dev: segment.dev, inode: segment.inode, link, fd });
        Ok(self.files.len() - 1)
    }
}

/// What was tried, and what the kernel said.
type Failure = (&'static str, io::Error);

pub(super) fn complete_by_cachestat(
    fd: BorrowedFd<'_>,
    piece: &Piece,
    blocks: Range<usize>,
    counts: &mut [Residency],
) -> io::Result<()> {
    let pages = |frames: Range<u64>| {
        cachestat(fd, piece.file_offset + frames.start * FRAME_SIZE, (frames.end - frames.start) * FRAME_SIZE)
    };
    // One call for all of them: mostly there is nothing that the page tables did not show.
    let mapped: u64 = counts[blocks.clone()].iter().map(|block| u64::from(block.resident)).sum();
    let all = pages(piece.frames_of(blocks.clone()))?;
    if all.swapped == 0 && all.in_core <= mapped {
        return Ok(());
    }
    let run = piece.frames_of(blocks.clone());
    let full = all.in_core == run.end - run.start;
    for block in blocks {
        let frames = piece.frames_of(block..block + 1);
        let length = frames.end - frames.start;
        if full {
            counts[block] = joined(0, FilePages { in_core: length, swapped: 0 }, length);
            continue;
        }
        counts[block] = joined(counts[block].resident, pages(frames)?, length);
    }
    Ok(())
}

pub(super) fn complete_by_mincore(
    fd: BorrowedFd<'_>,
    piece: &Piece,
    blocks: Range<usize>,
    counts: &mut [Residency],
    in_core: &mut Vec<u8>,
) -> Result<(), Failure> {
    let run = piece.frames_of(blocks.clone());
    let mut window = None;
    let swap_in_use = swap_in_use();
    let mut at = run.start;
    // SEEK_HOLE is of no use: it takes the inode's lock and walks on to the next hole, which may be the file's end,
    // however far away that is (mm/filemap.c, mapping_seek_hole_data, 6.1).
    while let Some(data) =
        next_data(fd, piece, at).map_err(|error| ("lseek", error))?.filter(|data| *data < run.end)
    {
        let block = piece.block_of(data);
        let frames = piece.frames_of(block..block + 1);
        let window = match &window {
            Some(window) => window,
            None => {
                check_mincore_tells(fd).map_err(|error| ("mincore", error))?;
                let offset = piece.file_offset + run.start * FRAME_SIZE;
                let mapped = Window::new(fd, offset, usize::try_from(run.end - run.start).unwrap_or(0));
                &*window.insert(mapped.map_err(|error| ("mmap", error))?)
            }
        };
        let length = usize::try_from(frames.end - frames.start).unwrap_or(0);
        in_core.resize(length, 0);
        let first = usize::try_from(frames.start - run.start).unwrap_or(usize::MAX);
        window.read(first, in_core).map_err(|error| ("mincore", error))?;
        let swapped = if swap_in_use {
            count_swapped(in_core, |page| {
                Ok(next_data(fd, piece, frames.start + page)?.map(|data| data - frames.start))
            })
            .map_err(|error| ("lseek", error))?
        } else {
            0
        };
        let found = FilePages { in_core: in_core.iter().map(|page| u64::from(page & 1)).sum(), swapped };
        counts[block] = joined(counts[block].resident, found, length as u64);
        at = frames.end;
    }
    Ok(())
}

/// First frame of the piece's file, from `frame` of the piece on, that has a page, in RAM or swapped out
/// (mapping_seek_hole_data takes swap entries for data); it may lie after the piece.
fn next_data(fd: BorrowedFd<'_>, piece: &Piece, frame: u64) -> io::Result<Option<u64>> {
    match seek(fd, SeekFrom::Data(piece.file_offset + frame * FRAME_SIZE)) {
        Ok(offset) => Ok(Some(offset.saturating_sub(piece.file_offset) / FRAME_SIZE)),
        // Nothing up to the file's end.
        Err(Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Pages that have data and are not in RAM. `next_data` gives the first page from the one it is given on that has
/// data, and may go past the end.
fn count_swapped(
    in_core: &[u8],
    mut next_data: impl FnMut(u64) -> io::Result<Option<u64>>,
) -> io::Result<u64> {
    let mut swapped = 0;
    let mut page = 0;
    while page < in_core.len() {
        if in_core[page] & 1 != 0 {
            page += 1;
            continue;
        }
        let data = next_data(page as u64)?.and_then(|data| usize::try_from(data).ok());
        let Some(data) = data.filter(|data| *data < in_core.len()) else { break };
        swapped += u64::from(in_core[data] & 1 == 0);
        page = data.max(page) + 1;
    }
    Ok(swapped)
}

/// What page tables and file say together of a block with `frames` frames. They are read one after the other, so
/// that each may know of pages that the other has not seen yet.
fn joined(mapped: u16, file: FilePages, frames: u64) -> Residency {
    let resident = u64::from(mapped).max(file.in_core).min(frames);
    let swapped = file.swapped.min(frames - resident);
    let count = |frames: u64| u16::try_from(frames).unwrap_or(u16::MAX);
    // A block that the VMM maps by a huge page is full, and not asked about here.
    Residency { resident: count(resident), swapped: count(swapped), ..Residency::default() }
}

/// mincore(2) calls every page present to a process that could not write the file (mm/mincore.c, can_do_mincore):
/// seen from a page past the end, which nobody can have.
fn check_mincore_tells(fd: BorrowedFd<'_>) -> io::Result<()> {
    let end = u64::try_from(fstat(fd)?.st_size).unwrap_or(0).next_multiple_of(FRAME_SIZE);
    let mut in_core = [0];
    Window::new(fd, end, 1)?.read(0, &mut in_core)?;
    if in_core[0] & 1 == 0 { Ok(()) } else { Err(Errno::PERM.into()) }
}

/// Whether anything at all is in a swap area of this host.
fn swap_in_use() -> bool {
    let memory = sysinfo();
    memory.freeswap < memory.totalswap
}

#[cfg(test)]
mod tests {
    use super::*;

    fn residency(resident: u16, swapped: u16) -> Residency {
        Residency { resident, swapped, ..Residency::default() }
    }

    #[test]
    fn page_tables_and_file_are_joined() {
        let file = |in_core, swapped| FilePages { in_core, swapped };
        assert_eq!(joined(0, file(0, 0), 512), residency(0, 0));
        assert_eq!(joined(100, file(120, 30), 512), residency(120, 30), "20 that only others have touched");
        assert_eq!(joined(100, file(90, 0), 512), residency(100, 0), "10 came after the file was read");
        assert_eq!(joined(0, file(0, 512), 512), residency(0, 512));
        assert_eq!(
            joined(400, file(300, 200), 512),
            residency(400, 112),
            "they cannot be more than the block"
        );
        assert_eq!(joined(3, file(9, 9), 3), residency(3, 0), "a slot that ends within the block");
    }

    /// The file as a string: `r` in RAM, `s` swapped out, `.` a hole. What comes after it is data.
    fn swapped_in(pages: &str) -> (u64, u32) {
        let bytes = pages.as_bytes();
        let in_core: Vec<u8> = bytes.iter().map(|page| u8::from(*page == b'r')).collect();
        let mut calls = 0;
        let swapped = count_swapped(&in_core, |from| {
            calls += 1;
            let from = usize::try_from(from).unwrap();
            let data =
                bytes[from..].iter().position(|page| *page != b'.').map_or(bytes.len(), |at| from + at);
            Ok(Some(data as u64))
        });
        (swapped.unwrap(), calls)
    }

    #[test]
    fn data_that_is_not_in_ram_is_swapped() {
        assert_eq!(swapped_in("rrrr"), (0, 0));
        assert_eq!(swapped_in("...."), (0, 1), "one call for a hole");
        assert_eq!(swapped_in("rr..rr"), (0, 1));
        assert_eq!(swapped_in("ssss"), (4, 4));
        assert_eq!(swapped_in("s.r.s"), (2, 3));
        assert_eq!(swapped_in("r..s..rs"), (2, 3));
        assert_eq!(swapped_in(""), (0, 0));
        let none = count_swapped(&[0, 0, 1], |_| Ok(None)).unwrap();
        assert_eq!(none, 0, "no data up to the file's end");
        assert!(count_swapped(&[0], |_| Err(io::ErrorKind::Other.into())).is_err());
    }
}
