//! Never under the floor, never over the rate, no flapping, the best first, and what is left alone is left alone.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::ids::{FRAME_SIZE, Gfn, VmId};
use crate::model::regret::FreeHeld;
use crate::policy::free_since::FreeFor;
use crate::policy::plan::Verdict;
use crate::policy::settings::{Amount, RATE_LEAST};

pub(super) const MIB: u64 = 1 << 20;
pub(super) const GIB: u64 = 1 << 30;
pub(super) const SECOND: u64 = 1_000_000_000;
const BLOCK_FRAMES: u64 = 512;

pub(super) fn settings() -> Settings {
    Settings { floor: Amount::Bytes(64 * MIB), rate: 128 * MIB, ..Settings::default() }
}

fn host(available: u64, psi: f32) -> HostFigures {
    HostFigures { mem_total: 100 * GIB, mem_available: available, psi: Some(Percent::new(psi)) }
}

pub(super) fn pressed(up_to: u64) -> Allowance {
    Allowance::Pressed { up_to, floor: 64 * MIB, lapses_ns: u64::MAX }
}

fn taken_of(verdicts: &[Verdict]) -> Vec<bool> {
    verdicts.iter().map(|verdict| *verdict == Verdict::Reclaim).collect()
}

pub(super) fn range(block: u64, blocks: u64) -> (Gfn, u64) {
    (Gfn::new(block * BLOCK_FRAMES), blocks * BLOCK_FRAMES)
}

/// A worker's part of an offer, all of what it allows being taken. Returns the bytes.
pub(super) fn offer(taker: &mut Taker, now_ns: u64, ranges: &[(Gfn, u64)]) -> u64 {
    let verdicts = taker.judge(now_ns, ranges, &vec![FreeFor::default(); ranges.len()]);
    let taken = ranges.iter().zip(verdicts).filter(|(_, verdict)| *verdict == Verdict::Reclaim);
    let taken: Vec<_> = taken.map(|(range, _)| (*range, range.1 * FRAME_SIZE)).collect();
    taker.settle(true, taken.iter().copied());
    taken.iter().map(|(_, bytes)| bytes).sum()
}

#[test]
fn the_host_is_pressed_below_the_low_mark_until_it_is_over_the_high_one() {
    let settings = Settings::default();
    let mut pressure = Pressure::new(0);
    assert!(!pressure.feel(1, &settings, host(11 * GIB, 0.0)));
    assert!(pressure.feel(2, &settings, host(9 * GIB, 0.0)) && pressure.is_pressed());
    assert_eq!(pressure.missing_bytes(), 6 * GIB);
    assert!(pressure.why().contains("below the low mark of 10240 MiB"), "{}", pressure.why());
    assert!(!pressure.feel(3, &settings, host(14 * GIB, 0.0)), "between the marks");
    assert!(pressure.why().contains("not yet at the high mark"), "{}", pressure.why());
    assert!(pressure.feel(4, &settings, host(15 * GIB, 0.0)) && !pressure.is_pressed());
    assert_eq!(pressure.missing_bytes(), 0);
    // By PSI alone, with memory enough.
    assert!(pressure.feel(5, &settings, host(50 * GIB, 10.0)) && pressure.is_pressed());
    assert_eq!(pressure.missing_bytes(), 100 * GIB / 64);
    assert!(!pressure.feel(6, &settings, host(50 * GIB, 2.01)));
    assert!(pressure.feel(7, &settings, host(50 * GIB, 2.0)) && !pressure.is_pressed());
    let without = HostFigures { psi: None, ..host(50 * GIB, 0.0) };
    let never = Settings { psi_above: Percent::default(), ..settings };
    assert!(!pressure.feel(8, &never, without), "a kernel without PSI says nothing by it");
}

#[test]
fn an_offer_is_taken_best_first_within_the_rate() {
    let mut taker = Taker::new(Settings { rate: 8 * MIB, ..settings() }, 0);
    taker.allow(pressed(u64::MAX));
    let free = |seconds, touched_ns| FreeFor { seconds, touched_ns };
    // A second's worth is four blocks: the longest free first, then the longest, then the one touched longest ago.
    let ranges = [range(0, 1), range(10, 2), range(20, 1), range(30, 1), range(40, 1)];
    let since = [free(0, 9), free(0, 5), free(60, 7), free(0, 5), free(0, 8)];
    let verdicts = taker.judge(0, &ranges, &since);
    assert_eq!(taken_of(&verdicts), [false, true, true, true, false]);
    assert_eq!(verdicts[0], Verdict::Keep("policy pressure: more than 8 MiB within a second".into()));
    taker.settle(true, [(ranges[2], 2 * MIB), (ranges[1], 0), (ranges[3], 2 * MIB)]);
    assert_eq!(taker.taken(), 4 * MIB);
    let verdicts = taker.judge(0, &ranges[..3], &since);
    assert_eq!(
        taken_of(&verdicts),
        [false, false, true],
        "what a guard kept is given back, the best goes first"
    );
}

