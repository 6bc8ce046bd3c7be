//! Guards, addresses, and a kernel that ends where it likes. The real one is in the ring `privileged`.

use proptest::prelude::*;

use super::*;
use crate::model::backing::VmaFlags;

fn segment(base_gfn: u64, npages: u64, hva: u64) -> Segment {
    Segment {
        base_gfn: Gfn::new(base_gfn),
        npages,
        hva: Hva::new(hva),
        vma_start: Hva::new(hva),
        vma_end: Hva::new(hva + npages * FRAME_SIZE),
        file_offset: 0,
        dev: 0,
        inode: 0,
        kind: BackingKind::Anonymous,
        shared: false,
        writable: true,
        page_size: 4096,
        flags: VmaFlags::default(),
    }
}

fn slot(segments: Vec<Segment>) -> SlotFacts {
    let npages = segments.iter().map(|segment| segment.npages).sum();
    SlotFacts { base_gfn: Gfn::new(0), npages, readonly: false, followed: true, segments }
}

fn vm(segments: Vec<Segment>) -> VmFacts {
    VmFacts { slots: vec![slot(segments)], ..VmFacts::default() }
}

fn name(vm: &VmFacts) -> &'static str {
    vm_hindrance(vm).err().map_or("", |hindrance| hindrance.name())
}

const RAM: u64 = 0x7f00_0000_0000;

#[test]
fn private_and_shared_memory_may_go_out_and_what_forbids_it_is_named() {
    let one = || segment(0, 1024, RAM);
    assert_eq!(vm_hindrance(&vm(vec![one()])), Ok(()));
    assert_eq!(vm_hindrance(&vm(vec![Segment { kind: BackingKind::Memfd, shared: true, ..one() }])), Ok(()));
    assert_eq!(name(&VmFacts { vfio: true, ..vm(vec![one()]) }), "vfio");
    assert_eq!(name(&VmFacts { guest_memfd: true, ..vm(vec![one()]) }), "guest-memfd");
    let flags = |flags| vm(vec![Segment { flags, ..one() }]);
    assert_eq!(name(&flags(VmaFlags { locked: true, ..VmaFlags::default() })), "locked");
    assert_eq!(name(&flags(VmaFlags { userfaultfd: true, ..VmaFlags::default() })), "userfaultfd");
    assert_eq!(name(&flags(VmaFlags { device: true, ..VmaFlags::default() })), "device-memory");
    let kind = |kind| vm(vec![Segment { kind, shared: true, ..one() }]);
    assert_eq!(name(&kind(BackingKind::Hugetlbfs)), "hugetlb");
    assert_eq!(name(&kind(BackingKind::OtherFile("/disk".into()))), "other-file");
    assert_eq!(name(&vm(vec![])), "no-such-segment");
    assert_eq!([Hindrance::NoSwap.name(), Hindrance::SwapFull.name()], ["no-swap", "swap-full"]);
}

#[test]
fn only_whole_huge_pages_go() {
    let aligned = slot(vec![segment(0, 4 * 512, RAM)]);
    let found = stretches(&aligned, Gfn::new(512), 1024).unwrap();
    assert_eq!(found, [Stretch { hva: Hva::new(RAM + BLOCK_SIZE), bytes: 2 * BLOCK_SIZE }]);
    let shifted = slot(vec![segment(0, 4 * 512, RAM + 5 * FRAME_SIZE)]);
    let found = stretches(&shifted, Gfn::new(512), 1024).unwrap();
    assert_eq!(found, [Stretch { hva: Hva::new(RAM + 2 * BLOCK_SIZE), bytes: BLOCK_SIZE }]);
    assert_eq!(stretches(&shifted, Gfn::new(512), 512), Ok(Vec::new()), "it lies across two");
    let file =
        Segment { kind: BackingKind::Memfd, shared: true, ..segment(0, 4 * 512, RAM + 5 * FRAME_SIZE) };
    let found = stretches(&slot(vec![file]), Gfn::new(512), 512).unwrap();
    let whole = Stretch { hva: Hva::new(RAM + 5 * FRAME_SIZE + BLOCK_SIZE), bytes: BLOCK_SIZE };
    assert_eq!(found, [whole], "in a file by offset, wherever it is mapped");
}

#[test]
fn ranges_past_the_slot_and_bad_facts_reach_nothing() {
    let one = slot(vec![segment(0, 1024, RAM)]);
    assert_eq!(stretches(&one, Gfn::new(1024), 512), Ok(Vec::new()));
    assert_eq!(stretches(&one, Gfn::new(u64::MAX), 512), Ok(Vec::new()));
    let outside = Segment { vma_end: Hva::new(RAM + BLOCK_SIZE), ..segment(0, 1024, RAM) };
    let stale = stretches(&slot(vec![outside]), Gfn::new(0), 1024);
    assert_eq!(stale, Err(Guard::StaleMapping.into()));
    assert!(stretches(&SlotFacts { readonly: true, ..one.clone() }, Gfn::new(0), 512).is_err());
    assert!(stretches(&SlotFacts { followed: false, ..one }, Gfn::new(0), 512).is_err());
}

