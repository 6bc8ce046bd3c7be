//! What is really behind the blocks, compared with what events said: slices are read off the loop, one at a time, as
//! the schedule says.

use std::sync::Arc;
use std::time::Duration;

use super::super::baseline::{self, Reading, Slice};
use super::super::clock;
use super::super::record::Happened;
use super::{Engine, FIRST_BASELINE_LIMIT};
use crate::ingest::IngestError;
use crate::ingest::hazards::Hazards;
use crate::model::ids::{BlockId, VmId};

impl Engine {
    /// Every few seconds: begins a round unless one is under way, and looks whether the VMMs are what they were.
    pub(super) fn start_round(&mut self) {
        if self.schedule.is_round_due() {
            let now_ns = clock::monotonic_ns();
            for (id, vm) in &self.vms {
                self.schedule.add(*id, vm.model.layout(), vm.model.block_counts(), now_ns);
            }
        }
        // What is found to have changed is read again with the slots; a VM that was closed is let go there.
        for vm in self.vms.values_mut() {
            vm.dirty |= vm.hazards != Hazards::of(&vm.vmm) || !vm.vmm.has_vm_file(vm.found.fd);
        }
        self.read_next_slice();
    }

    /// Reads all of a VM before anything else: it was found, or has other slots.
    pub(super) fn read_at_once(&mut self, id: VmId) {
        let Some(vm) = self.vms.get(&id) else { return };
        self.schedule.add_now(id, vm.model.layout(), vm.model.block_counts());
        self.read_next_slice();
    }

    /// How long until there is time for the next slice.
    pub(super) fn wait_for_slice(&self) -> Option<Duration> {
        self.schedule.wait(clock::monotonic_ns())
    }

    pub(super) fn read_next_slice(&mut self) {
        while let Some(slice) = self.schedule.next(clock::monotonic_ns()) {
            if self.start_reading(slice.clone()) {
                return;
            }
            self.schedule.done(&slice, 0, clock::monotonic_ns());
        }
    }

    /// `false`: the VM is not what it was when the slice was planned.
    fn start_reading(&mut self, slice: Slice) -> bool {
        let Some(vm) = self.vms.get_mut(&slice.vm).filter(|vm| vm.model.layout() == slice.layout) else {
            return false;
        };
        let Some(slot) = vm.facts.slots.get(slice.slot) else { return false };
        let first = BlockId::new(slot.base_gfn.block().get() + slice.first as u64);
        let (segments, reader, vmm) = (slot.segments.clone(), vm.residency.take(), Arc::clone(&vm.vmm));
        // What changed before the reading began is no change during it.
        vm.refresh(&self.tables, clock::monotonic_ns());
        vm.model.begin_baseline(slice.slot, slice.first, slice.count);
        let results = self.readings_in.clone();
        tokio::task::spawn_blocking(move || {
            let _ = results.send(baseline::read(slice, &vmm, reader, &segments, first));
        });
        true
    }

    pub(super) fn take_reading(&mut self, reading: Reading) {
        let Reading { slice, truth, reader, cost_ns } = reading;
        let was_behind = self.schedule.is_behind();
        self.schedule.done(&slice, cost_ns, clock::monotonic_ns());
        if let Some(vm) = self.vms.get_mut(&slice.vm) {
            vm.residency = reader;
            match truth {
                Ok(truth) if vm.model.layout() == slice.layout => {
                    vm.end_baseline(&self.tables, slice.slot, &truth);
                }
                Ok(_) => {}
                // Read again with the slots.
                Err(IngestError::MappingChanged { .. }) => {
                    vm.mappings_changed = true;
                    vm.dirty = true;
                }
                // Its end is reported by the pidfd.
                Err(error) if error.is_vmm_gone() => {}
                Err(error) => {
                    self.tell(Some(slice.vm), Happened::Problem { what: format!("baseline: {error}") });
                }
            }
        }
        self.read_next_slice();
        if self.sequence == 0 && was_behind && !self.schedule.is_behind() {
            self.publish();
        }
    }

    /// Whether the first picture must wait: what ran before this program is known from its baseline only.
    pub(super) fn first_baseline_is_missing(&self) -> bool {
        self.sequence == 0 && self.started.elapsed() < FIRST_BASELINE_LIMIT && self.schedule.is_behind()
    }
}
