//! Whose event it is: from the process or the `struct kvm` that a hook sees to the VM's record.
//!
//! Events come in runs of one VM, so the VM of this CPU's newest event is looked at first; its record says whether it is
//! the right one again. That takes a fraction of the time of a look into a hash map.

use core::ptr::NonNull;

use imr_common::host_abi::{NO_VM, VmRecord};

use crate::{
    atomic, cpu,
    maps::{KVMS, TGIDS, VMS},
};

/// A registered VM: its record in `VMS`. One pointer, so that no VM is a null pointer: of an `Option` of more than that the
/// compiler would carry along undefined parts, which the verifier refuses.
pub type Vm = NonNull<VmRecord>;

/// The address of a field of a VM's record, for the atomics.
macro_rules! field {
    ($vm:expr, $field:ident) => {
        // SAFETY: a field of a map value that the verifier has seen to be there.
        unsafe { &raw mut (*$vm.as_ptr()).$field }
    };
}
pub(crate) use field;

/// Index of the VM in the tables.
#[inline(always)]
pub fn index(vm: Vm) -> u32 {
    atomic::load32(field!(vm, index))
}

/// The only registered VM of a process; `None` also when it has several.
#[inline(always)]
pub fn of_process(tgid: u32) -> Option<Vm> {
    // Zero is nobody's in a record, and the idle task's otherwise.
    if tgid != 0
        && let Some(newest) = newest()
        && atomic::load32(field!(newest, tgid)) == tgid
    {
        return Some(newest);
    }
    // SAFETY: the value is a u32 that user space writes once; a removed element reads as some VM index.
    match unsafe { TGIDS.get(tgid) }.copied() {
        None | Some(NO_VM) => None,
        Some(vm) => found(vm),
    }
}

/// The registered VM of a `struct kvm`.
#[inline(always)]
pub fn of_kvm(kvm: u64) -> Option<Vm> {
    if kvm != 0
        && let Some(newest) = newest()
        && atomic::load64(field!(newest, kvm)) == kvm
    {
        return Some(newest);
    }
    // SAFETY: as in `of_process`.
    found(unsafe { KVMS.get(kvm) }.copied()?)
}

/// The VM with this index.
#[inline(always)]
pub fn at(index: u32) -> Option<Vm> {
    NonNull::new(VMS.get_ptr_mut(index)?)
}

#[inline(always)]
fn newest() -> Option<Vm> {
    at(cpu::record()?.newest_vm)
}

#[inline(always)]
fn found(index: u32) -> Option<Vm> {
    cpu::record()?.newest_vm = index;
    at(index)
}
