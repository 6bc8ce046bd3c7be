//! Ring "proof": the handshake's two sides as models, and the same models with one thing taken away, which must fail.
//!
//! In: the real host side (imr-user's session), a transcription of the guest's, handshake.pml. Out: a test a
//! scenario. docs/safety.md says what is modelled and what is not.

#![expect(
    clippy::expect_used,
    reason = "a test fails by panicking; without libtest the lint does not see that"
)]

mod guest;
mod host;
mod interleavings;
mod page;
mod spin;
mod world;

use std::process::ExitCode;

use imr_tests::ring::{Test, Verdict};

use interleavings::{Event, Scenario};
use world::Mutant;

fn main() -> ExitCode {
    imr_tests::ring::main(&[
        Test { name: "proof::loom::offer_and_withdraw", run: offer_and_withdraw },
        Test { name: "proof::loom::two_offers", run: two_offers },
        Test { name: "proof::loom::host_killed_anywhere", run: host_killed },
        Test { name: "proof::loom::reset_anywhere", run: reset },
        Test { name: "proof::loom::rolled_back_from_anywhere", run: rolled_back },
        Test { name: "proof::loom::mutants_fail", run: mutants },
        Test { name: "proof::spin::no_block_is_lost", run: spin::safety },
        Test { name: "proof::spin::every_batch_ends", run: spin::liveness },
        Test { name: "proof::spin::mutants_fail", run: spin::mutants },
    ])
}

const ONE: Scenario = Scenario {
    offers: 1,
    patience: 0,
    late: false,
    event: Event::Nothing,
    mutant: Mutant::None,
    preemptions: None,
};

/// Says how much was looked at: a model that looks at little proves little.
fn passed(what: &str, executions: u64) -> Verdict {
    println!("{what}: {executions} executions");
    Verdict::Passed
}

fn offer_and_withdraw() -> Verdict {
    let executions = (0..3).map(|patience| Scenario { patience, ..ONE }.check()).sum();
    passed("an offer, withdrawn after 1 to 3 rings", executions)
}

fn two_offers() -> Verdict {
    // Without a bound it is 316188 executions and a minute.
    passed("two offers, 5 preemptions at most", Scenario { offers: 2, preemptions: Some(5), ..ONE }.check())
}

fn host_killed() -> Verdict {
    let mut executions = 0;
    for writes in 0..16 {
        for (patience, late) in [(0, false), (1, false), (0, true)] {
            executions += Scenario { patience, late, event: Event::Killed(writes), ..ONE }.check();
        }
    }
    passed("killed before each of 16 writes", executions)
}

fn reset() -> Verdict {
    let executions = (0..8).map(|steps| Scenario { event: Event::Reset(steps), ..ONE }.check()).sum();
    passed("reset after each of 8 steps", executions)
}

fn rolled_back() -> Verdict {
    let mut executions = 0;
    for steps in 0..7 {
        for more in 0..5 {
            executions += Scenario { event: Event::RolledBack(steps, more), ..ONE }.check();
        }
    }
    passed("saved after each of 7 steps, loaded 0 to 4 steps later", executions)
}

/// Each has to fail, and by what it is about.
fn mutants() -> Verdict {
    let expect = |mutant, message: &str, scenarios: &[Scenario]| {
        let said: Vec<String> =
            scenarios.iter().filter_map(|scenario| Scenario { mutant, ..*scenario }.fails_with()).collect();
        assert!(
            said.iter().any(|text| text.contains(message)),
            "{mutant:?} did not fail with {message:?}, but with {said:?}"
        );
    };
    let each = |from: fn(u32) -> Event| -> Vec<Scenario> {
        (0..12).map(|n| Scenario { late: true, event: from(n), ..ONE }).collect()
    };
    expect(Mutant::NoHostFence, "LOST", &[ONE]);
    expect(Mutant::NoGuestFence, "LOST", &[ONE]);
    expect(Mutant::NoAcquire, "WRONG", &[ONE]);
    expect(Mutant::NoGeneration, "LOST", &each(Event::Reset));
    expect(Mutant::NoExtraRing, "LOST", &each(Event::Killed));
    expect(Mutant::NoDoorbell, "LOST", &each(Event::Reset));
    Verdict::Passed
}
