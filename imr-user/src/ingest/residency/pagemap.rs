//! /proc/PID/pagemap: what the VMM's page tables say of guest RAM.
//!
//! In: pieces of a VMM's address space. Out: counts per block. Ranges that are alike come from PAGEMAP_SCAN where
//! the kernel has it; a word for each page is read where it has not, and where only the page's own flags can tell.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::kpageflags::{KPageFlags, Use};
use super::piece::Piece;
use super::row::Rows;
use crate::ingest::IngestError;
use crate::ingest::vmm::Vmm;
use crate::model::block::Residency;
use crate::model::ids::{FRAME_SIZE, FRAMES_PER_BLOCK};
use crate::sys::pagemap_scan::{self as scan, Region};

/// Bytes of a word.
const WORD: u64 = 8;

/// Bits of a word (fs/proc/task_mmu.c, above pagemap_read, 6.1 and 6.12).
pub(super) const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
/// Mapped once, and here.
const EXCLUSIVE: u64 = 1 << 56;
pub(super) const PFN: u64 = (1 << 55) - 1;
/// Of a word that is not present: which swap area, or what else the entry is.
const SWAP_TYPE: u64 = (1 << 5) - 1;
/// Swap areas have the numbers below this one, whatever the kernel's configuration: of the 32 numbers up to 10 are
/// put to other uses (include/linux/swap.h, MAX_SWAPFILES, 6.1 to 6.12).
const MAX_SWAP_AREAS: u64 = 22;
/// The last number marks entries without a page: guard regions, write protection of what is not there
/// (include/linux/swap.h, SWP_PTE_MARKER).
const MARKER: u64 = 31;

/// An open pagemap with its buffers. Holds no memory of the VMM: the kernel keeps `struct mm_struct`, not its pages.
#[derive(Debug)]
pub(super) struct Pagemap {
    vmm: Arc<Vmm>,
    file: File,
    scans: bool,
    words: Vec<u8>,
    regions: Vec<Region>,
    /// Blocks of the piece that need a look at each word.
    unclear: Vec<bool>,
    /// Ranges of the piece's frames in huge pages.
    huge: Vec<Range<u64>>,
    flags: KPageFlags,
    /// Page frame number and block of pages that may be shared.
    candidates: Vec<(u64, usize)>,
    rows: Rows,
    undecided_frames: u64,
}

impl Pagemap {
    pub(super) fn open(vmm: &Arc<Vmm>) -> Result<Self, IngestError> {
        let file = vmm.pagemap_file()?;
        let scans = scan::is_available(&file);
        Ok(Self {
            vmm: Arc::clone(vmm),
            file,
            scans,
            words: Vec::new(),
            regions: Vec::new(),
            unclear: Vec::new(),
            huge: Vec::new(),
            flags: KPageFlags::default(),
            candidates: Vec::new(),
            rows: Rows::default(),
            undecided_frames: 0,
        })
    }

    pub(super) fn undecided_frames(&self) -> u64 {
        self.undecided_frames
    }

    /// As on kernels that have no PAGEMAP_SCAN.
    #[cfg(test)]
    pub(super) fn read_words_only(&mut self) {
        self.scans = false;
    }

    #[cfg(test)]
    pub(super) fn scans(&self) -> bool {
        self.scans
    }

    /// Counts the pages that are mapped as resident, and finds huge blocks. Nothing else.
    pub(super) fn count_present(
        &mut self,
        piece: &Piece,
        counts: &mut [Residency],
    ) -> Result<(), IngestError> {
        if self.scans {
            return self.each_region(piece, scan::PRESENT, |frames, categories, _| {
                piece.split(frames.clone(), |block, frames| counts[block].resident += frames);
                mark_huge(piece, frames, categories, counts);
            });
        }
        let mut rows = self.begin_rows(piece);
        let read = self.each_word(piece, 0..piece.frames, |frame, word| {
            counts[piece.block_of(frame)].resident += u16::from(word & PRESENT != 0);
            rows.look(piece, frame, word);
        });
        self.flags.in_huge_pages(rows.found(), |block| counts[block].huge = true);
        self.rows = rows;
        read
    }

