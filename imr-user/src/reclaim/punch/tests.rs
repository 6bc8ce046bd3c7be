//! The punch backend against real files: what it opens, what it refuses to open, what it lets go of.

use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstatfs};
use rustix::mm::MapFlags;

use super::*;
use crate::model::backing::BackingKind;
use crate::model::ids::{FRAME_SIZE, Hva};
use crate::reclaim::testing::{MIB, Ram, held, map_files_or_skip, memfd, proc_dir, unnamed_file};

/// The call for the first `bytes` of a segment.
fn call(segment: &Segment, bytes: u64) -> Call<'_> {
    let Segment { base_gfn, hva, file_offset, .. } = *segment;
    Call { segment, base_gfn, hva, file_offset, bytes }
}

#[test]
fn takes_only_what_a_call_names_and_lets_go_after_the_batch() {
    if !map_files_or_skip("takes_only_what_a_call_names_and_lets_go_after_the_batch") {
        return;
    }
    let file = memfd(4 * MIB, MemfdFlags::empty());
    let ram = Ram::shared(&file, 0, 4 * MIB);
    ram.fill();
    let segment = ram.slot(0).segments.remove(0);
    let proc_dir = proc_dir(std::process::id());
    let mut punch = Punch::new(proc_dir.as_fd());

    punch.prepare(&segment).unwrap();
    assert_eq!(punch.held_bytes(), Ok(4 * MIB));
    assert_eq!(punch.reclaim(&call(&segment, MIB)), Ok(Effect::Taken));
    assert_eq!(punch.held_bytes(), Ok(3 * MIB));
    assert_eq!(held(&file), 3 * MIB);
    punch.finish();
    assert!(punch.files.is_empty());
    let errno = punch.reclaim(&call(&segment, MIB)).map_err(|failure| failure.errno);
    assert_eq!(errno, Err(Errno::BADF), "a segment that was not prepared in this batch");
    assert!(ram.is_zero(0, MIB));
    assert!(ram.is_filled(MIB, 3 * MIB));
}

#[test]
fn shared_anonymous_memory_is_a_tmpfs_file() {
    if !map_files_or_skip("shared_anonymous_memory_is_a_tmpfs_file") {
        return;
    }
    let ram = Ram::anonymous(2 * MIB, MapFlags::SHARED);
    ram.fill();
    let segment = ram.slot(0).segments.remove(0);
    assert_eq!(segment.kind, BackingKind::Tmpfs);
    let proc_dir = proc_dir(std::process::id());
    let mut punch = Punch::new(proc_dir.as_fd());
    punch.prepare(&segment).unwrap();
    assert_eq!(punch.reclaim(&call(&segment, MIB)), Ok(Effect::Taken));
    assert_eq!(punch.held_bytes(), Ok(MIB));
    assert!(ram.is_zero(0, MIB));
    assert!(ram.is_filled(MIB, MIB));
}

#[test]
fn a_mapping_that_is_not_the_known_one_is_stale() {
    if !map_files_or_skip("a_mapping_that_is_not_the_known_one_is_stale") {
        return;
    }
    let ram = Ram::shared(memfd(2 * MIB, MemfdFlags::empty()), 0, 2 * MIB);
    ram.fill();
    let good = ram.slot(0).segments.remove(0);
    let proc_dir = proc_dir(std::process::id());
    let mut punch = Punch::new(proc_dir.as_fd());
    let stale = [
        Segment { inode: good.inode + 1, ..good.clone() },
        Segment { dev: good.dev + 1, ..good.clone() },
        Segment { page_size: 2 * MIB, ..good.clone() },
        Segment { vma_end: Hva::new(good.vma_end.get() - FRAME_SIZE), ..good.clone() },
    ];
    for segment in &stale {
        assert_eq!(punch.prepare(segment), Err(Obstacle::Guard(Guard::StaleMapping)), "{segment:?}");
    }
    assert!(punch.files.is_empty());
    assert_eq!(punch.prepare(&good), Ok(()));
    drop(ram);
    assert_eq!(punch.prepare(&good), Err(Obstacle::Guard(Guard::StaleMapping)), "unmapped");
}

