//! What a VMM has behind guest RAM, exactly, counted per block.
//!
//! In: a VMM and the segments of a slot. Out: for each block how many frames have memory of their own, how many
//! are swapped out, how many share a page that KSM merged, and whether it is all one huge page. Nothing is changed:
//! no page is touched, no fault taken, and no file stays open between two readings, as that would keep a dead VM's
//! memory allocated.

mod cachestat;
mod file;
mod incore;
mod kpageflags;
mod pagemap;
mod piece;
mod row;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::file::{OpenFiles, Source};
use self::pagemap::Pagemap;
use self::piece::pieces;
use super::IngestError;
use super::vmm::Vmm;
use crate::model::backing::{BackingKind, Segment};
use crate::model::block::Residency;
use crate::model::ids::{BLOCK_SIZE, BlockId};

/// Reads what is behind the blocks of one VM.
#[derive(Debug)]
pub struct ResidencyReader {
    vmm: Arc<Vmm>,
    pagemap: Pagemap,
    /// How files are read; settled by the first that was asked.
    source: Source,
    counts: Vec<Residency>,
}

impl ResidencyReader {
    /// Opens the VMM's pagemap. The reader may be kept for as long as the VM is followed: it holds no memory of it.
    ///
    /// # Errors
    /// [`IngestError::VmmGone`]; no permission.
    pub fn open(vmm: &Arc<Vmm>) -> Result<Self, IngestError> {
        let pagemap = Pagemap::open(vmm)?;
        Ok(Self { vmm: Arc::clone(vmm), pagemap, source: Source::Cachestat, counts: Vec::new() })
    }

    /// Reads the blocks `first`, `first + 1`, ... of a slot into `out`. `segments` are the slot's; what none of
    /// them covers counts as nothing.
    ///
    /// Cost, for each GiB: some ten microseconds empty, under a millisecond in 2 MiB pages, a few milliseconds in 4 KiB
    /// pages, some ten milliseconds where KSM has merged any of the VM's pages or the kernel has neither PAGEMAP_SCAN
    /// nor cachestat(2). imr-top shows what it takes here (view health). The VMM's mmap_lock is held, for reading, for
    /// at most 128 MiB at a time.
    ///
    /// # Errors
    /// [`IngestError::VmmGone`]; [`IngestError::MappingChanged`] where `segments` are out of date; what cannot be
    /// read. `out` is not to be used then.
    pub fn read(
        &mut self,
        segments: &[Segment],
        first: BlockId,
        out: &mut [Residency],
    ) -> Result<(), IngestError> {
        out.fill(Residency::default());
        // Unknown is as good as yes: then every page is looked at.
        let merging = segments.iter().any(|segment| !segment.shared) && self.vmm.merged_pages() != Some(0);
        let mut files = OpenFiles::new(&self.vmm, &mut self.source);
        for segment in segments {
            for (at, piece) in pieces(segment, first, out.len()) {
                self.counts.clear();
                self.counts.resize(piece.blocks(), Residency::default());
                match Reading::of(segment) {
                    Reading::File => {
                        self.pagemap.count_present(&piece, &mut self.counts)?;
                        files.complete(segment, &piece, &mut self.counts)?;
                    }
                    Reading::Present => self.pagemap.count_present(&piece, &mut self.counts)?,
                    Reading::Private => self.pagemap.count_private(&piece, merging, &mut self.counts)?,
                }
                if segment.page_size >= BLOCK_SIZE && piece.is_aligned() {
                    // On hugetlbfs there is no other way to map it.
                    self.counts.iter_mut().for_each(|block| block.huge = block.is_full());
                }
                for (block, part) in out[at..].iter_mut().zip(&self.counts) {
                    block.add(*part);
                }
            }
        }
        self.pagemap.check_alive()
    }

    /// Frames, since the reader was opened, that count as resident because nobody could tell whether KSM merged
    /// them or they are the zero page: this process may not see page frame numbers or read /proc/kpageflags, which
    /// takes CAP_SYS_ADMIN.
    #[must_use]
    pub fn undecided_frames(&self) -> u64 {
        self.pagemap.undecided_frames()
    }
}

/// Which of the kernel's tables know what is behind a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// The page tables know what the VMM has mapped, the file knows the rest: a page of a shared file that was
    /// swapped out, or that only somebody else has touched, is not in the VMM's page tables.
    File,
    /// Only the page tables: hugetlbfs is never swapped, and the page cache of other files is not the guest's.
    Present,
    /// The page tables know everything.
    Private,
}

impl Reading {
    fn of(segment: &Segment) -> Self {
        match (&segment.kind, segment.shared) {
            (_, false) => Self::Private,
            (BackingKind::Memfd | BackingKind::Tmpfs, true) => Self::File,
            (_, true) => Self::Present,
        }
    }
}