    /// Counts what is behind a private mapping, and finds huge blocks. `merging`: whether KSM may have merged some of
    /// the VMM's pages.
    pub(super) fn count_private(
        &mut self,
        piece: &Piece,
        merging: bool,
        counts: &mut [Residency],
    ) -> Result<(), IngestError> {
        if !self.scans {
            self.count_words(piece, 0..counts.len(), counts)?;
        } else if merging {
            // A merged page is an ordinary one to PAGEMAP_SCAN.
            self.each_region(piece, scan::HUGE, |frames, categories, _| {
                mark_huge(piece, frames, categories, counts);
            })?;
            self.count_words(piece, 0..counts.len(), counts)?;
        } else {
            self.count_private_regions(piece, counts)?;
        }
        for block in counts {
            // The huge zero page is huge too, and no memory. (What may be either is not called huge.)
            block.huge &= block.is_full();
        }
        Ok(())
    }

    fn count_private_regions(&mut self, piece: &Piece, counts: &mut [Residency]) -> Result<(), IngestError> {
        let mut huge = std::mem::take(&mut self.huge);
        self.each_region(piece, scan::PRESENT | scan::SWAPPED, |frames, categories, unclear| {
            if categories & scan::PRESENT == 0 {
                // Swapped out, or only moving to another frame: the type of the entry tells.
                piece.split(frames, |block, _| unclear[block] = true);
            } else if categories & scan::HUGE != 0 {
                mark_huge(piece, frames.clone(), categories, counts);
                huge.push(frames);
            } else if categories & scan::ZERO == 0 {
                piece.split(frames, |block, frames| counts[block].resident += frames);
            }
        })?;
        for frames in huge.drain(..) {
            self.count_huge(piece, frames, counts)?;
        }
        self.huge = huge;
        let mut unclear = std::mem::take(&mut self.unclear);
        let mut block = 0;
        while let Some(skip) = unclear[block..].iter().position(|unclear| *unclear) {
            let start = block + skip;
            let length = unclear[start..].iter().take_while(|unclear| **unclear).count();
            block = start + length;
            for unclear in &mut counts[start..block] {
                *unclear = Residency { huge: unclear.huge, ..Residency::default() };
            }
            self.count_words(piece, start..block, counts)?;
        }
        unclear.clear();
        self.unclear = unclear;
        Ok(())
    }

    /// An address space that is gone reads like an empty one to PAGEMAP_SCAN; only reading words tells.
    pub(super) fn check_alive(&mut self) -> Result<(), IngestError> {
        let read = self.file.read_at(&mut [0; WORD as usize], 0);
        let read = read.map_err(|error| self.vmm.io_failure("read", "pagemap", error))?;
        // mmget_not_zero in pagemap_read.
        if read == 0 { Err(IngestError::VmmGone { pid: self.vmm.pid() }) } else { Ok(()) }
    }

    /// Calls `each` with ranges of the piece's frames that are of any of the categories `wanted`, with all their
    /// categories and with the marks of the blocks.
    fn each_region(
        &mut self,
        piece: &Piece,
        wanted: u64,
        mut each: impl FnMut(Range<u64>, u64, &mut [bool]),
    ) -> Result<(), IngestError> {
        self.regions.resize(scan::MAX_REGIONS, Region::default());
        self.unclear.clear();
        self.unclear.resize(piece.blocks(), false);
        let addresses = piece.first_page * FRAME_SIZE..(piece.first_page + piece.frames) * FRAME_SIZE;
        scan::each_region(&self.file, wanted, addresses, &mut self.regions, |region| {
            let frame = |address: u64| (address / FRAME_SIZE).saturating_sub(piece.first_page);
            each(frame(region.start)..frame(region.end), region.categories, &mut self.unclear);
        })
        .map_err(|error| self.vmm.io_failure("ioctl PAGEMAP_SCAN on", "pagemap", error))
    }

