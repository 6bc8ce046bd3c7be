//! What comes from the eBPF side: ring-buffer records through the correlator, and the records of the slot walk.
//!
//! In: bytes, cut into records of a first byte's length, which is mostly the right one. Holds: only a record of the right
//! length is an event, and it keeps every bit; each event becomes one observation or is counted once; no observation
//! names a VM whose address the event does not carry; the slots of the walk are sorted, its own and none of KVM's.

#![no_main]

use imr_common::host_abi::{EVENT_RESET, EVENT_VM_SEEN, Event, SLOT_WALK_END, SlotFact};
use imr_user::correlate::{Correlator, Observation, Unmatched};
use imr_user::ingest::discovery::{self, Reading};
use imr_user::ingest::events;
use imr_user::model::ids::VmId;
use libfuzzer_sys::fuzz_target;

const VMS: [(u32, u64, VmId); 3] = [(0, 0xa, VmId::new(4)), (1, 0xb, VmId::new(5)), (7, 0, VmId::new(6))];

fuzz_target!(|data: &[u8]| {
    let Some((length, rest)) = data.split_first() else { return };
    let length = if *length < 200 { size_of::<Event>() } else { usize::from(*length) };
    check_ring(rest.chunks(length));
    check_walk(rest);
});

fn check_ring<'a>(records: impl Iterator<Item = &'a [u8]>) {
    let mut correlator = Correlator::default();
    for (index, kvm, id) in VMS {
        correlator.register(index, kvm, id);
    }
    for (number, bytes) in records.enumerate() {
        let event = events::decode(bytes);
        assert_eq!(event.is_some(), bytes.len() == size_of::<Event>());
        let Some(event) = event else { continue };
        assert_eq!(encode(&event), bytes);
        if number == 5 {
            // Its index is used again, by another VM.
            correlator.register(1, 0xc, VmId::new(8));
        }
        let before = correlator.unmatched();
        let observation = correlator.observe(&event);
        let after = correlator.unmatched();
        let counted = sum(after) - sum(before);
        assert_eq!(counted, u64::from(observation.is_none()), "{event:?}: {observation:?}");
        check_owner(&event, observation, number);
    }
}

fn sum(unmatched: Unmatched) -> u64 {
    unmatched.undecodable + unmatched.unattributed
}

fn check_owner(event: &Event, observation: Option<Observation>, number: usize) {
    let id = match observation {
        None => return,
        Some(Observation::UnknownVm { kvm, pid }) => {
            assert_eq!((event.kind, event.kvm, event.tgid), (EVENT_VM_SEEN, kvm, pid.get()));
            return;
        }
        Some(Observation::Called(id, call)) => {
            assert_eq!(
                (call.time_ns, call.cookie, call.generation),
                (event.time_ns, event.args[2], event.args[3])
            );
            id
        }
        Some(Observation::SlotsChanged(id) | Observation::Reset(id, _)) => id,
    };
    let vms = if number >= 5 { [VMS[0], (1, 0xc, VmId::new(8)), VMS[2]] } else { VMS };
    let owner = vms.iter().find(|(_, _, vm)| *vm == id).expect("a VM that is registered");
    assert_eq!(event.vm, owner.0);
    assert!(
        event.kvm == owner.1 || (event.kind == EVENT_RESET && event.kvm == 0),
        "{event:?} is not of {owner:?}"
    );
}

fn encode(event: &Event) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<Event>());
    bytes.extend([event.kind, event.vm].map(u32::to_ne_bytes).concat());
    bytes.extend([event.time_ns, event.kvm].map(u64::to_ne_bytes).concat());
    bytes.extend([event.tgid, event.tid].map(u32::to_ne_bytes).concat());
    bytes.extend(event.args.map(u64::to_ne_bytes).concat());
    bytes
}

fn check_walk(bytes: &[u8]) {
    let ends = |record: &&[u8]| record[44..48] == SLOT_WALK_END.to_ne_bytes();
    let records = bytes.chunks_exact(size_of::<SlotFact>());
    let closed = records.clone().filter(ends).count();
    let Ok(readings) = discovery::decode(bytes) else { return };
    assert_eq!(readings.len(), closed, "a reading for each end record");
    assert!(records.last().is_none_or(|last| ends(&last)), "slots without an end");
    let mut slots = 0;
    for reading in readings {
        let Reading::Stable(vm) = reading else { continue };
        assert!(vm.slots.is_sorted_by_key(|slot| slot.base_gfn));
        assert!(vm.slots.iter().all(|slot| slot.npages > 0 && slot.id < 32764));
        slots += vm.slots.len();
    }
    assert!((slots + closed) * size_of::<SlotFact>() <= bytes.len(), "a slot was told twice");
}
