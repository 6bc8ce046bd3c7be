//! Idle memory goes to swap and comes back whole: the whole turn, on another process' memory and a real swap file.
//!
//! In: this program again as a child (`IMR_PAGEOUT_CHILD`), which stands in for a VMM and holds a pattern. Out: a
//! verdict a test. The shared table is filled in here, as no guest runs; all else is the machine's. Swap that was turned
//! on is turned off and deleted, however a test ends.

use std::env;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use imr_tests::ring::Verdict;
use imr_user::ingest::discovery::FoundSlot;
use imr_user::ingest::residency::ResidencyReader;
use imr_user::ingest::tables::Tables;
use imr_user::ingest::vmm::Vmm;
use imr_user::model::block::{BlockState, HostFact, Residency};
use imr_user::model::ids::{BlockId, Gfn, Hva, Pid, VmId};
use imr_user::model::pageout::PageoutCounters;
use imr_user::pipeline::pageout::{Order, Pager, turn};
use imr_user::policy::idle::{Pause, Settings};
use imr_user::reclaim::guards::{SlotFacts, VmFacts};
use imr_user::reclaim::pageout::{PageoutError, Step, Stretch, advise, vm_hindrance};
use rustix::fs::MemfdFlags;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::time::{ClockId, clock_gettime};

use crate::residency::{BLOCK, FRAME, Memory, SwapFile, memfd};

/// What the child is to hold; where it is not set, this is no child.
const CHILD: &str = "IMR_PAGEOUT_CHILD";
const BLOCKS: usize = 10;
const BYTES: u64 = (BLOCKS * BLOCK) as u64;
const FRAMES: u16 = 512;
const SECOND_NS: u64 = 1_000_000_000;

/// The child: holds a pattern, says where, and verifies it at each line that it is sent, until there are no more.
pub(super) fn child() -> Option<ExitCode> {
    let kind = env::var(CHILD).ok()?;
    let file = (kind == "shared").then(|| memfd(MemfdFlags::empty(), BLOCKS).unwrap());
    let memory = match &file {
        Some(file) => Memory::shared_aligned(file, BLOCKS * BLOCK),
        None => Memory::anonymous(BLOCKS * BLOCK),
    };
    let pattern = |frame: usize| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(frame as u64 + 1);
    (0..BLOCKS * BLOCK / FRAME).for_each(|frame| memory.write(frame, pattern(frame)));
    if kind == "locked" {
        mlockall(MlockAllFlags::CURRENT).unwrap();
    }
    println!("{}", memory.address());
    for line in std::io::stdin().lines() {
        let frames = line.unwrap().parse().unwrap();
        println!("{}", (0..frames).filter(|frame| memory.read(*frame) != pattern(*frame)).count());
    }
    Some(ExitCode::SUCCESS)
}

struct Holder {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    vmm: Arc<Vmm>,
    address: u64,
}

impl Holder {
    fn new(kind: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        let mut child =
            command.env(CHILD, kind).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let vmm = Arc::new(Vmm::open(Pid::new(child.id())).unwrap());
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut holder = Self { child, input, output, vmm, address: 0 };
        holder.address = holder.answer();
        holder
    }

    fn answer(&mut self) -> u64 {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().parse().unwrap()
    }

    /// Has the child read its first frames; how many are not as they were written.
    fn wrong_frames(&mut self, frames: usize) -> u64 {
        writeln!(self.input.as_mut().unwrap(), "{frames}").unwrap();
        self.answer()
    }

    /// Its memory as a guest's, from block 1 on.
    fn facts(&self) -> SlotFacts {
        let npages = (BLOCKS * BLOCK / FRAME) as u64;
        let slot = FoundSlot { id: 0, base_gfn: 512, npages, userspace_addr: self.address, flags: 0 };
        let segments = self.vmm.segments(&[slot]).unwrap().remove(0);
        SlotFacts { base_gfn: Gfn::new(512), npages, readonly: false, followed: true, segments }
    }

