//! What each HELLO says of its guest's free memory: told where it has changed much, and a guest whose free memory is
//! stranded is asked to compact.

use super::super::clock;
use super::super::record::Happened;
use super::Engine;
use crate::model::decision::DecisionKind;
use crate::model::ids::{BLOCK_SIZE, VmId};
use crate::model::snapshot::PolicyName;

/// The name in the decision log of what decided.
const POLICY: &str = "policy-compact";
/// A change of less than this share of the RAM is not told.
const TOLD_SHARE: u64 = 64;

impl Engine {
    /// Looks at what the newest HELLO said.
    pub(super) fn follow_free_memory(&mut self, id: VmId) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let Some(free) = vm.model.free_memory else { return };
        let ram_bytes = vm.model.ram_bytes();
        let much = (ram_bytes / TOLD_SHARE).max(BLOCK_SIZE);
        let mut told = None;
        let now_ns = clock::monotonic_ns();
        // Not told now: told later, if it still differs.
        if vm.told_free.is_none_or(|told| told.differs(&free.all, much)) && vm.quota.has_room(now_ns) {
            vm.told_free = Some(free.all);
            told = Some(Happened::FreeMemory { order: free.order, parts: free.all });
        }
        // What is not taken need not be whole.
        let taken = vm.model.policy != PolicyName::Observe;
        let wish = || vm.compacting.wish(now_ns, &self.config.compact, ram_bytes, &free);
        let wish = taken.then(wish).flatten();
        if let Some(wish) = &wish {
            vm.compact(wish.bytes);
            self.log.add(vm, DecisionKind::Asked, Some(POLICY.into()), wish.why.clone(), 0, wish.bytes);
        }
        if let Some(told) = told {
            self.tell(Some(id), told);
        }
        if let Some(wish) = wish {
            self.tell(Some(id), Happened::Compact { bytes: wish.bytes, why: wish.why });
        }
    }
}
