//! Looks, for each batch, whether the VMM has opened or locked something that forbids to take its memory.
//!
//! Input: what was so when its mappings were read, and each call's fingerprint of what its process has locked, pinned and
//! open. Output: facts that forbid. A look takes about as long as a batch in huge pages (some hundred microseconds with the
//! descriptors of a QEMU), so before a batch it looks only when the fingerprint is another one or not known, or the last
//! look is old; else after the answer, when nobody waits, and for a twentieth of the time at most.

use std::num::NonZeroU64;
use std::sync::Arc;

use crate::ingest::hazards::Hazards;
use crate::ingest::vmm::Vmm;
use crate::reclaim::guards::VmFacts;

/// The least time between two looks that nothing asks for, as a multiple of what one costs.
const COSTS_BETWEEN: u64 = 20;
/// So old a look may be before a batch, ns, as long as the fingerprint is the same. The same one can hide a descriptor
/// that was closed and given to another file.
const SAME_FOR_NS: u64 = 1_000_000_000;

/// What a worker looks with.
pub(super) struct HazardWatch {
    vmm: Arc<Vmm>,
    expected: Hazards,
    newest: Option<Look>,
}

/// A look that was made.
#[derive(Debug, Clone, Copy)]
struct Look {
    /// CLOCK_MONOTONIC at its end, ns.
    end_ns: u64,
    cost_ns: u64,
    /// Of the newest call before it.
    fingerprint: Option<NonZeroU64>,
}

impl HazardWatch {
    /// `expected`: what was seen before the mappings were read.
    pub(super) fn new(vmm: Arc<Vmm>, expected: Hazards) -> Self {
        Self { vmm, expected, newest: None }
    }

    pub(super) fn vmm(&self) -> &Vmm {
        &self.vmm
    }

    /// The mappings were read again, after this was seen.
    pub(super) fn expect(&mut self, expected: Hazards) {
        self.expected = expected;
        self.newest = None;
    }

    /// Before the batch of a call with this fingerprint: looks, unless nothing can have changed, and writes down what
    /// forbids. What was seen stays so until [`HazardWatch::expect`] and new facts.
    pub(super) fn before(
        &mut self,
        fingerprint: Option<NonZeroU64>,
        facts: &mut VmFacts,
        clock_ns: impl Fn() -> u64,
    ) {
        let known = self.newest.is_some_and(|look| {
            let age_ns = clock_ns().saturating_sub(look.end_ns);
            match fingerprint {
                Some(_) => fingerprint == look.fingerprint && age_ns < SAME_FOR_NS,
                None => !look.is_due(age_ns),
            }
        });
        if !known {
            self.look(fingerprint, facts, clock_ns);
        }
    }

    /// After the answer: looks, if it is time to, for the batches to come.
    pub(super) fn after(
        &mut self,
        fingerprint: Option<NonZeroU64>,
        facts: &mut VmFacts,
        clock_ns: impl Fn() -> u64,
    ) {
        let is_due = |look: Look| look.is_due(clock_ns().saturating_sub(look.end_ns));
        if self.newest.is_none_or(is_due) {
            self.look(fingerprint, facts, clock_ns);
        }
    }

    fn look(&mut self, fingerprint: Option<NonZeroU64>, facts: &mut VmFacts, clock_ns: impl Fn() -> u64) {
        let start_ns = clock_ns();
        let now = Hazards::of(&self.vmm);
        facts.vfio |= now.vfio;
        facts.guest_memfd |= now.guest_memfd;
        // Where it is registered or locked, and whether it still is, only the mappings tell.
        facts.stale |= now != self.expected;
        let end_ns = clock_ns();
        self.newest = Some(Look { end_ns, cost_ns: end_ns.saturating_sub(start_ns), fingerprint });
    }
}

impl Look {
    /// Whether its age is so many times its cost that another one hardly shows.
    fn is_due(&self, age_ns: u64) -> bool {
        age_ns >= self.cost_ns.saturating_mul(COSTS_BETWEEN)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};

    use super::*;
    use crate::model::ids::Pid;

    /// What each reading of the clock adds.
    const TICK_NS: u64 = 10;

    #[test]
    fn memory_locked_between_two_looks_makes_the_facts_stale() {
        let vmm = Arc::new(Vmm::open(Pid::new(std::process::id())).unwrap());
        let now_ns = Cell::new(0);
        let clock_ns = || now_ns.replace(now_ns.get() + TICK_NS);
        let pass = |costs: u64| now_ns.set(now_ns.get() + TICK_NS * costs);
        let mut watch = HazardWatch::new(Arc::clone(&vmm), Hazards::of(&vmm));
        let (one, other) = (NonZeroU64::new(1), NonZeroU64::new(2));
        let fresh = VmFacts::default;
        let mut facts = fresh();
        watch.before(None, &mut facts, clock_ns);
        assert!(!facts.stale);

        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let page = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, prot, MapFlags::PRIVATE) }.unwrap();
        // SAFETY: locks the mapping that was just made.
        unsafe { mlock(page, 4096) }.unwrap();
        watch.before(None, &mut facts, clock_ns);
        watch.after(None, &mut facts, clock_ns);
        assert!(!facts.stale, "too soon after the last look, and no fingerprint");
        pass(COSTS_BETWEEN);
        watch.before(None, &mut facts, clock_ns);
        assert!(facts.stale && !facts.vfio && !facts.guest_memfd);

        watch.expect(Hazards::of(&vmm));
        facts = fresh();
        watch.before(one, &mut facts, clock_ns);
        assert!(!facts.stale, "known by now");
        // SAFETY: the mapping of this test; nobody else has its address.
        unsafe { munmap(page, 4096) }.unwrap();
        pass(2 * COSTS_BETWEEN);
        watch.before(one, &mut facts, clock_ns);
        assert!(!facts.stale, "the fingerprint says that nothing changed");
        watch.before(other, &mut facts, clock_ns);
        assert!(facts.stale, "another one: unlocked is a change, too");

        facts = fresh();
        watch.before(other, &mut facts, clock_ns);
        assert!(!facts.stale);
        pass(COSTS_BETWEEN);
        watch.after(other, &mut facts, clock_ns);
        assert!(facts.stale, "looked when nobody waited");

        facts = fresh();
        pass(SAME_FOR_NS / TICK_NS);
        watch.before(other, &mut facts, clock_ns);
        assert!(facts.stale, "the last look is too old");
    }
}