    fn residency(&self) -> Vec<Residency> {
        let mut found = vec![Residency::default(); BLOCKS];
        let mut reader = ResidencyReader::open(&self.vmm).unwrap();
        reader.read(&self.facts().segments, BlockId::new(1), &mut found).unwrap();
        found
    }

    fn swapped(&self) -> Vec<u16> {
        self.residency().iter().map(|block| block.swapped).collect()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.input.take());
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("the child {} is left behind: {error}", self.child.id());
        }
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * SECOND_NS + now.tv_nsec as u64
}

/// A guest whose blocks were mapped a minute ago; all but the last two were found untouched just now.
struct Guest {
    tables: Tables,
    pager: Option<Pager>,
}

impl Guest {
    fn new() -> Self {
        let tables = Tables::in_memory(BLOCKS as u64).unwrap();
        let now_ns = now_ns();
        for index in 0..BLOCKS as u64 {
            (0..512).for_each(|frame| tables.note_mapped(index, frame, now_ns - 60 * SECOND_NS));
            tables.note_aged(index, now_ns);
            if index >= BLOCKS as u64 - 2 {
                tables.note_young(index, now_ns);
            }
        }
        Self { tables, pager: Some(Pager::new(Settings::default())) }
    }

    /// The next turn, with so much room in swap.
    fn turn(&mut self, holder: &Holder, swap_room: u64) -> (PageoutCounters, Option<Pause>) {
        let idle = BlockState { fact: HostFact::Idle, resident_frames: FRAMES, ..BlockState::default() };
        let done = turn(Order {
            vm: VmId::new(1),
            layout: 1,
            vmm: Arc::clone(&holder.vmm),
            slots: vec![(holder.facts(), std::iter::repeat_n(idle, BLOCKS).collect(), Some(0))],
            tables: self.tables.clone(),
            young_since: 0,
            swap_room,
            pager: self.pager.take().unwrap(),
            stop: Arc::new(AtomicBool::new(false)),
        });
        assert!(done.trouble.is_none(), "{:?}", done.trouble);
        self.pager = Some(done.pager);
        (done.counters, done.pause)
    }
}

/// First cold, then out, then back.
fn goes_out_and_comes_back(kind: &str) -> Verdict {
    let _swap = match SwapFile::new() {
        Ok(swap) => swap,
        Err(why) => return Verdict::Skipped(why),
    };
    let mut holder = Holder::new(kind);
    let mut guest = Guest::new();
    assert_eq!(vm_hindrance(&VmFacts { slots: vec![holder.facts()], ..VmFacts::default() }), Ok(()));

    let wanted = PageoutCounters { cold_bytes: 8 << 21, ..PageoutCounters::default() };
    assert_eq!(guest.turn(&holder, BYTES), (wanted, None));
    assert_eq!(holder.swapped(), [0; BLOCKS], "cold memory stays");

    let (out, _) = guest.turn(&holder, 5 << 21);
    let went = out.out_bytes;
    assert_eq!(out.asked_bytes, 5 << 21, "no more than there is room for");
    assert!(went >= 5 * (2 << 20) * 9 / 10 && out.mismatches == 0, "{out:?}");
    let swapped = holder.swapped();
    assert_eq!(swapped.iter().map(|frames| u64::from(*frames) * FRAME as u64).sum::<u64>(), went);
    assert_eq!(swapped[5..], [0; 5]);
    if kind == "private" {
        assert_eq!(holder.vmm.swap_bytes(), Some(went), "the kernel's own number");
    }

    let (rest, _) = guest.turn(&holder, BYTES);
    assert_eq!(rest.asked_bytes, 3 << 21, "what went out is not asked again");
    let swapped = holder.swapped();
    assert!(swapped[..8].iter().all(|frames| *frames >= FRAMES * 9 / 10), "{swapped:?}");
    assert_eq!(swapped[8..], [0; 2], "what the guest touches stays");

    // The guest reads the first three blocks: three eighths of what went out, and soon.
    assert_eq!(holder.wrong_frames(3 * 512), 0);
    let now_ns = now_ns();
    for index in 0..3 {
        (0..512).for_each(|frame| guest.tables.note_unmapped(index, frame));
        (0..512).for_each(|frame| guest.tables.note_mapped(index, frame, now_ns));
    }
    let (back, pause) = guest.turn(&holder, BYTES);
    assert_eq!((pause, back.rests), (Some(Pause::Regret), 1));
    assert!(back.back_bytes >= 3 * (2 << 20) * 9 / 10, "{back:?}");
    assert_eq!(holder.wrong_frames(BLOCKS * 512), 0, "all of it is as it was written");
    assert_eq!(holder.residency().iter().map(|block| block.resident).sum::<u16>(), FRAMES * BLOCKS as u16);
    Verdict::Passed
}