#[test]
fn nothing_is_taken_when_calm_left_alone_or_on_old_word() {
    let mut taker = Taker::new(settings(), 0);
    for (allowance, says) in [
        (Allowance::Calm, "not short of memory"),
        (Allowance::LeftAlone, "left alone"),
        (Allowance::Pressed { up_to: u64::MAX, floor: 0, lapses_ns: 9 }, "not known"),
        (pressed(MIB), "last 64 MiB of free memory"),
    ] {
        taker.allow(allowance);
        let verdicts = taker.judge(10, &[range(0, 1)], &[]);
        assert!(matches!(&verdicts[..], [Verdict::Keep(why)] if why.contains(says)), "{verdicts:?}");
    }
}

#[test]
fn a_vm_that_regrets_is_left_alone_longer_each_time_and_forgiven_in_the_end() {
    let settings = settings();
    let mut vm = VmState::default();
    let (mut taken, mut soon, mut now) = (0, 0, SECOND);
    let mut alone = Vec::new();
    for _ in 0..7 {
        taken += 100 * MIB;
        assert_eq!(vm.advance(now, &settings, (taken, soon)), None, "taken, and not back yet");
        soon += 60 * MIB;
        now += SECOND;
        let Some(VmChange::LeftAlone(why)) = vm.advance(now, &settings, (taken, soon)) else {
            panic!("not left alone")
        };
        assert!(why.contains("over 25 %") && why.contains("within 30 s"), "{why}");
        assert!(vm.is_left_alone() && !vm.may_be_asked(now));
        assert_eq!(vm.allowance(now, &settings, VmFigures::default(), 0, true), Allowance::LeftAlone);
        let from = now;
        while vm.is_left_alone() {
            now += SECOND;
            soon += MIB;
            if vm.advance(now, &settings, (taken, soon)) == Some(VmChange::Again) {
                assert!(vm.may_be_asked(now));
            }
        }
        alone.push((now - from) / SECOND);
    }
    assert_eq!(alone, [60, 120, 240, 480, 960, 960, 960]);
    now += 4 * 960 * SECOND + SECOND;
    taken += 100 * MIB;
    soon += 90 * MIB;
    let Some(VmChange::LeftAlone(why)) = vm.advance(now, &settings, (taken, soon)) else {
        panic!("not left alone")
    };
    assert!(why.starts_with("left alone for 60 s: regret 90 % "), "{why}");
}

#[test]
fn a_little_says_nothing_and_old_regret_fades() {
    let settings = Settings { regret_within: Duration::from_secs(10), ..settings() };
    let mut vm = VmState::default();
    assert_eq!(vm.advance(SECOND, &settings, (4 * MIB, 4 * MIB)), None);
    assert_eq!(vm.regret(), Percent::new(100.0));
    // Four half-lives of 40 s later a sixteenth of it counts.
    assert_eq!(vm.advance(161 * SECOND, &settings, (8 * MIB, 4 * MIB)), None);
    assert_eq!(vm.regret(), Percent::new(5.88));
}

/// VMs of 1 GiB, all of it held: free bytes, how long free in ms, longest run.
fn candidates<'a>(states: &'a mut [VmState], vms: &[(u64, u64, u64)]) -> Vec<Candidate<'a>> {
    states
        .iter_mut()
        .zip(vms)
        .zip(1..)
        .map(|((state, &(free_bytes, longest_free_ms, longest_run_bytes)), id)| Candidate {
            vm: VmId::new(id),
            figures: VmFigures { ram_bytes: GIB, free_bytes, held_bytes: GIB },
            free_held: FreeHeld { bytes: free_bytes, longest_free_ms, longest_run_bytes },
            state,
        })
        .collect()
}

