//! Guards: real mappings where the kernel has to say it, hostile numbers where the guest says it.

use proptest::prelude::*;
use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, MprotectFlags, UserfaultfdFlags, mlock, mprotect, userfaultfd};

use super::*;
use crate::model::backing::VmaFlags;
use crate::reclaim::testing::{MIB, Ram, memfd, vm};

/// As without any switch.
const NOTHING: Allowed = Allowed { inject: false, dry_run: false };
/// Frames of 1 MiB.
const MIB_FRAMES: u64 = MIB / FRAME_SIZE;

/// Shared memory that any guard lets pass.
fn segment(base_gfn: u64, npages: u64, hva: u64, file_offset: u64) -> Segment {
    Segment {
        base_gfn: Gfn::new(base_gfn),
        npages,
        hva: Hva::new(hva),
        vma_start: Hva::new(hva),
        vma_end: Hva::new(hva.saturating_add(npages.saturating_mul(FRAME_SIZE))),
        file_offset,
        dev: 1,
        inode: 2,
        kind: BackingKind::Memfd,
        shared: true,
        writable: true,
        page_size: FRAME_SIZE,
        flags: VmaFlags::default(),
    }
}

fn slot_of(segments: Vec<Segment>) -> SlotFacts {
    let base_gfn = segments.first().map_or(Gfn::new(0), |segment| segment.base_gfn);
    let npages = segments.iter().map(|segment| segment.npages).sum();
    SlotFacts { base_gfn, npages, readonly: false, followed: true, segments }
}

/// The reason for the whole VM and for its first MiB, which must be the same.
fn both(facts: &VmFacts) -> Result<(), Guard> {
    let whole = vm_guard(facts, NOTHING).map(|_| ());
    assert_eq!(range_guard(facts, NOTHING, Gfn::new(0), MIB_FRAMES).map(|_| ()), whole);
    whole
}

#[test]
fn a_shared_memfd_passes() {
    let ram = Ram::shared(memfd(2 * MIB, MemfdFlags::empty()), 0, 2 * MIB);
    let facts = vm(vec![ram.slot(0)]);
    assert_eq!(both(&facts), Ok(()));
    let pieces = range_guard(&facts, NOTHING, Gfn::new(MIB_FRAMES), MIB_FRAMES).unwrap();
    assert_eq!(pieces.len(), 1);
    assert_eq!((pieces[0].file_offset, pieces[0].bytes), (MIB, MIB));
    assert_eq!(pieces[0].hva.get(), ram.address() + MIB);
}

#[test]
fn private_memory_is_guarded() {
    let anonymous = Ram::anonymous(2 * MIB, MapFlags::PRIVATE);
    assert_eq!(both(&vm(vec![anonymous.slot(0)])), Err(Guard::PrivateMapping));
    let copy = Ram::map(memfd(2 * MIB, MemfdFlags::empty()), 0, 2 * MIB, MapFlags::PRIVATE);
    assert_eq!(both(&vm(vec![copy.slot(0)])), Err(Guard::PrivateFile));
}

#[test]
fn locked_memory_is_guarded() {
    let ram = Ram::shared(memfd(2 * MIB, MemfdFlags::empty()), 0, 2 * MIB);
    // SAFETY: locks part of a mapping that `ram` owns; unlocked with its unmapping.
    if let Err(errno) = unsafe { mlock(ram.address() as *mut _, MIB as usize) } {
        println!("SKIPPED locked_memory_is_guarded: mlock of 1 MiB: {errno}");
        return;
    }
    let facts = vm(vec![ram.slot(0)]);
    assert_eq!(facts.slots[0].segments.len(), 2, "the lock splits the VMA");
    assert_eq!(range_guard(&facts, NOTHING, Gfn::new(0), MIB_FRAMES), Err(Guard::Locked));
    assert_eq!(range_guard(&facts, NOTHING, Gfn::new(0), 2 * MIB_FRAMES), Err(Guard::Locked));
    assert!(range_guard(&facts, NOTHING, Gfn::new(MIB_FRAMES), MIB_FRAMES).is_ok());
}

#[test]
fn a_mapping_the_vmm_cannot_write_is_guarded() {
    let ram = Ram::shared(memfd(2 * MIB, MemfdFlags::empty()), 0, 2 * MIB);
    // SAFETY: changes a mapping that `ram` owns and that nobody reads or writes after it.
    unsafe { mprotect(ram.address() as *mut _, 2 * MIB as usize, MprotectFlags::READ) }.unwrap();
    assert_eq!(both(&vm(vec![ram.slot(0)])), Err(Guard::ReadOnlySlot));
}

