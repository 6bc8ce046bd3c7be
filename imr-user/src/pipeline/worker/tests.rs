//! Workers with real guest RAM in this process, each in its thread as in the product: one that stands still delays nobody.

use std::mem::offset_of;
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Instant;

use imr_common::guest_abi::{
    ABI_VERSION, GuestHalf, LIST_END, LIST_RECORD_SIZE, MAGIC, MAX_OFFER_ORDER, MAX_RANGES, RECORD_LIST,
};
use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::ingest::discovery::FoundSlot;
use crate::ingest::vmm::Vmm;
use crate::model::backing::Segment;
use crate::model::ids::{FRAME_SIZE, Pid};
use crate::pipeline::answerer::worker_of;
use crate::reclaim::backend::{Backend, Effect, Failure, Obstacle};
use crate::reclaim::by_mapping::backend_for;
use crate::reclaim::choose::Allowed;

const COOKIE: u64 = 0xfeed;
const MIB: u64 = 1 << 20;
/// Of each guest's RAM; the control page is its first frame, the list the second, the offered block begins at 2 MiB.
const BYTES: u64 = 8 * MIB;
const LIMIT: Duration = Duration::from_secs(20);

/// A guest's RAM and its worker.
struct Guest {
    file: std::os::fd::OwnedFd,
    address: u64,
    jobs: std::sync::mpsc::SyncSender<Job>,
    reports: UnboundedReceiver<(VmId, Report)>,
    generation: u64,
    tables: Tables,
    ended: std::sync::mpsc::Receiver<()>,
}

impl Guest {
    fn start(vm_fd: u32, make_backend: Option<MakeBackend>) -> Self {
        let file = memfd_create("imr-test-ram", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, BYTES).unwrap();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: no MAP_FIXED: the kernel picks addresses that nobody uses.
        let address =
            unsafe { mmap(std::ptr::null_mut(), BYTES as usize, access, MapFlags::SHARED, &file, 0) }
                .unwrap();
        let address = address as u64;
        let slot =
            FoundSlot { id: 0, base_gfn: 0, npages: BYTES / FRAME_SIZE, userspace_addr: address, flags: 0 };
        let vmm = Vmm::open(Pid::new(std::process::id())).unwrap();
        let (mut worker, reports) =
            worker_of(&vmm, vm_fd, &[slot], PolicyName::Immediate, Allowed::default()).unwrap();
        worker.make_backend = make_backend.unwrap_or(worker.make_backend);
        let tables = worker.tables.clone();
        let generation = tables.reset_generation(worker.index);
        let (jobs, receiver) = sync_channel(8);
        let (ending, ended) = sync_channel(0);
        thread::spawn(move || {
            let _ending = ending;
            worker.run(&receiver);
        });
        let guest = Self { file, address, jobs, reports, generation, tables, ended };
        for at in (0..BYTES).step_by(FRAME_SIZE as usize) {
            guest.write(at + FRAME_SIZE - 8, &1_u64.to_le_bytes());
        }
        guest.set(offset_of!(GuestHalf, magic), &MAGIC.to_le_bytes());
        guest.set(offset_of!(GuestHalf, abi_version), &ABI_VERSION.to_le_bytes());
        guest.set(offset_of!(GuestHalf, record_kind), &RECORD_LIST.to_le_bytes());
        guest.set(offset_of!(GuestHalf, cookie), &COOKIE.to_le_bytes());
        guest.set(offset_of!(GuestHalf, own_gpa), &0_u64.to_le_bytes());
        guest.set(offset_of!(GuestHalf, record_gpa), &FRAME_SIZE.to_le_bytes());
        guest.set(offset_of!(GuestHalf, record_size), &LIST_RECORD_SIZE.to_le_bytes());
        guest
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        for (at, byte) in (at..).zip(bytes) {
            assert!(at < BYTES);
            // SAFETY: inside the mapping, which lives as long as `self`.
            unsafe { ((self.address + at) as *mut u8).write_volatile(*byte) };
        }
    }

    fn set(&self, offset: usize, bytes: &[u8]) {
        self.write(offset as u64, bytes);
    }

    fn call(&self, op: CallOp) {
        let generation = self.generation;
        let call = Call { time_ns: clock::monotonic_ns(), generation, cookie: COOKIE, fingerprint: None, op };
        self.jobs.send(Job::Call(call)).unwrap();
    }

