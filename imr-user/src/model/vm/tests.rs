//! The life of a block, step by step, and sums that agree with a recount after any order of steps.

use proptest::prelude::*;

use super::*;
use crate::model::block::{BlockState, IDLE_NS};
use crate::model::ids::BLOCK_SIZE;

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
        reclaim: ReclaimStatus::Ready { backend: "punch".into() },
    }
}

fn vm(base_gfn: u64, npages: u64) -> VmModel {
    let mut vm = VmModel::new(VmId::new(1), Pid::new(2), "gu\x1best", PolicyName::Immediate);
    vm.set_slots(vec![slot(base_gfn, npages)]);
    vm
}

fn state(vm: &VmModel, block: usize) -> BlockState {
    vm.snapshot().slots[0].blocks.get(block).unwrap()
}

fn axes(vm: &VmModel, block: usize) -> (GuestClaim, HostFact) {
    (state(vm, block).claim, state(vm, block).fact)
}

fn mapped(frames: u16, at_ns: u64) -> BlockReading {
    BlockReading { mapped_frames: frames, last_map_ns: at_ns, ..BlockReading::default() }
}

fn touch(vm: &mut VmModel, block: usize, frames: u16, at_ns: u64) {
    vm.look((0, block), mapped(frames, at_ns), at_ns);
}

fn unread(_: BlockAt) -> BlockReading {
    BlockReading::default()
}

fn held(resident: u16, swapped: u16, merged: u16) -> Residency {
    Residency { resident, swapped, merged, huge: false }
}

/// As the VMM maps it by one page of 2 MiB.
fn huge() -> Residency {
    Residency { huge: true, ..held(512, 0, 0) }
}

/// A baseline of the blocks from `first` on, during which nothing happens.
fn baseline(vm: &mut VmModel, first: usize, truth: &[Residency], now_ns: u64) {
    vm.begin_baseline(0, first, truth.len());
    vm.end_baseline(0, truth, now_ns, |_| BlockReading::default(), |_| ());
}

#[test]
fn a_name_holds_nothing_that_a_terminal_obeys() {
    assert_eq!(vm(0, 512).name(), "gu?est");
}

#[test]
fn what_comes_back_soon_after_it_was_taken_is_told_apart() {
    const SECOND: u64 = 1_000_000_000;
    let mut vm = vm(0, FOUR_BLOCKS);
    vm.set_soon_ms(10_000);
    vm.offered(Gfn::new(0), FOUR_BLOCKS, SECOND, unread);
    vm.reclaimed(Gfn::new(0), FOUR_BLOCKS, 2 * SECOND);
    vm.reclaimed(Gfn::new(0), FOUR_BLOCKS, 3 * SECOND);
    assert_eq!((vm.taken_bytes(), vm.soon_refaulted_bytes()), (4 * BLOCK_SIZE, 0), "nothing is taken twice");
    touch(&mut vm, 0, 512, 9 * SECOND);
    touch(&mut vm, 1, 256, 11 * SECOND);
    assert_eq!(vm.soon_refaulted_bytes(), BLOCK_SIZE * 3 / 2);
    // The rest of it, and another block, too late; an offer in between does not make it sooner.
    vm.offered(Gfn::new(512), 512, 13 * SECOND, |_| mapped(256, 11 * SECOND));
    touch(&mut vm, 1, 512, 14 * SECOND);
    touch(&mut vm, 2, 512, 14 * SECOND);
    assert_eq!(vm.soon_refaulted_bytes(), BLOCK_SIZE * 3 / 2);
    assert_eq!(vm.refaulted_bytes(), 3 * BLOCK_SIZE);
    vm.reclaimed(Gfn::new(0), 512, 15 * SECOND);
    assert_eq!(vm.taken_bytes(), 5 * BLOCK_SIZE);
    touch(&mut vm, 0, 1, 16 * SECOND);
    assert_eq!(vm.soon_refaulted_bytes(), BLOCK_SIZE * 3 / 2 + 4096);
    assert_eq!(vm.snapshot().soon_refaulted_bytes, vm.soon_refaulted_bytes());
}