/// include/uapi/linux/userfaultfd.h.
#[repr(C)]
struct UffdApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// include/uapi/linux/userfaultfd.h.
#[repr(C)]
struct UffdRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[test]
fn userfaultfd_guards_the_whole_vm() {
    use std::os::fd::AsRawFd;
    let ram = Ram::shared(memfd(2 * MIB, MemfdFlags::empty()), 0, 2 * MIB);
    let other = Ram::shared(memfd(2 * MIB, MemfdFlags::empty()), 0, 2 * MIB);
    // SAFETY: a new descriptor, registered below only on memory that this test owns.
    let uffd = match unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC) } {
        Ok(uffd) => uffd,
        Err(errno) => {
            println!("SKIPPED userfaultfd_guards_the_whole_vm: userfaultfd: {errno}");
            return;
        }
    };
    let mut api = UffdApi { api: 0xaa, features: 0, ioctls: 0 };
    // SAFETY: UFFDIO_API with its own struct, alive during the call.
    assert_eq!(unsafe { libc::ioctl(uffd.as_raw_fd(), 0xc018_aa3f, &raw mut api) }, 0);
    let mut register = UffdRegister { start: ram.address(), len: MIB, mode: 1, ioctls: 0 };
    // SAFETY: UFFDIO_REGISTER with its own struct, on a mapping that nobody touches while it is registered.
    assert_eq!(unsafe { libc::ioctl(uffd.as_raw_fd(), 0xc020_aa00, &raw mut register) }, 0);

    let facts = vm(vec![ram.slot(0), other.slot(2 * MIB_FRAMES)]);
    assert_eq!(both(&facts), Err(Guard::Userfaultfd));
    drop(uffd);
    assert_eq!(both(&vm(vec![ram.slot(0), other.slot(2 * MIB_FRAMES)])), Ok(()));
}

#[test]
fn conditions_of_the_whole_vm() {
    let slot = slot_of(vec![segment(0, MIB_FRAMES, 0x10_0000, 0)]);
    let facts = vm(vec![slot.clone()]);
    assert_eq!(vm_guard(&facts, NOTHING).map(Backends::name), Ok("punch"));
    assert_eq!(vm_guard(&VmFacts { vfio: true, ..facts.clone() }, NOTHING), Err(Guard::Vfio));
    assert_eq!(vm_guard(&VmFacts { guest_memfd: true, ..facts.clone() }, NOTHING), Err(Guard::GuestMemfd));
    assert_eq!(vm_guard(&VmFacts { stale: true, ..facts }, NOTHING), Err(Guard::StaleMapping));
    assert_eq!(vm_guard(&vm(vec![]), NOTHING), Err(Guard::OutsideRam));
    assert_eq!(
        vm_guard(&vm(vec![SlotFacts { segments: vec![], ..slot.clone() }]), NOTHING),
        Err(Guard::NoSuchSegment)
    );

    // The largest mapping gives the reason; one that can be punched is enough to go on.
    let anonymous =
        Segment { kind: BackingKind::Anonymous, shared: false, ..segment(1 << 20, 1 << 18, 1 << 40, 0) };
    let disk = Segment { kind: BackingKind::OtherFile("/disk".into()), ..segment(0, 16, 0, 0) };
    let (anonymous, disk) = (slot_of(vec![anonymous]), slot_of(vec![disk]));
    assert_eq!(vm_guard(&vm(vec![disk.clone(), anonymous.clone()]), NOTHING), Err(Guard::PrivateMapping));
    assert_eq!(vm_guard(&vm(vec![disk, anonymous, slot]), NOTHING).map(Backends::name), Ok("punch"));
}

