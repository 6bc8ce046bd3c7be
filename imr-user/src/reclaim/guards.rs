//! What forbids taking memory from a VM or from one range of it, each reason named.
//!
//! Input: [`VmFacts`], which ingest gathers, and guest-supplied numbers, which may be anything. Output: a
//! [`Guard`], or the pieces of the VMM's mappings that a range consists of. Pure: no file is opened here; what
//! only an open file can tell is checked by the backend ([`super::punch`]).

#[cfg(test)]
mod tests;

use super::choose::{Allowed, Backends, backend_of};
use crate::model::backing::{BackingKind, Segment};
use crate::model::ids::{FRAME_SIZE, Gfn, Hva};

/// Why memory is not taken. The text says what it is and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Guard {
    /// Guest RAM is private anonymous memory, and injection is not allowed.
    #[error(
        "guest RAM is private anonymous memory, which only the VMM itself can discard; let imr run madvise inside it \
         (--inject), or give the VM shared memory (QEMU: -object memory-backend-memfd,share=on; libvirt: \
         <access mode='shared'/>)"
    )]
    PrivateMapping,
    /// Guest RAM is a file mapped MAP_PRIVATE: a hole in it would not free the VMM's copies.
    #[error(
        "guest RAM is a private mapping of a file: what is discarded would show the file's content again, not zeros; \
         map it shared (QEMU: share=on; libvirt: <access mode='shared'/>)"
    )]
    PrivateFile,
    /// Guest RAM is a file on some other file system.
    #[error(
        "guest RAM is the file {0}, not on tmpfs or hugetlbfs: it may be somebody's data and is never punched; \
         move it to /dev/shm, hugetlbfs or a memfd"
    )]
    OtherFile(String),
    /// mlock or mlockall.
    #[error(
        "the VMM locked this memory (mlock); start it without memory locking (QEMU: -overcommit mem-lock=off)"
    )]
    Locked,
    /// A userfaultfd handles faults: postcopy migration or a snapshot is under way.
    #[error(
        "userfaultfd is registered on the VM's memory (postcopy migration, background snapshot); \
         it is taken again when that has ended"
    )]
    Userfaultfd,
    /// A device is assigned: its DMA would go on writing to the old pages.
    #[error("a VFIO device is assigned and its DMA is set up for the present pages; detach the device")]
    Vfio,
    /// Confidential guest: private memory is in a guest_memfd that the mapping does not show.
    #[error("the VM has private guest_memfd memory (confidential guest), which is not supported")]
    GuestMemfd,
    /// KVM_MEM_READONLY, or the VMM's mapping is not writable.
    #[error(
        "the range is read-only to the guest (ROM, flash), so it cannot be its free memory; a fault of the guest"
    )]
    ReadOnlySlot,
    /// Not, or not completely, in memory slots.
    #[error("the range is not completely inside the VM's memory slots; a fault of the guest")]
    OutsideRam,
    /// No frames at all.
    #[error("the range is empty; a fault of the guest")]
    Empty,
    /// Frames that an earlier range of the same offer already has.
    #[error("the range overlaps an earlier one of the same offer; a fault of the guest")]
    Overlapping,
    /// A slot that the block table does not follow: a refault there would not be seen.
    #[error(
        "the memory slot is not followed, the VM has too many of them; use fewer and larger memory devices"
    )]
    NotFollowed,
    /// Start or end lies inside a page of the backing.
    #[error("start or end is inside a {page_size}-byte page of the backing; offer whole pages of that size")]
    Unaligned {
        /// Page size of the backing, bytes.
        page_size: u64,
    },
    /// What is left of the range after whole pages were taken, if any were.
    #[error(
        "the range, with its neighbours in the offer, covers only a part of a 2 MiB page of the host, and such a page is \
         never split; align the VMM's mapping of guest RAM to 2 MiB"
    )]
    PartOfHugePage,
    /// VM_IO or VM_PFNMAP.
    #[error("the range is device memory mapped into the guest, not RAM; a fault of the guest")]
    DeviceMemory,
    /// The slot exists, but no mapping of the VMM is known behind it.
    #[error(
        "no mapping of the VMM is known behind the range; it is looked up again with the next slot change"
    )]
    NoSuchSegment,
    /// What is known of the VMM's mappings contradicts itself or what the kernel says now.
    #[error("the VMM's memory mappings changed since they were read; they are read again")]
    StaleMapping,
    /// The process has ended, or its pid belongs to another one now.
    #[error("the VMM process has ended; nothing to do")]
    VmmGone,
}

