//! What the engine tells a worker besides calls. The newest of each kind counts and none is lost, however many calls
//! wait in the worker's queue: a worker that went on with an old mode or old guards would take what it must not.

use std::sync::{Mutex, PoisonError};

use crate::guest::memory::RamRange;
use crate::guest::want::Want;
use crate::ingest::hazards::Hazards;
use crate::model::snapshot::PolicyName;
use crate::policy::pressure::Allowance;
use crate::reclaim::guards::VmFacts;

/// A VM's memory as its worker knows it.
pub(super) struct WorkerLayout {
    /// Where a control page may be.
    pub(super) ram: Vec<RamRange>,
    /// The slots, and what is behind them.
    pub(super) facts: VmFacts,
    /// What was open and locked before the mappings were read.
    pub(super) hazards: Hazards,
    /// Where the blocks of each slot begin in the shared table, by the slot's position.
    pub(super) block_bases: Vec<Option<u64>>,
}

/// What has changed since the worker looked last.
#[derive(Default)]
pub(super) struct Changes {
    /// The VM was reset: forget the session.
    pub(super) reset: bool,
    /// The slots or what is behind them changed.
    pub(super) layout: Option<WorkerLayout>,
    /// Do this with offers from the next one on.
    pub(super) policy: Option<PolicyName>,
    /// Under policy pressure, this is what may be taken.
    pub(super) allowance: Option<Allowance>,
    /// Ask the guest for memory, in the answer to its next call.
    pub(super) want: Option<Want>,
    /// Ask the guest to compact, in the same way.
    pub(super) compact: Option<Want>,
}

/// Where the engine leaves changes and the worker takes them before each job.
#[derive(Default)]
pub(super) struct Orders(Mutex<Changes>);

impl Orders {
    /// Leaves a change. Wakes nobody.
    pub(super) fn leave(&self, change: impl FnOnce(&mut Changes)) {
        // Whoever panicked with the lock held left whole values behind.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes all that was left.
    pub(super) fn take(&self) -> Changes {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_each_kind_is_taken_once() {
        let orders = Orders::default();
        orders.leave(|changes| changes.policy = Some(PolicyName::Immediate));
        orders.leave(|changes| changes.reset = true);
        orders.leave(|changes| changes.policy = Some(PolicyName::Observe));
        let taken = orders.take();
        assert_eq!((taken.reset, taken.policy), (true, Some(PolicyName::Observe)));
        assert!(taken.layout.is_none() && taken.want.is_none());
        let again = orders.take();
        assert!(!again.reset && again.policy.is_none());
    }
}
