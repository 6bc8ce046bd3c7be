//! What a VMM has behind a memslot: one segment for each of the VMAs it spans.

use std::fmt;

use super::ids::{Gfn, Hva};

/// The part of a memslot that lies in one VMA of the VMM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// First guest frame.
    pub base_gfn: Gfn,
    /// Length, 4 KiB frames.
    pub npages: u64,
    /// Where that frame is mapped in the VMM.
    pub hva: Hva,
    /// First byte of the VMA.
    pub vma_start: Hva,
    /// First byte after the VMA.
    pub vma_end: Hva,
    /// Offset in the file of the byte at `hva`; 0 without a file.
    pub file_offset: u64,
    /// Device of the file as st_dev (0 without a file).
    pub dev: u64,
    /// Its inode (0 without a file).
    pub inode: u64,
    /// What kind of memory it is.
    pub kind: BackingKind,
    /// MAP_SHARED.
    pub shared: bool,
    /// PROT_WRITE.
    pub writable: bool,
    /// The unit that can be given back, bytes: 4096, or the huge page size of hugetlbfs.
    pub page_size: u64,
    /// Conditions of the VMA that forbid reclaim, from /proc/PID/smaps VmFlags.
    pub flags: VmaFlags,
}

/// What smaps says of a VMA that matters for reclaim (Documentation/filesystems/proc.rst, VmFlags).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmaFlags {
    /// `lo`: locked.
    pub locked: bool,
    /// `um` or `uw` or `ui`: userfaultfd is registered.
    pub userfaultfd: bool,
    /// `io` or `pf`: device memory.
    pub device: bool,
    /// Not of VmFlags: transparent huge pages may be there (`THPeligible`), or are there.
    pub huge: bool,
}

/// What kind of memory backs a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackingKind {
    /// memfd_create without MFD_HUGETLB.
    Memfd,
    /// A file on tmpfs.
    Tmpfs,
    /// hugetlbfs, or memfd_create with MFD_HUGETLB.
    Hugetlbfs,
    /// No file.
    Anonymous,
    /// Any other file, by path: perhaps somebody's disk.
    OtherFile(String),
}

impl Segment {
    /// Where a frame of it is in the space that its pages are aligned in: the file's, or the VMM's addresses for memory
    /// without a file. Bytes; wraps like the sums of a mapping that is not what it says.
    #[must_use]
    pub fn place(&self, hva: Hva, file_offset: u64) -> u64 {
        if self.kind == BackingKind::Anonymous { hva.get() } else { file_offset }
    }
}

impl fmt::Display for BackingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memfd => f.write_str("memfd"),
            Self::Tmpfs => f.write_str("tmpfs"),
            Self::Hugetlbfs => f.write_str("hugetlbfs"),
            Self::Anonymous => f.write_str("anonymous"),
            Self::OtherFile(path) => write!(f, "file {path}"),
        }
    }
}
