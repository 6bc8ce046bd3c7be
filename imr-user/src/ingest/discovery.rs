//! Finds VMs: the open `kvm-vm` files of all processes, and the memslots behind them.
//!
//! Input: /proc, the eBPF slot walk. Output: [`VmFacts`], also of VMs that are idle or were started before this
//! program. It registers nothing.

use std::fs;
use std::io::ErrorKind;

use imr_common::host_abi::{MAX_VMS, SLOT_WALK_END, SlotFact};

use super::IngestError;
use super::loader::Probes;
use crate::model::ids::Pid;

/// How the link of a VM's file descriptor reads (virt/kvm/kvm_main.c, kvm_dev_ioctl_create_vm).
pub(super) const KVM_VM_LINK: &str = "anon_inode:kvm-vm";
/// Readings after which slots that change all the time are left for the next event.
const ATTEMPTS: u32 = 8;
/// First id of KVM's own slots (TSS, identity map, APIC page): KVM_USER_MEM_SLOTS, arch/x86/include/asm/kvm_host.h.
const INTERNAL_SLOTS: i32 = 32764;
/// KVM_MEM_READONLY (include/uapi/linux/kvm.h).
const KVM_MEM_READONLY: u32 = 1 << 1;

/// A VM and its slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmFacts {
    /// Process that has it open.
    pub pid: Pid,
    /// File descriptor in that process.
    pub fd: u32,
    /// Kernel address of its `struct kvm`: its identity.
    pub kvm: u64,
    /// Generation of the slots.
    pub generation: u64,
    /// Slots of address space 0 that the VMM made, by first frame.
    pub slots: Vec<FoundSlot>,
}

/// A memslot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundSlot {
    /// KVM's id.
    pub id: i32,
    /// First guest frame number.
    pub base_gfn: u64,
    /// Length, 4 KiB frames.
    pub npages: u64,
    /// Where the VMM has it mapped, bytes.
    pub userspace_addr: u64,
    /// KVM_MEM_*.
    pub flags: u32,
}

impl FoundSlot {
    /// ROM: the guest's writes leave to the VMM.
    #[must_use]
    pub fn is_readonly(&self) -> bool {
        self.flags & KVM_MEM_READONLY != 0
    }
}

/// The `kvm-vm` files of one process, or of all. A process that ends meanwhile has none.
///
/// # Errors
/// /proc cannot be read; with a pid also: there is no such process.
pub fn kvm_vm_files(pid: Option<Pid>) -> Result<Vec<(Pid, u32)>, IngestError> {
    let mut files = Vec::new();
    if let Some(pid) = pid {
        add_files_of(pid, &mut files)?;
        return Ok(files);
    }
    for entry in fs::read_dir("/proc").map_err(|error| IngestError::io("read", "/proc", error))? {
        let entry = entry.map_err(|error| IngestError::io("read", "/proc", error))?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match add_files_of(Pid::new(pid), &mut files) {
            Err(error) if !error.is_vmm_gone() => return Err(error),
            _ => {}
        }
    }
    Ok(files)
}

fn add_files_of(pid: Pid, files: &mut Vec<(Pid, u32)>) -> Result<(), IngestError> {
    let path = format!("/proc/{pid}/fd");
    let entries = match fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(error) => return Err(gone_or(pid, &path, error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| gone_or(pid, &path, error))?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        // A descriptor that was closed meanwhile is none of a VM.
        if fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == KVM_VM_LINK) {
            files.push((pid, fd));
        }
    }
    Ok(())
}

fn gone_or(pid: Pid, path: &str, error: std::io::Error) -> IngestError {
    // ESRCH: the directory was open and its process has ended.
    let gone = error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH);
    if gone { IngestError::VmmGone { pid } } else { IngestError::io("read", path, error) }
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Walked {
    /// The VMs.
    pub vms: Vec<VmFacts>,
    /// Files whose VM cannot be followed, or not now, and why. They do not keep the others from being followed.
    pub failed: Vec<(Pid, u32, IngestError)>,
}

/// Reads the slots of the VMs behind these files. Files that are no VM any more are left out; of several files of one
/// VM the first counts.
///
/// # Errors
/// The walk failed.
pub fn walk(probes: &mut Probes, files: &[(Pid, u32)]) -> Result<Walked, IngestError> {
    let mut walked = Walked::default();
    for files in files.chunks(MAX_VMS as usize) {
        walk_some(probes, files, &mut walked)?;
    }
    Ok(walked)
}