    /// The next report, within the limit.
    fn report(&mut self) -> Report {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.reports.try_recv() {
                Ok((_, report)) => return report,
                Err(_) => assert!(Instant::now() < deadline, "no report"),
            }
            thread::yield_now();
        }
    }

    fn hello(&mut self) {
        let hello = CallOp::Hello(Gpa::new(0));
        self.call(hello);
        assert!(matches!(self.answer(hello), Report::Hello { .. }));
    }

    /// The answer to a call; made again, as a guest does, where it came too late on a busy machine.
    fn answer(&mut self, op: CallOp) -> Report {
        loop {
            match self.report() {
                Report::Stale => self.call(op),
                Report::Malformed { why } | Report::Detached { why } => panic!("{why}"),
                answer => return answer,
            }
        }
    }

    /// Offers the block at 2 MiB, and rings.
    fn offer(&self, seq: u64) {
        self.offer_often(seq, 9, 1);
    }

    /// Offers what begins at 2 MiB and is of this order, so many times in one offer, and rings.
    fn offer_often(&self, seq: u64, order: u32, count: u32) {
        for index in 0..count {
            let next = if index + 1 == count { LIST_END } else { index + 1 };
            let mut entry = [0; 16];
            entry[..8].copy_from_slice(&(2 * MIB).to_le_bytes());
            entry[8..12].copy_from_slice(&order.to_le_bytes());
            entry[12..].copy_from_slice(&next.to_le_bytes());
            self.write(FRAME_SIZE + u64::from(index) * 16, &entry);
        }
        self.set(offset_of!(GuestHalf, offer_count), &count.to_le_bytes());
        self.set(offset_of!(GuestHalf, offer_seq), &seq.to_le_bytes());
        self.call(CallOp::Doorbell(seq));
    }

    fn held(&self) -> u64 {
        fstat(&self.file).unwrap().st_blocks as u64 * 512
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // SAFETY: this mapping is ours alone, and no reference points into it.
        unsafe { munmap(self.address as *mut _, BYTES as usize) }.unwrap();
    }
}

/// Whether calls may go on.
static GATE: (Mutex<bool>, Condvar) = (Mutex::new(false), Condvar::new());
/// Who wants to know that one has come.
static ARRIVED: Mutex<Option<Sender<()>>> = Mutex::new(None);

/// Stands still in a call until the gate opens: a VMM that does not let itself be served.
struct Stuck;

impl Backend for Stuck {
    fn name(&self) -> &'static str {
        "stuck"
    }
    fn prepare(&mut self, _: &Segment) -> Result<(), Obstacle> {
        Ok(())
    }
    fn held_bytes(&self) -> Result<u64, Failure> {
        Ok(0)
    }
    fn reclaim(&mut self, _: &crate::reclaim::backend::Call<'_>) -> Result<Effect, Failure> {
        ARRIVED.lock().unwrap().take().unwrap().send(()).unwrap();
        let mut open = GATE.0.lock().unwrap();
        while !*open {
            open = GATE.1.wait(open).unwrap();
        }
        Ok(Effect::Taken)
    }
    fn finish(&mut self) {}
}

fn stuck<'a>(_: BorrowedFd<'a>, _: Pid, _: Allowed, _: &'a mut KeptFiles) -> Box<dyn Backend + 'a> {
    Box::new(Stuck)
}

/// Batches, and those of them that found a file which the one before had kept open.
static BATCHES: Mutex<(u32, u32)> = Mutex::new((0, 0));

fn counted<'a>(
    proc_dir: BorrowedFd<'a>,
    pid: Pid,
    allowed: Allowed,
    kept: &'a mut KeptFiles,
) -> Box<dyn Backend + 'a> {
    let mut batches = BATCHES.lock().unwrap();
    batches.0 += 1;
    batches.1 += u32::from(!kept.is_empty());
    backend_for(proc_dir, pid, allowed, kept)
}

#[test]
fn files_stay_open_from_one_batch_to_the_next() {
    let test = "files_stay_open_from_one_batch_to_the_next";
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED {test}: map_files and the VM's lock need root");
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    if (numbers.next(), numbers.next()) < (Some(6), Some(11)) {
        return println!(
            "SKIPPED {test}: Linux {release} has no PROCMAP_QUERY (since 6.11): nothing is kept"
        );
    }
    let mut guest = Guest::start(70_004, Some(counted));
    guest.hello();
    // Right after each other; on a busy machine some may still come so late that it was let go.
    for seq in 1..=20 {
        guest.offer(seq);
        assert!(matches!(guest.answer(CallOp::Doorbell(seq)), Report::Claimed(_)));
        assert!(matches!(guest.report(), Report::Done(_)), "offer {seq}");
    }
    let (batches, kept) = *BATCHES.lock().unwrap();
    assert_eq!(batches, 20);
    assert!(kept > 0, "each batch opened the file anew");
}

