//! Backend for guests without the module: advises the kernel to swap idle memory of a VMM out (process_madvise).
//!
//! Input: the VMM's pidfd and frames of its slots. Output: how much was advised, which says nothing of what went out.
//! Nothing is lost by it: the memory comes back when it is touched. The host's swap policy stands: without swap, or
//! where the VMM's cgroup may not swap, the kernel takes the advice and does nothing.
//!
//! Only pages that this one process maps go: a page that another one has mapped too (vhost-user, a second VMM) is left
//! out (mm/madvise.c, madvise_cold_or_pageout_pte_range, 6.12), and so is a page of a shared file that the VMM has not
//! mapped itself. A shared file must be writable to the caller, which root's CAP_FOWNER grants (can_do_file_pageout).

mod advice;
#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::guards::{Guard, SlotFacts, VmFacts};
use crate::model::backing::{BackingKind, Segment};
use crate::model::ids::{BLOCK_SIZE, FRAME_SIZE, Gfn, Hva};
use crate::policy::idle::{self, Settings};

/// Calls that may be interrupted in a row before it counts as a failure.
const INTERRUPTIONS: u32 = 16;

/// Why no memory of a VM is advised to go out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Hindrance {
    /// One that holds for every way of taking memory.
    #[error(transparent)]
    Guard(#[from] Guard),
    /// The host has no swap.
    #[error("the host has no swap, so that nothing can go out; add some (swapon, zram)")]
    NoSwap,
    /// What is free of it is kept for others.
    #[error("the host's swap is full but for what is kept free; add some, or wait until memory comes back")]
    SwapFull,
    /// The kernel never swaps it.
    #[error("guest RAM is hugetlbfs, which the kernel never swaps out")]
    Hugetlb,
}

impl Hindrance {
    /// Name that does not change between versions: for logs, JSON and counters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Guard(guard) => guard.name(),
            Self::NoSwap => "no-swap",
            Self::SwapFull => "swap-full",
            Self::Hugetlb => "hugetlb",
        }
    }
}

/// The two steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// MADV_COLD: stays in memory, and is the first to go when the host needs some.
    Cold,
    /// MADV_PAGEOUT: goes now.
    Out,
}

impl Step {
    const fn advice(self) -> libc::c_int {
        match self {
            Self::Cold => libc::MADV_COLD,
            Self::Out => libc::MADV_PAGEOUT,
        }
    }
}

/// Addresses of the VMM, inside one of its mappings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// First byte.
    pub hva: Hva,
    /// Length, not 0.
    pub bytes: u64,
}

/// What the kernel took in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Advised {
    /// Bytes advised.
    pub bytes: u64,
    /// Bytes that it would not advise: a hole, or a mapping that is another one by now.
    pub skipped_bytes: u64,
}

/// Why advising failed as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageoutError {
    /// The VMM has ended.
    #[error("the VMM process has ended")]
    Gone,
    /// No permission.
    #[error(
        "process_madvise: {0} (needs CAP_SYS_NICE and CAP_SYS_PTRACE, and no security module against it)"
    )]
    Denied(Errno),
    /// No such system call.
    #[error("process_madvise: {0} (needs Linux 5.10 with CONFIG_ADVISE_SYSCALLS)")]
    Missing(Errno),
    /// Anything else.
    #[error("process_madvise: {0}")]
    Other(Errno),
}

/// Whether any memory of the VM may be advised to go out.
///
/// # Errors
/// The first reason that holds for the whole VM, else that of its largest mapping.
pub fn vm_hindrance(vm: &VmFacts) -> Result<(), Hindrance> {
    // Pinned pages cannot go out, and a userfaultfd's owner keeps its own books.
    if vm.vfio {
        return Err(Guard::Vfio.into());
    }
    if vm.guest_memfd {
        return Err(Guard::GuestMemfd.into());
    }
    let segments = || vm.slots.iter().filter(|slot| is_ram(slot)).flat_map(|slot| &slot.segments);
    if vm.slots.iter().flat_map(|slot| &slot.segments).any(|segment| segment.flags.userfaultfd) {
        return Err(Guard::Userfaultfd.into());
    }
    if segments().any(|segment| segment_hindrance(segment).is_ok()) {
        return Ok(());
    }
    let largest = segments().max_by_key(|segment| segment.npages);
    largest.map_or(Err(Guard::NoSuchSegment.into()), segment_hindrance)
}

/// Bytes that may go into the host's swap, of which `free` of `total` bytes are free.
///
/// # Errors
/// [`Hindrance::NoSwap`], [`Hindrance::SwapFull`].
pub fn swap_room(total: u64, free: u64, settings: &Settings) -> Result<u64, Hindrance> {
    match idle::swap_room(total, free, settings) {
        _ if total == 0 => Err(Hindrance::NoSwap),
        0 => Err(Hindrance::SwapFull),
        room => Ok(room),
    }
}

fn is_ram(slot: &SlotFacts) -> bool {
    slot.followed && !slot.readonly
}

