//! Which VMs are followed: found, looked at again when they change, let go when they end.
//!
//! What is mapped behind a VM's slots is read off the loop, a VM at a time each: that walks the VMM's page tables, and waits
//! for whoever changes its mappings.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::clock;
use super::super::record::Happened;
use super::super::vms::{FollowedVm, Layout};
use super::pressure::soon_ms;
use super::{Engine, add_to_summary};
use crate::ingest::IngestError;
use crate::ingest::discovery::{self, VmFacts as FoundVm};
use crate::ingest::hazards::Hazards;
use crate::ingest::vmm::Vmm;
use crate::model::backing::Segment;
use crate::model::ids::{Pid, VmId};
use crate::model::snapshot::ReclaimStatus;

/// The least time from one reading of a VM's mappings, or one look for unknown VMs, to the next, as a multiple of what it
/// cost: a guest can give cause for one as often as it likes.
const COSTS_BETWEEN: u64 = 20;

/// When what ends now and has cost so much may be done again, ns.
fn next_from(now_ns: u64, cost_ns: u64) -> u64 {
    now_ns.saturating_add(cost_ns.saturating_mul(COSTS_BETWEEN))
}

/// Processes in which a VM was noticed that is not followed, to be looked for together.
#[derive(Default)]
pub(super) struct Unknown {
    pids: BTreeSet<Pid>,
    /// When the next walk may be, ns.
    from_ns: u64,
}

impl Unknown {
    /// Those to look for now; none where it is not time yet.
    fn take(&mut self, now_ns: u64) -> BTreeSet<Pid> {
        if now_ns < self.from_ns { BTreeSet::new() } else { std::mem::take(&mut self.pids) }
    }

    /// A look for them, or at one of them, that ends now has cost so much, ns.
    fn paid(&mut self, now_ns: u64, cost_ns: u64) {
        self.from_ns = self.from_ns.max(next_from(now_ns, cost_ns));
    }
}

/// What is mapped behind a VM's slots, read off the loop.
pub(super) struct Looked {
    /// The VM, where it is followed already.
    known: Option<VmId>,
    found: FoundVm,
    seen: Result<Seen, IngestError>,
    cost_ns: u64,
}

struct Seen {
    vmm: Arc<Vmm>,
    hazards: Hazards,
    segments: Vec<Vec<Segment>>,
}

impl Engine {
    /// Finds the VMs of all processes and looks at those that are new.
    pub(super) fn discover_all(&mut self) {
        match discovery::kvm_vm_files(None) {
            Ok(files) => self.walk(&files),
            Err(error) => self.tell(None, Happened::Problem { what: error.to_string() }),
        }
    }

    /// Finds the VMs of these processes and of those that still wait for it, all in one walk, which passes all open files of
    /// the machine. A guest whose VM cannot be followed is noticed again and again, so there is a time to wait after each.
    pub(super) fn discover_unknown(&mut self, pids: impl IntoIterator<Item = Pid>) {
        self.unknown.pids.extend(pids);
        let start_ns = clock::monotonic_ns();
        let pids = self.unknown.take(start_ns);
        if pids.is_empty() {
            return;
        }
        let mut files = Vec::new();
        for pid in pids {
            match discovery::kvm_vm_files(Some(pid)) {
                Ok(more) => files.extend(more),
                Err(error) => self.tell(None, Happened::Problem { what: error.to_string() }),
            }
        }
        self.walk(&files);
        let now_ns = clock::monotonic_ns();
        self.unknown.paid(now_ns, now_ns.saturating_sub(start_ns));
    }

    fn walk(&mut self, files: &[(Pid, u32)]) {
        let found = match discovery::walk(&mut self.probes, files) {
            Ok(found) => found,
            Err(error) => return self.tell(None, Happened::Problem { what: error.to_string() }),
        };
        for (pid, fd, error) in found.failed {
            self.refuse((pid, fd, 0), &error);
        }
        for vm in found.vms {
            let is_known = self.vms.values().any(|known| known.found.kvm == vm.kvm);
            if !is_known && self.looking_at.insert(vm.kvm) {
                self.look(None, None, vm);
            }
        }
    }

    /// Says why a file is no VM to follow, once.
    fn refuse(&mut self, file: (Pid, u32, u64), error: &IngestError) {
        if !error.is_vmm_gone() && self.refused_files.insert(file) {
            let what = format!("VM of pid {} is not followed: {error}", file.0);
            self.tell(None, Happened::Problem { what });
        }
    }

