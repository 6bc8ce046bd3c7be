//! What is done when somebody at a screen or a socket asks for something.

use std::sync::Arc;
use std::time::Duration;

use super::super::command::Command;
use super::super::record::Happened;
use super::super::{DELAY_LEAST, DELAY_MOST, clock};
use super::Engine;
use crate::model::decision::DecisionKind;
use crate::model::ids::VmId;
use crate::model::snapshot::{GuestStatus, PolicyName};

impl Engine {
    /// Does it, or says in the decision log why not. Returns the new time between two snapshots, where that changed.
    pub(super) fn command(&mut self, command: Command) -> Option<Duration> {
        match command {
            Command::Inspect(vm, block) => {
                let vm = self.vms.get(&vm);
                let detail = vm.and_then(|vm| vm.model.block(block, clock::monotonic_ns()));
                self.out.details.send_replace(detail.map(Arc::new));
            }
            Command::SetPolicy(vm, policy) => {
                self.set_policy(vm, policy);
            }
            Command::ReclaimNow(vm) => {
                self.reclaim_now(vm);
            }
            Command::SetDelay(delay) => {
                self.config.delay = delay.clamp(DELAY_LEAST, DELAY_MOST);
                return Some(self.config.delay);
            }
        }
        None
    }

    /// Returns what was done, for people; `None`: the VM has ended.
    pub(super) fn set_policy(&mut self, id: VmId, policy: PolicyName) -> Option<String> {
        let vm = self.vms.get_mut(&id)?;
        let before = vm.model.policy;
        vm.set_policy(policy);
        let why = format!("policy {} from the next offer on", policy.name());
        self.log.add(vm, DecisionKind::Operator, None, why.clone(), 0, 0);
        self.tell(Some(id), Happened::Policy { policy });
        self.policy_changed(id, before);
        Some(why)
    }

    /// Returns what was done, for people, or why nothing could be; `None`: the VM has ended.
    pub(super) fn reclaim_now(&mut self, id: VmId) -> Option<Result<String, String>> {
        let vm = self.vms.get_mut(&id)?;
        let attached = matches!(vm.model.guest, GuestStatus::Attached { .. });
        let asked = attached && vm.want_all();
        let why = match vm.model.policy {
            _ if !asked => "not asked for: no guest module is attached, and only that can offer memory",
            PolicyName::Immediate => "the guest is asked for all its free memory",
            PolicyName::Pressure => {
                "the guest is asked for all its free memory; policy pressure takes it only while the host is short of it"
            }
            PolicyName::Observe => {
                "the guest is asked for all its free memory; policy observe keeps what it offers"
            }
        };
        self.log.add(vm, DecisionKind::Operator, None, why.into(), 0, 0);
        self.tell(Some(id), Happened::Wanted { what: why.into() });
        Some(if asked { Ok(why.into()) } else { Err(why.into()) })
    }
}