#[test]
fn free_memory_that_is_held_has_an_age_and_runs() {
    const SECOND: u64 = 1_000_000_000;
    let mut vm = vm(0, 2 * FOUR_BLOCKS);
    assert_eq!((vm.free_held(SECOND), vm.held_bytes()), (FreeHeld::default(), 0));
    for block in 0..6 {
        touch(&mut vm, block, 512, SECOND);
    }
    vm.offered(Gfn::new(0), 512, 10 * SECOND, |_| mapped(512, SECOND));
    vm.offered(Gfn::new(2 * 512), 3 * 512, 30 * SECOND, |_| mapped(512, SECOND));
    // Free, and nothing behind it.
    vm.offered(Gfn::new(7 * 512), 512, 5 * SECOND, unread);
    let free = vm.free_held(40 * SECOND);
    assert_eq!((free.bytes, free.longest_run_bytes), (4 * BLOCK_SIZE, 3 * BLOCK_SIZE));
    assert_eq!((free.longest_free_ms + 500) / 1000, 30);
    assert_eq!(vm.held_bytes(), 6 * BLOCK_SIZE);
    touch(&mut vm, 3, 512, 45 * SECOND);
    assert_eq!(vm.free_held(50 * SECOND).longest_run_bytes, BLOCK_SIZE, "what is used parts a run");
}

#[test]
fn a_block_lives_from_untouched_to_refaulted() {
    let mut vm = vm(0, FOUR_BLOCKS);
    assert_eq!(state(&vm, 1), BlockState::default());
    touch(&mut vm, 1, 512, 10);
    assert_eq!((state(&vm, 1).fact, vm.snapshot().resident_bytes), (HostFact::Resident4k, BLOCK_SIZE));
    vm.offered(Gfn::new(512), 512, 20, |_| mapped(512, 10));
    assert_eq!(axes(&vm, 1), (GuestClaim::Free, HostFact::Resident4k));
    assert_eq!(vm.snapshot().free_held_bytes, BLOCK_SIZE);
    vm.reclaimed(Gfn::new(512), 512, 30);
    touch(&mut vm, 1, 512, 10);
    assert_eq!(axes(&vm, 1), (GuestClaim::Free, HostFact::Reclaimed), "a late zap is no refault");
    assert_eq!((vm.snapshot().resident_bytes, vm.snapshot().reclaimed_now_bytes), (0, BLOCK_SIZE));
    touch(&mut vm, 1, 3, 40);
    assert_eq!(axes(&vm, 1), (GuestClaim::InUse, HostFact::Refaulted));
    touch(&mut vm, 1, 5, 50);
    assert_eq!(vm.snapshot().refaulted_bytes, 5 * FRAME_SIZE, "each frame counts once");
    let life = vm.block(BlockId::new(1), 60).unwrap().life;
    let facts: Vec<_> = life.iter().map(|step| step.fact).collect();
    let (reclaimed, resident) = (HostFact::Reclaimed, HostFact::Resident4k);
    assert_eq!(facts, [HostFact::Refaulted, reclaimed, resident, resident]);
}

#[test]
fn large_mappings_and_idle_memory_show() {
    let mut vm = vm(0, FOUR_BLOCKS);
    let large = BlockReading { large: true, ..mapped(512, 10) };
    vm.look((0, 0), large, 10);
    assert_eq!(state(&vm, 0).fact, HostFact::Resident2m);
    let scanned = |age_ns, young_ns| BlockReading { last_age_ns: age_ns, last_young_ns: young_ns, ..large };
    vm.look((0, 0), scanned(IDLE_NS + 9, 0), 20);
    assert_eq!(state(&vm, 0).fact, HostFact::Resident2m, "not long enough");
    vm.look((0, 0), scanned(IDLE_NS + 10, 0), 20);
    assert_eq!((state(&vm, 0).fact, vm.snapshot().idle_bytes), (HostFact::Idle, BLOCK_SIZE));
    vm.look((0, 0), scanned(IDLE_NS + 10, IDLE_NS + 5), 20);
    assert_eq!(state(&vm, 0).fact, HostFact::Resident2m, "found young");
}

