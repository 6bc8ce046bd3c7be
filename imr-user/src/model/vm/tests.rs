//! The life of a block, step by step, and sums that agree with a recount after any order of steps.

use proptest::prelude::*;

use super::*;

const FOUR_BLOCKS: u64 = 4 * FRAMES_PER_BLOCK;

fn slot(base_gfn: u64, npages: u64) -> SlotDescription {
    SlotDescription {
        id: 0,
        base_gfn: Gfn::new(base_gfn),
        npages,
        userspace_addr: Hva::new(0x7f00_0000_0000),
        backing: "memfd".into(),
        readonly: false,
        followed: true,
    }
}

fn vm(base_gfn: u64, npages: u64) -> VmModel {
    let mut vm = VmModel::new(VmId::new(1), Pid::new(2), "gu\x1best");
    vm.set_slots(vec![slot(base_gfn, npages)]);
    vm
}

fn state(vm: &VmModel, block: usize) -> BlockState {
    vm.snapshot().slots[0].blocks[block]
}

fn touch(vm: &mut VmModel, block: usize, frames: u16, at_ns: u64) {
    vm.refresh(|_, index| {
        if index == block {
            BlockReading { mapped_frames: frames, last_map_ns: at_ns }
        } else {
            unread(index)
        }
    });
}

fn unread(_: usize) -> BlockReading {
    BlockReading::default()
}

#[test]
fn a_name_holds_nothing_that_a_terminal_obeys() {
    assert_eq!(vm(0, 512).name(), "gu?est");
}

#[test]
fn a_block_lives_from_untouched_to_refaulted() {
    let mut vm = vm(0, FOUR_BLOCKS);
    assert_eq!(state(&vm, 1), BlockState::default());
    touch(&mut vm, 1, 512, 10);
    assert_eq!((state(&vm, 1).fact, vm.snapshot().resident_bytes), (HostFact::Resident, BLOCK_SIZE));
    vm.offered(Gfn::new(512), 512, 20);
    touch(&mut vm, 1, 512, 10);
    assert_eq!((state(&vm, 1).claim, state(&vm, 1).fact), (GuestClaim::Free, HostFact::Resident));
    vm.reclaimed(Gfn::new(512), 512, 30);
    touch(&mut vm, 1, 0, 10);
    assert_eq!((state(&vm, 1).claim, state(&vm, 1).fact), (GuestClaim::Free, HostFact::Reclaimed));
    assert_eq!((vm.snapshot().resident_bytes, vm.snapshot().reclaimed_now_bytes), (0, BLOCK_SIZE));
    touch(&mut vm, 1, 3, 40);
    assert_eq!((state(&vm, 1).claim, state(&vm, 1).fact), (GuestClaim::InUse, HostFact::Refaulted));
    touch(&mut vm, 1, 5, 50);
    assert_eq!(vm.snapshot().refaulted_bytes, 5 * FRAME_SIZE, "each frame counts once");
}

#[test]
fn only_whole_blocks_change_and_only_inside_the_slot() {
    let mut vm = vm(256, FOUR_BLOCKS);
    vm.offered(Gfn::new(0), FOUR_BLOCKS * 2, 5);
    let claims: Vec<_> = vm.snapshot().slots[0].blocks.iter().map(|block| block.claim).collect();
    let free = GuestClaim::Free;
    assert_eq!(claims, [GuestClaim::Unknown, free, free, free, GuestClaim::Unknown]);
    vm.offered(Gfn::new(u64::MAX), 512, 5);
}

#[test]
fn a_reset_forgets_what_the_guest_said_and_keeps_what_the_host_knows() {
    let mut vm = vm(0, FOUR_BLOCKS);
    vm.offered(Gfn::new(0), 512, 5);
    vm.reclaimed(Gfn::new(0), 512, 6);
    vm.forget_claims();
    assert_eq!((state(&vm, 0).claim, state(&vm, 0).fact), (GuestClaim::Unknown, HostFact::Reclaimed));
}

#[test]
fn a_baseline_older_than_a_reclaim_does_not_undo_it() {
    let mut vm = vm(0, FOUR_BLOCKS);
    vm.reclaimed(Gfn::new(0), 512, 20);
    vm.baseline(0, 0, &[512, 512], 10);
    vm.refresh(|_, index| unread(index));
    assert_eq!((state(&vm, 0).resident_frames, state(&vm, 1).resident_frames), (0, 512));
}

#[test]
fn an_unchanged_slot_keeps_its_blocks_when_another_comes() {
    let mut vm = vm(0, FOUR_BLOCKS);
    vm.reclaimed(Gfn::new(0), 512, 20);
    vm.set_slots(vec![slot(0x10_0000, 512), slot(0, FOUR_BLOCKS)]);
    let slots = vm.snapshot().slots;
    assert_eq!((slots[0].blocks.len(), slots[1].blocks[0].fact), (1, HostFact::Reclaimed));
}

#[test]
fn fault_rate_is_over_the_time_between_two_samples() {
    let mut vm = vm(0, 512);
    vm.sample_faults(100, 1_000_000_000);
    assert_eq!(vm.snapshot().faults_per_s, 0.0);
    vm.sample_faults(400, 3_000_000_000);
    assert_eq!((vm.snapshot().faults_per_s, vm.snapshot().page_faults), (150.0, 400));
}

#[derive(Debug, Clone)]
enum Step {
    Offer(u64, u64),
    Reclaim(u64, u64),
    Touch(usize, u16),
    Baseline(usize, u16),
    Reset,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3000_u64, 0..1200_u64).prop_map(|(base, len)| Step::Offer(base, len)),
        (0..3000_u64, 0..1200_u64).prop_map(|(base, len)| Step::Reclaim(base, len)),
        (0..4_usize, 0..=512_u16).prop_map(|(block, frames)| Step::Touch(block, frames)),
        (0..4_usize, 0..=512_u16).prop_map(|(block, frames)| Step::Baseline(block, frames)),
        Just(Step::Reset),
    ]
}

proptest! {
    #[test]
    fn sums_equal_a_recount(steps in proptest::collection::vec(step(), 0..60)) {
        let mut vm = vm(0, FOUR_BLOCKS);
        for (now, step) in (1_u64..).zip(steps) {
            match step {
                Step::Offer(base, len) => vm.offered(Gfn::new(base), len, now),
                Step::Reclaim(base, len) => vm.reclaimed(Gfn::new(base), len, now),
                Step::Touch(block, frames) => touch(&mut vm, block, frames, now),
                Step::Baseline(block, frames) => vm.baseline(0, block, &[frames], now),
                Step::Reset => vm.forget_claims(),
            }
            let snapshot = vm.snapshot();
            let blocks = &snapshot.slots[0].blocks;
            let resident: u64 = blocks.iter().map(|block| u64::from(block.resident_frames)).sum();
            let reclaimed = blocks.iter().filter(|block| block.fact == HostFact::Reclaimed).count() as u64;
            prop_assert_eq!(snapshot.resident_bytes, resident * FRAME_SIZE);
            prop_assert_eq!(snapshot.reclaimed_now_bytes, reclaimed * BLOCK_SIZE);
            prop_assert!(blocks.iter().all(|block| block.resident_frames <= 512));
            prop_assert!(blocks.iter().all(|b| b.fact != HostFact::Reclaimed || b.resident_frames == 0));
        }
    }
}
