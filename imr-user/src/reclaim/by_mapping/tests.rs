//! One VM with a memfd, private anonymous memory, and a file that nobody may touch.

use std::os::fd::AsFd;

use rustix::fs::MemfdFlags;
use rustix::mm::MapFlags;

use super::*;
use crate::model::ids::FRAME_SIZE;
use crate::reclaim::executor::{NoWitness, Target, execute};
use crate::reclaim::guards::{VmFacts, slot_guard, vm_guard};
use crate::reclaim::outcome::{Measured, Outcome, RangeResult, Reason};
use crate::reclaim::testing::{InProcess, MIB, Ram, held, map_files_or_skip, memfd, plan, proc_dir, vm};

/// Frames of 1 MiB.
const FRAMES: u64 = MIB / FRAME_SIZE;
const INJECT: Allowed = Allowed { inject: true, dry_run: false };

fn run(ram: &[&Ram], ranges: &[(u64, u64)], allowed: Allowed) -> Outcome {
    let slots = (0..).zip(ram).map(|(at, ram)| ram.slot(at * 1024 * FRAMES)).collect();
    let facts = vm(slots);
    let own = proc_dir(std::process::id());
    let mut backend = ByMapping::new(
        own.as_fd(),
        allowed,
        Punch::new(own.as_fd()),
        Some(Box::new(InProcess::new(own.as_fd()))),
    );
    let mut target = Target { facts: &facts, allowed, backend: &mut backend, witness: &NoWitness };
    execute(&plan(ranges), &mut target, &mut || true, &mut |_| {})
}

#[test]
fn each_mapping_goes_to_its_backend_in_one_batch() {
    if !map_files_or_skip("each_mapping_goes_to_its_backend_in_one_batch") {
        return;
    }
    let file = memfd(4 * MIB, MemfdFlags::empty());
    let (shared, private) = (Ram::shared(&file, 0, 4 * MIB), Ram::anonymous_in_frames(4 * MIB));
    let copied = Ram::map(memfd(4 * MIB, MemfdFlags::empty()), 0, 4 * MIB, MapFlags::PRIVATE);
    let all = [&shared, &private, &copied];
    all.iter().for_each(|ram| ram.fill());
    let ranges =
        [(FRAMES, FRAMES), (1024 * FRAMES, FRAMES), (2048 * FRAMES, FRAMES), (1026 * FRAMES, FRAMES)];
    let outcome = run(&all, &ranges, INJECT);
    let results: Vec<_> = outcome.ranges.iter().map(|range| range.result.clone()).collect();
    let kept = RangeResult::Kept(Reason::Guard(Guard::PrivateFile));
    assert_eq!(results, [RangeResult::Reclaimed, RangeResult::Reclaimed, kept, RangeResult::Reclaimed]);
    assert_eq!((outcome.backend, outcome.freed_bytes), ("punch+inject", 3 * MIB));
    assert_eq!((outcome.measured, held(&file)), (Measured::Agrees, 3 * MIB));
    assert!(private.is_zero(0, MIB) && private.is_filled(MIB, MIB) && private.is_zero(2 * MIB, MIB));
    assert!(shared.is_filled(0, MIB) && shared.is_zero(MIB, MIB) && copied.is_filled(0, 4 * MIB));

    // One kind only is named alone, and without permission private memory stays what it was.
    assert_eq!(run(&all, &[(1027 * FRAMES, FRAMES)], INJECT).backend, "inject");
    private.fill();
    let outcome = run(&all, &[(1024 * FRAMES, FRAMES), (0, FRAMES)], Allowed::default());
    assert_eq!(outcome.ranges[0].result, RangeResult::Kept(Reason::Guard(Guard::PrivateMapping)));
    assert_eq!((outcome.backend, outcome.freed_bytes), ("punch", MIB));
    assert!(private.is_filled(0, 4 * MIB));
}

#[test]
fn a_dry_run_of_all_kinds_takes_nothing() {
    if !map_files_or_skip("a_dry_run_of_all_kinds_takes_nothing") {
        return;
    }
    let ram =
        [Ram::shared(memfd(2 * MIB, MemfdFlags::empty()), 0, 2 * MIB), Ram::anonymous_in_frames(2 * MIB)];
    ram.iter().for_each(Ram::fill);
    let facts = vm(vec![ram[0].slot(0), ram[1].slot(1024 * FRAMES)]);
    let allowed = Allowed { inject: true, dry_run: true };
    let own = proc_dir(std::process::id());
    let inject = Box::new(InProcess::new(own.as_fd()));
    let mut backend = DryRun(ByMapping::new(own.as_fd(), allowed, Punch::new(own.as_fd()), Some(inject)));
    let mut target = Target { facts: &facts, allowed, backend: &mut backend, witness: &NoWitness };
    let plan = plan(&[(0, FRAMES), (1024 * FRAMES, FRAMES)]);
    let outcome = execute(&plan, &mut target, &mut || true, &mut |_| {});
    assert!(outcome.ranges.iter().all(|range| range.result == RangeResult::Kept(Reason::DryRun)));
    assert_eq!((outcome.backend, outcome.asked_bytes, outcome.freed_bytes), ("dry-run", 2 * MIB, 0));
    assert!(ram.iter().all(|ram| ram.is_filled(0, 2 * MIB)));
}

#[test]
fn a_vm_is_told_all_its_backends_and_a_slot_its_own() {
    let shared = Ram::shared(memfd(2 * MIB, MemfdFlags::empty()), 0, 2 * MIB);
    let private = Ram::anonymous(2 * MIB, MapFlags::PRIVATE);
    let mut facts = vm(vec![shared.slot(0), private.slot(1024 * FRAMES), private.slot(2048 * FRAMES)]);
    facts.slots[2].readonly = true;
    let slots = |facts: &VmFacts, allowed| {
        facts
            .slots
            .iter()
            .map(|slot| slot_guard(facts, slot, allowed).map(Backends::name))
            .collect::<Vec<_>>()
    };
    assert_eq!(vm_guard(&facts, Allowed::default()).map(Backends::name), Ok("punch"));
    assert_eq!(vm_guard(&facts, INJECT).map(Backends::name), Ok("punch+inject"));
    let of_slots = [Ok("punch"), Err(Guard::PrivateMapping), Err(Guard::ReadOnlySlot)];
    assert_eq!(slots(&facts, Allowed::default()), of_slots);
    assert_eq!(slots(&facts, INJECT)[1], Ok("inject"));
    facts.slots[1].followed = false;
    assert_eq!(slots(&facts, INJECT)[1], Err(Guard::NotFollowed));
    facts.vfio = true;
    assert_eq!(slots(&facts, INJECT)[0], Err(Guard::Vfio));
    assert_eq!(vm_guard(&facts, INJECT), Err(Guard::Vfio));
}
