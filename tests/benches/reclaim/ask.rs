//! What is said between the measuring process and its VMM: one JSON line each way over the VMM's standard input and
//! output.
//!
//! In: questions. Out: answers, one a question, in order. Nothing is measured here.

use serde::{Deserialize, Serialize};

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 2 << 20;
/// Bytes of a frame.
pub(crate) const FRAME: u64 = 4096;
/// Guest-physical address of the control page.
pub(crate) const CONTROL_GPA: u64 = 0x1_0000;
/// Guest-physical address of the list record.
pub(crate) const RECORD_GPA: u64 = 0x1_1000;
/// Cookie of the "module".
pub(crate) const COOKIE: u64 = 0x5eed;
/// First guest-physical address of what is measured; below it are page tables, code and the control page.
pub(crate) const DATA_GPA: u64 = BLOCK;

/// What guest RAM is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Backing {
    /// Memfd, 4 KiB pages.
    Shared4k,
    /// Memfd, 2 MiB pages of tmpfs.
    Shared2m,
    /// Memfd on hugetlbfs, 2 MiB pages.
    Hugetlb,
    /// Private anonymous, 4 KiB pages.
    Private4k,
    /// Private anonymous, transparent huge pages.
    Private2m,
}

impl Backing {
    /// Size of its pages, for people.
    pub(crate) fn page(self) -> &'static str {
        match self {
            Self::Shared4k | Self::Private4k => "4k",
            Self::Shared2m | Self::Private2m => "2m",
            Self::Hugetlb => "hugetlb",
        }
    }

    /// Whether it is a file that can be punched.
    pub(crate) fn is_shared(self) -> bool {
        !matches!(self, Self::Private4k | Self::Private2m)
    }
}

/// Equal stretches of guest memory at equal distances.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Ranges {
    /// Guest-physical start of the first, bytes.
    pub(crate) first: u64,
    /// Length of each, bytes; a power of two.
    pub(crate) bytes: u64,
    /// From the start of one to the start of the next, bytes.
    pub(crate) distance: u64,
    /// How many.
    pub(crate) count: u64,
}

impl Ranges {
    /// Their guest-physical starts, bytes.
    pub(crate) fn starts(self) -> impl Iterator<Item = u64> {
        (0..self.count).map(move |number| self.first + number * self.distance)
    }

    /// Length of all together, bytes.
    pub(crate) fn total(self) -> u64 {
        self.bytes * self.count
    }

    /// All together in blocks.
    pub(crate) fn blocks(self) -> f64 {
        self.total() as f64 / BLOCK as f64
    }

    /// Where guest memory has to end to hold them, bytes.
    pub(crate) fn end(self) -> u64 {
        self.first + self.count.saturating_sub(1) * self.distance + self.bytes
    }
}

/// What the VMM is asked to do.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Ask {
    /// Let the guest write to every frame of the ranges, so often, and tell how long it took.
    Touch { ranges: Ranges, passes: u64 },
    /// Offer the ranges as number `seq`, as the guest's module would.
    Offer { ranges: Ranges, seq: u64 },
    /// Tell whether the host has answered offer `seq` with "reclaimed" for each of so many ranges.
    Reclaimed { seq: u64, count: u64 },
    /// madvise(MADV_DONTNEED) in this process, one call a range, and tell how long it took.
    Discard { ranges: Ranges },
    /// Let KSM merge guest memory.
    Mergeable,
}

/// What the VMM answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// It runs; the answer to nothing. Where guest memory is mapped, the VM's descriptor, the memory's (-1: none).
    Ready { address: u64, vm_fd: i32, memory_fd: i32 },
    /// Done; how long that took, ns by the clock, and ns that the thread that did it was running.
    Done { wall_ns: u64, cpu_ns: u64 },
    /// Yes or no.
    Is(bool),
    /// It could not be done. `missing`: for want of something that the machine has to have.
    Failed { why: String, missing: bool },
}
