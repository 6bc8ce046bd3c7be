//! The choice by every kind of mapping that the kernel itself makes, and by what was allowed.

use rustix::fs::MemfdFlags;
use rustix::mm::MapFlags;

use super::*;
use crate::model::backing::VmaFlags;
use crate::reclaim::testing::{MIB, Ram, memfd, unnamed_file};

const NOTHING: Allowed = Allowed { inject: false, dry_run: false };
const INJECT: Allowed = Allowed { inject: true, dry_run: false };

/// What is chosen without and with the permission to inject.
fn chosen(ram: &Ram) -> (Result<BackendKind, Guard>, Result<BackendKind, Guard>) {
    let slot = ram.slot(0);
    assert_eq!(slot.segments.len(), 1);
    let of = |allowed| backend_of(&slot.segments[0], allowed);
    (of(NOTHING), of(INJECT))
}

#[test]
fn nothing_is_allowed_unless_it_is_said() {
    assert_eq!(Allowed::default(), NOTHING);
    assert_eq!((BackendKind::Punch.name(), BackendKind::Inject.name()), ("punch", "inject"));
}

#[test]
fn shared_memory_is_punched() {
    let punch = (Ok(BackendKind::Punch), Ok(BackendKind::Punch));
    assert_eq!(chosen(&Ram::shared(memfd(MIB, MemfdFlags::empty()), 0, MIB)), punch);
    assert_eq!(chosen(&Ram::anonymous(MIB, MapFlags::SHARED)), punch);
    match unnamed_file("/dev/shm", MIB) {
        Ok(file) => assert_eq!(chosen(&Ram::shared(file, 0, MIB)).1, Ok(BackendKind::Punch)),
        Err(errno) => println!("SKIPPED shared_memory_is_punched: a file in /dev/shm: {errno}"),
    }
}

#[test]
fn private_anonymous_memory_is_taken_by_injection_if_that_is_allowed() {
    let ram = Ram::anonymous(MIB, MapFlags::PRIVATE);
    assert_eq!(chosen(&ram), (Err(Guard::PrivateMapping), Ok(BackendKind::Inject)));
    assert!(Guard::PrivateMapping.to_string().contains("--inject"));
}

#[test]
fn a_private_mapping_of_a_file_is_never_taken() {
    let guarded = (Err(Guard::PrivateFile), Err(Guard::PrivateFile));
    assert_eq!(chosen(&Ram::map(memfd(MIB, MemfdFlags::empty()), 0, MIB, MapFlags::PRIVATE)), guarded);
}

#[test]
fn what_forbids_comes_before_what_is_allowed() {
    let ram = Ram::anonymous(MIB, MapFlags::PRIVATE);
    let good = ram.slot(0).segments.remove(0);
    let with = |flags| Segment { flags, ..good.clone() };
    let cases = [
        (with(VmaFlags { device: true, ..VmaFlags::default() }), Guard::DeviceMemory),
        (with(VmaFlags { userfaultfd: true, ..VmaFlags::default() }), Guard::Userfaultfd),
        (with(VmaFlags { locked: true, ..VmaFlags::default() }), Guard::Locked),
        (Segment { writable: false, ..good.clone() }, Guard::ReadOnlySlot),
        (Segment { shared: true, ..good.clone() }, Guard::StaleMapping),
        (
            Segment { kind: BackingKind::OtherFile("/disk".into()), ..good.clone() },
            Guard::OtherFile("/disk".into()),
        ),
    ];
    for (segment, guard) in cases {
        assert_eq!(backend_of(&segment, INJECT), Err(guard), "{segment:?}");
    }
}