    /// Counts frames in huge pages. To PAGEMAP_SCAN the huge zero page is one like any other (PAGE_IS_PFNZERO is for
    /// the small one only: pagemap_thp_category, 6.12), so that one word of each huge page is looked at.
    fn count_huge(
        &mut self,
        piece: &Piece,
        frames: Range<u64>,
        counts: &mut [Residency],
    ) -> Result<(), IngestError> {
        let mut at = frames.start;
        while at < frames.end {
            // Huge pages are aligned in the VMM's address space, not in the guest's.
            let next = (piece.first_page + at + 1).next_multiple_of(FRAMES_PER_BLOCK) - piece.first_page;
            let end = next.min(frames.end);
            let mut word = 0;
            self.each_word(piece, at..at + 1, |_, read| word = read)?;
            match behind(word) {
                Behind::Memory => piece.split(at..end, |block, frames| counts[block].resident += frames),
                _ => piece.split(at..end, |block, _| self.unclear[block] = true),
            }
            at = end;
        }
        Ok(())
    }

    /// Counts some of the piece's blocks by their words.
    fn count_words(
        &mut self,
        piece: &Piece,
        blocks: Range<usize>,
        counts: &mut [Residency],
    ) -> Result<(), IngestError> {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        let mut undecided = 0;
        let mut flags = std::mem::take(&mut self.flags);
        let mut rows = self.begin_rows(piece);
        let read = self.each_word(piece, piece.frames_of(blocks), |frame, word| {
            let block = piece.block_of(frame);
            rows.look(piece, frame, word);
            match behind(word) {
                Behind::Nothing => {}
                Behind::Memory => counts[block].resident += 1,
                Behind::Swap => counts[block].swapped += 1,
                Behind::Hidden => {
                    counts[block].resident += 1;
                    counts[block].huge = false;
                    undecided += 1;
                }
                Behind::Page(pfn) => candidates.push((pfn, block)),
            }
        });
        flags.classify(&mut candidates, |block, what| match what {
            Use::Zero => {}
            Use::Merged => counts[block].merged += 1,
            Use::Other => counts[block].resident += 1,
            Use::Unknown => {
                counts[block].resident += 1;
                counts[block].huge = false;
                undecided += 1;
            }
        });
        flags.in_huge_pages(rows.found(), |block| counts[block].huge = true);
        self.candidates = candidates;
        self.flags = flags;
        self.rows = rows;
        self.undecided_frames += undecided;
        read
    }

    /// Words are asked for huge pages only where the kernel has nothing better.
    fn begin_rows(&mut self, piece: &Piece) -> Rows {
        let mut rows = std::mem::take(&mut self.rows);
        rows.begin(!self.scans && piece.is_aligned());
        rows
    }

    /// Calls `each` with frames of the piece and their words.
    fn each_word(
        &mut self,
        piece: &Piece,
        frames: Range<u64>,
        mut each: impl FnMut(u64, u64),
    ) -> Result<(), IngestError> {
        let mut at = frames.start;
        while at < frames.end {
            self.words.resize(usize::try_from((frames.end - at) * WORD).unwrap_or(0), 0);
            let read = self
                .file
                .read_at(&mut self.words, (piece.first_page + at) * WORD)
                .map_err(|error| self.vmm.io_failure("read", "pagemap", error))?;
            if read < WORD as usize {
                return Err(IngestError::VmmGone { pid: self.vmm.pid() });
            }
            for word in self.words[..read].chunks_exact(WORD as usize) {
                each(at, word.try_into().map_or(0, u64::from_ne_bytes));
                at += 1;
            }
        }
        Ok(())
    }
}

/// Marks the blocks that a range of alike frames covers, if they are in memory and in huge pages.
fn mark_huge(piece: &Piece, frames: Range<u64>, categories: u64, counts: &mut [Residency]) {
    const WANTED: u64 = scan::PRESENT | scan::HUGE;
    if categories & WANTED == WANTED && piece.is_aligned() {
        piece.split(frames, |block, frames| counts[block].huge |= u64::from(frames) == FRAMES_PER_BLOCK);
    }
}

/// What a word says of a private page.
#[derive(Debug, PartialEq, Eq)]
enum Behind {
    Nothing,
    Memory,
    Swap,
    /// Mapped more than once, or not counted: the frame's flags tell what it is.
    Page(u64),
    /// The same, but the frame's number is kept from this process.
    Hidden,
}

