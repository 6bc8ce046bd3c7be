//! Policy pressure at work: once a second, what the host's memory and each VM's regret mean for whom.
//!
//! The decisions are those of [`crate::policy::pressure`]; here its input is gathered and its output carried to workers,
//! guests, records and the decision log.

use std::time::Duration;

use super::super::clock;
use super::super::record::Happened;
use super::Engine;
use crate::model::decision::DecisionKind;
use crate::model::ids::VmId;
use crate::model::snapshot::PolicyName;
use crate::policy::pressure::{Candidate, VmChange, wishes};
use crate::policy::settings::{Percent, Settings};

/// Time between two looks at the host's memory and the VMs' regret.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// What was looked at so lately is not looked at again, ns.
const FRESH_NS: u64 = 500_000_000;
/// The name in the decision log of what decided.
const POLICY: &str = "policy-pressure";

/// How soon after its reclaim a refault counts as regret, ms.
pub(super) fn soon_ms(settings: &Settings) -> u64 {
    u64::try_from(settings.regret_within.as_millis()).unwrap_or(u64::MAX)
}

impl Engine {
    /// Looks, and sees to it that workers and guests do what follows. Takes nothing itself.
    pub(super) fn feel_pressure(&mut self) {
        if !self.config.answer {
            return;
        }
        let now_ns = clock::monotonic_ns();
        // Refaults are timed by when they are looked at, and a screen may want its samples far apart.
        if now_ns.saturating_sub(self.refreshed_ns) >= FRESH_NS {
            self.refresh_all(now_ns);
        }
        let changes = self.advance_vms(now_ns);
        for (id, change) in changes {
            self.tell_of_vm(id, change);
        }
        if !self.vms.values().any(|vm| vm.model.policy == PolicyName::Pressure) {
            return self.host_watch.rest();
        }
        let (pressed, changed, why, missing_bytes) = match self.host_watch.feel(&self.config.pressure) {
            Ok((state, changed)) => {
                (state.is_pressed(), changed, state.why().to_owned(), state.missing_bytes())
            }
            // What workers were allowed lapses.
            Err(error) => return self.tell(None, Happened::Problem { what: error.to_string() }),
        };
        if changed {
            let said = if pressed { "short of memory" } else { "not short of memory any more" };
            self.log.add_of_host(DecisionKind::Pressure, format!("the host is {said}: {why}"));
            self.tell(None, Happened::Pressure { pressed, why });
        }
        self.allow(now_ns, pressed);
        if pressed {
            self.ask_guests(now_ns, missing_bytes);
        } else if changed {
            self.ask_no_more();
        }
    }

    /// What follows at once from another policy of a VM.
    pub(super) fn policy_changed(&mut self, id: VmId, before: PolicyName) {
        if before == PolicyName::Pressure
            && let Some(vm) = self.vms.get_mut(&id)
            && vm.model.policy != before
            && vm.pressure.let_go()
        {
            vm.want(0);
        }
        self.feel_pressure();
    }

    fn advance_vms(&mut self, now_ns: u64) -> Vec<(VmId, VmChange)> {
        // Of VMs with another policy regret is only shown.
        let lenient = Settings { regret_limit: Percent::ALL, ..self.config.pressure };
        let changes = self.vms.iter_mut().filter_map(|(id, vm)| {
            let pressure = vm.model.policy == PolicyName::Pressure;
            let settings = if pressure { &self.config.pressure } else { &lenient };
            let totals = (vm.model.taken_bytes(), vm.model.soon_refaulted_bytes());
            vm.pressure.advance(now_ns, settings, totals).map(|change| (*id, change))
        });
        changes.collect()
    }

    fn tell_of_vm(&mut self, id: VmId, change: VmChange) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let (alone, why) = match change {
            VmChange::LeftAlone(why) => {
                vm.want(0);
                (true, why)
            }
            VmChange::Again => (false, "it was left alone for long enough".to_owned()),
        };
        self.log.add(vm, DecisionKind::LeftAlone, Some(POLICY.into()), why.clone(), 0, 0);
        self.tell(Some(id), Happened::LeftAlone { alone, why });
    }

    fn allow(&mut self, now_ns: u64, pressed: bool) {
        let settings = &self.config.pressure;
        for vm in self.vms.values_mut().filter(|vm| vm.model.policy == PolicyName::Pressure) {
            let figures = vm.figures().unwrap_or_default();
            let allowance = vm.pressure.allowance(now_ns, settings, figures, vm.taken_in_all, pressed);
            vm.allow(allowance);
        }
    }

    fn ask_guests(&mut self, now_ns: u64, missing_bytes: u64) {
        let candidates = self.vms.iter_mut().filter(|(_, vm)| vm.model.policy == PolicyName::Pressure);
        let candidates = candidates.filter_map(|(id, vm)| {
            let figures = vm.figures()?;
            // To look at every block is worth it only for one that can be asked.
            let due = vm.pressure.may_be_asked(now_ns);
            let free_held = if due { vm.model.free_held(now_ns) } else { Default::default() };
            Some(Candidate { vm: *id, figures, free_held, state: &mut vm.pressure })
        });
        let wishes = wishes(now_ns, &self.config.pressure, missing_bytes, candidates.collect());
        for wish in wishes {
            let Some(vm) = self.vms.get_mut(&wish.vm) else { continue };
            vm.want(wish.bytes);
            self.log.add(vm, DecisionKind::Asked, Some(POLICY.into()), wish.why.clone(), 0, wish.bytes);
            self.tell(Some(wish.vm), Happened::Asked { bytes: wish.bytes, why: wish.why });
        }
    }

    /// The host is calm: what guests were asked for is wanted no more.
    fn ask_no_more(&mut self) {
        let mut told = Vec::new();
        for (id, vm) in &mut self.vms {
            if vm.model.policy == PolicyName::Pressure && vm.pressure.stop_asking() {
                vm.want(0);
                let why = "asked for no more: the host is not short of memory any more".to_owned();
                self.log.add(vm, DecisionKind::Asked, Some(POLICY.into()), why.clone(), 0, 0);
                told.push((*id, why));
            }
        }
        for (id, why) in told {
            self.tell(Some(id), Happened::Asked { bytes: 0, why });
        }
    }
}
