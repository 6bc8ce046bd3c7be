//! Real mappings of this process, read in every way the kernel offers. What needs root is in the privileged ring.

mod huge;

use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::{fs::File, ptr};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::piece::{Piece, pieces};
use super::*;
use crate::ingest::discovery::FoundSlot;
use crate::model::backing::VmaFlags;
use crate::model::ids::{BLOCK_SIZE, FRAME_SIZE, Gfn, Hva, Pid};

const FRAME: usize = FRAME_SIZE as usize;
const BLOCK: usize = BLOCK_SIZE as usize;

/// Memory of this process, aligned to a block, gone with the value.
struct Memory {
    address: *mut u8,
    whole: (*mut core::ffi::c_void, usize),
}

impl Memory {
    fn anonymous(bytes: usize) -> Self {
        // With room on both sides, so that advice makes a VMA of its own of it.
        let length = bytes + 2 * BLOCK;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no MAP_FIXED: the kernel picks addresses that nobody uses.
        let whole = unsafe { mmap_anonymous(ptr::null_mut(), length, access, MapFlags::PRIVATE) }.unwrap();
        let start = whole.cast::<u8>().wrapping_add(FRAME);
        Self { address: start.wrapping_add(start.align_offset(BLOCK)), whole: (whole, length) }
    }

    fn shared(file: &File, bytes: usize) -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no MAP_FIXED: the kernel picks addresses that nobody uses.
        let whole = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0) }.unwrap();
        Self { address: whole.cast(), whole: (whole, bytes) }
    }

    /// Aligned to a block, as `shared` need not be.
    fn shared_aligned(file: &File, bytes: usize) -> Self {
        let memory = Self::anonymous(bytes);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: what is replaced is this mapping's own, to which there is no reference.
        unsafe { mmap(memory.address.cast(), bytes, access, flags, file, 0) }.unwrap();
        memory
    }

    fn advise(&self, offset: usize, bytes: usize, advice: Advice) {
        let at = self.address.wrapping_add(offset).cast();
        // SAFETY: the range lies in this mapping, and nobody holds a reference into it.
        unsafe { madvise(at, bytes, advice) }.unwrap();
    }

    fn write(&self, frame: usize) {
        let at = self.address.wrapping_add(frame * FRAME);
        // SAFETY: tests name frames of this mapping only, and it may be written.
        unsafe { at.write_volatile(7) };
    }

    fn read(&self, frame: usize) -> u8 {
        let at = self.address.wrapping_add(frame * FRAME);
        // SAFETY: as in `write`.
        unsafe { at.read_volatile() }
    }

    fn slot(&self, base_gfn: u64, npages: u64) -> FoundSlot {
        FoundSlot { id: 0, base_gfn, npages, userspace_addr: self.address as u64, flags: 0 }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours alone, and no reference points into it.
        unsafe { munmap(self.whole.0, self.whole.1) }.unwrap();
    }
}

fn this_process() -> Arc<Vmm> {
    Arc::new(Vmm::open(Pid::new(std::process::id())).unwrap())
}

fn resident(frames: u16) -> Residency {
    Residency { resident: frames, ..Residency::default() }
}

fn frames(found: &[Residency]) -> Vec<u16> {
    found.iter().map(Residency::frames).collect()
}

/// The same question asked with PAGEMAP_SCAN, where there is one, and by words.
fn read_slot(slot: FoundSlot, first: u64, blocks: usize) -> Vec<(ResidencyReader, Vec<Residency>)> {
    let vmm = this_process();
    let segments = vmm.segments(&[slot]).unwrap().remove(0);
    [false, true]
        .map(|words_only| {
            let mut reader = ResidencyReader::open(&vmm).unwrap();
            if words_only {
                reader.pagemap.read_words_only();
            }
            let mut found = vec![resident(99); blocks];
            reader.read(&segments, BlockId::new(first), &mut found).unwrap();
            (reader, found)
        })
        .into()
}

#[test]
fn anonymous_memory_is_counted_where_it_was_touched() {
    let memory = Memory::anonymous(4 * BLOCK);
    memory.advise(0, 4 * BLOCK, Advice::LinuxNoHugepage);
    for frame in [0, 3, 511, 512, 1600] {
        memory.write(frame);
    }
    (1024..1536).for_each(|frame| memory.write(frame));
    for (_, found) in read_slot(memory.slot(0, 4 * 512), 0, 4) {
        assert_eq!(found, [resident(3), resident(1), resident(512), resident(1)]);
    }
    memory.advise(BLOCK * 2, BLOCK, Advice::LinuxDontNeed);
    for (_, found) in read_slot(memory.slot(0, 4 * 512), 1, 3) {
        assert_eq!(found, [resident(1), resident(0), resident(1)]);
    }
}

