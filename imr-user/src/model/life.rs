//! The life history of a block: its newest states and about when it took each, in twelve bytes.
//!
//! Input: a state and its time. Output: steps, the newest first. Times between steps are kept to 3 %.

use schemars::JsonSchema;
use serde::Serialize;

use super::block::{GuestClaim, HostFact};

/// Steps kept for each block.
pub const STEPS: usize = 4;
/// log2 of the unit of time here, ns: 16.8 ms. 32 bits of it are 2.3 years.
const UNIT_SHIFT: u32 = 24;
/// Bits of a step's time that are its mantissa.
const MANTISSA_BITS: u32 = 6;
/// A step that was never made. All facts and claims have smaller numbers.
const NONE: u16 = u16::MAX;

/// The newest states of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When the newest was taken, in units.
    newest: u32,
    /// Newest first. Low five bits: state; the rest: time from this step to the one after it, 0 for the newest.
    steps: [u16; STEPS],
}

/// A state and when a block took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct LifeStep {
    /// How long ago, milliseconds; to about 3 %.
    pub ago_ms: u64,
    /// The guest's word since then.
    pub claim: GuestClaim,
    /// The host's knowledge since then.
    pub fact: HostFact,
}

impl Default for Life {
    fn default() -> Self {
        Self { newest: 0, steps: [NONE; STEPS] }
    }
}

impl Life {
    /// Notes that the block is in this state since `now_ns`. The same state again is no step.
    pub fn note(&mut self, claim: GuestClaim, fact: HostFact, now_ns: u64) {
        let state = claim as u16 | (fact as u16) << 2;
        if self.steps[0] != NONE && self.steps[0] & 0x1f == state {
            return;
        }
        let now = units(now_ns);
        if self.steps[0] != NONE {
            self.steps[0] |= pack(now.wrapping_sub(self.newest)) << 5;
        }
        self.steps.rotate_right(1);
        self.steps[0] = state;
        self.newest = now;
    }

    /// The steps, the newest first, seen from `now_ns`.
    pub fn steps(&self, now_ns: u64) -> impl Iterator<Item = LifeStep> + '_ {
        let mut ago = u64::from(units(now_ns).wrapping_sub(self.newest));
        self.steps.iter().take_while(|step| **step != NONE).map(move |step| {
            ago += u64::from(unpack(step >> 5));
            LifeStep {
                ago_ms: (ago << UNIT_SHIFT) / 1_000_000,
                claim: GuestClaim::ALL[usize::from(step & 3).min(2)],
                fact: HostFact::ALL[usize::from(step >> 2 & 7)],
            }
        })
    }

    /// How long ago the newest unbroken time began in which all steps were `as_asked`, ms; `None` where no kept step was.
    pub fn since(&self, now_ns: u64, as_asked: impl Fn(&LifeStep) -> bool) -> Option<u64> {
        let newest = self.steps(now_ns).skip_while(|step| !as_asked(step));
        newest.take_while(|step| as_asked(step)).last().map(|step| step.ago_ms)
    }

    /// The same, of a time that has not ended.
    pub fn so_far(&self, now_ns: u64, as_asked: impl Fn(&LifeStep) -> bool) -> Option<u64> {
        self.steps(now_ns).take_while(|step| as_asked(step)).last().map(|step| step.ago_ms)
    }
}

fn units(ns: u64) -> u32 {
    // Wraps on purpose: only differences are used.
    (ns >> UNIT_SHIFT) as u32
}

/// A number as exponent and mantissa in eleven bits, rounded down.
fn pack(value: u32) -> u16 {
    let bits = u32::BITS - value.leading_zeros();
    let exponent = bits.saturating_sub(MANTISSA_BITS);
    // The mantissa's highest bit is always set then.
    (exponent << MANTISSA_BITS | value >> exponent) as u16
}

fn unpack(packed: u16) -> u32 {
    let exponent = u32::from(packed) >> MANTISSA_BITS;
    let mantissa = u32::from(packed) & ((1 << MANTISSA_BITS) - 1);
    mantissa << exponent
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_newest_steps_come_first_and_old_ones_go() {
        let mut life = Life::default();
        assert_eq!(life.steps(9).count(), 0);
        let second = 1_000_000_000;
        life.note(GuestClaim::Unknown, HostFact::Resident4k, 10 * second);
        life.note(GuestClaim::Unknown, HostFact::Resident4k, 11 * second);
        life.note(GuestClaim::Free, HostFact::Resident4k, 20 * second);
        life.note(GuestClaim::Free, HostFact::Reclaimed, 21 * second);
        let ages: Vec<_> =
            life.steps(30 * second).map(|step| ((step.ago_ms + 300) / 500, step.fact)).collect();
        let (held, gone) = (HostFact::Resident4k, HostFact::Reclaimed);
        assert_eq!(ages, [(18, gone), (20, held), (40, held)]);
        life.note(GuestClaim::InUse, HostFact::Refaulted, 40 * second);
        life.note(GuestClaim::InUse, HostFact::Idle, 60 * second);
        let facts: Vec<_> = life.steps(61 * second).map(|step| step.fact).collect();
        assert_eq!(facts, [HostFact::Idle, HostFact::Refaulted, gone, held]);
        assert_eq!(size_of::<Life>(), 12);
    }

    #[test]
    fn an_unbroken_time_is_counted_from_its_begin() {
        let mut life = Life::default();
        let (free, used, second) = (GuestClaim::Free, GuestClaim::InUse, 1_000_000_000);
        let taken = |step: &LifeStep| step.fact == HostFact::Reclaimed;
        assert_eq!(life.since(9, taken), None);
        life.note(free, HostFact::Resident4k, 10 * second);
        life.note(free, HostFact::Reclaimed, 20 * second);
        life.note(GuestClaim::Unknown, HostFact::Reclaimed, 30 * second);
        let seconds = |ms: Option<u64>| ms.map(|ms| (ms + 500) / 1000);
        assert_eq!(seconds(life.since(40 * second, taken)), Some(20));
        assert_eq!(life.so_far(40 * second, |step| step.claim == free), None);
        life.note(used, HostFact::Refaulted, 40 * second);
        assert_eq!(seconds(life.since(44 * second, taken)), Some(24));
        assert_eq!(
            (life.so_far(44 * second, taken), seconds(life.so_far(44 * second, |_| true))),
            (None, Some(34))
        );
    }

    proptest! {
        #[test]
        fn packed_times_are_close(value: u32) {
            let close = unpack(pack(value));
            prop_assert!(close <= value && value - close <= value / 32, "{value} became {close}");
            prop_assert!(pack(value) < 1 << 11);
        }

        #[test]
        fn no_step_is_lost_but_the_oldest(states in proptest::collection::vec((0..3_usize, 0..8_usize), 0..12)) {
            let mut life = Life::default();
            let mut told = Vec::new();
            for (at, (claim, fact)) in (1_u64..).zip(states) {
                let state = (GuestClaim::ALL[claim], HostFact::ALL[fact]);
                if told.last() != Some(&state) {
                    told.push(state);
                }
                life.note(state.0, state.1, at << 30);
            }
            let kept: Vec<_> = life.steps(100 << 30).map(|step| (step.claim, step.fact)).collect();
            let expected: Vec<_> = told.into_iter().rev().take(STEPS).collect();
            prop_assert_eq!(kept, expected);
        }
    }
}