/// As [`walk`], of as many files as the eBPF side can be told of at once.
fn walk_some(probes: &mut Probes, files: &[(Pid, u32)], walked: &mut Walked) -> Result<(), IngestError> {
    let mut left: Vec<(Pid, u32)> = files.to_vec();
    for _ in 0..ATTEMPTS {
        if left.is_empty() {
            return Ok(());
        }
        let keys: Vec<u64> =
            left.iter().map(|(pid, fd)| (u64::from(pid.get()) << 32) | u64::from(*fd)).collect();
        let bytes = probes.walk_slots(&keys)?;
        left.clear();
        for reading in decode(&bytes)? {
            match reading {
                Reading::Stable(facts) if walked.vms.iter().any(|other| other.kvm == facts.kvm) => {}
                Reading::Stable(facts) => walked.vms.push(facts),
                Reading::Changed(pid, fd) => left.push((pid, fd)),
                Reading::TooMany { pid, fd, written } => {
                    walked.failed.push((pid, fd, IngestError::TooManySlots { pid, fd, written }));
                }
            }
        }
    }
    let unstable = |(pid, fd)| (pid, fd, IngestError::SlotsUnstable { pid, attempts: ATTEMPTS });
    walked.failed.extend(left.into_iter().map(unstable));
    Ok(())
}

/// What the walk said of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reading {
    /// The VM and all its slots.
    Stable(VmFacts),
    /// The slots of this process' file changed during the walk.
    Changed(Pid, u32),
    /// The VM has more slots than a walk can carry.
    TooMany {
        /// Process.
        pid: Pid,
        /// Its file.
        fd: u32,
        /// Slots that were read.
        written: u64,
    },
}

/// The walk's records: slots of a VM, then its end record, then the next VM.
///
/// # Errors
/// [`IngestError::Format`] where they are cut short.
pub fn decode(bytes: &[u8]) -> Result<Vec<Reading>, IngestError> {
    let bad = |what: String| IngestError::Format { path: "iter/task_file".into(), what };
    if !bytes.len().is_multiple_of(size_of::<SlotFact>()) {
        return Err(bad(format!("{} bytes are no whole number of records", bytes.len())));
    }
    let mut readings = Vec::new();
    let mut facts: Vec<SlotFact> = Vec::new();
    for record in bytes.chunks_exact(size_of::<SlotFact>()) {
        let fact = decode_fact(record).ok_or_else(|| bad("a record is cut short".into()))?;
        if fact.id != SLOT_WALK_END {
            facts.push(fact);
            continue;
        }
        let (pid, fd) = (Pid::new(fact.tgid), fact.fd);
        let slots = std::mem::take(&mut facts);
        let stable = slots.iter().all(|slot| slot.generation == fact.generation && slot.kvm == fact.kvm);
        if !stable || slots.len() as u64 != fact.npages {
            readings.push(Reading::Changed(pid, fd));
        } else if fact.flags != 0 {
            readings.push(Reading::TooMany { pid, fd, written: fact.npages });
        } else {
            readings.push(Reading::Stable(VmFacts {
                pid,
                fd,
                kvm: fact.kvm,
                generation: fact.generation,
                slots: user_slots(&slots),
            }));
        }
    }
    if facts.is_empty() { Ok(readings) } else { Err(bad("slots without an end record".into())) }
}

fn user_slots(facts: &[SlotFact]) -> Vec<FoundSlot> {
    let mut slots: Vec<FoundSlot> = facts
        .iter()
        .filter(|fact| fact.id < INTERNAL_SLOTS && fact.npages > 0)
        .map(|fact| FoundSlot {
            id: fact.id,
            base_gfn: fact.base_gfn,
            npages: fact.npages,
            userspace_addr: fact.userspace_addr,
            flags: fact.flags,
        })
        .collect();
    slots.sort_by_key(|slot| slot.base_gfn);
    slots
}