#[test]
fn memory_mapped_before_anybody_looked_is_as_large_as_the_vmms_pages() {
    let mut vm = vm(0, FOUR_BLOCKS);
    baseline(&mut vm, 0, &[huge(), held(512, 0, 0), huge(), huge()], 10);
    let facts = |vm: &VmModel| [0, 1, 2, 3].map(|block| state(vm, block).fact);
    let (small, large) = (HostFact::Resident4k, HostFact::Resident2m);
    assert_eq!(facts(&vm), [large, small, large, large]);
    // A look that shows no mapping, as after a scan for idle memory, changes nothing.
    vm.look((0, 0), BlockReading { last_young_ns: 12, ..BlockReading::default() }, 15);
    assert_eq!(facts(&vm), [large, small, large, large]);
    // What the table has seen counts, whichever it is; of a mapping that is gone it knows no more.
    touch(&mut vm, 0, 7, 20);
    vm.look((0, 1), BlockReading { large: true, ..mapped(512, 20) }, 20);
    touch(&mut vm, 2, 0, 20);
    assert_eq!(facts(&vm), [small, large, large, large]);
    vm.begin_baseline(0, 0, 4);
    let table = |block| if block == 0 { mapped(7, 20) } else { BlockReading::default() };
    vm.end_baseline(0, &[huge(), huge(), held(512, 0, 0), held(0, 0, 0)], 30, table, |_| ());
    assert_eq!(facts(&vm), [small, large, small, HostFact::Untouched]);
}

#[test]
fn a_block_that_was_taken_back_is_not_huge_any_more() {
    let mut vm = vm(0, FOUR_BLOCKS);
    baseline(&mut vm, 0, &[huge(), huge()], 10);
    vm.reclaimed(Gfn::new(0), 512, 20);
    touch(&mut vm, 0, 3, 30);
    assert_eq!(state(&vm, 0).fact, HostFact::Refaulted);
    baseline(&mut vm, 0, &[held(0, 0, 0), held(0, 0, 0)], 40);
    baseline(&mut vm, 0, &[held(512, 0, 0), held(511, 0, 0)], 50);
    assert_eq!([0, 1].map(|block| state(&vm, block).fact), [HostFact::Resident4k; 2]);
    baseline(&mut vm, 0, &[huge(), huge()], 60);
    assert_eq!([0, 1].map(|block| state(&vm, block).fact), [HostFact::Resident2m; 2]);
    assert_eq!([0, 1].map(|block| state(&vm, block).resident_frames), [512; 2]);
}

#[test]
fn swapped_and_merged_blocks_come_from_baselines() {
    let mut vm = vm(0, FOUR_BLOCKS);
    touch(&mut vm, 0, 512, 10);
    baseline(&mut vm, 0, &[held(12, 500, 0), held(0, 0, 512), held(6, 4, 5)], 20);
    let facts: Vec<_> = (0..3).map(|block| state(&vm, block).fact).collect();
    assert_eq!(facts, [HostFact::Swapped, HostFact::Merged, HostFact::Resident4k]);
    let snapshot = vm.snapshot();
    assert_eq!((snapshot.swapped_bytes, snapshot.merged_bytes), (504 * FRAME_SIZE, 517 * FRAME_SIZE));
    // The guest comes back for some of it.
    touch(&mut vm, 0, 300, 30);
    assert_eq!((state(&vm, 0).fact, state(&vm, 0).swapped_frames), (HostFact::Resident4k, 212));
}

#[test]
fn only_whole_blocks_change_and_only_inside_the_slot() {
    let mut vm = vm(256, FOUR_BLOCKS);
    vm.offered(Gfn::new(0), FOUR_BLOCKS * 2, 5, unread);
    let claims: Vec<_> = vm.snapshot().slots[0].blocks.iter().map(|block| block.claim).collect();
    let free = GuestClaim::Free;
    assert_eq!(claims, [GuestClaim::Unknown, free, free, free, GuestClaim::Unknown]);
    assert_eq!(vm.cross().total().bytes(), FOUR_BLOCKS * FRAME_SIZE, "blocks at the edges count in part");
    vm.offered(Gfn::new(u64::MAX), 512, 5, unread);
}

#[test]
fn a_reset_forgets_what_the_guest_said_and_keeps_what_the_host_knows() {
    let mut vm = vm(0, FOUR_BLOCKS);
    vm.offered(Gfn::new(0), 512, 5, unread);
    vm.reclaimed(Gfn::new(0), 512, 6);
    vm.forget_claims(7);
    assert_eq!(axes(&vm, 0), (GuestClaim::Unknown, HostFact::Reclaimed));
}