#[test]
fn who_is_asked_first() {
    let settings = Settings { rate: GIB, ..settings() };
    let mut states = vec![VmState::default(); 5];
    // The last has given and regrets a tenth of it; the fourth has nothing over its floor.
    states[4].advance(SECOND, &settings, (100 * MIB, 10 * MIB));
    let mib = |free| free * MIB;
    let vms = [
        (mib(164), 1_000, mib(100)),
        (mib(264), 60_000, mib(2)),
        (mib(264), 60_000, mib(200)),
        (mib(65), 90_000, mib(200)),
        (mib(564), 1_000, mib(100)),
    ];
    let asked = wishes(SECOND, &settings, 470 * MIB, candidates(&mut states, &vms));
    let given: Vec<_> = asked.iter().map(|wish| (wish.vm.get(), wish.bytes / MIB)).collect();
    assert_eq!(given, [(3, 200), (2, 200), (1, 70)], "longest free, longest run, lowest regret");
    assert!(
        asked[0].why.contains("470 MiB missing") && asked[0].why.contains("60 s ago"),
        "{}",
        asked[0].why
    );
    // What is on its way is not asked for again, of anybody.
    let again = wishes(2 * SECOND, &settings, 470 * MIB, candidates(&mut states, &vms));
    assert_eq!(again, []);
    let more = wishes(3 * SECOND, &settings, 480 * MIB, candidates(&mut states, &vms));
    assert_eq!(more.iter().map(|wish| (wish.vm.get(), wish.bytes / MIB)).collect::<Vec<_>>(), [(5, 10)]);
}

#[test]
fn a_guest_that_gives_nothing_is_asked_less_and_less() {
    let settings = settings();
    let mut states = vec![VmState::default()];
    let mut times = Vec::new();
    for second in 0..300 {
        let asked = wishes(second * SECOND, &settings, GIB, candidates(&mut states, &[(GIB, 0, 0)]));
        times.extend(asked.iter().map(|_| second));
    }
    assert_eq!(times, [0, 5, 15, 35, 75, 155, 235]);
    states[0].advance(300 * SECOND, &settings, (MIB, 0));
    for second in 300..330 {
        let asked = wishes(second * SECOND, &settings, GIB, candidates(&mut states, &[(GIB, 0, 0)]));
        times.extend(asked.iter().map(|_| second));
        states[0].advance(second * SECOND, &settings, (MIB * (second - 290), 0));
    }
    // It was asked for little by then, and has given that.
    assert_eq!(times[7..], [301, 306, 311, 316, 321, 326]);
}

