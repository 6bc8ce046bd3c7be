//! What the control socket asks, and its answers: the engine's own state at this moment, not that of a picture.

use super::super::ctl::Ask;
use super::super::ctl::protocol::{Answer, Counters, ErrorKind, Request, Selector, Status, VmDone, VmStatus};
use super::super::record::Happened;
use super::super::vms::FollowedVm;
use super::Engine;
use crate::model::ids::VmId;
use crate::model::snapshot::{GuestStatus, PolicyName, ReclaimStatus};

impl Engine {
    /// Does it and answers.
    pub(super) fn ask(&mut self, ask: Ask) {
        match ask {
            Ask::Do { request, answer } => {
                let done = match request {
                    Request::Status => Answer::Status(Box::new(self.status())),
                    Request::Policy(policy, which) => self.policy_of(policy, &which),
                    Request::Reclaim(which) => self.each(&which, Self::reclaim_now),
                };
                // Whoever asked may be gone by now. It was done all the same.
                let _ = answer.send(done);
            }
            Ask::Tell(what) => self.tell(None, Happened::Problem { what }),
        }
    }

    fn policy_of(&mut self, policy: PolicyName, which: &Selector) -> Answer {
        if *which == Selector::All {
            // Of those to come, too.
            self.config.policy = policy;
        }
        self.each(which, |engine, id| engine.set_policy(id, policy).map(Ok))
    }

    /// Does `what` with each of the VMs; it returns what was done or why not, `None` where the VM has ended.
    fn each(
        &mut self,
        which: &Selector,
        mut what: impl FnMut(&mut Self, VmId) -> Option<Result<String, String>>,
    ) -> Answer {
        let ids = match self.select(which) {
            Ok(ids) => ids,
            Err(answer) => return answer,
        };
        let mut done = Vec::new();
        for id in ids {
            let Some(vm) = self.vms.get(&id) else { continue };
            let (pid, name) = (vm.model.pid().get(), vm.model.name().to_owned());
            let Some(result) = what(self, id) else { continue };
            let ok = result.is_ok();
            let what = result.unwrap_or_else(|why| why);
            done.push(VmDone { id: id.get(), pid, name, ok, what });
        }
        Answer::Done { vms: done }
    }

    fn select(&self, which: &Selector) -> Result<Vec<VmId>, Answer> {
        let Selector::One(text) = which else { return Ok(self.vms.keys().copied().collect()) };
        let with = |id: &VmId, name: &str| name == text || id.get().to_string() == *text;
        let found: Vec<VmId> =
            self.vms.iter().filter(|(id, vm)| with(id, vm.model.name())).map(|(id, _)| *id).collect();
        match found.len() {
            1 => Ok(found),
            0 => Err(Answer::error(
                ErrorKind::UnknownVm,
                format!("no VM has the name or id {text:?}{}", self.known()),
            )),
            count => Err(Answer::error(
                ErrorKind::AmbiguousVm,
                format!("{count} VMs have the name or id {text:?}: use an id{}", self.known()),
            )),
        }
    }

    /// The first few VMs, for people who were wrong about one.
    fn known(&self) -> String {
        const MOST: usize = 8;
        let names: Vec<String> =
            self.vms.iter().take(MOST).map(|(id, vm)| format!("{} {}", id.get(), vm.model.name())).collect();
        match self.vms.len() {
            0 => "; there is none".to_owned(),
            count if count > MOST => format!("; there are {count}, among them {}", names.join(", ")),
            _ => format!("; there are {}", names.join(", ")),
        }
    }

    fn status(&self) -> Status {
        Status {
            program: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            policy: self.config.policy.name().to_owned(),
            unanswerable: self.unanswerable.clone(),
            vms: self.vms.values().map(status_of).collect(),
            // The server knows them.
            socket: Counters::default(),
        }
    }
}

fn status_of(vm: &FollowedVm) -> VmStatus {
    let model = &vm.model;
    let (backend, why) = match &model.reclaim {
        ReclaimStatus::Ready { backend } => (backend.clone(), None),
        ReclaimStatus::Forbidden { guard, why } => (guard.clone(), Some(why.clone())),
    };
    let guest = match model.guest {
        GuestStatus::NoModule => "no_module",
        GuestStatus::Attached { .. } => "attached",
        GuestStatus::Detached { .. } => "detached",
    };
    VmStatus {
        id: model.id().get(),
        pid: model.pid().get(),
        name: model.name().to_owned(),
        policy: model.policy.name().to_owned(),
        guest: guest.to_owned(),
        backend,
        why,
        ram_bytes: model.ram_bytes(),
        guest_free_bytes: model.guest_free_bytes,
        free_memory: model.free_memory,
        reclaimed_bytes: model.reclaimed_bytes,
        refaulted_bytes: model.snapshot().refaulted_bytes,
        claimed: model.offers.claimed,
        done: model.offers.done,
        given_back: model.offers.revoked + model.offers.abandoned,
    }
}
