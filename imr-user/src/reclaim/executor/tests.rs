//! The executor on real memory, mapped in this process or in a child that plays the VMM.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use rustix::fs::MemfdFlags;
use rustix::mm::MapFlags;

use super::run::call_length;
use super::*;
use crate::reclaim::backend::DryRun;
use crate::reclaim::guards::SlotFacts;
use crate::reclaim::punch::Punch;
use crate::reclaim::testing::{
    MIB, Ram, held, map_files_or_skip, memfd, plan, proc_dir, slot, unnamed_file, vm,
};

/// Frames of 1 MiB.
const FRAMES: u64 = MIB / FRAME_SIZE;
/// Frame at 4 GiB.
const ABOVE_4G: u64 = 4096 * FRAMES;

/// Runs `plan` by punching; the offer stays live for `calls` calls. Also gives back the calls it made.
fn punch(facts: &VmFacts, plan: &Plan, calls: usize) -> (Outcome, Vec<CallDone>) {
    let proc_dir = proc_dir(std::process::id());
    let mut punch = Punch::new(proc_dir.as_fd());
    let mut target = Target { facts, allowed: Allowed::default(), backend: &mut punch, witness: &NoWitness };
    let (mut asked, mut done) = (0, Vec::new());
    let mut still_live = || {
        asked += 1;
        asked <= calls
    };
    let outcome = execute(plan, &mut target, &mut still_live, &mut |call| done.push(call));
    (outcome, done)
}

fn results(outcome: &Outcome) -> Vec<RangeResult> {
    outcome.ranges.iter().map(|range| range.result.clone()).collect()
}

fn refused(guard: Guard) -> RangeResult {
    RangeResult::Refused(Reason::Guard(guard))
}

fn kept(guard: Guard) -> RangeResult {
    RangeResult::Kept(Reason::Guard(guard))
}

/// Reclaims MiB 1, 2 and 4 of 6 through `file` and checks every byte and block.
fn takes_ranges_of(file: &OwnedFd) {
    let ram = Ram::shared(file, 0, 6 * MIB);
    ram.fill();
    let facts = vm(vec![ram.slot(0x1000)]);
    let plan =
        plan(&[(0x1000 + FRAMES, FRAMES), (0x1000 + 4 * FRAMES, FRAMES), (0x1000 + 2 * FRAMES, FRAMES)]);
    let (outcome, done) = punch(&facts, &plan, 9);
    assert_eq!(held(file), 3 * MIB);
    assert_eq!(results(&outcome), vec![RangeResult::Reclaimed; 3]);
    assert_eq!(
        (outcome.asked_bytes, outcome.freed_bytes, outcome.measured),
        (3 * MIB, 3 * MIB, Measured::Agrees)
    );
    assert_eq!((outcome.calls, done.len()), (2, 2), "neighbours are taken in one call");
    assert!(ram.is_filled(0, MIB) && ram.is_zero(MIB, 2 * MIB));
    assert!(ram.is_filled(3 * MIB, MIB) && ram.is_zero(4 * MIB, MIB) && ram.is_filled(5 * MIB, MIB));
}

#[test]
fn takes_ranges_of_a_memfd() {
    if map_files_or_skip("takes_ranges_of_a_memfd") {
        takes_ranges_of(&memfd(6 * MIB, MemfdFlags::empty()));
    }
}

#[test]
fn takes_ranges_of_a_tmpfs_file() {
    if !map_files_or_skip("takes_ranges_of_a_tmpfs_file") {
        return;
    }
    match unnamed_file("/dev/shm", 6 * MIB) {
        Ok(file) => takes_ranges_of(&file),
        Err(errno) => println!("SKIPPED takes_ranges_of_a_tmpfs_file: a file of 6 MiB on /dev/shm: {errno}"),
    }
}

