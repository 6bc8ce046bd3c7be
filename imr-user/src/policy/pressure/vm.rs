//! One VM under policy pressure: what taking from it has cost lately, when it is left alone, what it was asked for.
//!
//! Input: the model's counters with their time. Output: its regret, changes to tell of, its [`Allowance`].

use super::Allowance;
use crate::model::ids::BLOCK_SIZE;
use crate::model::regret::VmPressure;
use crate::policy::settings::{Percent, Settings, mib, ns};

/// Recent is what weighs: after so many times `regret_within` a byte counts half.
const HALF_LIFE: u64 = 4;
/// Less than this taken lately says nothing, bytes.
const TELLING_BYTES: f64 = (4 * BLOCK_SIZE) as f64;
/// Left alone at most 2 to this as long as the first time.
const DOUBLINGS: u32 = 4;
/// After so many times as long as it was left alone, without new regret, the next time is the first again.
const FORGIVEN_AFTER: u64 = 4;
/// Until a guest that has not given what it was asked for is asked again. It looks every 2 s (HELLO), and a request ends the
/// one before.
const ASK_EVERY_NS: u64 = 5_000_000_000;
/// Until one that has given it is asked again: by the next of the engine's seconds, when about as much can be taken again
/// ([`super::take::most_at_once`]). It has looked, as each offer is answered.
const AGAIN_NS: u64 = 900_000_000;
/// All but one in so many counts as given: ranges seldom fit exactly.
const ALL_BUT: u64 = 8;
/// What gave too little is asked for little, or others would wait for what never comes: twice as much as it gave, at least
/// this part of what can be taken at once.
const PROBE: u64 = 16;
/// A guest that gives nothing is asked less and less often, at most 2 to this as seldom.
const FRUITLESS: u32 = 4;
/// How long an allowance holds: a few of the engine's seconds.
const ALLOWED_NS: u64 = 4_000_000_000;

/// What happened to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmChange {
    /// It is left alone from now on, because of what is said here.
    LeftAlone(String),
    /// The time is over: it is taken from and asked again.
    Again,
}

/// A VM's memory as the engine knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VmFigures {
    /// Guest RAM, bytes.
    pub ram_bytes: u64,
    /// What the guest calls free, bytes. Its own word: a wrong one hurts nobody else.
    pub free_bytes: u64,
    /// RAM with memory of the host behind it, bytes.
    pub held_bytes: u64,
}

impl VmFigures {
    /// Free memory with memory of the host behind it, bytes, rather too little: all that has none counts as free.
    #[must_use]
    pub fn free_and_held(&self) -> u64 {
        let without = self.ram_bytes.saturating_sub(self.held_bytes);
        self.free_bytes.min(self.ram_bytes).saturating_sub(without)
    }
}

/// One VM.
#[derive(Debug, Clone, Default)]
pub struct VmState {
    /// Totals of the model when it was looked at last.
    seen: (u64, u64),
    at_ns: u64,
    /// Taken and soon refaulted, bytes, what is long ago counting less.
    recent: (f64, f64),
    alone_until_ns: Option<u64>,
    /// When it was last taken up again.
    again_ns: u64,
    times_alone: u32,
    asked_ns: Option<u64>,
    asked_bytes: u64,
    /// [`VmState::advance`]'s total of taken bytes when it was asked.
    asked_at_taken: u64,
    fruitless: u32,
    /// The most that it was asked for, bytes, once it gave too little.
    cap: Option<u64>,
}

impl VmState {
    /// Takes over the model's totals: bytes taken, and bytes of those that refaulted soon.
    pub fn advance(&mut self, now_ns: u64, settings: &Settings, totals: (u64, u64)) -> Option<VmChange> {
        let half_ns = ns(settings.regret_within).saturating_mul(HALF_LIFE).max(1);
        let faded = 0.5_f64.powf(now_ns.saturating_sub(self.at_ns) as f64 / half_ns as f64);
        let more = (totals.0.saturating_sub(self.seen.0), totals.1.saturating_sub(self.seen.1));
        self.recent = (self.recent.0 * faded + more.0 as f64, self.recent.1 * faded + more.1 as f64);
        self.seen = totals;
        self.at_ns = now_ns;
        match self.alone_until_ns {
            Some(until) if now_ns >= until => {
                self.alone_until_ns = None;
                self.again_ns = now_ns;
                self.fruitless = 0;
                // It was judged by that; what counts now is what happens from now on.
                self.recent = (0.0, 0.0);
                Some(VmChange::Again)
            }
            Some(_) => None,
            None if self.recent.0 >= TELLING_BYTES && self.regret() > settings.regret_limit => {
                Some(VmChange::LeftAlone(self.leave_alone(now_ns, settings)))
            }
            None => None,
        }
    }

    fn leave_alone(&mut self, now_ns: u64, settings: &Settings) -> String {
        let first_ns = ns(settings.left_alone);
        let last_ns = first_ns.saturating_mul(1 << self.times_alone.saturating_sub(1).min(DOUBLINGS));
        if now_ns.saturating_sub(self.again_ns) > last_ns.saturating_mul(FORGIVEN_AFTER) {
            self.times_alone = 0;
        }
        let for_ns = first_ns.saturating_mul(1 << self.times_alone.min(DOUBLINGS));
        self.times_alone = self.times_alone.saturating_add(1);
        self.alone_until_ns = Some(now_ns.saturating_add(for_ns));
        self.stop_asking();
        format!(
            "left alone for {} s: regret {} is over {}, {} of the {} taken lately refaulted within {} s",
            for_ns / 1_000_000_000,
            self.regret(),
            settings.regret_limit,
            mib(self.recent.1 as u64),
            mib(self.recent.0 as u64),
            settings.regret_within.as_secs(),
        )
    }

