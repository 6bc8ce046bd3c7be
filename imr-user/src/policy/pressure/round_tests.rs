//! Many rounds of asking, with guests that look, offer and are taken from as real ones are, or that are paused or hostile.

use proptest::prelude::*;

use super::tests::{GIB, MIB, SECOND, offer, pressed, range, settings};
use super::*;
use crate::model::ids::{FRAME_SIZE, VmId};
use crate::model::regret::FreeHeld;

/// The engine's rounds are a second apart, and guests look in between.
const STEP: u64 = SECOND / 10;
/// A guest looks so often when it is not answered.
const HELLO: u64 = 2 * SECOND;
/// Blocks of a range, ranges of an offer.
const RANGE: u64 = 2;
const RANGES: u64 = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Offers what it is asked for, at once.
    Gives,
    /// Is attached and offers nothing, ever.
    Silent,
    /// Offers a block each time that it looks, whatever it is asked for.
    Trickles,
}

struct Guest {
    kind: Kind,
    /// When it looks, after each multiple of [`HELLO`].
    phase: u64,
    free: u64,
    /// Number and bytes of the newest request, and the number of the one served last.
    request: (u64, u64),
    served: u64,
    state: VmState,
    taker: Taker,
}

impl Guest {
    fn new(kind: Kind, phase: u64, free: u64, settings: Settings) -> Self {
        let mut taker = Taker::new(settings, 0);
        taker.allow(pressed(u64::MAX));
        Self { kind, phase, free, request: (0, 0), served: 0, state: VmState::default(), taker }
    }

    /// A HELLO; after each offer it looks again.
    fn look(&mut self, now_ns: u64) {
        if self.kind == Kind::Trickles {
            self.free -= offer(&mut self.taker, now_ns, &[range(0, 1)]);
        }
        if self.kind != Kind::Gives || self.served == self.request.0 {
            return;
        }
        self.served = self.request.0;
        // Ranges are whole.
        let of_range = FRAME_SIZE * 512 * RANGE;
        let wanted = self.request.1.div_ceil(of_range).min(self.free / of_range);
        let ranges: Vec<_> = (0..wanted).map(|at| range(at * RANGE, RANGE)).collect();
        for batch in ranges.chunks(RANGES as usize) {
            self.free -= offer(&mut self.taker, now_ns, batch);
        }
    }
}

/// What was taken of each, second by second, while `missing` bytes are.
fn rounds(settings: &Settings, guests: &mut [Guest], missing: u64, seconds: u64) -> Vec<Vec<u64>> {
    let mut taken = Vec::new();
    for step in 0..seconds * 10 {
        let now = step * STEP;
        if now.is_multiple_of(SECOND) {
            let sums: Vec<u64> = guests.iter().map(|guest| guest.taker.taken()).collect();
            let left = missing.saturating_sub(sums.iter().sum());
            for (guest, sum) in guests.iter_mut().zip(&sums) {
                guest.state.advance(now, settings, (*sum, 0));
            }
            taken.push(sums);
            // The first is free longest.
            let candidates = guests.iter_mut().zip(0..).map(|(guest, id)| Candidate {
                vm: VmId::new(id),
                figures: VmFigures { ram_bytes: 64 * GIB, free_bytes: guest.free, held_bytes: 64 * GIB },
                free_held: FreeHeld {
                    bytes: guest.free,
                    longest_free_ms: 1_000_000 >> id,
                    longest_run_bytes: 4 * MIB,
                },
                state: &mut guest.state,
            });
            for wish in if left > 0 { wishes(now, settings, left, candidates.collect()) } else { Vec::new() }
            {
                let guest = &mut guests[wish.vm.get() as usize];
                assert!(wish.bytes <= settings.rate, "more than can be taken at once");
                guest.request = (guest.request.0 + 1, wish.bytes);
            }
        }
        for guest in guests.iter_mut().filter(|guest| now % HELLO == guest.phase) {
            guest.look(now);
        }
    }
    taken
}