/// The layout is [`SlotFact`]'s; both sides run on one machine.
fn decode_fact(bytes: &[u8]) -> Option<SlotFact> {
    let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    Some(SlotFact {
        kvm: u64_at(0)?,
        generation: u64_at(8)?,
        base_gfn: u64_at(16)?,
        npages: u64_at(24)?,
        userspace_addr: u64_at(32)?,
        flags: u32_at(40)?,
        id: u32_at(44)?.cast_signed(),
        tgid: u32_at(48)?,
        fd: u32_at(52)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encode(facts: &[SlotFact]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for fact in facts {
            for word in [fact.kvm, fact.generation, fact.base_gfn, fact.npages, fact.userspace_addr] {
                bytes.extend(word.to_ne_bytes());
            }
            for word in [fact.flags, fact.id.cast_unsigned(), fact.tgid, fact.fd] {
                bytes.extend(word.to_ne_bytes());
            }
        }
        bytes
    }

    fn slot(id: i32, base_gfn: u64, generation: u64) -> SlotFact {
        SlotFact {
            kvm: 7,
            generation,
            base_gfn,
            npages: 16,
            userspace_addr: 0x1000,
            id,
            tgid: 42,
            fd: 9,
            flags: 0,
        }
    }

    fn end(generation: u64, written: u64) -> SlotFact {
        SlotFact { npages: written, ..slot(SLOT_WALK_END, 0, generation) }
    }

    #[test]
    fn slots_are_sorted_and_kvms_own_left_out() {
        let bytes = encode(&[slot(1, 256, 4), slot(0, 0, 4), slot(INTERNAL_SLOTS, 0xfee00, 4), end(4, 3)]);
        let readings = decode(&bytes).unwrap();
        let [Reading::Stable(facts)] = readings.as_slice() else { panic!("one stable reading") };
        assert_eq!((facts.pid, facts.fd, facts.kvm, facts.generation), (Pid::new(42), 9, 7, 4));
        assert_eq!(facts.slots.iter().map(|slot| slot.base_gfn).collect::<Vec<_>>(), [0, 256]);
    }

    #[test]
    fn a_change_during_the_walk_asks_for_another() {
        let readings = decode(&encode(&[slot(0, 0, 4), end(6, 1), end(1, 0)])).unwrap();
        assert!(matches!(readings.as_slice(), [Reading::Changed(..), Reading::Stable(..)]));
        let readings = decode(&encode(&[slot(0, 0, 4), end(4, 2)])).unwrap();
        assert!(matches!(readings.as_slice(), [Reading::Changed(..)]));
    }

    proptest! {
        #[test]
        fn each_vm_has_its_own_slots_and_all_of_them(
            vms in proptest::collection::vec(proptest::collection::vec((any::<u64>(), 0..4_u64), 0..5), 0..4),
            noise in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut facts = Vec::new();
            for (kvm, slots) in (1..).zip(&vms) {
                for (id, (base_gfn, npages)) in (0..).zip(slots) {
                    facts.push(SlotFact { kvm, npages: *npages, ..slot(id, *base_gfn, 3) });
                }
                facts.push(SlotFact { kvm, ..end(3, slots.len() as u64) });
            }
            let mut bytes = encode(&facts);
            let readings = decode(&bytes).unwrap();
            prop_assert_eq!(readings.len(), vms.len());
            for ((kvm, slots), reading) in (1..).zip(&vms).zip(&readings) {
                let Reading::Stable(found) = reading else { panic!("{reading:?}") };
                let mut expected: Vec<(u64, u64)> = slots.iter().copied().filter(|slot| slot.1 > 0).collect();
                expected.sort_by_key(|slot| slot.0);
                let told: Vec<_> = found.slots.iter().map(|slot| (slot.base_gfn, slot.npages)).collect();
                prop_assert_eq!((found.kvm, told), (kvm, expected));
            }
            // Whatever comes behind: an error, or what was there and more.
            bytes.extend(noise);
            if let Ok(more) = decode(&bytes) {
                prop_assert_eq!(&more[..readings.len()], &readings[..]);
            }
        }
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let bytes = encode(&[slot(0, 0, 4), end(4, 1)]);
        assert!(decode(&bytes[1..]).is_err());
        assert!(decode(&encode(&[slot(0, 0, 4)])).is_err());
    }

    #[test]
    fn a_vm_with_too_many_slots_leaves_the_others_as_they_are() {
        let cut = SlotFact { flags: 1, ..end(4, 1) };
        let readings = decode(&encode(&[slot(0, 0, 4), cut, slot(0, 0, 4), end(4, 1)])).unwrap();
        assert!(matches!(readings.as_slice(), [Reading::TooMany { written: 1, .. }, Reading::Stable(_)]));
    }
}
