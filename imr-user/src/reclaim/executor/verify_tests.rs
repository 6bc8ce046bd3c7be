//! What came back, compared with what KVM had mapped: what is a mismatch, and what only looks like one.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, fallocate};

use super::*;
use crate::reclaim::backend::Obstacle;
use crate::reclaim::punch::Punch;
use crate::reclaim::testing::{MIB, Ram, map_files_or_skip, memfd, plan, proc_dir, vm};

/// Frames of 1 MiB.
const FRAMES: u64 = MIB / FRAME_SIZE;

/// Everything is mapped; KVM is told, or not.
struct Kvm {
    told: Option<Cell<u64>>,
}

impl Witness for Kvm {
    fn mapped_bytes(&self, _: Gfn, npages: u64) -> u64 {
        npages * FRAME_SIZE
    }

    fn invalidations(&self) -> Option<u64> {
        self.told.as_ref().map(Cell::get)
    }
}

/// Punches, and has something else done right after each call.
struct Disturbed<'a, F> {
    punch: Punch<'a>,
    after_call: F,
}

impl<F: FnMut()> Backend for Disturbed<'_, F> {
    fn name(&self) -> &'static str {
        "disturbed"
    }
    fn prepare(&mut self, segment: &Segment) -> Result<(), Obstacle> {
        self.punch.prepare(segment)
    }
    fn held_bytes(&self) -> Result<u64, Failure> {
        self.punch.held_bytes()
    }
    fn reclaim(&mut self, call: &Call<'_>) -> Result<Effect, Failure> {
        let effect = self.punch.reclaim(call);
        (self.after_call)();
        effect
    }
    fn left_bytes(&self, call: &Call<'_>) -> Option<u64> {
        self.punch.left_bytes(call)
    }
    fn finish(&mut self) {
        self.punch.finish();
    }
}

/// Takes the second MiB of four.
fn take(ram: &Ram, witness: &dyn Witness, after_call: impl FnMut()) -> Outcome {
    let facts = vm(vec![ram.slot(0)]);
    let own = proc_dir(std::process::id());
    let mut backend = Disturbed { punch: Punch::new(own.as_fd()), after_call };
    let mut target = Target { facts: &facts, allowed: Allowed::default(), backend: &mut backend, witness };
    execute(&plan(&[(FRAMES, FRAMES)]), &mut target, &mut || true, &mut |_| {})
}

fn filled() -> (OwnedFd, Ram) {
    let file = memfd(8 * MIB, MemfdFlags::empty());
    let ram = Ram::shared(&file, 0, 4 * MIB);
    ram.fill();
    (file, ram)
}

fn allocate(file: &OwnedFd, offset: u64, bytes: u64) {
    fallocate(file, FallocateFlags::empty(), offset, bytes).unwrap();
}

#[test]
fn memory_that_others_take_meanwhile_is_no_mismatch() {
    if !map_files_or_skip("memory_that_others_take_meanwhile_is_no_mismatch") {
        return;
    }
    let (file, ram) = filled();
    let kvm = Kvm { told: None };
    // The guest faults elsewhere in the same file: st_blocks say that half came back, or none.
    let outcome = take(&ram, &kvm, || allocate(&file, 4 * MIB, MIB / 2));
    assert_eq!((outcome.freed_bytes, outcome.measured, outcome.left_bytes), (MIB / 2, Measured::Less, 0));
    let (file, ram) = filled();
    let outcome = take(&ram, &kvm, || allocate(&file, 4 * MIB, MIB));
    assert_eq!((outcome.freed_bytes, outcome.measured, outcome.left_bytes), (0, Measured::Less, 0));
}

#[test]
fn memory_that_is_back_where_it_was_taken_is_a_mismatch() {
    if !map_files_or_skip("memory_that_is_back_where_it_was_taken_is_a_mismatch") {
        return;
    }
    let (file, ram) = filled();
    // The VMM touches what it gave away.
    let touch = || {
        rustix::io::pwrite(&file, &[1; 3 * FRAME_SIZE as usize], MIB + 4 * FRAME_SIZE).unwrap();
    };
    let outcome = take(&ram, &Kvm { told: None }, touch);
    assert_eq!(outcome.freed_bytes, MIB - 3 * FRAME_SIZE);
    assert_eq!((outcome.measured, outcome.left_bytes), (Measured::Left, 3 * FRAME_SIZE));
}

#[test]
fn kvm_has_to_be_told_of_what_it_had_mapped() {
    if !map_files_or_skip("kvm_has_to_be_told_of_what_it_had_mapped") {
        return;
    }
    let count = Cell::new(7);
    let deaf = Kvm { told: Some(Cell::new(7)) };
    let outcome = take(&filled().1, &deaf, || ());
    assert_eq!((outcome.unnotified_calls, outcome.measured), (1, Measured::Agrees));
    struct Told<'a>(&'a Cell<u64>);
    impl Witness for Told<'_> {
        fn mapped_bytes(&self, _: Gfn, npages: u64) -> u64 {
            npages * FRAME_SIZE
        }
        fn invalidations(&self) -> Option<u64> {
            Some(self.0.get())
        }
    }
    let outcome = take(&filled().1, &Told(&count), || count.set(count.get() + 1));
    assert_eq!((outcome.unnotified_calls, count.get()), (0, 8));
    // Of two calls that are made together it was told of one.
    let (file, ram) = filled();
    let facts = vm(vec![ram.slot(0)]);
    let own = proc_dir(std::process::id());
    let mut calls = 0;
    let after_call = || {
        calls += 1;
        count.set(count.get() + u64::from(calls == 1));
    };
    let mut backend = Disturbed { punch: Punch::new(own.as_fd()), after_call };
    let witness = &Told(&count);
    let mut target = Target { facts: &facts, allowed: Allowed::default(), backend: &mut backend, witness };
    let two = plan(&[(0, FRAMES), (2 * FRAMES, FRAMES)]);
    let outcome = execute(&two, &mut target, &mut || true, &mut |_| {});
    assert_eq!((outcome.calls, outcome.unnotified_calls, outcome.freed_bytes), (2, 1, 2 * MIB));
    drop(file);
    // Nobody listens, or nothing was mapped: no word is missed.
    assert_eq!(take(&filled().1, &Kvm { told: None }, || ()).unnotified_calls, 0);
    assert_eq!(take(&filled().1, &NoWitness, || ()).unnotified_calls, 0);
}
