//! Raw events -> observations: whose VM it is, and what was said. Pure.

use std::collections::HashMap;
use std::num::NonZeroU64;

use crate::ingest::wire::guest_abi::{OP_BYE, OP_DOORBELL, OP_HELLO};
use crate::ingest::wire::host_abi::{
    EVENT_CALL, EVENT_RESET, EVENT_SLOTS_CHANGED, EVENT_VM_SEEN, Event, RESET_SET_SREGS, RESET_SET_SREGS2,
    RESET_SHUTDOWN, RESET_SYSTEM_EVENT,
};

use crate::model::ids::{Gpa, Pid, VmId};

/// An event with the VM it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// The guest kernel of a VM called.
    Called(VmId, Call),
    /// A VM that is not registered did something.
    UnknownVm {
        /// Kernel address of its `struct kvm`.
        kvm: u64,
        /// Its process.
        pid: Pid,
    },
    /// The memslots of a VM changed.
    SlotsChanged(VmId),
    /// A VM was reset, restored or shut down.
    Reset(VmId, ResetCause),
}

/// What showed that a VM was reset, restored or shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetCause {
    /// The VMM wrote a vCPU's system registers, KVM_SET_SREGS2.
    SetSregs2,
    /// The VMM wrote a vCPU's system registers, KVM_SET_SREGS.
    SetSregs,
    /// A triple fault.
    Shutdown,
    /// The guest asked for it, KVM_EXIT_SYSTEM_EVENT.
    SystemEvent,
    /// A number that this version does not know.
    Unknown(u64),
}

impl ResetCause {
    /// Its name in records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SetSregs2 => "set_sregs2",
            Self::SetSregs => "set_sregs",
            Self::Shutdown => "shutdown",
            Self::SystemEvent => "system_event",
            Self::Unknown(_) => "unknown",
        }
    }
}

/// A proven call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// CLOCK_MONOTONIC when KVM answered it, ns.
    pub time_ns: u64,
    /// Reset generation of the VM at that time.
    pub generation: u64,
    /// Cookie of the module.
    pub cookie: u64,
    /// Of what the VMM had locked, pinned and open at that time; `None`: not known.
    pub fingerprint: Option<NonZeroU64>,
    /// What it said.
    pub op: CallOp,
}

/// What a call said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOp {
    /// The control page is there.
    Hello(Gpa),
    /// The offer of this number is open.
    Doorbell(u64),
    /// The control page is withdrawn.
    Bye,
    /// A number that this host does not know.
    Unknown(u64),
}

/// Events that led to no observation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Unmatched {
    /// Of an unknown kind.
    pub undecodable: u64,
    /// Of a VM that has ended, or was never registered.
    pub unattributed: u64,
}

/// Knows which table index belongs to which VM.
#[derive(Debug, Default)]
pub struct Correlator {
    vms: HashMap<u32, (u64, VmId)>,
    unmatched: Unmatched,
}

impl Correlator {
    /// Table index `index` belongs to `vm`, whose `struct kvm` is at `kvm`, from now on.
    pub fn register(&mut self, index: u32, kvm: u64, vm: VmId) {
        self.vms.insert(index, (kvm, vm));
    }

    /// Table index `index` belongs to nobody from now on.
    pub fn unregister(&mut self, index: u32) {
        self.vms.remove(&index);
    }

    /// What could not be matched so far.
    #[must_use]
    pub fn unmatched(&self) -> Unmatched {
        self.unmatched
    }

    /// Gives an event its VM.
    pub fn observe(&mut self, event: &Event) -> Option<Observation> {
        if event.kind == EVENT_VM_SEEN {
            return Some(Observation::UnknownVm { kvm: event.kvm, pid: Pid::new(event.tgid) });
        }
        if !matches!(event.kind, EVENT_CALL | EVENT_SLOTS_CHANGED | EVENT_RESET) {
            self.unmatched.undecodable += 1;
            return None;
        }
        // An index is used again after its VM has ended; the address tells late events of the old one. A reset
        // noticed by its process has no address: one too many does no harm.
        let is_it = |kvm: u64| kvm == event.kvm || (event.kind == EVENT_RESET && event.kvm == 0);
        let Some(&(_, vm)) = self.vms.get(&event.vm).filter(|(kvm, _)| is_it(*kvm)) else {
            self.unmatched.unattributed += 1;
            return None;
        };
        Some(match event.kind {
            EVENT_CALL => Observation::Called(vm, decode_call(event)),
            EVENT_SLOTS_CHANGED => Observation::SlotsChanged(vm),
            _ => Observation::Reset(vm, decode_cause(event)),
        })
    }
}

fn decode_call(event: &Event) -> Call {
    let [op, argument, cookie, generation, fingerprint] = event.args;
    let op = match op {
        OP_HELLO => CallOp::Hello(Gpa::new(argument)),
        OP_DOORBELL => CallOp::Doorbell(argument),
        OP_BYE => CallOp::Bye,
        other => CallOp::Unknown(other),
    };
    Call { time_ns: event.time_ns, generation, cookie, fingerprint: NonZeroU64::new(fingerprint), op }
}

