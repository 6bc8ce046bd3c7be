//! Whose event it is: from the process or the `struct kvm` that a hook sees to the VM's index and record.
//!
//! Events come in runs of one VM, so the VM of this CPU's newest event is looked at first; its record says whether it is
//! the right one again. That takes a fraction of the time of a look into a hash map.

use imr_common::host_abi::{NO_VM, VmRecord};

use crate::{
    atomic, cpu,
    maps::{KVMS, TGIDS, VMS},
};

/// A registered VM: its index, and its record in `VMS`.
pub type Vm = (u32, *mut VmRecord);

/// The only registered VM of a process; `None` also when it has several.
#[inline(always)]
pub fn of_process(tgid: u32) -> Option<Vm> {
    // SAFETY: a field of a map value that the verifier has seen to be there.
    let is_its =
        |record: *mut VmRecord| atomic::load64(unsafe { &raw const (*record).tgid }) == u64::from(tgid);
    find(is_its, || {
        // SAFETY: the value is a u32 that user space writes once; a removed element reads as some VM index.
        let vm = unsafe { TGIDS.get(tgid) }.copied()?;
        if vm == NO_VM { None } else { Some(vm) }
    })
}

/// The registered VM of a `struct kvm`.
#[inline(always)]
pub fn of_kvm(kvm: u64) -> Option<Vm> {
    // SAFETY: as in `of_process`.
    let is_it = |record: *mut VmRecord| atomic::load64(unsafe { &raw const (*record).kvm }) == kvm;
    // SAFETY: as in `of_process`.
    find(is_it, || unsafe { KVMS.get(kvm) }.copied())
}

#[inline(always)]
fn find(is: impl Fn(*mut VmRecord) -> bool, look_up: impl FnOnce() -> Option<u32>) -> Option<Vm> {
    // The cut takes nothing away: an index was stored there.
    let newest = cpu::record()?.newest_vm as u32;
    if let Some(record) = VMS.get_ptr_mut(newest)
        && is(record)
    {
        return Some((newest, record));
    }
    let vm = look_up()?;
    let record = VMS.get_ptr_mut(vm)?;
    cpu::record()?.newest_vm = u64::from(vm);
    Some((vm, record))
}
