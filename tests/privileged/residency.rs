//! What is behind guest RAM, as the kernel alone can make it: files reached through /proc/PID/map_files, pages
//! that KSM merged, pages in a swap area, huge pages of hugetlbfs.
//!
//! In: mappings of this process, which stands in for a VMM. Out: a verdict a test. Every setting of the machine that a
//! test changes is put back when the test ends, however it ends.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use imr_tests::ring::Verdict;
use imr_user::ingest::discovery::FoundSlot;
use imr_user::ingest::residency::ResidencyReader;
use imr_user::ingest::vmm::Vmm;
use imr_user::model::backing::{BackingKind, Segment};
use imr_user::model::block::Residency;
use imr_user::model::ids::{BlockId, Pid};
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

pub(super) const FRAME: usize = 4096;
pub(super) const BLOCK: usize = 2 << 20;
const KSM: &str = "/sys/kernel/mm/ksm";
/// ksmd needs two scans to merge; 10 MiB take it well under a second.
const LIMIT: Duration = Duration::from_secs(30);

/// Memory of this process, aligned to a block.
pub(super) struct Memory {
    address: *mut u8,
    whole: (*mut core::ffi::c_void, usize),
}

impl Memory {
    pub(super) fn anonymous(bytes: usize) -> Self {
        let length = bytes + BLOCK;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no MAP_FIXED: the kernel picks addresses that nobody uses.
        let whole = unsafe { mmap_anonymous(ptr::null_mut(), length, access, MapFlags::PRIVATE) }.unwrap();
        let skipped = whole.cast::<u8>().align_offset(BLOCK);
        let memory = Self { address: whole.cast::<u8>().wrapping_add(skipped), whole: (whole, length) };
        memory.advise(0, bytes, Advice::LinuxNoHugepage);
        memory
    }

    fn shared(file: &File, bytes: usize) -> Self {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no MAP_FIXED: the kernel picks addresses that nobody uses.
        let whole = unsafe { mmap(ptr::null_mut(), bytes, access, MapFlags::SHARED, file, 0) }.unwrap();
        Self { address: whole.cast(), whole: (whole, bytes) }
    }