/// Memory that is not there frees nothing and reads as zero: reclaimed all the same.
#[test]
fn memory_that_is_not_resident_is_reclaimed_and_frees_nothing() {
    if !map_files_or_skip("memory_that_is_not_resident_is_reclaimed_and_frees_nothing") {
        return;
    }
    let ram = Ram::shared(memfd(2 * MIB, MemfdFlags::empty()), 0, 2 * MIB);
    let (outcome, _) = punch(&vm(vec![ram.slot(0)]), &plan(&[(0, FRAMES)]), 9);
    assert_eq!(results(&outcome), [RangeResult::Reclaimed]);
    assert_eq!(
        (outcome.asked_bytes, outcome.freed_bytes, outcome.measured),
        (MIB, 0, Measured::NothingResident)
    );
}

/// As a PC with more than 3 GiB: the same file goes on above the hole, at another address of the guest.
#[test]
fn the_file_offset_is_the_slots_not_the_guest_address() {
    if !map_files_or_skip("the_file_offset_is_the_slots_not_the_guest_address") {
        return;
    }
    let file = memfd(8 * MIB, MemfdFlags::empty());
    let ram = Ram::shared(&file, 0, 8 * MIB);
    ram.fill();
    let pid = std::process::id();
    let low = slot(pid, 0, ram.address(), 3 * MIB);
    let high = slot(pid, ABOVE_4G, ram.address() + 3 * MIB, 5 * MIB);
    let facts = vm(vec![high, low]);
    let plan =
        plan(&[(ABOVE_4G + FRAMES, 2 * FRAMES), (3 * FRAMES, FRAMES), (2 * FRAMES, 2 * FRAMES), (0, FRAMES)]);
    let (outcome, _) = punch(&facts, &plan, 9);
    let outside = refused(Guard::OutsideRam);
    // The third lies half in the hole and overlaps the second, which comes first as a reason.
    let overlapping = refused(Guard::Overlapping);
    assert_eq!(results(&outcome), [RangeResult::Reclaimed, outside, overlapping, RangeResult::Reclaimed]);
    assert_eq!(held(&file), 5 * MIB);
    assert!(ram.is_zero(0, MIB) && ram.is_filled(MIB, 3 * MIB));
    assert!(ram.is_zero(4 * MIB, 2 * MIB) && ram.is_filled(6 * MIB, 2 * MIB));
}

#[test]
fn a_range_over_two_vmas_is_one_range() {
    if !map_files_or_skip("a_range_over_two_vmas_is_one_range") {
        return;
    }
    // Two files, mapped side by side as by a VMM with two memory backends.
    let (first, second) = (memfd(2 * MIB, MemfdFlags::empty()), memfd(4 * MIB, MemfdFlags::empty()));
    let ram = Ram::anonymous(4 * MIB, MapFlags::PRIVATE);
    ram.replace(0, &first, 0, 2 * MIB);
    ram.replace(2 * MIB, &second, MIB, 2 * MIB);
    ram.fill();
    let facts = vm(vec![ram.slot(0)]);
    assert_eq!(facts.slots[0].segments.len(), 2);
    let (outcome, done) = punch(&facts, &plan(&[(FRAMES, 2 * FRAMES)]), 9);
    assert_eq!(results(&outcome), [RangeResult::Reclaimed]);
    assert_eq!((done.len(), outcome.freed_bytes, outcome.measured), (2, 2 * MIB, Measured::Agrees));
    assert_eq!((held(&first), held(&second)), (MIB, MIB));
    assert!(ram.is_filled(0, MIB) && ram.is_zero(MIB, 2 * MIB) && ram.is_filled(3 * MIB, MIB));
}

/// The VMM put another file where the slot's memory was.
#[test]
fn a_mapping_that_was_replaced_is_left_alone() {
    if !map_files_or_skip("a_mapping_that_was_replaced_is_left_alone") {
        return;
    }
    let (first, second) = (memfd(2 * MIB, MemfdFlags::empty()), memfd(2 * MIB, MemfdFlags::empty()));
    let ram = Ram::shared(&first, 0, 2 * MIB);
    ram.fill();
    let facts = vm(vec![ram.slot(0)]);
    ram.replace(0, &second, 0, 2 * MIB);
    ram.fill();
    let (outcome, done) = punch(&facts, &plan(&[(0, FRAMES)]), 9);
    assert_eq!((results(&outcome), done.len()), (vec![kept(Guard::StaleMapping)], 0));
    assert!(outcome.mapping_stale() && !outcome.vmm_gone());
    assert_eq!((held(&first), held(&second)), (2 * MIB, 2 * MIB));
}