fn behind(word: u64) -> Behind {
    if word & PRESENT != 0 {
        return match word & PFN {
            // A page that only the VMM maps is its own. KSM's have one mapping only when the others have gone.
            _ if word & EXCLUSIVE != 0 => Behind::Memory,
            // Frame 0 is never a process' page; the kernel puts 0 where it hides the number (pagemap_read).
            0 => Behind::Hidden,
            pfn => Behind::Page(pfn),
        };
    }
    match word & SWAP_TYPE {
        _ if word & SWAPPED == 0 => Behind::Nothing,
        0..MAX_SWAP_AREAS => Behind::Swap,
        MARKER => Behind::Nothing,
        // Being migrated to another frame.
        _ => Behind::Memory,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::ids::Pid;

    /// A pagemap that says what `words` say, from page `first` on.
    fn saying(first: u64, words: &[u64]) -> Pagemap {
        let vmm = Arc::new(Vmm::open(Pid::new(std::process::id())).unwrap());
        let mut pagemap = Pagemap::open(&vmm).unwrap();
        pagemap.file = tempfile::tempfile().unwrap();
        pagemap.scans = false;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        pagemap.file.write_all_at(&bytes, first * WORD).unwrap();
        pagemap
    }

    /// Any word that says by itself what the page is: the flags of no other machine's frames are asked for.
    fn word() -> impl Strategy<Value = u64> {
        any::<u64>().prop_map(|word| match word & PRESENT {
            0 => word,
            _ if word % 3 == 0 => word & !PFN & !EXCLUSIVE,
            _ => word | EXCLUSIVE,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_word_is_counted_once_and_in_its_block(
            first in 0..1500_u64,
            words in proptest::collection::vec(word(), 1..1500),
        ) {
            let piece = Piece::at(first, words.len() as u64);
            let mut pagemap = saying(first, &words);
            let (mut present, mut private) = (vec![Residency::default(); piece.blocks()], Vec::new());
            private.clone_from(&present);
            pagemap.count_present(&piece, &mut present).unwrap();
            pagemap.count_private(&piece, true, &mut private).unwrap();
            let mut expected = vec![Residency::default(); piece.blocks()];
            let mut hidden = 0;
            for (page, word) in (first..).zip(&words) {
                let block = &mut expected[usize::try_from(page / 512 - first / 512).unwrap()];
                match behind(*word) {
                    Behind::Nothing => {}
                    Behind::Swap => block.swapped += 1,
                    Behind::Memory => block.resident += 1,
                    Behind::Hidden => {
                        block.resident += 1;
                        hidden += 1;
                    }
                    Behind::Page(_) => prop_assert!(false, "{word:#x} asks for flags"),
                }
            }
            prop_assert_eq!(private, expected);
            prop_assert_eq!(pagemap.undecided_frames(), hidden);
            let mapped: u64 = present.iter().map(|block| u64::from(block.resident)).sum();
            prop_assert_eq!(mapped, words.iter().filter(|word| **word & PRESENT != 0).count() as u64);
        }
    }

    #[test]
    fn an_address_space_that_ends_early_is_a_vmm_that_is_gone() {
        let piece = Piece::at(0, 600);
        let mut counts = vec![Residency::default(); piece.blocks()];
        let error = saying(0, &[PRESENT; 599]).count_present(&piece, &mut counts).unwrap_err();
        assert!(error.is_vmm_gone());
    }

    #[test]
    fn words_are_told_apart() {
        assert_eq!(behind(0), Behind::Nothing);
        assert_eq!(behind(PRESENT | EXCLUSIVE | 7), Behind::Memory);
        assert_eq!(behind(PRESENT | 7), Behind::Page(7));
        assert_eq!(behind(PRESENT | 1 << 61 | 7), Behind::Page(7), "the huge zero page counts as a file's");
        assert_eq!(behind(PRESENT), Behind::Hidden);
        assert_eq!(behind(1 << 55), Behind::Nothing, "soft-dirty alone");
    }

    #[test]
    fn an_entry_that_is_no_swap_entry_is_not_called_swapped() {
        assert_eq!(behind(SWAPPED | 1000 << 5), Behind::Swap);
        assert_eq!(behind(SWAPPED | 1000 << 5 | 3), Behind::Swap);
        assert_eq!(behind(SWAPPED | 1000 << 5 | 28), Behind::Memory, "on its way to another frame");
        assert_eq!(behind(SWAPPED | 1 << 5 | MARKER), Behind::Nothing);
        assert_eq!(behind(SWAPPED), Behind::Swap, "without CAP_SYS_ADMIN the type reads 0");
    }
}