impl Guard {
    /// Name that does not change between versions: for logs, JSON and counters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PrivateMapping => "private-mapping",
            Self::PrivateFile => "private-file",
            Self::OtherFile(_) => "other-file",
            Self::Locked => "locked",
            Self::Userfaultfd => "userfaultfd",
            Self::Vfio => "vfio",
            Self::GuestMemfd => "guest-memfd",
            Self::ReadOnlySlot => "read-only-slot",
            Self::OutsideRam => "outside-ram",
            Self::Empty => "empty",
            Self::Overlapping => "overlapping",
            Self::NotFollowed => "not-followed",
            Self::Unaligned { .. } => "unaligned",
            Self::PartOfHugePage => "part-of-huge-page",
            Self::DeviceMemory => "device-memory",
            Self::NoSuchSegment => "no-such-segment",
            Self::StaleMapping => "stale-mapping",
            Self::VmmGone => "vmm-gone",
        }
    }

    /// Whether a correct guest would never have offered the range. Such a range is refused, any other kept.
    #[must_use]
    pub const fn is_guest_fault(&self) -> bool {
        matches!(
            self,
            Self::ReadOnlySlot
                | Self::OutsideRam
                | Self::Empty
                | Self::Overlapping
                | Self::Unaligned { .. }
                | Self::DeviceMemory
        )
    }
}

/// What is known of a VM when a batch begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmFacts {
    /// The VMM has a VFIO group, container or iommufd open.
    pub vfio: bool,
    /// A memslot has a guest_memfd.
    pub guest_memfd: bool,
    /// What the VMM has open or locked has changed since its mappings were read.
    pub stale: bool,
    /// Memslots of address space 0 (not SMM's), in any order.
    pub slots: Vec<SlotFacts>,
}

/// A memslot and what the VMM has behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFacts {
    /// First frame.
    pub base_gfn: Gfn,
    /// Length, frames.
    pub npages: u64,
    /// KVM_MEM_READONLY.
    pub readonly: bool,
    /// The block table follows it.
    pub followed: bool,
    /// Its mappings, one for each VMA.
    pub segments: Vec<Segment>,
}

/// A part of a range that lies in one segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentPiece<'a> {
    /// The segment.
    pub segment: &'a Segment,
    /// First frame.
    pub base_gfn: Gfn,
    /// Length, frames; never zero.
    pub npages: u64,
    /// Where the first byte is mapped in the VMM.
    pub hva: Hva,
    /// Where the first byte is in the segment's file; 0 without a file.
    pub file_offset: u64,
    /// Length, bytes.
    pub bytes: u64,
}

impl SegmentPiece<'_> {
    /// Where its first byte is in the space that its pages are aligned in; see [`Segment::place`].
    #[must_use]
    pub fn place(&self) -> u64 {
        self.segment.place(self.hva, self.file_offset)
    }
}

/// The backends for this VM's memory; at least one.
///
/// # Errors
/// The first reason that holds for the whole VM. Where no followed memory can be taken, it is the reason
/// of the largest mapping, the main RAM.
pub fn vm_guard(vm: &VmFacts, allowed: Allowed) -> Result<Backends, Guard> {
    whole_vm_guard(vm)?;
    let ram = vm.slots.iter().filter(|slot| slot.followed && !slot.readonly);
    backends_of(ram, allowed)
}

/// The backends for the memory of one of the VM's slots; at least one.
///
/// # Errors
/// As [`vm_guard`], and what forbids this slot.
pub fn slot_guard(vm: &VmFacts, slot: &SlotFacts, allowed: Allowed) -> Result<Backends, Guard> {
    if slot.readonly {
        return Err(Guard::ReadOnlySlot);
    }
    if !slot.followed {
        return Err(Guard::NotFollowed);
    }
    whole_vm_guard(vm)?;
    backends_of(std::iter::once(slot), allowed)
}

/// The first reason that holds for the whole VM.
fn whole_vm_guard(vm: &VmFacts) -> Result<(), Guard> {
    if vm.vfio {
        return Err(Guard::Vfio);
    }
    if vm.guest_memfd {
        return Err(Guard::GuestMemfd);
    }
    if vm.stale {
        return Err(Guard::StaleMapping);
    }
    // Postcopy registers block after block: one registered mapping means that all of them are under way.
    if vm.slots.iter().flat_map(|slot| &slot.segments).any(|segment| segment.flags.userfaultfd) {
        return Err(Guard::Userfaultfd);
    }
    Ok(())
}

/// The backends for the slots' mappings, or the reason of the largest one if there is none.
fn backends_of<'a>(slots: impl Iterator<Item = &'a SlotFacts>, allowed: Allowed) -> Result<Backends, Guard> {
    let mut backends = Backends::default();
    let mut main: Option<(u64, Guard)> = None;
    for slot in slots {
        if slot.segments.is_empty() && main.is_none() {
            main = Some((0, Guard::NoSuchSegment));
        }
        for segment in &slot.segments {
            match backend_of(segment, allowed) {
                Ok(backend) => backends.add(backend),
                Err(guard) => {
                    if main.as_ref().is_none_or(|(npages, _)| segment.npages > *npages) {
                        main = Some((segment.npages, guard));
                    }
                }
            }
        }
    }
    if backends.is_empty() { Err(main.map_or(Guard::OutsideRam, |(_, guard)| guard)) } else { Ok(backends) }
}