/// What the plan keeps or refuses, what overlaps it, and what a guard forbids, stays as it was.
#[test]
fn nothing_but_the_valid_ranges_to_reclaim_is_touched() {
    if !map_files_or_skip("nothing_but_the_valid_ranges_to_reclaim_is_touched") {
        return;
    }
    let file = memfd(8 * MIB, MemfdFlags::empty());
    let ram = Ram::shared(&file, 0, 8 * MIB);
    ram.fill();
    let anonymous = Ram::anonymous(2 * MIB, MapFlags::PRIVATE);
    anonymous.fill();
    let facts = vm(vec![ram.slot(0), anonymous.slot(ABOVE_4G)]);
    let mut plan = plan(&[
        (0, FRAMES),
        (0, 2 * FRAMES),
        (2 * FRAMES, FRAMES),
        (3 * FRAMES, FRAMES),
        (3 * FRAMES, FRAMES),
        (ABOVE_4G, FRAMES),
        (0, 0),
        (u64::MAX, u64::MAX),
        (7 * FRAMES, 2 * FRAMES),
    ]);
    plan.ranges[0].verdict = Verdict::Keep("floor".into());
    plan.ranges[2].verdict = Verdict::Refuse("torn".into());
    let (outcome, done) = punch(&facts, &plan, 9);
    assert_eq!(
        results(&outcome),
        [
            RangeResult::Kept(Reason::Policy("floor".into())),
            refused(Guard::Overlapping),
            RangeResult::Refused(Reason::Policy("torn".into())),
            RangeResult::Reclaimed,
            refused(Guard::Overlapping),
            kept(Guard::PrivateMapping),
            refused(Guard::Empty),
            refused(Guard::OutsideRam),
            refused(Guard::OutsideRam),
        ]
    );
    assert_eq!(done, [CallDone { base_gfn: Gfn::new(3 * FRAMES), npages: FRAMES, effect: Effect::Taken }]);
    assert!(ram.is_filled(0, 3 * MIB) && ram.is_zero(3 * MIB, MIB) && ram.is_filled(4 * MIB, 4 * MIB));
    assert!(anonymous.is_filled(0, 2 * MIB));
}

#[test]
fn a_guard_of_the_whole_vm_keeps_everything() {
    let file = memfd(2 * MIB, MemfdFlags::empty());
    let ram = Ram::shared(&file, 0, 2 * MIB);
    ram.fill();
    let facts = VmFacts { vfio: true, ..vm(vec![ram.slot(0)]) };
    let (outcome, done) = punch(&facts, &plan(&[(0, FRAMES), (0, FRAMES)]), 9);
    assert_eq!(results(&outcome), [kept(Guard::Vfio), refused(Guard::Overlapping)]);
    assert_eq!((done.len(), held(&file), outcome.measured), (0, 2 * MIB, Measured::Nothing));
}

#[test]
fn calls_are_bounded_and_end_where_a_huge_page_can() {
    assert_eq!(call_length(0, 16 * MIB, FRAME_SIZE), 16 * MIB);
    assert_eq!(call_length(0, 100 * MIB, FRAME_SIZE), 16 * MIB);
    assert_eq!(call_length(MIB, 100 * MIB, FRAME_SIZE), 15 * MIB);
    assert_eq!(call_length(FRAME_SIZE, 16 * MIB + 1, FRAME_SIZE), 16 * MIB - FRAME_SIZE);
    assert_eq!(call_length(2 * MIB, 300 * MIB, 2 * MIB), 256 * MIB);
    assert_eq!(call_length(1024 * MIB, 2048 * MIB, 1024 * MIB), 1024 * MIB);
}