    /// Recent regret: refaulted soon, of taken.
    #[must_use]
    pub fn regret(&self) -> Percent {
        Percent::share(self.recent.1, self.recent.0)
    }

    /// Whether nothing is taken from it and it is not asked.
    #[must_use]
    pub fn is_left_alone(&self) -> bool {
        self.alone_until_ns.is_some()
    }

    /// What its worker may take. `taken` is what the engine knows of that worker's total ([`super::Taker::taken`]).
    #[must_use]
    pub fn allowance(
        &self,
        now_ns: u64,
        settings: &Settings,
        vm: VmFigures,
        taken: u64,
        pressed: bool,
    ) -> Allowance {
        if !pressed {
            return Allowance::Calm;
        }
        if self.is_left_alone() {
            return Allowance::LeftAlone;
        }
        let floor = settings.floor.of(vm.ram_bytes);
        Allowance::Pressed {
            up_to: taken.saturating_add(vm.free_and_held().saturating_sub(floor)),
            floor,
            lapses_ns: now_ns.saturating_add(ALLOWED_NS),
        }
    }

    /// Whether it may be asked now.
    #[must_use]
    pub fn may_be_asked(&self, now_ns: u64) -> bool {
        let every = if self.has_given() { AGAIN_NS } else { ASK_EVERY_NS << self.fruitless.min(FRUITLESS) };
        !self.is_left_alone() && self.asked_ns.is_none_or(|asked| now_ns.saturating_sub(asked) >= every)
    }

    /// Bytes that came since it was asked.
    fn given(&self) -> u64 {
        self.seen.0.saturating_sub(self.asked_at_taken)
    }

    /// Whether what it was asked for has come, all but a little.
    fn has_given(&self) -> bool {
        self.given() > 0 && self.outstanding() <= self.asked_bytes / ALL_BUT
    }

    /// Whether asking it has brought nothing, though it had the time.
    #[must_use]
    pub fn gives_nothing(&self, now_ns: u64) -> bool {
        self.asked_ns.is_some() && self.given() == 0 && (self.fruitless > 0 || !self.is_expected(now_ns))
    }

    fn is_expected(&self, now_ns: u64) -> bool {
        self.asked_ns.is_some_and(|asked| now_ns.saturating_sub(asked) < ASK_EVERY_NS)
    }

    /// The most that it is asked for, where `at_once` can be taken at once, bytes.
    #[must_use]
    pub fn most(&self, at_once: u64) -> u64 {
        let little = (at_once / PROBE).max(BLOCK_SIZE);
        self.next_cap().map_or(at_once, |cap| cap.max(little).min(at_once))
    }

    fn next_cap(&self) -> Option<u64> {
        self.asked_ns?;
        match self.cap {
            _ if !self.has_given() => Some(self.given().saturating_mul(2)),
            cap => cap.map(|cap| cap.max(self.given()).saturating_mul(2)),
        }
    }

    /// It is asked for so many bytes.
    pub fn asked(&mut self, now_ns: u64, bytes: u64) {
        self.cap = self.next_cap();
        self.fruitless =
            if self.asked_ns.is_none() || self.given() > 0 { 0 } else { self.fruitless.saturating_add(1) };
        self.asked_ns = Some(now_ns);
        self.asked_bytes = bytes;
        self.asked_at_taken = self.seen.0;
    }

    /// Bytes that it was asked for and has not given yet.
    #[must_use]
    pub fn outstanding(&self) -> u64 {
        self.asked_bytes.saturating_sub(self.given())
    }

    /// Of these, those that may still come: what was asked for long ago may come, too, but nobody waits for it.
    #[must_use]
    pub fn coming(&self, now_ns: u64) -> u64 {
        if self.is_expected(now_ns) { self.outstanding() } else { 0 }
    }

    /// It has nothing to give now; how seldom it is asked stays.
    pub fn give_up_asking(&mut self) {
        self.asked_bytes = 0;
    }

    /// Nothing more is wanted of it. `true`: something was.
    pub fn stop_asking(&mut self) -> bool {
        self.fruitless = 0;
        self.cap = None;
        self.asked_bytes = 0;
        self.asked_ns.take().is_some()
    }

    /// It is the policy's no more: neither left alone nor asked. `true`: it was asked for something.
    pub fn let_go(&mut self) -> bool {
        self.alone_until_ns = None;
        self.stop_asking()
    }

    /// For pictures.
    #[must_use]
    pub fn snapshot(&self, now_ns: u64) -> VmPressure {
        let left_ns = self.alone_until_ns.map_or(0, |until| until.saturating_sub(now_ns));
        VmPressure {
            regret_percent: self.regret().get(),
            left_alone_ms: left_ns.div_ceil(1_000_000),
            wanted_bytes: self.outstanding(),
        }
    }
}