    /// Reads what is mapped behind the slots of a VM, off the loop.
    fn look(&self, known: Option<VmId>, vmm: Option<Arc<Vmm>>, found: FoundVm) {
        let looks = self.looks_in.clone();
        tokio::task::spawn_blocking(move || {
            let start_ns = clock::monotonic_ns();
            let see = || {
                let vmm = vmm.map_or_else(|| Vmm::open(found.pid).map(Arc::new), Ok)?;
                // Before the mappings: what comes later makes a difference, then.
                let hazards = Hazards::of(&vmm);
                let segments = vmm.segments(&found.slots)?;
                Ok(Seen { vmm, hazards, segments })
            };
            let seen = see();
            let cost_ns = clock::monotonic_ns().saturating_sub(start_ns);
            // Nobody wants it any more when everything stops.
            let _ = looks.send(Looked { known, found, seen, cost_ns });
        });
    }

    /// Whether VMs that were found are still being looked at.
    pub(super) fn is_looking(&self) -> bool {
        !self.looking_at.is_empty()
    }

    pub(super) fn take_look(&mut self, looked: Looked) {
        let Looked { known, found, seen, cost_ns } = looked;
        match known {
            Some(id) => self.take_layout(id, found, seen, cost_ns),
            None => {
                self.looking_at.remove(&found.kvm);
                let file = (found.pid, found.fd, found.kvm);
                if let Err(error) = seen.and_then(|seen| self.follow(found, seen)) {
                    self.refuse(file, &error);
                    self.unknown.paid(clock::monotonic_ns(), cost_ns);
                }
            }
        }
    }

    fn follow(&mut self, found: FoundVm, seen: Seen) -> Result<(), IngestError> {
        let Seen { vmm, hazards, segments } = seen;
        let registration = self.registry.register(&found, &self.tables)?;
        let id = VmId::new(self.next_id);
        self.next_id += 1;
        let index = registration.index();
        self.correlator.register(index, found.kvm, id);
        let mut vm = FollowedVm::new(
            id,
            Arc::clone(&vmm),
            Layout { found, registration, segments, hazards },
            self.config.policy,
            self.config.allowed,
        );
        vm.reset_seen = self.tables.reset_generation(index);
        vm.model.set_soon_ms(soon_ms(&self.config.pressure));
        let ended = self.ended_in.clone();
        let watched = Arc::clone(&vmm);
        let watch = tokio::spawn(async move {
            // A pidfd that cannot be polled any more belongs to a process that is gone, too.
            let _ = watched.wait_for_exit().await;
            let _ = ended.send(id);
        });
        vm.end_watch = Some(watch.abort_handle());
        let ram_bytes = vm.model.ram_bytes();
        let backend = match &vm.model.reclaim {
            ReclaimStatus::Ready { backend } => backend.clone(),
            ReclaimStatus::Forbidden { guard, .. } => format!("nothing is taken ({guard})"),
        };
        self.vms.insert(id, vm);
        self.tell(Some(id), Happened::VmAdded { ram_bytes, backend });
        self.read_at_once(id);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: VmId) {
        if self.vms.contains_key(&id) {
            // Told first: the record names the VM.
            self.tell(Some(id), Happened::VmGone);
        }
        let Some(mut vm) = self.vms.remove(&id) else { return };
        // What it still has to say is of a VM that is no more.
        drop(vm.let_worker_end());
        if let Some(watch) = vm.end_watch.take() {
            // Its VMM may live on, with other VMs.
            watch.abort();
        }
        let pid = vm.found.pid;
        if !self.vms.values().any(|other| other.found.pid == pid) {
            self.refused_files.retain(|(other, ..)| *other != pid);
        }
        self.schedule.forget(id);
        self.correlator.unregister(vm.registration.index());
        add_to_summary(&mut self.totals_of_ended, &vm);
        if let Err(error) = self.registry.unregister(vm.registration, &self.tables) {
            self.tell(None, Happened::Problem { what: error.to_string() });
        }
    }

