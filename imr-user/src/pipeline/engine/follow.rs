//! Which VMs are followed: found, looked at again when they change, let go when they end.

use std::sync::Arc;

use super::super::record::Happened;
use super::super::vms::{FollowedVm, Layout};
use super::pressure::soon_ms;
use super::{Engine, add_to_summary};
use crate::ingest::IngestError;
use crate::ingest::discovery::{self, VmFacts as FoundVm};
use crate::ingest::hazards::Hazards;
use crate::ingest::vmm::Vmm;
use crate::model::ids::{Pid, VmId};
use crate::model::snapshot::ReclaimStatus;

impl Engine {
    /// Finds the VMs of one process, or of all, and follows those that are new.
    pub(super) fn discover(&mut self, pid: Option<Pid>) {
        let files = match discovery::kvm_vm_files(pid) {
            Ok(files) => files,
            Err(error) => return self.tell(None, Happened::Problem { what: error.to_string() }),
        };
        let found = match discovery::walk(&mut self.probes, &files) {
            Ok(found) => found,
            Err(error) => return self.tell(None, Happened::Problem { what: error.to_string() }),
        };
        for vm in found {
            if self.vms.values().any(|known| known.found.kvm == vm.kvm) {
                continue;
            }
            let file = (vm.pid, vm.fd, vm.kvm);
            if let Err(error) = self.follow(vm)
                && self.refused_files.insert(file)
            {
                let what = format!("VM of pid {} is not followed: {error}", file.0);
                self.tell(None, Happened::Problem { what });
            }
        }
    }

    fn follow(&mut self, found: FoundVm) -> Result<(), IngestError> {
        let vmm = Arc::new(Vmm::open(found.pid)?);
        let hazards = Hazards::of(&vmm);
        let segments = vmm.segments(&found.slots)?;
        let registration = self.registry.register(&found, &self.tables)?;
        let id = VmId::new(self.next_id);
        self.next_id += 1;
        self.correlator.register(registration.index(), found.kvm, id);
        let mut vm = FollowedVm::new(
            id,
            Arc::clone(&vmm),
            Layout { found, registration, segments, hazards },
            self.config.policy,
            self.config.allowed,
        );
        vm.model.set_soon_ms(soon_ms(&self.config.pressure));
        let ended = self.ended_in.clone();
        let watched = Arc::clone(&vmm);
        tokio::spawn(async move {
            // A pidfd that cannot be polled any more belongs to a process that is gone, too.
            let _ = watched.wait_for_exit().await;
            let _ = ended.send(id);
        });
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
        self.schedule.forget(id);
        self.correlator.unregister(vm.registration.index());
        add_to_summary(&mut self.totals_of_ended, &vm);
        if let Err(error) = self.registry.unregister(vm.registration) {
            self.tell(None, Happened::Problem { what: error.to_string() });
        }
    }

    /// Reads the slots of changed VMs again, all in one walk, and lets go of those that are VMs no more.
    pub(super) fn follow_slot_changes(&mut self) {
        let mut files = Vec::new();
        let mut changed = Vec::new();
        for (id, vm) in self.vms.iter_mut().filter(|(_, vm)| vm.dirty) {
            vm.dirty = false;
            files.push((vm.found.pid, vm.found.fd));
            changed.push((*id, vm.found.kvm));
        }
        if files.is_empty() {
            return;
        }
        let mut found = match discovery::walk(&mut self.probes, &files) {
            Ok(found) => found,
            Err(error) => return self.tell(None, Happened::Problem { what: format!("slots: {error}") }),
        };
        for (id, kvm) in changed {
            let Some(at) = found.iter().position(|found| found.kvm == kvm) else {
                self.remove(id);
                continue;
            };
            match self.take_slots(id, found.swap_remove(at)) {
                // Its end is reported by the pidfd.
                Err(error) if !error.is_vmm_gone() => {
                    self.tell(Some(id), Happened::Problem { what: format!("slots: {error}") });
                }
                _ => {}
            }
        }
    }

    fn take_slots(&mut self, id: VmId, found: FoundVm) -> Result<(), IngestError> {
        let Some(vm) = self.vms.get_mut(&id) else { return Ok(()) };
        let hazards = Hazards::of(&vm.vmm);
        let remapped = std::mem::take(&mut vm.mappings_changed);
        if found.slots == vm.found.slots && hazards == vm.hazards && !remapped {
            return Ok(());
        }
        let segments = vm.vmm.segments(&found.slots)?;
        let registration = self.registry.update(&vm.registration, &found, &self.tables)?;
        let before = vm.model.ram_bytes();
        vm.set_layout(Layout { found, registration, segments, hazards });
        let ram_bytes = vm.model.ram_bytes();
        let slots = vm.facts.slots.iter().filter(|slot| slot.followed).count();
        if before != ram_bytes {
            self.tell(Some(id), Happened::SlotsChanged { ram_bytes, slots });
            self.read_at_once(id);
        }
        Ok(())
    }
}