#[test]
fn more_ranges_than_the_kernel_hands_out_at_once_are_counted_once() {
    let memory = Memory::anonymous(8 * BLOCK);
    memory.advise(0, 8 * BLOCK, Advice::LinuxNoHugepage);
    (0..8 * 512).step_by(2).for_each(|frame| memory.write(frame));
    for (_, found) in read_slot(memory.slot(0, 8 * 512), 0, 8) {
        assert_eq!(found, [resident(256); 8]);
    }
}

#[test]
fn a_slot_may_begin_and_end_within_a_block() {
    let memory = Memory::anonymous(2 * BLOCK);
    memory.advise(0, 2 * BLOCK, Advice::LinuxNoHugepage);
    (0..700).for_each(|frame| memory.write(frame));
    // Guest frame 1000 is frame 488 of block 1, which so has 24 frames of the slot.
    for (_, found) in read_slot(memory.slot(1000, 600), 0, 5) {
        assert_eq!(found, [resident(0), resident(24), resident(512), resident(64), resident(0)]);
    }
    for (_, found) in read_slot(memory.slot(1000, 600), 2, 1) {
        assert_eq!(found, [resident(512)]);
    }
}

#[test]
fn the_zero_page_is_no_memory() {
    let memory = Memory::anonymous(BLOCK);
    memory.advise(0, BLOCK, Advice::LinuxNoHugepage);
    memory.write(0);
    assert_eq!((1..10).map(|frame| memory.read(frame)).max(), Some(0));
    for (reader, found) in read_slot(memory.slot(0, 512), 0, 1) {
        // Those that nobody could decide about are told of, and are none where anybody can.
        let undecided = u16::try_from(reader.undecided_frames()).unwrap();
        assert_eq!(found, [resident(1 + undecided)]);
        assert_eq!(undecided, if rustix::process::geteuid().is_root() { 0 } else { undecided.min(9) });
    }
}

#[test]
fn huge_pages_are_512_frames_and_the_huge_zero_page_is_none() {
    let memory = Memory::anonymous(3 * BLOCK);
    memory.advise(0, 3 * BLOCK, Advice::LinuxHugepage);
    (0..512).for_each(|frame| memory.write(frame));
    // Not touched before: where huge pages are on, the huge zero page stands in for it.
    assert_eq!(memory.read(1024), 0);
    for (reader, found) in read_slot(memory.slot(512, 3 * 512), 1, 3) {
        let undecided = u16::try_from(reader.undecided_frames()).unwrap();
        assert_eq!(frames(&found), [512, 0, undecided]);
        assert!(!found[1].huge && !found[2].huge, "{found:?}");
        assert!(undecided == 0 || !rustix::process::geteuid().is_root());
    }
}

#[test]
fn two_segments_share_a_block() {
    let memory = Memory::anonymous(2 * BLOCK);
    memory.advise(0, 2 * BLOCK, Advice::LinuxNoHugepage);
    (0..1024).step_by(2).for_each(|frame| memory.write(frame));
    let segment = |base_gfn: u64, npages: u64, frame: u64| Segment {
        base_gfn: Gfn::new(base_gfn),
        npages,
        hva: Hva::new(memory.address as u64 + frame * FRAME_SIZE),
        file_offset: 0,
        dev: 0,
        inode: 0,
        kind: BackingKind::Anonymous,
        shared: false,
        writable: true,
        page_size: FRAME_SIZE,
        flags: VmaFlags::default(),
        vma_start: Hva::new(0),
        vma_end: Hva::new(0),
    };
    // 100 frames of one, a gap of 12, 400 of the other.
    let segments = [segment(512, 100, 0), segment(624, 400, 300)];
    let mut found = [resident(99)];
    ResidencyReader::open(&this_process()).unwrap().read(&segments, BlockId::new(1), &mut found).unwrap();
    assert_eq!(found, [resident(250)]);
}

#[test]
fn a_process_that_has_ended_is_told_from_an_empty_one() {
    let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
    let vmm = Arc::new(Vmm::open(Pid::new(child.id())).unwrap());
    let mut reader = ResidencyReader::open(&vmm).unwrap();
    let mut found = [resident(0)];
    reader.read(&[], BlockId::new(0), &mut found).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(reader.read(&[], BlockId::new(0), &mut found).unwrap_err().is_vmm_gone());
}