fn decode_cause(event: &Event) -> ResetCause {
    let [_, cause, ..] = event.args;
    match cause {
        RESET_SET_SREGS2 => ResetCause::SetSregs2,
        RESET_SET_SREGS => ResetCause::SetSregs,
        RESET_SHUTDOWN => ResetCause::Shutdown,
        RESET_SYSTEM_EVENT => ResetCause::SystemEvent,
        other => ResetCause::Unknown(other),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some_event() -> impl Strategy<Value = Event> {
        let kinds = prop_oneof![0..6_u32, any::<u32>()];
        (kinds, 0..4_u32, 0..4_u64, any::<[u64; 4]>(), 0..5_u64).prop_map(|(kind, vm, kvm, numbers, op)| {
            let [time_ns, argument, cookie, generation] = numbers;
            Event { kind, vm, time_ns, kvm, tgid: 9, tid: 10, args: [op, argument, cookie, generation, 0] }
        })
    }

    proptest! {
        #[test]
        fn an_event_is_of_the_vm_at_its_index_and_address_or_of_none(
            steps in proptest::collection::vec((some_event(), 0..4_u32, 0..4_u64, 0..12_u32), 0..60),
        ) {
            let mut correlator = Correlator::default();
            let mut known: HashMap<u32, (u64, VmId)> = HashMap::new();
            let mut unmatched = 0;
            for (number, (event, index, kvm, change)) in (100..).zip(&steps) {
                match change {
                    0..3 => {
                        correlator.register(*index, *kvm, VmId::new(number));
                        known.insert(*index, (*kvm, VmId::new(number)));
                    }
                    3 => {
                        correlator.unregister(*index);
                        known.remove(index);
                    }
                    _ => {}
                }
                let here = known.get(&event.vm).copied();
                let found = correlator.observe(event);
                let is_here = here.is_some_and(|(kvm, _)| {
                    kvm == event.kvm || (event.kind == EVENT_RESET && event.kvm == 0)
                });
                match found {
                    Some(Observation::UnknownVm { kvm, pid }) => {
                        prop_assert_eq!((event.kind, kvm, pid.get()), (EVENT_VM_SEEN, event.kvm, event.tgid));
                    }
                    Some(
                        Observation::Called(vm, _) | Observation::SlotsChanged(vm) | Observation::Reset(vm, _),
                    ) => prop_assert!(is_here && here.is_some_and(|(_, id)| id == vm)),
                    None => {
                        unmatched += 1;
                        prop_assert!(!is_here || event.kind == 0 || event.kind > EVENT_RESET);
                    }
                }
            }
            let counted = correlator.unmatched();
            prop_assert_eq!(counted.undecodable + counted.unattributed, unmatched);
        }
    }

    fn event(kind: u32, vm: u32, kvm: u64) -> Event {
        Event { kind, vm, time_ns: 5, kvm, tgid: 9, tid: 10, args: [OP_DOORBELL, 3, 0xc, 2, 0xf] }
    }

    #[test]
    fn events_get_their_vm_or_are_counted() {
        let mut correlator = Correlator::default();
        correlator.register(0, 0xa, VmId::new(4));
        let fingerprint = NonZeroU64::new(0xf);
        let call = Call { time_ns: 5, generation: 2, cookie: 0xc, fingerprint, op: CallOp::Doorbell(3) };
        assert_eq!(
            correlator.observe(&event(EVENT_CALL, 0, 0xa)),
            Some(Observation::Called(VmId::new(4), call))
        );
        let reset = Some(Observation::Reset(VmId::new(4), ResetCause::Shutdown));
        assert_eq!(correlator.observe(&event(EVENT_RESET, 0, 0xa)), reset);
        assert_eq!(correlator.observe(&event(EVENT_RESET, 0, 0)), reset);
        assert_eq!(correlator.observe(&event(EVENT_CALL, 0, 0)), None);
        assert_eq!(correlator.observe(&event(EVENT_CALL, 0, 0xb)), None, "the index was used again");
        assert_eq!(correlator.observe(&event(EVENT_CALL, 1, 0xa)), None);
        assert_eq!(correlator.observe(&event(99, 0, 0xa)), None);
        assert_eq!(correlator.unmatched(), Unmatched { undecodable: 1, unattributed: 3 });
        correlator.unregister(0);
        assert_eq!(correlator.observe(&event(EVENT_CALL, 0, 0xa)), None);
    }

    #[test]
    fn unknown_vms_are_named() {
        let seen = Correlator::default().observe(&event(EVENT_VM_SEEN, u32::MAX, 0xa));
        assert_eq!(seen, Some(Observation::UnknownVm { kvm: 0xa, pid: Pid::new(9) }));
    }
}