#[test]
fn an_offer_that_dies_on_the_way_is_stopped_there() {
    if !map_files_or_skip("an_offer_that_dies_on_the_way_is_stopped_there") {
        return;
    }
    let file = memfd(40 * MIB, MemfdFlags::empty());
    let ram = Ram::shared(&file, 0, 40 * MIB);
    ram.fill();
    let facts = vm(vec![ram.slot(0)]);
    // One run of 36 MiB: calls of 16, 16 and 4. The second range ends with the first call, half of the third
    // is in the second.
    let plan = plan(&[(0, 4 * FRAMES), (4 * FRAMES, 12 * FRAMES), (16 * FRAMES, 20 * FRAMES)]);
    let (outcome, done) = punch(&facts, &plan, 2);
    assert_eq!(results(&outcome), [RangeResult::Reclaimed, RangeResult::Reclaimed, RangeResult::Stopped]);
    assert_eq!(outcome.ranges[2].done_bytes, 16 * MIB);
    assert_eq!((done.len(), outcome.stopped(), outcome.freed_bytes), (2, true, 32 * MIB));
    assert_eq!(outcome.ranges[2].result.wire(), imr_common::guest_abi::RESULT_NONE);
    assert!(ram.is_zero(0, 32 * MIB) && ram.is_filled(32 * MIB, 8 * MIB));

    let (outcome, done) = punch(&facts, &self::plan(&[(32 * FRAMES, FRAMES)]), 0);
    assert_eq!((results(&outcome), done.len()), (vec![RangeResult::Stopped], 0));
    assert!(ram.is_filled(32 * MIB, 8 * MIB));
}

/// Between two looks at the VM no more is taken than one call may take.
#[test]
fn small_calls_are_made_together_up_to_the_length_of_one() {
    if !map_files_or_skip("small_calls_are_made_together_up_to_the_length_of_one") {
        return;
    }
    let file = memfd(44 * MIB, MemfdFlags::empty());
    let ram = Ram::shared(&file, 0, 44 * MIB);
    ram.fill();
    let facts = vm(vec![ram.slot(0)]);
    // Five of 4 MiB with gaps, and one of 2 MiB: after two looks four are taken, and then the rest.
    let mut ranges: Vec<(u64, u64)> = (0..5).map(|number| (number * 8 * FRAMES, 4 * FRAMES)).collect();
    ranges.push((40 * FRAMES, 2 * FRAMES));
    let (outcome, done) = punch(&facts, &plan(&ranges), 1);
    let mut expected = vec![RangeResult::Reclaimed; 4];
    expected.extend([RangeResult::Stopped, RangeResult::Stopped]);
    assert_eq!((results(&outcome), done.len(), outcome.calls), (expected, 4, 4));
    assert_eq!(held(&file), 44 * MIB - 16 * MIB);
    let (outcome, done) = punch(&facts, &plan(&ranges), 2);
    assert_eq!((results(&outcome), done.len()), (vec![RangeResult::Reclaimed; 6], 6));
    assert_eq!((outcome.freed_bytes, held(&file)), (6 * MIB, 44 * MIB - 22 * MIB));
}

#[test]
fn a_dry_run_says_what_it_would_take_and_takes_nothing() {
    if !map_files_or_skip("a_dry_run_says_what_it_would_take_and_takes_nothing") {
        return;
    }
    let file = memfd(2 * MIB, MemfdFlags::empty());
    let ram = Ram::shared(&file, 0, 2 * MIB);
    ram.fill();
    let facts = vm(vec![ram.slot(0)]);
    let proc_dir = proc_dir(std::process::id());
    let mut backend = DryRun(Punch::new(proc_dir.as_fd()));
    let mut target =
        Target { facts: &facts, allowed: Allowed::default(), backend: &mut backend, witness: &NoWitness };
    let plan = plan(&[(0, FRAMES), (2 * FRAMES, FRAMES)]);
    let outcome = execute(&plan, &mut target, &mut || true, &mut |_| {});
    assert_eq!(results(&outcome), [RangeResult::Kept(Reason::DryRun), refused(Guard::OutsideRam)]);
    assert_eq!((outcome.backend, outcome.asked_bytes, outcome.freed_bytes), ("dry-run", MIB, 0));
    assert_eq!((outcome.ranges[0].done_bytes, outcome.measured), (0, Measured::Nothing));
    assert!(ram.is_filled(0, 2 * MIB));
}