#[test]
fn what_is_read_of_a_block_stays_within_it() {
    let mut block = Residency { resident: 300, swapped: 100, merged: 50, huge: false };
    block.add(Residency { resident: 50, swapped: 50, merged: 50, huge: false });
    assert_eq!(block, Residency { resident: 350, swapped: 112, merged: 50, huge: false });
    assert_eq!(block.frames(), 512);
    let huge = Residency { huge: true, ..resident(512) };
    let mut block = resident(0);
    block.add(huge);
    block.add(resident(0));
    assert_eq!(block, huge);
    let mut block = Residency { swapped: 1, ..resident(0) };
    block.add(huge);
    assert!(!block.huge, "not all of it is");
}

/// A memfd of 4 blocks: frames 0..300 written without being mapped, 300..312 a hole that was punched, block 2
/// written through `Memory`, block 3 never touched. The other end of it is mapped.
fn memfd() -> (File, Memory) {
    let file = File::from(memfd_create("residency-test", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, 4 * BLOCK_SIZE).unwrap();
    file.write_all_at(&vec![1; 312 * FRAME], 0).unwrap();
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, mode, 300 * FRAME_SIZE, 12 * FRAME_SIZE).unwrap();
    let memory = Memory::shared(&file, 4 * BLOCK);
    (1024..1024 + 200).for_each(|frame| memory.write(frame));
    (file, memory)
}

fn piece_of(base_gfn: u64, npages: u64, memory: &Memory) -> Piece {
    let segment = Segment {
        base_gfn: Gfn::new(base_gfn),
        npages,
        hva: Hva::new(memory.address as u64),
        file_offset: 0,
        dev: 0,
        inode: 0,
        kind: BackingKind::Memfd,
        shared: true,
        writable: true,
        page_size: FRAME_SIZE,
        flags: VmaFlags::default(),
        vma_start: Hva::new(0),
        vma_end: Hva::new(0),
    };
    pieces(&segment, Gfn::new(base_gfn).block(), 64).next().unwrap().1
}

#[test]
fn a_file_holds_pages_that_the_vmm_has_not_mapped() {
    let (file, memory) = memfd();
    let before = rustix::fs::fstat(&file).unwrap().st_blocks;
    let mut pagemap = Pagemap::open(&this_process()).unwrap();
    // Frame 0 is frame 10 of a block, so that blocks of the guest are not blocks of the file.
    let piece = piece_of(10, 4 * 512, &memory);
    let mut mapped = vec![resident(0); piece.blocks()];
    pagemap.count_present(&piece, &mut mapped).unwrap();
    assert_eq!(mapped.iter().map(|block| block.resident).collect::<Vec<_>>(), [0, 0, 200, 0, 0]);

    let expected = [resident(300), resident(0), resident(200), resident(0), resident(0)];
    let mut counts = mapped.clone();
    file::complete_by_mincore(file.as_fd(), &piece, 0..5, &mut counts, &mut Vec::new()).unwrap();
    assert_eq!(counts, expected);
    let mut counts = mapped.clone();
    match file::complete_by_cachestat(file.as_fd(), &piece, 0..5, &mut counts) {
        Ok(()) => assert_eq!(counts, expected),
        Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ENOSYS), "only before Linux 6.5"),
    }
    // A read of a hole through a mapping would have allocated it.
    assert_eq!(rustix::fs::fstat(&file).unwrap().st_blocks, before, "reading has changed the file");
}

#[test]
fn pieces_cover_what_is_asked_for_once() {
    let memory = Memory::anonymous(BLOCK);
    let mut piece = piece_of(1000, 600, &memory);
    assert_eq!((piece.blocks(), piece.frames), (3, 600));
    assert_eq!(
        [0, 1, 2].map(|block| piece.frames_of(block..block + 1)),
        [0..24, 24..536, 536..600],
        "488 frames of the first block come before it"
    );
    let mut parts = Vec::new();
    piece.split(20..540, |block, frames| parts.push((block, frames)));
    assert_eq!(parts, [(0, 4), (1, 512), (2, 4)]);
    piece.frames = 10;
    assert_eq!((piece.blocks(), piece.block_of(9)), (1, 0));
    let long = piece_of(0, 1 << 30, &memory);
    assert_eq!((long.frames, long.blocks()), (64 * 512, 64));
}