#[test]
fn there_must_be_swap_and_room_in_it() {
    let settings = Settings::default();
    assert_eq!(swap_room(0, 0, &settings), Err(Hindrance::NoSwap));
    assert_eq!(swap_room(1000 << 20, 100 << 20, &settings), Err(Hindrance::SwapFull));
    assert_eq!(swap_room(1000 << 20, 101 << 20, &settings), Ok(1 << 20));
    assert!(Hindrance::NoSwap.to_string().contains("swapon"));
}

fn three() -> Vec<Stretch> {
    (0..3).map(|at| Stretch { hva: Hva::new(RAM + at * 100), bytes: 10 }).collect()
}

#[test]
fn errors_of_the_whole_call_end_it_and_interruptions_do_not_forever() {
    let fails = |errno| advise_by(&three(), |_| Err(errno)).unwrap_err();
    assert_eq!(fails(Errno::SRCH), PageoutError::Gone);
    assert_eq!(fails(Errno::PERM), PageoutError::Denied(Errno::PERM));
    assert_eq!(fails(Errno::NOSYS), PageoutError::Missing(Errno::NOSYS));
    assert_eq!(fails(Errno::BADF), PageoutError::Other(Errno::BADF));
    assert_eq!(fails(Errno::INTR), PageoutError::Other(Errno::INTR));
    let mut interrupted = false;
    let advised = advise_by(&three(), |rest| {
        interrupted = !interrupted;
        if interrupted { Err(Errno::INTR) } else { Ok(rest.iter().map(|stretch| stretch.bytes).sum()) }
    });
    assert_eq!(advised, Ok(Advised { bytes: 30, skipped_bytes: 0 }));
}

proptest! {
    /// A kernel that ends where it likes, and cannot advise some ranges: everything is advised or skipped, once.
    #[test]
    fn partial_calls_are_gone_on_with(
        ranges in proptest::collection::vec((1..50_u64, proptest::bool::weighted(0.2)), 0..40),
        pieces in proptest::collection::vec(1..200_u64, 1..20),
    ) {
        let stretches: Vec<Stretch> = ranges.iter().enumerate()
            .map(|(at, (bytes, _))| Stretch { hva: Hva::new(at as u64 * 1000), bytes: *bytes })
            .collect();
        let bad = |stretch: &Stretch| ranges[(stretch.hva.get() / 1000) as usize].1;
        let mut seen = std::collections::BTreeSet::new();
        let mut pieces = pieces.iter().cycle();
        let advised = advise_by(&stretches, |rest| {
            let mut left = *pieces.next().unwrap();
            let mut done = 0;
            for stretch in rest {
                if bad(stretch) {
                    break;
                }
                let bytes = stretch.bytes.min(left);
                assert!((stretch.hva.get()..stretch.hva.get() + bytes).all(|byte| seen.insert(byte)), "twice");
                done += bytes;
                left -= bytes;
                if left == 0 {
                    break;
                }
            }
            if done == 0 { Err(Errno::NOMEM) } else { Ok(done) }
        }).unwrap();
        let sum = |wanted: bool| ranges.iter().filter(|range| range.1 == wanted).map(|range| range.0).sum::<u64>();
        prop_assert_eq!(advised, Advised { bytes: sum(false), skipped_bytes: sum(true) });
        prop_assert_eq!(seen.len() as u64, advised.bytes);
    }

    /// Whatever is asked: inside the mapping, inside the frames asked for, whole huge pages.
    #[test]
    fn stretches_stay_inside(shift in 0..1024_u64, base in 0..3000_u64, count in 0..3000_u64, shared: bool) {
        let mapped = Segment { shared, file_offset: (shift % 7) * FRAME_SIZE, ..segment(100, 2048, RAM + shift * FRAME_SIZE) };
        let one = SlotFacts { base_gfn: Gfn::new(100), ..slot(vec![mapped.clone()]) };
        for stretch in stretches(&one, Gfn::new(base), count).unwrap() {
            let first = (stretch.hva.get() - mapped.hva.get()) / FRAME_SIZE + 100;
            let end = first + stretch.bytes / FRAME_SIZE;
            prop_assert!(first >= base && end <= base + count && first >= 100 && end <= 2148);
            let origin = if shared { mapped.file_offset } else { mapped.hva.get() };
            prop_assert_eq!((origin + (first - 100) * FRAME_SIZE) % BLOCK_SIZE, 0);
            prop_assert!(stretch.bytes > 0 && stretch.bytes % BLOCK_SIZE == 0);
        }
    }
}
