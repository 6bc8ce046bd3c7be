//! Plans by hand and by chance, and the pace over time.

use proptest::prelude::*;

use super::pace::{Gone, Pace};
use super::*;
use crate::model::ids::BLOCK_SIZE;

const SETTINGS: fn() -> Settings = Settings::default;

fn idle(slot: usize, index: usize, seconds: u64, cooled: bool) -> IdleBlock {
    IdleBlock { slot, index, bytes: BLOCK_SIZE, idle_ns: seconds * SECOND_NS, cooled }
}

fn out(blocks: &[IdleBlock], room: u64) -> Vec<(usize, usize, usize)> {
    plan(blocks, room, &SETTINGS()).out.iter().map(|run| (run.slot, run.first, run.count)).collect()
}

#[test]
fn first_cold_then_out() {
    let blocks = [idle(0, 0, 12, false), idle(0, 1, 200, false), idle(0, 2, 12, true), idle(0, 3, 31, true)];
    let plan = plan(&blocks, u64::MAX, &SETTINGS());
    let runs = |runs: &[Run]| runs.iter().map(|run| (run.first, run.count)).collect::<Vec<_>>();
    assert_eq!(runs(&plan.cold), [(1, 1), (0, 1)]);
    assert_eq!(runs(&plan.out), [(3, 1)], "cold ones that are idle for long enough");
}

#[test]
fn longest_idle_then_largest_run() {
    let mut blocks = vec![idle(0, 0, 40, true), idle(0, 1, 45, true), idle(0, 3, 40, true)];
    blocks.extend((10..14).map(|index| idle(0, index, 60, true)));
    blocks.push(idle(1, 14, 1000, true));
    assert_eq!(out(&blocks, u64::MAX), [(1, 14, 1), (0, 10, 4), (0, 0, 2), (0, 3, 1)]);
    assert_eq!(out(&blocks, 3 * BLOCK_SIZE), [(1, 14, 1), (0, 10, 2)], "a run is cut where the room ends");
    assert_eq!(out(&blocks, BLOCK_SIZE - 1), []);
}

#[test]
fn what_is_offered_or_scanned_too_long_ago_is_no_candidate() {
    let settings = SETTINGS();
    let state = BlockState { fact: HostFact::Idle, resident_frames: 512, ..BlockState::default() };
    let reading =
        BlockReading { last_map_ns: SECOND_NS, last_age_ns: 50 * SECOND_NS, ..BlockReading::default() };
    let at = |state, reading: &BlockReading, now| {
        idle_block((0, 7), state, reading, true, now * SECOND_NS, &settings)
    };
    let found = at(state, &reading, 60).unwrap();
    assert_eq!((found.index, found.bytes, found.idle_ns), (7, BLOCK_SIZE, 49 * SECOND_NS));
    assert_eq!(at(state, &reading, 81), None, "the scan is 31 s old");
    assert_eq!(at(BlockState { claim: GuestClaim::Free, ..state }, &reading, 60), None);
    assert!(at(BlockState { claim: GuestClaim::InUse, ..state }, &reading, 60).is_some());
    assert_eq!(at(BlockState { resident_frames: 0, ..state }, &reading, 60), None);
    assert_eq!(at(BlockState { fact: HostFact::Resident4k, ..state }, &reading, 60), None);
    let touched = BlockReading { last_young_ns: 45 * SECOND_NS, ..reading };
    assert_eq!(at(state, &touched, 60), None, "touched since it was called idle");
    assert!(!is_scanned(&BlockReading::default(), SECOND_NS, &settings));
}

#[test]
fn only_guests_without_module_under_a_policy_that_takes() {
    let attached = GuestStatus::Attached { control_gpa: 4096, cookie: 1 };
    let detached = GuestStatus::Detached { why: "BYE".into() };
    let of = |policy, guest: &GuestStatus| [false, true].map(|pressed| may_go_out(policy, pressed, guest));
    for policy in PolicyName::ALL {
        assert_eq!(of(policy, &attached), [Err(Pause::ModuleAttached); 2]);
    }
    for guest in [GuestStatus::NoModule, detached] {
        assert_eq!(of(PolicyName::Immediate, &guest), [Ok(()); 2]);
        assert_eq!(of(PolicyName::Pressure, &guest), [Err(Pause::NoPressure), Ok(())]);
        assert_eq!(of(PolicyName::Observe, &guest), [Err(Pause::PolicyObserve); 2]);
    }
}

#[test]
fn a_part_of_the_swap_stays_free() {
    assert_eq!(swap_room(1000 * MIB, 1000 * MIB, &SETTINGS()), 900 * MIB);
    assert_eq!(swap_room(1000 * MIB, 99 * MIB, &SETTINGS()), 0);
    assert_eq!(swap_room(0, 0, &SETTINGS()), 0);
}

fn gone(index: usize, at_s: u64, out_frames: u16) -> Gone {
    Gone { slot: 0, index, at_ns: at_s * SECOND_NS, asked_frames: 512, out_frames, back_frames: 0 }
}