pub(super) fn private() -> Verdict {
    root_or_skip!();
    goes_out_and_comes_back("private")
}

pub(super) fn shared() -> Verdict {
    root_or_skip!();
    goes_out_and_comes_back("shared")
}

/// Another process maps the same pages: the kernel takes the advice and does nothing. That is seen, and the VM left alone.
pub(super) fn nothing_goes_out() -> Verdict {
    root_or_skip!();
    let _swap = match SwapFile::new() {
        Ok(swap) => swap,
        Err(why) => return Verdict::Skipped(why),
    };
    let mut holder = Holder::new("shared");
    let segment = holder.facts().segments.remove(0);
    let (start, end) = (segment.vma_start.get(), segment.vma_end.get());
    let path = format!("/proc/{}/map_files/{start:x}-{end:x}", holder.child.id());
    let file = File::options().read(true).write(true).open(path).unwrap();
    let other = Memory::shared_aligned(&file, BLOCKS * BLOCK);
    (0..BLOCKS * BLOCK / FRAME).for_each(|frame| assert_ne!(other.read(frame), 0));

    let mut guest = Guest::new();
    guest.turn(&holder, BYTES);
    let wanted = PageoutCounters { asked_bytes: 8 << 21, mismatches: 1, ..PageoutCounters::default() };
    assert_eq!(guest.turn(&holder, BYTES), (wanted, None));
    assert_eq!(guest.turn(&holder, BYTES).1, Some(Pause::NothingGoesOut));
    assert_eq!((holder.swapped(), holder.wrong_frames(BLOCKS * 512)), (vec![0; BLOCKS], 0));
    Verdict::Passed
}

/// Locked memory is named by the guard; the kernel would not do it either. Nor does it a hole, which ends no call.
pub(super) fn locked_and_holes() -> Verdict {
    root_or_skip!();
    let mut locked = Holder::new("locked");
    let facts = VmFacts { slots: vec![locked.facts()], ..VmFacts::default() };
    assert_eq!(vm_hindrance(&facts).unwrap_err().name(), "locked");
    let stretch = |hva| Stretch { hva: Hva::new(hva), bytes: BLOCK as u64 };
    let advised = advise(locked.vmm.pidfd(), Step::Out, &[stretch(locked.address)]).unwrap();
    assert_eq!((advised.bytes, advised.skipped_bytes), (0, BLOCK as u64));
    assert_eq!(locked.wrong_frames(BLOCKS * 512), 0);

    let holder = Holder::new("private");
    // Nothing is mapped below mmap_min_addr, nor is anything at the end of the address space.
    let parts = [4096, holder.address, 0x7fff_ff00_0000, holder.address + BLOCK as u64].map(stretch);
    let advised = advise(holder.vmm.pidfd(), Step::Cold, &parts).unwrap();
    assert_eq!((advised.bytes, advised.skipped_bytes), (2 * BLOCK as u64, 2 * BLOCK as u64));

    let vmm = Arc::clone(&holder.vmm);
    drop(holder);
    let gone = advise(vmm.pidfd(), Step::Cold, &parts).unwrap_err();
    assert_eq!(gone, PageoutError::Gone);
    Verdict::Passed
}