#[test]
fn a_vm_that_stands_still_delays_no_other() {
    if !rustix::process::geteuid().is_root() {
        return println!(
            "SKIPPED a_vm_that_stands_still_delays_no_other: map_files and the VM's lock need root"
        );
    }
    let (arrived, stands) = channel();
    *ARRIVED.lock().unwrap() = Some(arrived);
    // Descriptors that no VM of this process has, so that each has a lock of its own.
    let (mut slow, mut fast) = (Guest::start(70_001, Some(stuck)), Guest::start(70_002, None));
    slow.hello();
    fast.hello();
    slow.offer(1);
    assert!(matches!(slow.answer(CallOp::Doorbell(1)), Report::Claimed(_)));
    stands.recv_timeout(LIMIT).unwrap();

    // In the middle of the other one's call, this one is served, again and again.
    for seq in 1..=20 {
        for at in (2 * MIB..4 * MIB).step_by(FRAME_SIZE as usize) {
            fast.write(at, &[7; 8]);
        }
        assert_eq!(fast.held(), BYTES);
        fast.offer(seq);
        assert!(matches!(fast.answer(CallOp::Doorbell(seq)), Report::Claimed(_)));
        let Report::Done(done) = fast.report() else { panic!("offer {seq} was not done") };
        assert_eq!(done.taken.outcome.ranges[0].result, crate::reclaim::outcome::RangeResult::Reclaimed);
        assert!(done.total_ns() < LIMIT.as_nanos() as u64 / 4);
        assert_eq!(fast.held(), BYTES - 2 * MIB);
    }
    assert!(slow.reports.try_recv().is_err(), "it still stands");

    // Nobody has to wait for its end, either; and when it can, it goes on where it stood.
    let (jobs, _) = sync_channel(1);
    drop(std::mem::replace(&mut slow.jobs, jobs));
    assert_eq!(slow.ended.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty));
    *GATE.0.lock().unwrap() = true;
    GATE.1.notify_all();
    // A claim that took too long is void; this one may have.
    assert!(matches!(slow.report(), Report::Done(_) | Report::Abandoned { .. } | Report::Detached { .. }));
    assert_eq!(slow.ended.recv_timeout(LIMIT), Err(RecvTimeoutError::Disconnected));
    let (jobs, _) = sync_channel(1);
    drop(std::mem::replace(&mut fast.jobs, jobs));
    assert_eq!(fast.ended.recv_timeout(LIMIT), Err(RecvTimeoutError::Disconnected));
}

#[test]
fn a_claim_is_void_after_a_reset_or_when_imr_was_stopped_for_longer_than_kexec_waits() {
    assert_eq!(why_void(true, 4_999_999_999), None);
    assert!(why_void(false, 0).unwrap().contains("reset"));
    assert!(why_void(true, 5_000_000_001).unwrap().contains("too long"));
}

#[test]
fn a_session_ends_with_a_reset_that_nobody_told_of() {
    if !rustix::process::geteuid().is_root() {
        return println!("SKIPPED a_session_ends_with_a_reset_that_nobody_told_of: the VM's lock needs root");
    }
    let mut guest = Guest::start(70_005, None);
    guest.hello();
    guest.offer(1);
    assert!(matches!(guest.answer(CallOp::Doorbell(1)), Report::Claimed(_)));
    assert!(matches!(guest.report(), Report::Done(_)));
    let held = guest.held();
    guest.tables.note_reset(0);
    guest.generation += 1;
    guest.offer(2);
    let said = loop {
        match guest.report() {
            Report::Stale => guest.call(CallOp::Doorbell(2)),
            other => break other,
        }
    };
    assert!(matches!(said, Report::Detached { why } if why.contains("reset")));
    assert!(matches!(guest.answer(CallOp::Doorbell(2)), Report::Settled), "its page is nobody's");
    assert_eq!(guest.held(), held);
    guest.hello();
    guest.call(CallOp::Doorbell(2));
    assert!(matches!(guest.answer(CallOp::Doorbell(2)), Report::Claimed(_)));
    assert!(matches!(guest.report(), Report::Done(_)));
}

#[test]
fn a_guest_that_names_too_much_is_not_heard_for_a_while() {
    if !rustix::process::geteuid().is_root() {
        return println!(
            "SKIPPED a_guest_that_names_too_much_is_not_heard_for_a_while: the VM's lock needs root"
        );
    }
    let mut guest = Guest::start(70_006, None);
    guest.hello();
    guest.offer_often(1, MAX_OFFER_ORDER, MAX_RANGES as u32);
    assert!(matches!(guest.answer(CallOp::Doorbell(1)), Report::Claimed(_)));
    let Report::Done(done) = guest.report() else { panic!("it is answered all the same") };
    assert!(done.taken.outcome.ranges.iter().all(|range| range.done_bytes == 0), "most of it is no RAM");
    guest.offer(2);
    assert!(matches!(guest.answer(CallOp::Doorbell(2)), Report::Limited));
    // It rings again, as a guest does, and is heard when its time has come.
    let deadline = Instant::now() + LIMIT;
    let ring = |guest: &mut Guest| {
        guest.call(CallOp::Doorbell(2));
        guest.answer(CallOp::Doorbell(2))
    };
    while matches!(ring(&mut guest), Report::Limited) {
        assert!(Instant::now() < deadline);
    }
}