/// The pieces that the range consists of, in order of gfn; together they are exactly the range.
///
/// `base_gfn` and `npages` come from the guest and may be any numbers.
///
/// # Errors
/// The reason why no byte of the range may be taken.
pub fn range_guard(
    vm: &VmFacts,
    allowed: Allowed,
    base_gfn: Gfn,
    npages: u64,
) -> Result<Vec<SegmentPiece<'_>>, Guard> {
    if npages == 0 {
        return Err(Guard::Empty);
    }
    // Also the last byte's address must exist, so that no later gfn * 4096 can overflow.
    let end = base_gfn.get().checked_add(npages).ok_or(Guard::OutsideRam)?;
    if end > u64::MAX / FRAME_SIZE {
        return Err(Guard::OutsideRam);
    }
    let range = (base_gfn.get(), end);

    let mut in_slots = 0;
    let mut parts = Vec::new();
    for slot in &vm.slots {
        let Some(in_slot) = intersect(range, frames(slot.base_gfn, slot.npages)?) else { continue };
        in_slots += in_slot.1 - in_slot.0;
        parts.push((slot, in_slot));
    }
    // The guest's fault comes before what the host may lack, so that the reason does not depend on the host.
    if in_slots < npages {
        return Err(Guard::OutsideRam);
    }
    if in_slots > npages {
        // KVM allows no overlap (kvm_check_memslot_overlap, 6.12): the facts are of two moments.
        return Err(Guard::StaleMapping);
    }
    if parts.iter().any(|(slot, _)| slot.readonly) {
        return Err(Guard::ReadOnlySlot);
    }
    if parts.iter().any(|(slot, _)| !slot.followed) {
        return Err(Guard::NotFollowed);
    }

    let mut pieces = Vec::with_capacity(parts.len());
    for (slot, in_slot) in parts {
        for segment in &slot.segments {
            let Some(part) = intersect(in_slot, frames(segment.base_gfn, segment.npages)?) else { continue };
            backend_of(segment, allowed)?;
            pieces.push(piece(segment, part)?);
        }
    }
    pieces.sort_unstable_by_key(|piece| piece.base_gfn);
    let mut next = range.0;
    for piece in &pieces {
        match piece.base_gfn.get() {
            gfn if gfn > next => return Err(Guard::NoSuchSegment),
            gfn if gfn < next => return Err(Guard::StaleMapping),
            _ => next += piece.npages,
        }
    }
    if next != range.1 {
        return Err(Guard::NoSuchSegment);
    }
    Ok(pieces)
}

/// The part `gfns` (not empty, inside the segment) as a piece.
fn piece(segment: &Segment, gfns: (u64, u64)) -> Result<SegmentPiece<'_>, Guard> {
    let page_size = segment.page_size;
    if !page_size.is_power_of_two() || page_size < FRAME_SIZE {
        return Err(Guard::StaleMapping);
    }
    let stale = |sum: Option<u64>| sum.ok_or(Guard::StaleMapping);
    let has_file = segment.kind != BackingKind::Anonymous;
    // Both products are in range: range_guard bounds the end of every range.
    let skipped = (gfns.0 - segment.base_gfn.get()) * FRAME_SIZE;
    let bytes = (gfns.1 - gfns.0) * FRAME_SIZE;
    let file_offset = if has_file { stale(segment.file_offset.checked_add(skipped))? } else { 0 };
    let file_end = stale(file_offset.checked_add(bytes))?;
    // fallocate(2) takes signed offsets.
    if i64::try_from(file_end).is_err() {
        return Err(Guard::StaleMapping);
    }
    let hva = stale(segment.hva.get().checked_add(skipped))?;
    let hva_end = stale(hva.checked_add(bytes))?;
    if hva < segment.vma_start.get() || hva_end > segment.vma_end.get() {
        return Err(Guard::StaleMapping);
    }
    let place = segment.place(Hva::new(hva), file_offset);
    if !place.is_multiple_of(page_size) || !bytes.is_multiple_of(page_size) {
        return Err(Guard::Unaligned { page_size });
    }
    Ok(SegmentPiece {
        segment,
        base_gfn: Gfn::new(gfns.0),
        npages: gfns.1 - gfns.0,
        hva: Hva::new(hva),
        file_offset,
        bytes,
    })
}

/// First frame and the one after the last. Fails on an end that no address space has.
fn frames(base: Gfn, npages: u64) -> Result<(u64, u64), Guard> {
    base.get().checked_add(npages).map(|end| (base.get(), end)).ok_or(Guard::StaleMapping)
}

/// The frames in both, if any.
fn intersect(a: (u64, u64), b: (u64, u64)) -> Option<(u64, u64)> {
    let both = (a.0.max(b.0), a.1.min(b.1));
    (both.0 < both.1).then_some(both)
}