#[test]
fn a_failed_call_fails_its_ranges_and_no_others() {
    if !map_files_or_skip("a_failed_call_fails_its_ranges_and_no_others") {
        return;
    }
    let sealed = memfd(2 * MIB, MemfdFlags::ALLOW_SEALING);
    let (bad, good) =
        (Ram::shared(&sealed, 0, 2 * MIB), Ram::shared(memfd(MIB, MemfdFlags::empty()), 0, MIB));
    bad.fill();
    good.fill();
    rustix::fs::fcntl_add_seals(&sealed, rustix::fs::SealFlags::FUTURE_WRITE).unwrap();
    let facts = vm(vec![bad.slot(0), good.slot(ABOVE_4G)]);
    let (outcome, _) = punch(&facts, &plan(&[(0, FRAMES), (FRAMES, FRAMES), (ABOVE_4G, FRAMES)]), 9);
    let failed = |range: &RangeOutcome| match &range.result {
        RangeResult::Failed(failure) => failure.errno == rustix::io::Errno::PERM,
        _ => false,
    };
    assert!(failed(&outcome.ranges[0]) && failed(&outcome.ranges[1]), "{outcome:?}");
    assert_eq!(outcome.ranges[2].result, RangeResult::Reclaimed);
    assert_eq!((outcome.asked_bytes, outcome.freed_bytes), (MIB, MIB));
    assert!(bad.is_filled(0, 2 * MIB));
}

/// Pages of hugetlbfs for the time of a test, given back when dropped.
struct HugePages {
    before: String,
}

const NR_HUGEPAGES: &str = "/proc/sys/vm/nr_hugepages";

impl HugePages {
    fn reserve(pages: u64) -> Result<Self, String> {
        let read =
            || std::fs::read_to_string(NR_HUGEPAGES).map_err(|error| format!("{NR_HUGEPAGES}: {error}"));
        let before = read()?;
        let count =
            |text: &str| text.trim().parse::<u64>().map_err(|error| format!("{NR_HUGEPAGES}: {error}"));
        let want = count(&before)? + pages;
        std::fs::write(NR_HUGEPAGES, want.to_string()).map_err(|error| format!("{NR_HUGEPAGES}: {error}"))?;
        let reserved = Self { before };
        let have = count(&read()?)?;
        if have < want { Err(format!("{have} huge pages of {want} could be had")) } else { Ok(reserved) }
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        std::fs::write(NR_HUGEPAGES, self.before.trim()).unwrap();
    }
}

