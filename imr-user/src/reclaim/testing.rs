//! For the tests of this folder: real guest-like RAM, mapped in this process, and what the kernel says of it.
//!
//! Input: sizes and descriptors. Output: mappings with checkable content and their [`Segment`]s, parsed from
//! smaps. No part of the product.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::null_mut;

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, fallocate, fstat, ftruncate, memfd_create, open};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use super::backend::{Backend, Call, Effect, Failure, Obstacle};
use super::guards::{SlotFacts, VmFacts};
use super::still_there::in_page_tables;
use crate::model::backing::{BackingKind, Segment, VmaFlags};
use crate::model::ids::{FRAME_SIZE, Gfn, Hva, VmId};
use crate::policy::plan::{Plan, PlannedRange, Verdict};

/// Bytes of 1 MiB.
pub(super) const MIB: u64 = 1 << 20;

/// A mapping of this process, unmapped when dropped.
pub(super) struct Ram {
    address: u64,
    bytes: u64,
}

impl Ram {
    /// Maps `bytes` of `file` from `offset`.
    pub(super) fn map(file: impl AsFd, offset: u64, bytes: u64, flags: MapFlags) -> Self {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses; nothing else knows it.
        let address = unsafe { mmap(null_mut(), bytes as usize, prot, flags, file, offset) }.unwrap();
        Self { address: address as u64, bytes }
    }

    /// Maps `bytes` of `file` shared, from `offset`.
    pub(super) fn shared(file: impl AsFd, offset: u64, bytes: u64) -> Self {
        Self::map(file, offset, bytes, MapFlags::SHARED)
    }

    /// Memory without a file.
    pub(super) fn anonymous(bytes: u64, flags: MapFlags) -> Self {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: as in `map`.
        let address = unsafe { mmap_anonymous(null_mut(), bytes as usize, prot, flags) }.unwrap();
        Self { address: address as u64, bytes }
    }

    /// Private memory without a file that is never in huge pages.
    pub(super) fn anonymous_in_frames(bytes: u64) -> Self {
        let ram = Self::anonymous(bytes, MapFlags::PRIVATE);
        // SAFETY: advice on a mapping that `ram` owns; it changes no content.
        unsafe { madvise(ram.address as *mut _, bytes as usize, Advice::LinuxNoHugepage) }.unwrap();
        ram
    }

    /// Maps `bytes` of `file` from `offset` in place of what is at `start`.
    pub(super) fn replace(&self, start: u64, file: impl AsFd, offset: u64, bytes: u64) {
        assert!(start + bytes <= self.bytes);
        let (at, prot) = (self.address + start, ProtFlags::READ | ProtFlags::WRITE);
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: replaces a part of this mapping, which only `self` knows, by one of the same length.
        unsafe { mmap(at as *mut _, bytes as usize, prot, flags, file, offset) }.unwrap();
    }

    /// First address.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// The whole mapping as numbers. Volatile access through raw pointers only, as holes change it beneath us.
    fn word(&self, index: u64) -> *mut u64 {
        assert!(index < self.bytes / 8);
        (self.address as *mut u64).wrapping_add(index as usize)
    }

    /// Fills every frame with a pattern of its own.
    pub(super) fn fill(&self) {
        for index in 0..self.bytes / 8 {
            // SAFETY: `word` is inside the mapping, which lives as long as `self`.
            unsafe { self.word(index).write_volatile(pattern(index)) };
        }
    }

    /// Whether the bytes read as zero throughout. (Reading allocates: only after all else is measured.)
    pub(super) fn is_zero(&self, start: u64, bytes: u64) -> bool {
        self.all(start, bytes, |_| 0)
    }

    /// Whether the bytes are as `fill` left them.
    pub(super) fn is_filled(&self, start: u64, bytes: u64) -> bool {
        self.all(start, bytes, pattern)
    }

    fn all(&self, start: u64, bytes: u64, want: impl Fn(u64) -> u64) -> bool {
        (start / 8..(start + bytes) / 8).all(|index| {
            // SAFETY: as in `fill`.
            let have = unsafe { self.word(index).read_volatile() };
            have == want(index)
        })
    }

    /// This mapping as a slot of a VM whose frames begin at `base_gfn`.
    pub(super) fn slot(&self, base_gfn: u64) -> SlotFacts {
        slot(std::process::id(), base_gfn, self.address, self.bytes)
    }
}