#[test]
fn conditions_of_a_range() {
    let low = slot_of(vec![segment(0, 0x100, 0x10_0000, 0)]);
    let rom = SlotFacts { readonly: true, ..slot_of(vec![segment(0x100, 0x10, 0x20_0000, 0x10_0000)]) };
    let unseen = SlotFacts { followed: false, ..slot_of(vec![segment(0x200, 0x100, 0x30_0000, 0)]) };
    let device = Segment {
        flags: VmaFlags { device: true, ..VmaFlags::default() },
        ..segment(0x400, 0x100, 0x40_0000, 0)
    };
    let huge = Segment { page_size: 2 * MIB, ..segment(0x600, 0x400, 0x60_0000, 0) };
    let facts =
        vm(vec![huge, device].into_iter().map(|one| slot_of(vec![one])).chain([unseen, rom, low]).collect());
    let guard =
        |base, npages| range_guard(&facts, NOTHING, Gfn::new(base), npages).map(|pieces| pieces.len());

    assert_eq!(guard(0, 0x100), Ok(1));
    assert_eq!(guard(0, 0), Err(Guard::Empty));
    assert_eq!(guard(0xff, 2), Err(Guard::ReadOnlySlot));
    assert_eq!(guard(0x10f, 2), Err(Guard::OutsideRam));
    assert_eq!(guard(0x200, 1), Err(Guard::NotFollowed));
    assert_eq!(guard(0x400, 1), Err(Guard::DeviceMemory));
    assert_eq!(guard(0x600, 0x200), Ok(1));
    assert_eq!(guard(0x601, 0x200), Err(Guard::Unaligned { page_size: 2 * MIB }));
    assert_eq!(guard(0x600, 0x201), Err(Guard::Unaligned { page_size: 2 * MIB }));
    for (base, npages) in
        [(u64::MAX, 1), (u64::MAX, u64::MAX), (1, u64::MAX), (u64::MAX >> 12, 1), (0, u64::MAX)]
    {
        assert_eq!(guard(base, npages), Err(Guard::OutsideRam), "{base:#x} {npages:#x}");
    }
}

#[test]
fn facts_that_contradict_themselves_are_stale() {
    let good = segment(0x100, 0x100, 0x10_0000, 0);
    let bad = [
        Segment { page_size: 0, ..good.clone() },
        Segment { page_size: 3 * FRAME_SIZE, ..good.clone() },
        Segment { file_offset: u64::MAX - 4095, ..good.clone() },
        Segment { file_offset: i64::MAX as u64 & !4095, ..good.clone() },
        Segment { hva: Hva::new(u64::MAX - 4095), ..good.clone() },
        Segment { vma_end: Hva::new(good.vma_end.get() - 1), ..good.clone() },
        Segment { vma_start: Hva::new(good.vma_start.get() + 1), ..good.clone() },
        Segment { npages: u64::MAX, ..good.clone() },
    ];
    for segment in bad {
        let slot = SlotFacts { segments: vec![segment.clone()], ..slot_of(vec![good.clone()]) };
        let guard = range_guard(&vm(vec![slot]), NOTHING, Gfn::new(0x100), 0x100).map(|_| ());
        assert_eq!(guard, Err(Guard::StaleMapping), "{segment:?}");
    }
    let twice = vm(vec![slot_of(vec![good.clone()]), slot_of(vec![good.clone()])]);
    assert_eq!(range_guard(&twice, NOTHING, Gfn::new(0x100), 1), Err(Guard::StaleMapping));
    let inside = SlotFacts { segments: vec![good.clone(), good.clone()], ..slot_of(vec![good.clone()]) };
    assert_eq!(range_guard(&vm(vec![inside]), NOTHING, Gfn::new(0x100), 1), Err(Guard::StaleMapping));
    let gap = SlotFacts { npages: 0x101, ..slot_of(vec![good]) };
    assert_eq!(range_guard(&vm(vec![gap]), NOTHING, Gfn::new(0x1ff), 2), Err(Guard::NoSuchSegment));
}

#[test]
fn names_are_stable_and_texts_say_what_to_do() {
    let all = [
        (Guard::PrivateMapping, "private-mapping"),
        (Guard::PrivateFile, "private-file"),
        (Guard::OtherFile("/a".into()), "other-file"),
        (Guard::Locked, "locked"),
        (Guard::Userfaultfd, "userfaultfd"),
        (Guard::Vfio, "vfio"),
        (Guard::GuestMemfd, "guest-memfd"),
        (Guard::ReadOnlySlot, "read-only-slot"),
        (Guard::OutsideRam, "outside-ram"),
        (Guard::Empty, "empty"),
        (Guard::Overlapping, "overlapping"),
        (Guard::NotFollowed, "not-followed"),
        (Guard::Unaligned { page_size: 4096 }, "unaligned"),
        (Guard::PartOfHugePage, "part-of-huge-page"),
        (Guard::DeviceMemory, "device-memory"),
        (Guard::NoSuchSegment, "no-such-segment"),
        (Guard::StaleMapping, "stale-mapping"),
        (Guard::VmmGone, "vmm-gone"),
    ];
    for (guard, name) in all {
        assert_eq!(guard.name(), name);
        assert!(guard.to_string().len() > 30, "{guard}");
    }
}