    /// Reads the slots of changed VMs again, all in one walk, and lets go of those that are VMs no more.
    pub(super) fn follow_slot_changes(&mut self) {
        let now_ns = clock::monotonic_ns();
        let mut files = Vec::new();
        let mut changed = Vec::new();
        for (id, vm) in self.vms.iter_mut().filter(|(_, vm)| vm.dirty && vm.may_look(now_ns)) {
            vm.dirty = false;
            files.push((vm.found.pid, vm.found.fd));
            changed.push((*id, vm.found.kvm));
        }
        if files.is_empty() {
            return;
        }
        let mut found = match discovery::walk(&mut self.probes, &files) {
            Ok(found) => found,
            Err(error) => {
                for (id, _) in changed {
                    self.look_again(id, clock::monotonic_ns().saturating_sub(now_ns));
                }
                return self.tell(None, Happened::Problem { what: format!("slots: {error}") });
            }
        };
        for (id, kvm) in changed {
            if let Some(at) = found.vms.iter().position(|found| found.kvm == kvm) {
                self.take_slots(id, found.vms.swap_remove(at));
                continue;
            }
            let Some(vm) = self.vms.get(&id) else { continue };
            let file = (vm.found.pid, vm.found.fd);
            match found.failed.iter().position(|(pid, fd, _)| (*pid, *fd) == file) {
                None => self.remove(id),
                Some(at) => {
                    let error = found.failed.swap_remove(at).2;
                    self.slots_unreadable(id, &error, clock::monotonic_ns().saturating_sub(now_ns));
                }
            }
        }
    }

    fn take_slots(&mut self, id: VmId, found: FoundVm) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        let remapped = std::mem::take(&mut vm.mappings_changed);
        if found.slots == vm.found.slots && Hazards::of(&vm.vmm) == vm.hazards && !remapped {
            return;
        }
        vm.is_looked_at = true;
        let vmm = Arc::clone(&vm.vmm);
        self.look(Some(id), Some(vmm), found);
    }

    fn take_layout(&mut self, id: VmId, found: FoundVm, seen: Result<Seen, IngestError>, cost_ns: u64) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        vm.is_looked_at = false;
        vm.look_from_ns = next_from(clock::monotonic_ns(), cost_ns);
        let updated = seen.and_then(|seen| {
            let registration = self.registry.update(&vm.registration, &found, &self.tables)?;
            let Seen { hazards, segments, .. } = seen;
            let before = vm.model.ram_bytes();
            vm.set_layout(Layout { found, registration, segments, hazards });
            Ok(before)
        });
        let before = match updated {
            Ok(before) => before,
            // Its end is reported by the pidfd.
            Err(error) if error.is_vmm_gone() => return,
            Err(error) => return self.slots_unreadable(id, &error, cost_ns),
        };
        let ram_bytes = vm.model.ram_bytes();
        let slots = vm.facts.slots.iter().filter(|slot| slot.followed).count();
        if before != ram_bytes {
            self.tell(Some(id), Happened::SlotsChanged { ram_bytes, slots });
            self.read_at_once(id);
        }
    }

    /// What is known of the VM stays, and it is looked at again.
    fn slots_unreadable(&mut self, id: VmId, error: &IngestError, cost_ns: u64) {
        self.look_again(id, cost_ns);
        let now_ns = clock::monotonic_ns();
        if self.vms.get_mut(&id).is_some_and(|vm| vm.quota.has_room(now_ns)) {
            self.tell(Some(id), Happened::Problem { what: format!("slots: {error}") });
        }
    }

    fn look_again(&mut self, id: VmId, cost_ns: u64) {
        let Some(vm) = self.vms.get_mut(&id) else { return };
        vm.dirty = true;
        vm.mappings_changed = true;
        vm.look_from_ns = next_from(clock::monotonic_ns(), cost_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_are_noticed_again_and_again_are_looked_for_a_twentieth_of_the_time() {
        let mut unknown = Unknown::default();
        let noticed = |unknown: &mut Unknown, pid| unknown.pids.insert(Pid::new(pid));
        noticed(&mut unknown, 7);
        assert_eq!(unknown.take(1000).len(), 1, "the first at once");
        unknown.paid(1100, 100);
        for pid in [7, 8, 7] {
            noticed(&mut unknown, pid);
        }
        assert!(unknown.take(3099).is_empty());
        // What has cost less does not bring the time forward.
        unknown.paid(1200, 1);
        assert!(unknown.take(3099).is_empty());
        assert_eq!(
            unknown.take(3100),
            BTreeSet::from([Pid::new(7), Pid::new(8)]),
            "all that waited, together"
        );
        assert!(unknown.take(u64::MAX).is_empty());
    }
}
