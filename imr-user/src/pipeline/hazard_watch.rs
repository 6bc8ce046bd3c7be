//! Looks, before a batch, whether the VMM has opened or locked something that forbids to take its memory.
//!
//! Input: what was so when its mappings were read. Output: facts that forbid. It looks as often as a twentieth of the
//! time allows: a look costs some ten microseconds, a batch in 4 KiB pages a thousand times that, one in huge pages hardly
//! more. So what comes between two looks is noticed within twenty times a look's cost, or before the next batch.

use std::sync::Arc;

use crate::ingest::hazards::Hazards;
use crate::ingest::vmm::Vmm;
use crate::reclaim::guards::VmFacts;

/// The least time between two looks, as a multiple of what one costs.
const COSTS_BETWEEN: u64 = 20;

/// What a worker looks with.
pub(super) struct HazardWatch {
    vmm: Arc<Vmm>,
    expected: Hazards,
    /// When the newest look ended, and what it cost, ns.
    looked: Option<(u64, u64)>,
}

impl HazardWatch {
    /// `expected`: what was seen before the mappings were read.
    pub(super) fn new(vmm: Arc<Vmm>, expected: Hazards) -> Self {
        Self { vmm, expected, looked: None }
    }

    pub(super) fn vmm(&self) -> &Vmm {
        &self.vmm
    }

    /// The mappings were read again, after this was seen.
    pub(super) fn expect(&mut self, expected: Hazards) {
        self.expected = expected;
        self.looked = None;
    }

    /// Looks, if it is time to, and writes down what forbids. What was seen stays so until [`HazardWatch::expect`] and
    /// new facts.
    pub(super) fn look(&mut self, facts: &mut VmFacts, clock_ns: impl Fn() -> u64) {
        let start_ns = clock_ns();
        if self.looked.is_some_and(|(at_ns, cost_ns)| {
            start_ns.saturating_sub(at_ns) < cost_ns.saturating_mul(COSTS_BETWEEN)
        }) {
            return;
        }
        let now = Hazards::of(&self.vmm);
        facts.vfio |= now.vfio;
        facts.guest_memfd |= now.guest_memfd;
        // Where it is registered or locked, and whether it still is, only the mappings tell.
        facts.stale |= now != self.expected;
        let end_ns = clock_ns();
        self.looked = Some((end_ns, end_ns.saturating_sub(start_ns)));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous, munmap};

    use super::*;
    use crate::model::ids::Pid;

    #[test]
    fn memory_locked_between_two_looks_makes_the_facts_stale() {
        let vmm = Arc::new(Vmm::open(Pid::new(std::process::id())).unwrap());
        let now_ns = Cell::new(0);
        // Each look costs 10.
        let clock_ns = || now_ns.replace(now_ns.get() + 10);
        let mut watch = HazardWatch::new(Arc::clone(&vmm), Hazards::of(&vmm));
        let mut facts = VmFacts::default();
        watch.look(&mut facts, clock_ns);
        assert!(!facts.stale);

        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let page = unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, prot, MapFlags::PRIVATE) }.unwrap();
        // SAFETY: locks the mapping that was just made.
        unsafe { mlock(page, 4096) }.unwrap();
        watch.look(&mut facts, clock_ns);
        assert!(!facts.stale, "too soon after the last look");
        now_ns.set(now_ns.get() + 10 * COSTS_BETWEEN);
        watch.look(&mut facts, clock_ns);
        assert!(facts.stale && !facts.vfio && !facts.guest_memfd);

        watch.expect(Hazards::of(&vmm));
        let mut facts = VmFacts::default();
        watch.look(&mut facts, clock_ns);
        assert!(!facts.stale, "known by now");
        // SAFETY: the mapping of this test; nobody else has its address.
        unsafe { munmap(page, 4096) }.unwrap();
        now_ns.set(now_ns.get() + 10 * COSTS_BETWEEN);
        watch.look(&mut facts, clock_ns);
        assert!(facts.stale, "unlocked is a change, too");
    }
}