#[test]
fn hugetlb_pages_are_taken_whole_or_not_at_all() {
    let test = "hugetlb_pages_are_taken_whole_or_not_at_all";
    if !map_files_or_skip(test) {
        return;
    }
    let _pages = match HugePages::reserve(4) {
        Ok(pages) => pages,
        Err(why) => return println!("SKIPPED {test}: {why}"),
    };
    let file = memfd(8 * MIB, MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB);
    let ram = Ram::shared(&file, 0, 8 * MIB);
    ram.fill();
    let slot = ram.slot(0);
    assert_eq!(slot.segments[0].page_size, 2 * MIB);
    // The guest's frames begin in the middle of a huge page: what is aligned for it is not for the host.
    let skewed = SlotFacts { segments: vec![], ..slot.clone() };
    let skewed = SlotFacts { npages: 7 * FRAMES, ..skewed };
    let mut segment = slot.segments[0].clone();
    segment.npages = 7 * FRAMES;
    segment.hva = crate::model::ids::Hva::new(segment.hva.get() + MIB);
    segment.file_offset += MIB;
    let skewed = vm(vec![SlotFacts { segments: vec![segment], ..skewed }]);
    let (outcome, _) = punch(&skewed, &plan(&[(2 * FRAMES, 2 * FRAMES)]), 9);
    assert_eq!(results(&outcome), [refused(Guard::Unaligned { page_size: 2 * MIB })]);
    assert_eq!(held(&file), 8 * MIB);

    let facts = vm(vec![slot]);
    let plan = plan(&[(2 * FRAMES, 2 * FRAMES), (5 * FRAMES, FRAMES), (4 * FRAMES, FRAMES)]);
    let (outcome, _) = punch(&facts, &plan, 9);
    let unaligned = || refused(Guard::Unaligned { page_size: 2 * MIB });
    assert_eq!(results(&outcome), [RangeResult::Reclaimed, unaligned(), unaligned()]);
    assert_eq!((outcome.freed_bytes, outcome.measured, held(&file)), (2 * MIB, Measured::Agrees, 6 * MIB));
    assert!(ram.is_filled(0, 2 * MIB) && ram.is_filled(4 * MIB, 4 * MIB));
    assert!(ram.is_zero(2 * MIB, 2 * MIB));
}

/// Says to a child that it is a VMM.
const CHILD: &str = "IMR_TEST_VMM";

/// The VMM of the next test: maps its RAM, says where, and lives until it is killed.
#[test]
fn vmm_child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let ram = Ram::shared(memfd(64 * MIB, MemfdFlags::empty()), 0, 64 * MIB);
    ram.fill();
    println!("\nram {}", ram.address());
    std::io::stdout().flush().unwrap();
    // Also ends when the parent does.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn spawn_vmm() -> (Child, u64) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "reclaim::executor::tests::vmm_child", "--nocapture"])
        .env(CHILD, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let address = lines.find_map(|line| line.strip_prefix("ram ").map(|text| text.parse().unwrap()));
    (child, address.unwrap())
}

#[test]
fn a_vmm_that_dies_on_the_way_is_gone_not_an_error() {
    if !map_files_or_skip("a_vmm_that_dies_on_the_way_is_gone_not_an_error") {
        return;
    }
    let (mut child, address) = spawn_vmm();
    let facts = vm(vec![slot(child.id(), 0, address, 64 * MIB)]);
    let proc_dir = proc_dir(child.id());
    let mut punch = Punch::new(proc_dir.as_fd());
    let plan = plan(&[(0, 48 * FRAMES), (60 * FRAMES, FRAMES)]);
    let mut run = |still_live: &mut dyn FnMut() -> bool| {
        execute(
            &plan,
            &mut Target {
                facts: &facts,
                allowed: Allowed::default(),
                backend: &mut punch,
                witness: &NoWitness,
            },
            still_live,
            &mut |_| {},
        )
    };

    let outcome = run(&mut || true);
    assert_eq!(results(&outcome), vec![RangeResult::Reclaimed; 2]);
    assert_eq!((outcome.freed_bytes, outcome.measured), (49 * MIB, Measured::Agrees));

    // Killed after the first call, and not reaped: what is left is a zombie.
    let mut calls = 0;
    let outcome = run(&mut || {
        calls += 1;
        if calls == 2 {
            child.kill().unwrap();
            let gone = libc::id_t::from(child.id());
            // SAFETY: waits for our own child to end and leaves it as it is; a null siginfo is allowed.
            let ended = unsafe {
                libc::waitid(libc::P_PID, gone, std::ptr::null_mut(), libc::WEXITED | libc::WNOWAIT)
            };
            assert_eq!(ended, 0);
        }
        true
    });
    assert_eq!(results(&outcome), vec![RangeResult::Reclaimed; 2], "the file was open");
    assert_eq!(results(&run(&mut || true)), vec![kept(Guard::VmmGone); 2], "zombie");
    child.wait().unwrap();
    let outcome = run(&mut || true);
    assert_eq!(results(&outcome), vec![kept(Guard::VmmGone); 2], "reaped");
    assert!(outcome.vmm_gone());
}