proptest! {
    #[test]
    fn between_the_marks_nothing_changes(
        start in 0..100_u64,
        figures in proptest::collection::vec((10_000..15_000_u64, 2.01..9.99_f32), 1..40),
    ) {
        let settings = Settings::default();
        let mut pressure = Pressure::new(0);
        pressure.feel(0, &settings, host(start * GIB, 0.0));
        let before = pressure.is_pressed();
        for (at, (available, psi)) in (1..).zip(figures) {
            let changed = pressure.feel(at, &settings, host(available * 100 * GIB / 100_000, psi));
            prop_assert!(!changed && pressure.is_pressed() == before);
            prop_assert_eq!(pressure.missing_bytes() > 0, before);
        }
    }

    #[test]
    fn marks_that_are_the_same_or_the_wrong_way_round_do_not_flap(low in 0..100_u32, high in 0..100_u32, up in 0..50_u32, down in 0..50_u32,
        available in 0..100_u64, psi in 0..50_u32,
    ) {
        let share = |percent: u32| Amount::Share(Percent::hundredths(percent * 100));
        let settings = Settings {
            available_low: share(low),
            available_high: share(high),
            psi_above: Percent::hundredths(up * 100),
            psi_below: Percent::hundredths(down * 100),
            ..Settings::default()
        };
        let mut pressure = Pressure::new(0);
        // The same figures again and again settle at once.
        pressure.feel(1, &settings, host(available * GIB, psi as f32));
        for at in 2..5 {
            prop_assert!(!pressure.feel(at, &settings, host(available * GIB, psi as f32)));
        }
    }

    /// Figures at the very marks, over and over: each is judged as if it were the first.
    #[test]
    fn with_equal_marks_the_figures_alone_decide(
        mark in 0..20_u32,
        low in 1..50_u64,
        figures in proptest::collection::vec((0..3_u64, 0..3_u32), 1..20),
    ) {
        let settings = Settings {
            available_low: Amount::Bytes(low * GIB),
            available_high: Amount::Bytes(low * GIB),
            psi_above: Percent::hundredths(mark * 100 + 100),
            psi_below: Percent::hundredths(mark * 100 + 100),
            ..Settings::default()
        };
        let mut pressure = Pressure::new(0);
        for (at, (available, psi)) in (1..).zip(figures) {
            let (available, psi) = (low + available - 1, mark + psi);
            for again in [false, true] {
                let changed = pressure.feel(at, &settings, host(available * GIB, psi as f32));
                prop_assert!(!(again && changed), "it flaps");
                prop_assert_eq!(pressure.is_pressed(), available < low || psi > mark);
                prop_assert_eq!(pressure.missing_bytes() > 0, pressure.is_pressed());
            }
        }
    }

    #[test]
    fn never_over_the_rate_in_any_window(
        rate in RATE_LEAST..64 * MIB,
        offers in proptest::collection::vec((0..3 * SECOND, proptest::collection::vec(1..6_u64, 0..8)), 1..30),
    ) {
        let mut taker = Taker::new(Settings { rate, ..settings() }, 0);
        taker.allow(pressed(u64::MAX));
        let mut now = 0;
        let mut taken = Vec::new();
        for (pause, sizes) in offers {
            now += pause;
            let ranges: Vec<_> = sizes.iter().zip(0..).map(|(size, at)| range(at * 8, *size)).collect();
            taken.push((now, offer(&mut taker, now, &ranges)));
        }
        for (from, (start, _)) in taken.iter().enumerate() {
            for (to, (end, _)) in taken.iter().enumerate().skip(from) {
                let sum: u64 = taken[from..=to].iter().map(|(_, bytes)| bytes).sum();
                let most = u128::from(rate) * u128::from(SECOND + end - start) / u128::from(SECOND) + 1;
                prop_assert!(u128::from(sum) <= most, "{sum} of {most} from {start} to {end}");
            }
        }
    }

    /// The engine hears of what was taken late and in pieces; whatever it knew, the floor holds. The guest's own
    /// allocations come between, which the engine is told of at once here.
    #[test]
    fn never_under_the_floor(
        free_mib in 0..600_u64,
        steps in proptest::collection::vec((0..4_u8, 1..40_u64), 1..80),
    ) {
        let settings = Settings { rate: GIB, ..settings() };
        let mut taker = Taker::new(settings, 0);
        let vm = VmState::default();
        let mut free = free_mib * MIB;
        let (mut held, mut held_known, mut taken_known, mut now) = (GIB, GIB, 0, 0);
        // What was really taken since: the model learns of it with the report.
        let mut reports = std::collections::VecDeque::new();
        for (step, size) in steps {
            now += SECOND / 10;
            match step {
                0 => {
                    let figures = VmFigures { ram_bytes: GIB, free_bytes: free, held_bytes: held_known };
                    taker.allow(vm.allowance(now, &settings, figures, taken_known, true));
                }
                1 => {
                    let before = free.saturating_sub(GIB - held);
                    let bytes = offer(&mut taker, now, &[range(0, size), range(50, size / 2 + 1)]);
                    held -= bytes;
                    reports.push_back((bytes, taker.taken()));
                    let left = free.saturating_sub(GIB - held);
                    prop_assert!(bytes == 0 || left >= 64 * MIB, "{left} left of {before} after {bytes}");
                }
                2 => {
                    if let Some((bytes, taken)) = reports.pop_front() {
                        held_known -= bytes;
                        taken_known = taken;
                    }
                }
                _ => {
                    // More becomes free; what is used again is the guest's own doing and no business of the policy.
                    free = (free + size * MIB).min(GIB);
                }
            }
        }
    }

    #[test]
    fn no_more_is_wanted_than_is_missing_and_can_be_given(
        missing_mib in 0..3000_u64,
        vms in proptest::collection::vec((0..1024_u64, 0..100_000_u64, 0..100_u64, any::<bool>()), 1..8),
    ) {
        let settings = settings();
        let mut states = vec![VmState::default(); vms.len()];
        for (state, vm) in states.iter_mut().zip(&vms).filter(|(_, vm)| vm.3) {
            state.advance(SECOND, &settings, (100 * MIB, 90 * MIB));
            prop_assert!(state.is_left_alone(), "{vm:?}");
        }
        let given: Vec<_> = vms.iter().map(|vm| (vm.0 * MIB, vm.1, vm.2 * MIB)).collect();
        let asked = wishes(2 * SECOND, &settings, missing_mib * MIB, candidates(&mut states, &given));
        let sum: u64 = asked.iter().map(|wish| wish.bytes).sum();
        prop_assert!(sum < missing_mib * MIB + 2 * MIB);
        for wish in &asked {
            let (free, _, _, alone) = vms[wish.vm.get() as usize - 1];
            prop_assert!(!alone && wish.bytes + 64 * MIB <= free * MIB && wish.bytes > 0);
            prop_assert!(wish.bytes.is_multiple_of(2 * MIB));
        }
    }
}