#[test]
fn a_vm_whose_memory_comes_back_is_left_alone_for_a_while() {
    let mut pace = Pace::new(SETTINGS());
    (0..16).for_each(|index| pace.advised(gone(index, 100, 512)));
    assert_eq!(pace.look_back(110 * SECOND_NS, |gone| if gone.index == 0 { 512 } else { 0 }), BLOCK_SIZE);
    assert_eq!(pace.judge(110 * SECOND_NS), None, "one in sixteen");
    let back = |gone: &Gone| if gone.index < 3 { 600 } else { 0 };
    assert_eq!(pace.look_back(120 * SECOND_NS, back), 2 * BLOCK_SIZE, "what was told of before is not again");
    assert_eq!(pace.judge(120 * SECOND_NS), Some(Pause::Regret));
    assert_eq!(pace.resting(419 * SECOND_NS), Some(Pause::Regret));
    assert_eq!((pace.resting(420 * SECOND_NS), pace.judge(420 * SECOND_NS)), (None, None));
}

#[test]
fn what_comes_back_late_is_not_regretted() {
    let mut pace = Pace::new(SETTINGS());
    (0..16).for_each(|index| pace.advised(gone(index, 100, 512)));
    pace.look_back(221 * SECOND_NS, |_| 0);
    assert_eq!(pace.look_back(222 * SECOND_NS, |_| 512), 0);
    assert_eq!(pace.judge(222 * SECOND_NS), None);
}

#[test]
fn a_vm_whose_memory_stays_is_left_alone_for_a_while() {
    let mut pace = Pace::new(SETTINGS());
    (0..7).for_each(|index| pace.advised(gone(index, 100, 0)));
    assert_eq!(pace.judge(101 * SECOND_NS), None, "too little to tell");
    pace.advised(gone(7, 100, 51));
    assert_eq!(pace.judge(101 * SECOND_NS), Some(Pause::NothingGoesOut));
    pace.refused(500 * SECOND_NS);
    assert_eq!(pace.resting(501 * SECOND_NS), Some(Pause::Refused));
}

fn blocks() -> impl Strategy<Value = Vec<IdleBlock>> {
    let block = (0..3_usize, 0..60_usize, 1..=512_u64, 5..400_u64, any::<bool>());
    proptest::collection::btree_map((0..3_usize, 0..60_usize), block, 0..80).prop_map(|blocks| {
        blocks
            .into_iter()
            .map(|((slot, index), (_, _, frames, seconds, cooled))| IdleBlock {
                bytes: frames * FRAME_SIZE,
                ..idle(slot, index, seconds, cooled)
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn a_plan_is_made_of_its_blocks_each_once_and_within_the_room(blocks in blocks(), room in 0..200 * MIB) {
        let settings = SETTINGS();
        let plan = plan(&blocks, room, &settings);
        let find = |slot, index| blocks.iter().find(|block| (block.slot, block.index) == (slot, index));
        let mut seen = std::collections::BTreeSet::new();
        for (runs, cooled, least) in [(&plan.cold, false, settings.cold_after_ns), (&plan.out, true, settings.out_after_ns)] {
            for run in runs {
                let mut bytes = 0;
                for index in run.first..run.first + run.count {
                    let block = find(run.slot, index);
                    prop_assert!(block.is_some_and(|block| block.cooled == cooled && block.idle_ns >= least));
                    prop_assert!(seen.insert((run.slot, index)), "planned twice");
                    bytes += block.map_or(0, |block| block.bytes);
                }
                prop_assert!(run.count > 0 && run.bytes == bytes);
            }
        }
        let asked: u64 = plan.out.iter().map(|run| run.bytes).sum();
        prop_assert!(asked <= room);
        // With room for all, all go.
        let all = super::plan(&blocks, u64::MAX, &settings);
        let ready = blocks.iter().filter(|block| block.cooled && block.idle_ns >= settings.out_after_ns).count();
        prop_assert_eq!(all.out.iter().map(|run| run.count).sum::<usize>(), ready);
    }

    #[test]
    fn never_faster_than_the_rate(steps in proptest::collection::vec((0..3_000_u64, 0..600_u16), 1..200)) {
        let settings = SETTINGS();
        let mut pace = Pace::new(settings);
        let (mut now_ns, mut asked) = (SECOND_NS, 0);
        let began_ns = now_ns;
        for (ms, frames) in steps {
            now_ns += ms * 1_000_000;
            let room = pace.room(now_ns);
            let frames = u64::from(frames.min(512)).min(room / FRAME_SIZE);
            asked += frames * FRAME_SIZE;
            pace.advised(Gone { asked_frames: frames as u16, ..gone(0, 0, 0) });
            let most = settings.rate + (u128::from(settings.rate) * u128::from(now_ns - began_ns) / 1_000_000_000) as u64;
            prop_assert!(asked <= most, "{asked} of {most}");
        }
        // And a second later there is a second's worth again.
        prop_assert_eq!(pace.room(now_ns + SECOND_NS), settings.rate);
    }
}