#[test]
fn what_was_touched_before_an_offer_is_free_and_refaulted() {
    let mut vm = vm(0, FOUR_BLOCKS);
    vm.reclaimed(Gfn::new(0), 512, 10);
    // Touched at 20, freed and offered again at 30, all between two looks.
    vm.offered(Gfn::new(0), 512, 30, |_| mapped(7, 20));
    assert_eq!(axes(&vm, 0), (GuestClaim::Free, HostFact::Refaulted));
    touch(&mut vm, 0, 7, 20);
    assert_eq!(axes(&vm, 0), (GuestClaim::Free, HostFact::Refaulted));
}

#[test]
fn a_baseline_begun_before_a_reclaim_does_not_undo_it() {
    let mut vm = vm(0, FOUR_BLOCKS);
    vm.begin_baseline(0, 0, 2);
    vm.reclaimed(Gfn::new(0), 512, 20);
    vm.end_baseline(0, &[held(512, 0, 0); 2], 30, |_| BlockReading::default(), |_| ());
    assert_eq!((state(&vm, 0).resident_frames, state(&vm, 1).resident_frames), (0, 512));
    assert_eq!(state(&vm, 0).fact, HostFact::Reclaimed);
}

#[test]
fn memory_that_came_back_without_a_mapping_is_a_refault() {
    let mut vm = vm(0, FOUR_BLOCKS);
    vm.reclaimed(Gfn::new(0), 512, 20);
    baseline(&mut vm, 0, &[held(2, 0, 0)], 30);
    assert_eq!((state(&vm, 0).fact, vm.refaulted_bytes()), (HostFact::Refaulted, 2 * FRAME_SIZE));
}

#[test]
fn drift_is_corrected_and_counted_from_the_second_look_on() {
    let mut vm = vm(0, FOUR_BLOCKS);
    baseline(&mut vm, 0, &[held(100, 0, 0); 4], 10);
    assert_eq!(vm.snapshot().drift, DriftCounters::default(), "the first look is no drift");
    baseline(&mut vm, 0, &[held(100, 0, 0), held(130, 0, 0), held(20, 0, 0), held(0, 80, 0)], 20);
    let drift = vm.snapshot().drift;
    assert_eq!((drift.unseen_frames, drift.stale_frames), (30, 0), "what went without a mapping is no drift");
    // The table calls 60 frames of block 2 mapped; 20 have memory.
    let mut stale = Vec::new();
    vm.begin_baseline(0, 2, 1);
    vm.end_baseline(0, &[held(20, 0, 0)], 30, |_| mapped(60, 25), |index| stale.push(index));
    assert_eq!((stale, vm.snapshot().drift.stale_frames), (vec![2], 40));
    assert_eq!(state(&vm, 2).resident_frames, 20);
    // Changes while it was read are no drift.
    vm.begin_baseline(0, 0, 1);
    touch(&mut vm, 0, 50, 40);
    vm.end_baseline(0, &[held(400, 0, 0)], 50, |_| mapped(50, 40), |_| panic!("not stale"));
    assert_eq!((vm.snapshot().drift.unseen_frames, state(&vm, 0).resident_frames), (30, 400));
}

#[test]
fn an_unchanged_slot_keeps_its_blocks_when_another_comes() {
    let mut vm = vm(0, FOUR_BLOCKS);
    vm.reclaimed(Gfn::new(0), 512, 20);
    vm.set_slots(vec![slot(0x10_0000, 512), slot(0, FOUR_BLOCKS)]);
    let slots = vm.snapshot().slots;
    assert_eq!((slots[0].blocks.len(), slots[1].blocks.get(0).unwrap().fact), (1, HostFact::Reclaimed));
    assert_eq!(vm.cross().total().blocks, 5);
    vm.set_slots(vec![slot(0x10_0000, 512)]);
    assert_eq!((vm.cross().total().blocks, vm.snapshot().reclaimed_now_bytes), (1, 0));
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
    /// Frames, and how old the mapping is: events come late, twice, and out of order.
    Touch(usize, u16, u64),
    Age(usize, u64),
    BeginBaseline(usize),
    EndBaseline(Residency, u16),
    Slots(bool),
    Reset,
}