/// Even where the facts claim that it is memory.
#[test]
fn a_disk_file_is_never_punched() {
    let test = "a_disk_file_is_never_punched";
    if !map_files_or_skip(test) {
        return;
    }
    let directory = std::env::current_exe().unwrap().parent().unwrap().to_str().unwrap().to_owned();
    let file = match unnamed_file(&directory, MIB) {
        Ok(file) => file,
        Err(errno) => return println!("SKIPPED {test}: a file without a name in {directory}: {errno}"),
    };
    if fstatfs(&file).unwrap().f_type as u64 == TMPFS_MAGIC {
        return println!("SKIPPED {test}: {directory} is on tmpfs, no disk file to be had");
    }
    let ram = Ram::shared(&file, 0, MIB);
    ram.fill();
    let mut segment = ram.slot(0).segments.remove(0);
    assert!(matches!(segment.kind, BackingKind::OtherFile(_)), "{segment:?}");
    segment.kind = BackingKind::Tmpfs;
    let proc_dir = proc_dir(std::process::id());
    let mut punch = Punch::new(proc_dir.as_fd());
    let obstacle = punch.prepare(&segment).unwrap_err();
    assert!(
        matches!(obstacle, Obstacle::Guard(Guard::OtherFile(ref path)) if path.starts_with('/')),
        "{obstacle:?}"
    );
    assert!(ram.is_filled(0, MIB));
}

#[test]
fn a_sealed_file_fails_with_the_remedy() {
    if !map_files_or_skip("a_sealed_file_fails_with_the_remedy") {
        return;
    }
    let file = memfd(MIB, MemfdFlags::ALLOW_SEALING);
    let ram = Ram::shared(&file, 0, MIB);
    ram.fill();
    fcntl_add_seals(&file, SealFlags::FUTURE_WRITE).unwrap();
    let segment = ram.slot(0).segments.remove(0);
    let proc_dir = proc_dir(std::process::id());
    let mut punch = Punch::new(proc_dir.as_fd());
    // shmem opens a sealed file for writing, and refuses each change.
    punch.prepare(&segment).unwrap();
    let failure = punch.reclaim(&call(&segment, MIB)).unwrap_err();
    assert_eq!(failure.errno, Errno::PERM);
    assert!(failure.to_string().contains("F_SEAL_FUTURE_WRITE"), "{failure}");
    assert!(ram.is_filled(0, MIB));
}

/// A worker keeps files open between batches only as long as the VMM has the very same mapping.
#[test]
fn a_file_that_was_kept_is_used_only_where_it_is_still_mapped() {
    let test = "a_file_that_was_kept_is_used_only_where_it_is_still_mapped";
    if !map_files_or_skip(test) {
        return;
    }
    let (file, other) = (memfd(4 * MIB, MemfdFlags::empty()), memfd(4 * MIB, MemfdFlags::empty()));
    let ram = Ram::shared(&file, 0, 2 * MIB);
    ram.fill();
    let segment = ram.slot(0).segments.remove(0);
    let proc_dir = proc_dir(std::process::id());
    let mut kept = KeptFiles::default();
    let mut punch = Punch::keeping(proc_dir.as_fd(), &mut kept);
    punch.prepare(&segment).unwrap();
    punch.finish();
    assert_eq!(punch.reclaim(&call(&segment, MIB)).map_err(|failure| failure.errno), Err(Errno::BADF));
    if kept.is_empty() {
        return println!("SKIPPED {test}: PROCMAP_QUERY is missing (before Linux 6.11): nothing is kept");
    }
    let mut punch = Punch::keeping(proc_dir.as_fd(), &mut kept);
    punch.prepare(&segment).unwrap();
    assert_eq!((punch.held_bytes(), punch.files.len()), (Ok(2 * MIB), 1));
    assert_eq!(punch.kept.as_ref().unwrap().files.len(), 0, "it is the one that was kept");
    assert_eq!(punch.reclaim(&call(&segment, MIB)), Ok(Effect::Taken));
    punch.finish();
    assert_eq!(held(&file), MIB);

    // Another part of the same file, with the same bounds: the file is right, and the place is not.
    ram.replace(0, &file, 2 * MIB, 2 * MIB);
    let mut punch = Punch::keeping(proc_dir.as_fd(), &mut kept);
    assert_eq!(punch.prepare(&segment), Err(Obstacle::Guard(Guard::StaleMapping)));
    punch.finish();
    assert!(kept.is_empty());
    // Another file there.
    ram.replace(0, &other, 0, 2 * MIB);
    ram.fill();
    let mut punch = Punch::keeping(proc_dir.as_fd(), &mut kept);
    assert_eq!(punch.prepare(&segment), Err(Obstacle::Guard(Guard::StaleMapping)));
    punch.finish();
    assert!(kept.is_empty());
    assert_eq!(held(&other), 2 * MIB);
    kept.let_go();
    assert!(kept.maps.is_none());
}