fn segment_hindrance(segment: &Segment) -> Result<(), Hindrance> {
    if segment.flags.device {
        return Err(Guard::DeviceMemory.into());
    }
    if segment.flags.userfaultfd {
        return Err(Guard::Userfaultfd.into());
    }
    if segment.flags.locked {
        return Err(Guard::Locked.into());
    }
    match &segment.kind {
        // It would go to its file: that is no swap, and the pages are not the guest's alone.
        BackingKind::OtherFile(path) => Err(Guard::OtherFile(path.clone()).into()),
        BackingKind::Hugetlbfs => Err(Hindrance::Hugetlb),
        BackingKind::Anonymous | BackingKind::Memfd | BackingKind::Tmpfs => Ok(()),
    }
}

/// Where the frames of a slot are in the VMM, as far as they may be advised. A huge page of which they are a part only is
/// left out: the kernel would split it. `base_gfn` and `npages` may exceed the slot.
///
/// # Errors
/// A mapping among them must not be touched; what is known of it contradicts itself.
pub fn stretches(slot: &SlotFacts, base_gfn: Gfn, npages: u64) -> Result<Vec<Stretch>, Hindrance> {
    if !slot.followed {
        return Err(Guard::NotFollowed.into());
    }
    if slot.readonly {
        return Err(Guard::ReadOnlySlot.into());
    }
    let end = base_gfn.get().saturating_add(npages);
    let mut found = Vec::new();
    for segment in &slot.segments {
        let segment_base = segment.base_gfn.get();
        let from = base_gfn.get().max(segment_base);
        let to = end.min(segment_base.saturating_add(segment.npages));
        if from >= to {
            continue;
        }
        segment_hindrance(segment)?;
        found.extend(whole_huge_pages(segment, from - segment_base, to - segment_base)?);
    }
    Ok(found)
}

/// Frames `from..to` of the segment, cut to whole 2 MiB as huge pages lie: in a file by its offset, else by address.
fn whole_huge_pages(segment: &Segment, from: u64, to: u64) -> Result<Option<Stretch>, Guard> {
    let origin = if segment.shared { segment.file_offset } else { segment.hva.get() };
    let (Some(first), Some(end)) = (
        from.checked_mul(FRAME_SIZE).and_then(|bytes| origin.checked_add(bytes)),
        to.checked_mul(FRAME_SIZE).and_then(|bytes| origin.checked_add(bytes)),
    ) else {
        return Err(Guard::StaleMapping);
    };
    let first = first.checked_next_multiple_of(BLOCK_SIZE).ok_or(Guard::StaleMapping)?;
    let end = end / BLOCK_SIZE * BLOCK_SIZE;
    if first >= end {
        return Ok(None);
    }
    let hva = segment.hva.get().checked_add(first - origin).ok_or(Guard::StaleMapping)?;
    let hva_end = hva.checked_add(end - first).ok_or(Guard::StaleMapping)?;
    if hva < segment.vma_start.get() || hva_end > segment.vma_end.get() {
        return Err(Guard::StaleMapping);
    }
    Ok(Some(Stretch { hva: Hva::new(hva), bytes: end - first }))
}

/// Advises. Takes 1 to 3 ms for each 2 MiB that go out to a disk, and holds the VMM's mmap_lock for reading for as long
/// as one call takes on newer kernels: call it with a few blocks at a time.
///
/// # Errors
/// [`PageoutError`]; what was advised until then stays advised.
pub fn advise(pidfd: BorrowedFd<'_>, step: Step, stretches: &[Stretch]) -> Result<Advised, PageoutError> {
    advise_by(stretches, |rest| advice::process_madvise(pidfd, rest, step.advice()))
}

/// Goes on where a call has ended. The kernel ends at the first range that it cannot advise: with the bytes before it, or,
/// where there are none, with the error of that range.
fn advise_by(
    stretches: &[Stretch],
    mut call: impl FnMut(&[Stretch]) -> Result<u64, Errno>,
) -> Result<Advised, PageoutError> {
    let mut rest = stretches.to_vec();
    let mut advised = Advised::default();
    let mut interruptions = 0;
    while let Some(&first) = rest.first() {
        match call(&rest) {
            Ok(bytes) if bytes > 0 => {
                advised.bytes += drop_front(&mut rest, bytes);
                interruptions = 0;
            }
            Ok(_) | Err(Errno::NOMEM | Errno::INVAL | Errno::FAULT) => {
                advised.skipped_bytes += first.bytes;
                rest.remove(0);
            }
            Err(Errno::INTR | Errno::AGAIN) if interruptions < INTERRUPTIONS => interruptions += 1,
            Err(Errno::SRCH) => return Err(PageoutError::Gone),
            Err(errno @ (Errno::PERM | Errno::ACCESS)) => return Err(PageoutError::Denied(errno)),
            Err(errno @ Errno::NOSYS) => return Err(PageoutError::Missing(errno)),
            Err(errno) => return Err(PageoutError::Other(errno)),
        }
    }
    Ok(advised)
}

/// Takes `bytes` away from the front; returns how many there were of them.
fn drop_front(rest: &mut Vec<Stretch>, bytes: u64) -> u64 {
    let mut left = bytes;
    let whole = rest
        .iter()
        .take_while(|stretch| {
            let fits = stretch.bytes <= left;
            left -= if fits { stretch.bytes } else { 0 };
            fits
        })
        .count();
    rest.drain(..whole);
    if let Some(first) = rest.first_mut() {
        first.hva = Hva::new(first.hva.get() + left);
        first.bytes -= left;
        left = 0;
    }
    bytes - left
}