/// More than a block holds, too: what is read while it changes.
fn residency() -> impl Strategy<Value = Residency> {
    (0..=600_u16, 0..=600_u16, 0..=600_u16, any::<bool>())
        .prop_map(|(resident, swapped, merged, huge)| Residency { resident, swapped, merged, huge })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..3000_u64, 0..1200_u64).prop_map(|(base, len)| Step::Offer(base, len)),
        (0..3000_u64, 0..1200_u64).prop_map(|(base, len)| Step::Reclaim(base, len)),
        (0..6_usize, 0..=600_u16, 0..4_u64)
            .prop_map(|(block, frames, late)| Step::Touch(block, frames, late)),
        (0..6_usize, 0..4_u64).prop_map(|(block, late)| Step::Age(block, late)),
        (0..6_usize).prop_map(Step::BeginBaseline),
        (residency(), 0..=512_u16).prop_map(|(truth, table)| Step::EndBaseline(truth, table)),
        any::<bool>().prop_map(Step::Slots),
        Just(Step::Reset),
    ]
}

fn play(vm: &mut VmModel, step: &Step, now: u64) {
    let second = 1_000_000_000;
    let now_ns = now * second;
    match *step {
        Step::Offer(base, len) => vm.offered(Gfn::new(base), len, now_ns, |_| mapped(3, now_ns - second)),
        Step::Reclaim(base, len) => vm.reclaimed(Gfn::new(base), len, now_ns),
        Step::Touch(block, frames, late) => {
            vm.look((0, block), mapped(frames, now_ns.saturating_sub(late * second)), now_ns);
        }
        Step::Age(block, late) => {
            let at = now_ns.saturating_sub(late * 8 * second);
            vm.look((0, block), BlockReading { last_age_ns: now_ns, ..mapped(9, at) }, now_ns);
        }
        Step::BeginBaseline(first) => vm.begin_baseline(0, first, 3),
        Step::EndBaseline(truth, table) => {
            let Residency { resident, swapped, merged, huge: _ } = truth;
            let truth = [truth, held(swapped, merged, resident), held(0, 0, 0)];
            vm.end_baseline(0, &truth, now_ns, |_| mapped(table, now_ns), |_| ());
        }
        Step::Slots(more) => {
            let slots = [slot(0, FOUR_BLOCKS), slot(0x10_0100, 1000)];
            vm.set_slots(slots[..1 + usize::from(more)].to_vec());
        }
        Step::Reset => vm.forget_claims(now_ns),
    }
}

proptest! {
    #[test]
    fn sums_equal_a_recount(
        steps in proptest::collection::vec((step(), any::<bool>(), any::<bool>()), 0..60),
    ) {
        let mut vm = vm(0, FOUR_BLOCKS);
        let mut refaulted = 0;
        for (now, (step, lost, twice)) in (1_u64..).zip(steps) {
            for _ in 0..u8::from(!lost) + u8::from(twice) {
                play(&mut vm, &step, now);
            }
            let mut recount = CrossTable::default();
            let snapshot = vm.snapshot();
            for slot in &vm.slots {
                for (index, state) in slot.states().iter().enumerate() {
                    recount.enter(state, slot.frames_of(index));
                    prop_assert!(state.resident_frames + state.swapped_frames + state.merged_frames <= 512);
                    let empty = state.resident_frames + state.swapped_frames + state.merged_frames == 0;
                    let bare = matches!(state.fact, HostFact::Reclaimed | HostFact::Untouched);
                    prop_assert_eq!(empty, bare, "{:?}", state);
                    // No step shows the table a large mapping: only a baseline can have found it.
                    let full = state.resident_frames == 512;
                    prop_assert!(state.fact != HostFact::Resident2m || full, "{:?}", state);
                    let life = vm.block(BlockId::new(index as u64), u64::MAX).unwrap().life;
                    prop_assert!(life.len() <= crate::model::life::STEPS);
                }
            }
            prop_assert_eq!(&recount, vm.cross());
            prop_assert_eq!(snapshot.cross, recount);
            prop_assert_eq!(recount.total().bytes(), snapshot.ram_bytes);
            prop_assert!(snapshot.refaulted_bytes >= refaulted, "what refaulted stays counted");
            refaulted = snapshot.refaulted_bytes;
        }
    }
}