#[test]
fn what_is_asked_for_is_taken_and_the_rate_about_reached() {
    let settings = settings();
    for phase in 0..20 {
        let mut guests = [Guest::new(Kind::Gives, phase * STEP, 60 * GIB, settings)];
        let taken = rounds(&settings, &mut guests, 60 * GIB, 60);
        // It looks every two seconds, and a second's worth can be taken then.
        let sum = taken[59][0];
        assert!(sum >= 27 * settings.rate && sum <= 30 * settings.rate, "phase {phase}: {} MiB", sum / MIB);
        let most = (1..60).map(|second| taken[second][0] - taken[second - 1][0]).max();
        assert!(most <= Some(settings.rate));
        assert!(guests[0].request.0 <= 31, "asked {} times", guests[0].request.0);
    }
}

#[test]
fn one_that_never_gives_does_not_keep_the_others_from_being_asked() {
    let settings = settings();
    // Less than five seconds' worth, which one guest could be asked for once, and more.
    for missing in [100 * MIB, 600 * MIB, 3 * GIB] {
        for bad in [Kind::Silent, Kind::Trickles] {
            let mut guests: Vec<_> = [bad, Kind::Gives, Kind::Gives]
                .map(|kind| Guest::new(kind, 3 * STEP, 20 * GIB, settings))
                .into();
            let taken = rounds(&settings, &mut guests, missing, 60);
            let done = taken.iter().position(|sums| sums.iter().sum::<u64>() >= missing);
            let seconds = 20 + missing / settings.rate;
            assert!(
                done.is_some_and(|second| second as u64 <= seconds),
                "{bad:?}, {missing}: {done:?} of {seconds}"
            );
            let asked = guests[0].request.0;
            assert!(bad == Kind::Trickles || asked <= 4, "asked {asked} times");
        }
    }
}

#[test]
fn one_that_gave_nothing_comes_after_all_others() {
    let settings = settings();
    let mut state = VmState::default();
    assert!(!state.gives_nothing(0) && state.most(GIB) == GIB, "never asked");
    state.advance(0, &settings, (MIB, 0));
    state.asked(0, 128 * MIB);
    assert_eq!((state.coming(4 * SECOND), state.gives_nothing(4 * SECOND)), (128 * MIB, false));
    assert_eq!((state.coming(5 * SECOND), state.gives_nothing(5 * SECOND)), (0, true));
    assert_eq!(state.most(GIB), GIB / 16);
    state.asked(5 * SECOND, 64 * MIB);
    assert!(state.gives_nothing(6 * SECOND), "asked again, and still nothing");
    state.advance(7 * SECOND, &settings, (62 * MIB, 0));
    assert!(!state.gives_nothing(7 * SECOND) && state.may_be_asked(7 * SECOND), "it gives after all");
    assert_eq!((state.most(GIB), state.coming(7 * SECOND)), (122 * MIB, 3 * MIB));
}

proptest! {
    /// Whoever else there is: one that can give all of it gives it, and nobody is taken from faster than the rate.
    #[test]
    fn what_is_missing_comes(
        missing_mib in 1..1500_u64,
        guests in proptest::collection::vec((0..3_u8, 0..20_u64, 0..40_u64), 0..6),
        phase in 0..20_u64,
    ) {
        let settings = settings();
        let kinds = [Kind::Gives, Kind::Silent, Kind::Trickles];
        let mut guests: Vec<_> = guests
            .into_iter()
            .map(|(kind, phase, free)| {
                Guest::new(kinds[usize::from(kind)], phase * STEP, (free + 20) * 100 * MIB, settings)
            })
            .collect();
        let others = guests.len() as u64;
        guests.push(Guest::new(Kind::Gives, phase * STEP, 20 * GIB, settings));
        let missing = missing_mib * MIB;
        let seconds = 15 + 6 * others + 3 * missing / settings.rate;
        let taken = rounds(&settings, &mut guests, missing, seconds);
        prop_assert!(taken[seconds as usize - 1].iter().sum::<u64>() >= missing, "within {seconds} s");
        for pair in taken.windows(2) {
            for (before, after) in pair[0].iter().zip(&pair[1]) {
                prop_assert!(after - before <= 2 * settings.rate);
            }
        }
    }
}