/// Numbers of any size, small ones (which meet the slots) more often.
fn any_number() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..0x600_u64, 1 => any::<u64>(), 1 => (0..0x600_u64).prop_map(|low| u64::MAX - low)]
}

/// Segments of any shape, often ones that are near each other.
fn any_segment() -> impl Strategy<Value = Segment> {
    let sizes = prop_oneof![4 => Just(FRAME_SIZE), 2 => Just(2 * MIB), 1 => any_number()];
    (any_number(), any_number(), any_number(), any_number(), sizes, any::<bool>()).prop_map(
        |(base, npages, hva, offset, page_size, sane)| {
            let (hva, offset) = if sane { (hva << 12 >> 1, offset << 12 >> 1) } else { (hva, offset) };
            Segment { page_size, ..segment(base, npages, hva, offset) }
        },
    )
}

fn any_slot() -> impl Strategy<Value = SlotFacts> {
    (any_number(), any_number(), prop::collection::vec(any_segment(), 0..4)).prop_map(
        |(base, npages, segments)| SlotFacts {
            base_gfn: Gfn::new(base),
            npages,
            readonly: false,
            followed: true,
            segments,
        },
    )
}

/// Slots as they should be: apart or adjoining, each cut into adjoining VMAs, in any order.
fn sound_slots() -> impl Strategy<Value = Vec<SlotFacts>> {
    let gap = prop_oneof![1 => Just(0), 1 => 1..0x40_u64];
    let slots = prop::collection::vec((gap, prop::collection::vec(1..0x100_u64, 1..4)), 1..4);
    let lay_out = |slots: Vec<(u64, Vec<u64>)>| {
        let mut next = 0;
        let mut slot = |(gap, lengths): (u64, Vec<u64>)| {
            next += gap;
            let cut = |npages| {
                let one = segment(next, npages, (1 << 30) + next * FRAME_SIZE, next * FRAME_SIZE);
                next += npages;
                one
            };
            slot_of(lengths.into_iter().map(cut).collect())
        };
        slots.into_iter().map(&mut slot).collect::<Vec<_>>()
    };
    slots.prop_map(lay_out).prop_shuffle()
}

fn any_layout() -> impl Strategy<Value = VmFacts> {
    let sound = sound_slots().boxed();
    let wild = prop::collection::vec(any_slot(), 0..4).boxed();
    let mixed = (sound_slots(), any_slot()).prop_map(|(mut slots, wild)| {
        slots.push(wild);
        slots
    });
    prop_oneof![4 => sound, 1 => wild, 1 => mixed.boxed()].prop_map(vm)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn pieces_are_the_range_and_nothing_outside_the_segments(
        facts in any_layout(),
        base in any_number(),
        npages in prop_oneof![4 => 1..0x200_u64, 1 => any_number()],
    ) {
        let _ = vm_guard(&facts, NOTHING);
        let Ok(pieces) = range_guard(&facts, NOTHING, Gfn::new(base), npages) else { return Ok(()) };
        let mut next = u128::from(base);
        for piece in &pieces {
            prop_assert_eq!(u128::from(piece.base_gfn.get()), next);
            next += u128::from(piece.npages);
            prop_assert_eq!(u128::from(piece.bytes), u128::from(piece.npages) * u128::from(FRAME_SIZE));
            let segment = piece.segment;
            let known = facts.slots.iter().any(|slot| {
                let last = u128::from(slot.base_gfn.get()) + u128::from(slot.npages);
                let inside = slot.base_gfn <= piece.base_gfn && next <= last;
                inside && slot.segments.iter().any(|one| std::ptr::eq(one, segment))
            });
            prop_assert!(known, "no segment of a slot around it");
            let skipped = u128::from(piece.base_gfn.get()) - u128::from(segment.base_gfn.get());
            prop_assert!(skipped + u128::from(piece.npages) <= u128::from(segment.npages));
            let skipped = skipped * u128::from(FRAME_SIZE);
            prop_assert_eq!(u128::from(piece.file_offset), u128::from(segment.file_offset) + skipped);
            prop_assert_eq!(u128::from(piece.hva.get()), u128::from(segment.hva.get()) + skipped);
            prop_assert!(piece.hva >= segment.vma_start);
            prop_assert!(piece.hva.get() + piece.bytes <= segment.vma_end.get());
            prop_assert_eq!(piece.file_offset % segment.page_size, 0);
            prop_assert_eq!(piece.bytes % segment.page_size, 0);
        }
        prop_assert_eq!(next, u128::from(base) + u128::from(npages));
    }
}