    /// Aligned to a block, as `shared` need not be.
    pub(super) fn shared_aligned(file: &File, bytes: usize) -> Self {
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

    /// Where it begins.
    pub(super) fn address(&self) -> u64 {
        self.address as u64
    }

    /// The number at the beginning of a frame.
    pub(super) fn read(&self, frame: usize) -> u64 {
        let at = self.address.wrapping_add(frame * FRAME).cast::<u64>();
        // SAFETY: tests name frames of this mapping only, it may be read, and frames are aligned.
        unsafe { at.read_volatile() }
    }

    /// Writes a number to the beginning of a frame.
    pub(super) fn write(&self, frame: usize, number: u64) {
        let at = self.address.wrapping_add(frame * FRAME).cast::<u64>();
        // SAFETY: tests name frames of this mapping only, it may be written, and frames are aligned.
        unsafe { at.write_volatile(number) };
    }

    fn slot(&self, blocks: usize) -> FoundSlot {
        let npages = (blocks * BLOCK / FRAME) as u64;
        FoundSlot { id: 0, base_gfn: 0, npages, userspace_addr: self.address as u64, flags: 0 }
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

fn segments(memory: &Memory, blocks: usize) -> Vec<Segment> {
    this_process().segments(&[memory.slot(blocks)]).unwrap().remove(0)
}

fn read(segments: &[Segment], blocks: usize) -> Vec<Residency> {
    let mut reader = ResidencyReader::open(&this_process()).unwrap();
    let mut found = vec![Residency::default(); blocks];
    reader.read(segments, BlockId::new(0), &mut found).unwrap();
    assert_eq!(reader.undecided_frames(), 0, "root sees everything");
    found
}

fn block(resident: u16, swapped: u16, merged: u16) -> Residency {
    Residency { resident, swapped, merged, huge: false }
}

/// Mapped by one page of 2 MiB.
fn huge() -> Residency {
    Residency { huge: true, ..block(512, 0, 0) }
}

pub(super) fn memfd(flags: MemfdFlags, blocks: usize) -> rustix::io::Result<File> {
    let file = File::from(memfd_create("imr-residency", MemfdFlags::CLOEXEC | flags)?);
    ftruncate(&file, (blocks * BLOCK) as u64)?;
    Ok(file)
}

pub(super) fn memfd_pages_of_others() -> Verdict {
    root_or_skip!();
    let file = memfd(MemfdFlags::empty(), 3).unwrap();
    file.write_all_at(&vec![1; 100 * FRAME], BLOCK as u64).unwrap();
    let memory = Memory::shared(&file, 3 * BLOCK);
    (0..512).for_each(|frame| memory.write(frame, 1));
    memory.write(512 + 50, 1);
    memory.write(512 + 400, 1);
    let segments = segments(&memory, 3);
    assert_eq!(segments[0].kind, BackingKind::Memfd);
    let held = fstat(&file).unwrap().st_blocks;
    assert_eq!(read(&segments, 3), [block(512, 0, 0), block(101, 0, 0), block(0, 0, 0)]);
    assert_eq!(fstat(&file).unwrap().st_blocks, held, "reading has changed the file");
    assert_eq!(held * 512, 613 * FRAME as i64, "and the counts are what it holds");
    Verdict::Passed
}

pub(super) fn mapping_that_changed() -> Verdict {
    root_or_skip!();
    let file = memfd(MemfdFlags::empty(), 2).unwrap();
    let memory = Memory::shared(&file, 2 * BLOCK);
    let segments = segments(&memory, 2);
    let mut reader = ResidencyReader::open(&this_process()).unwrap();
    let mut found = [Residency::default(); 2];
    reader.read(&segments, BlockId::new(0), &mut found).unwrap();
    // Advice that counts from the second block on makes two VMAs of the one.
    memory.advise(BLOCK, BLOCK, Advice::LinuxDontFork);
    let error = reader.read(&segments, BlockId::new(0), &mut found).unwrap_err();
    assert!(error.is_mapping_changed(), "{error}");
    Verdict::Passed
}

pub(super) fn hugetlb() -> Verdict {
    root_or_skip!();
    let mut reserved = Settings::default();
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    let Ok(before) = fs::read_to_string(path) else {
        return Verdict::Skipped("this kernel has no hugetlbfs with pages of 2 MiB".to_owned());
    };
    reserved.set(path, &(before.trim().parse::<u64>().unwrap() + 2).to_string());
    let mapped = memfd(MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, 2);
    let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages").unwrap();
    let (Ok(file), Ok(2..)) = (mapped, free.trim().parse::<u64>()) else {
        return Verdict::Skipped(format!("of 2 huge pages asked for {} are free", free.trim()));
    };
    let memory = Memory::shared(&file, 2 * BLOCK);
    memory.write(700, 1);
    let segments = segments(&memory, 2);
    assert_eq!((&segments[0].kind, segments[0].page_size), (&BackingKind::Hugetlbfs, BLOCK as u64));
    assert_eq!(read(&segments, 2), [block(0, 0, 0), huge()]);
    Verdict::Passed
}

pub(super) fn memfd_in_huge_pages() -> Verdict {
    root_or_skip!();
    let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    if !Path::new(path).exists() {
        return Verdict::Skipped("this kernel has no huge pages for memfds".to_owned());
    }
    let mut allowed = Settings::default();
    allowed.set(path, "advise");
    let file = memfd(MemfdFlags::empty(), 3).unwrap();
    let memory = Memory::shared_aligned(&file, 3 * BLOCK);
    memory.advise(0, BLOCK, Advice::LinuxHugepage);
    memory.advise(BLOCK, 2 * BLOCK, Advice::LinuxNoHugepage);
    (0..2 * 512).for_each(|frame| memory.write(frame, 1));
    let held = fstat(&file).unwrap().st_blocks;
    let kernel_kib = smaps_kib(memory.address, "ShmemPmdMapped");
    if kernel_kib == 0 {
        return Verdict::Skipped("this machine has no free huge page".to_owned());
    }
    assert_eq!(kernel_kib, 2048);
    let mut slot = memory.slot(3);
    let of = |slot| this_process().segments(&[slot]).unwrap().remove(0);
    assert_eq!(read(&of(slot), 3), [huge(), block(512, 0, 0), block(0, 0, 0)]);
    // Another process' page tables are its own: here nothing of the file is mapped.
    let other = Memory::shared_aligned(&file, 3 * BLOCK);
    assert_eq!(read(&segments(&other, 3), 3), [block(512, 0, 0), block(512, 0, 0), block(0, 0, 0)]);
    // A guest whose blocks lie across the VMM's.
    slot.base_gfn = 1;
    slot.npages -= 1;
    assert_eq!(read(&of(slot), 2), [block(511, 0, 0), block(512, 0, 0)]);
    assert_eq!(fstat(&file).unwrap().st_blocks, held, "reading has changed the file");
    Verdict::Passed
}

pub(super) fn merged_pages() -> Verdict {
    root_or_skip!();
    if !Path::new(KSM).exists() || this_process().merged_pages().is_none() {
        return Verdict::Skipped("this kernel has no KSM, or does not say what it merged".to_owned());
    }
    if fs::read_to_string(format!("{KSM}/run")).unwrap().trim() != "0" {
        return Verdict::Skipped("KSM is at work on this machine: its pace is somebody's choice".to_owned());
    }
    let memory = Memory::anonymous(5 * BLOCK);
    memory.advise(0, 5 * BLOCK, Advice::LinuxMergeable);
    (0..4 * 512).for_each(|frame| memory.write(frame, 0x1234_5678));
    (4 * 512..5 * 512).for_each(|frame| memory.write(frame, 1 + frame as u64));
    let segments = segments(&memory, 5);
    assert_eq!(read(&segments, 5), [block(512, 0, 0); 5], "before KSM has run");

    let mut pace = Settings::default();
    pace.set(&format!("{KSM}/pages_to_scan"), "20000");
    pace.set(&format!("{KSM}/sleep_millisecs"), "1");
    pace.set(&format!("{KSM}/run"), "1");
    let vmm = this_process();
    let start = Instant::now();
    while vmm.merged_pages().unwrap() < 4 * 512 {
        assert!(start.elapsed() < LIMIT, "ksmd has merged {:?} of 2048 pages", vmm.merged_pages());
        thread::sleep(Duration::from_millis(10));
    }
    drop(pace);
    let found = read(&segments, 5);
    assert_eq!(found[..4], [block(0, 0, 512); 4]);
    assert_eq!(found[4], block(512, 0, 0), "pages that differ are not merged");
    let merged: u64 = found.iter().map(|block| u64::from(block.merged)).sum();
    assert_eq!(Some(merged), vmm.merged_pages(), "the kernel's own number");

    // Writing makes a copy.
    (0..100).for_each(|frame| memory.write(frame, 9));
    assert_eq!(read(&segments, 5)[0], block(100, 0, 412));
    Verdict::Passed
}

pub(super) fn swapped_anonymous() -> Verdict {
    root_or_skip!();
    let _swap = match SwapFile::new() {
        Ok(swap) => swap,
        Err(why) => return Verdict::Skipped(why),
    };
    let memory = Memory::anonymous(3 * BLOCK);
    (0..2 * 512).for_each(|frame| memory.write(frame, 1 + frame as u64));
    memory.advise(BLOCK / 2, BLOCK, Advice::LinuxPageOut);
    let vmm = this_process();
    let found = read(&segments(&memory, 3), 3);
    let swapped: u64 = found.iter().map(|block| u64::from(block.swapped)).sum();
    assert_eq!(vmm.swap_bytes(), Some(swapped * FRAME as u64), "the kernel's own number");
    assert_eq!(found, [block(256, 256, 0), block(256, 256, 0), block(0, 0, 0)]);
    memory.write(300, 2);
    assert_eq!(read(&segments(&memory, 3), 3)[0].frames(), 512);
    Verdict::Passed
}

pub(super) fn swapped_file() -> Verdict {
    root_or_skip!();
    let _swap = match SwapFile::new() {
        Ok(swap) => swap,
        Err(why) => return Verdict::Skipped(why),
    };
    let file = memfd(MemfdFlags::empty(), 3).unwrap();
    let memory = Memory::shared(&file, 3 * BLOCK);
    (0..2 * 512).for_each(|frame| memory.write(frame, 1 + frame as u64));
    memory.advise(BLOCK / 2, BLOCK, Advice::LinuxPageOut);
    let held = fstat(&file).unwrap().st_blocks;
    let segments = segments(&memory, 3);
    let found = read(&segments, 3);
    if kernel_is_at_least(6, 5) {
        assert_eq!(found, [block(256, 256, 0), block(256, 256, 0), block(0, 0, 0)]);
    } else {
        // Without cachestat(2) a page that was written out and is still in the swap cache is called resident.
        assert_eq!(found.iter().map(Residency::frames).collect::<Vec<_>>(), [512, 512, 0]);
        assert!(found.iter().all(|block| block.swapped <= 256), "{found:?}");
    }
    assert_eq!(fstat(&file).unwrap().st_blocks, held, "reading has changed the file");
    Verdict::Passed
}

/// A field of the VMA that begins at an address, KiB.
fn smaps_kib(address: *const u8, field: &str) -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&format!("{:x}-", address as u64)));
    let found = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':')?.strip_suffix(" kB"));
    found.unwrap().trim().parse().unwrap()
}