impl Drop for Ram {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` or `anonymous` with this length, and no pointer into it is left.
        unsafe { munmap(self.address as *mut _, self.bytes as usize) }.unwrap();
    }
}

/// A number for each 8 bytes, never zero.
fn pattern(index: u64) -> u64 {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
}

/// A memfd of `bytes`.
pub(super) fn memfd(bytes: u64, flags: MemfdFlags) -> OwnedFd {
    let fd = memfd_create("imr-test-ram", flags | MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&fd, bytes).unwrap();
    fd
}

/// A file without a name in `directory`.
pub(super) fn unnamed_file(directory: &str, bytes: u64) -> rustix::io::Result<OwnedFd> {
    let fd = open(directory, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    fallocate(&fd, FallocateFlags::empty(), 0, bytes)?;
    Ok(fd)
}

/// Bytes that the file holds.
pub(super) fn held(file: impl AsFd) -> u64 {
    fstat(file).unwrap().st_blocks as u64 * 512
}

/// /proc/PID as a descriptor.
pub(super) fn proc_dir(pid: u32) -> OwnedFd {
    open(format!("/proc/{pid}"), OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

/// Whether a process may open map_files; says so where a test is skipped for want of it.
pub(super) fn map_files_or_skip(test: &str) -> bool {
    let ram = Ram::shared(memfd(FRAME_SIZE, MemfdFlags::empty()), 0, FRAME_SIZE);
    let path = format!("/proc/self/map_files/{:x}-{:x}", ram.address, ram.address + FRAME_SIZE);
    let allowed = File::open(path).is_ok();
    if !allowed {
        println!("SKIPPED {test}: /proc/PID/map_files needs CAP_SYS_ADMIN in the initial user namespace");
    }
    allowed
}

/// A VM of these slots.
pub(super) fn vm(slots: Vec<SlotFacts>) -> VmFacts {
    VmFacts { slots, ..VmFacts::default() }
}

/// A plan that reclaims these ranges (frame, frames).
pub(super) fn plan(ranges: &[(u64, u64)]) -> Plan {
    let range = |&(base_gfn, npages)| PlannedRange {
        base_gfn: Gfn::new(base_gfn),
        npages,
        verdict: Verdict::Reclaim,
    };
    Plan { vm: VmId::new(1), offer_seq: 7, ranges: ranges.iter().map(range).collect() }
}

/// The slot that lies at `address` of process `pid`, with a segment for each of its VMAs.
pub(super) fn slot(pid: u32, base_gfn: u64, address: u64, bytes: u64) -> SlotFacts {
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut segments = Vec::new();
    let mut current: Option<Segment> = None;
    let mut huge = false;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        match (first, &mut current) {
            ("KernelPageSize:", Some(segment)) => segment.page_size = number(rest[0]) * 1024,
            ("THPeligible:" | "AnonHugePages:" | "ShmemPmdMapped:", Some(_)) => huge |= rest[0] != "0",
            ("VmFlags:", Some(segment)) => {
                segment.flags = VmaFlags {
                    locked: rest.contains(&"lo"),
                    userfaultfd: ["um", "uw", "ui"].iter().any(|flag| rest.contains(flag)),
                    device: rest.contains(&"io") || rest.contains(&"pf"),
                    huge: std::mem::take(&mut huge),
                };
                if rest.contains(&"ht") {
                    segment.kind = BackingKind::Hugetlbfs;
                }
                segments.extend(current.take());
            }
            _ if first.contains('-') => {
                huge = false;
                current = vma(first, &rest, base_gfn, address, bytes);
            }
            _ => {}
        }
    }
    SlotFacts {
        base_gfn: Gfn::new(base_gfn),
        npages: bytes / FRAME_SIZE,
        readonly: false,
        followed: true,
        segments,
    }
}

/// The segment in the VMA that a line of smaps opens, if the slot reaches into it.
fn vma(bounds: &str, rest: &[&str], base_gfn: u64, address: u64, bytes: u64) -> Option<Segment> {
    let hex = |text: &str| u64::from_str_radix(text, 16).unwrap();
    let (vma_start, vma_end) = bounds.split_once('-').map(|(start, end)| (hex(start), hex(end)))?;
    let (start, end) = (vma_start.max(address), vma_end.min(address + bytes));
    let (major, minor) = rest[2].split_once(':').unwrap();
    let inode = number(rest[3]);
    let path = rest.get(4..).unwrap_or_default().join(" ");
    (start < end).then(|| Segment {
        base_gfn: Gfn::new(base_gfn + (start - address) / FRAME_SIZE),
        npages: (end - start) / FRAME_SIZE,
        hva: Hva::new(start),
        vma_start: Hva::new(vma_start),
        vma_end: Hva::new(vma_end),
        file_offset: if inode == 0 { 0 } else { hex(rest[1]) + (start - vma_start) },
        dev: rustix::fs::makedev(hex(major) as u32, hex(minor) as u32),
        inode,
        kind: match path.as_str() {
            _ if inode == 0 => BackingKind::Anonymous,
            path if path.starts_with("/memfd:") => BackingKind::Memfd,
            path if path.starts_with("/dev/shm/") || path.starts_with("/dev/zero") => BackingKind::Tmpfs,
            _ => BackingKind::OtherFile(path),
        },
        shared: rest[0].ends_with('s'),
        writable: rest[0].contains('w'),
        page_size: FRAME_SIZE,
        flags: VmaFlags::default(),
    })
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

/// What injection does, done in this process to itself: for memory mapped here.
pub(super) struct InProcess<'a> {
    proc_dir: BorrowedFd<'a>,
    segments: Vec<(Hva, u64)>,
    /// Calls made.
    pub(super) calls: Vec<(Hva, u64)>,
}

impl<'a> InProcess<'a> {
    pub(super) fn new(proc_dir: BorrowedFd<'a>) -> Self {
        Self { proc_dir, segments: Vec::new(), calls: Vec::new() }
    }
}

impl Backend for InProcess<'_> {
    fn name(&self) -> &'static str {
        "inject"
    }

    fn prepare(&mut self, segment: &Segment) -> Result<(), Obstacle> {
        assert_eq!((&segment.kind, segment.shared), (&BackingKind::Anonymous, false));
        self.segments.push((segment.hva, segment.npages * FRAME_SIZE));
        Ok(())
    }

    fn held_bytes(&self) -> Result<u64, Failure> {
        let held = |(hva, bytes): &(Hva, u64)| in_page_tables(self.proc_dir, *hva, *bytes).unwrap();
        Ok(self.segments.iter().map(held).sum())
    }

    fn reclaim(&mut self, call: &Call<'_>) -> Result<Effect, Failure> {
        self.calls.push((call.hva, call.bytes));
        let (at, bytes) = (call.hva.get() as *mut _, call.bytes as usize);
        // SAFETY: the range is inside a mapping of the test that is accessed through raw pointers only.
        unsafe { madvise(at, bytes, Advice::LinuxDontNeed) }.unwrap();
        Ok(Effect::Taken)
    }

    fn finish(&mut self) {
        self.segments.clear();
    }
}