fn kernel_is_at_least(major: u32, minor: u32) -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.trim().parse().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(major), Some(minor))
}

/// Files of /proc/sys and /sys with what they held before, last changed first put back.
#[derive(Default)]
struct Settings {
    before: Vec<(String, String)>,
}

impl Settings {
    fn set(&mut self, path: &str, value: &str) {
        let before = fs::read_to_string(path).unwrap();
        fs::write(path, value).unwrap_or_else(|error| panic!("{path}: {error}"));
        // Where there is a choice, all are shown, and the chosen one in brackets.
        let chosen = before.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let before = chosen.map_or(before.trim(), |(chosen, _)| chosen);
        self.before.push((path.to_owned(), before.to_owned()));
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        for (path, value) in self.before.iter().rev() {
            if let Err(error) = fs::write(path, value) {
                eprintln!("{path} could not be set back to {value}: {error}");
            }
        }
    }
}

/// 64 MiB of swap for the time of a test.
pub(super) struct SwapFile(PathBuf);

impl SwapFile {
    pub(super) fn new() -> Result<Self, String> {
        let path = std::env::temp_dir().join(format!("imr-swap-{}", std::process::id()));
        let swap = Self(path);
        let made = fs::write(&swap.0, vec![0; 64 << 20]);
        made.map_err(|error| format!("{}: {error}", swap.0.display()))?;
        for program in ["mkswap", "swapon"] {
            let output =
                Command::new(program).arg(&swap.0).output().map_err(|error| format!("{program}: {error}"))?;
            if !output.status.success() {
                return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()));
            }
        }
        Ok(swap)
    }
}

impl Drop for SwapFile {
    fn drop(&mut self) {
        // Not an error where it was never turned on.
        let _ = Command::new("swapoff").arg(&self.0).output();
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("{} is left behind: {error}", self.0.display());
        }
    }
}
