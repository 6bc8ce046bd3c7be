//! The VMM: a process of its own that owns guest memory and runs the vCPU in a thread of its own, as QEMU does.
//!
//! In: the kind and size of guest memory; questions on standard input. Out: answers on standard output. It ends with its
//! parent.

use std::io::{BufRead as _, Write as _};
use std::mem::offset_of;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use imr_common::guest_abi::{
    ABI_VERSION, ControlPage, GuestHalf, HostHalf, LIST_END, LIST_RECORD_SIZE, MAGIC, MAX_RANGES,
    RECORD_LIST, RESULT_RECLAIMED,
};
use rustix::mm::Advice;
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::time::{ClockId, clock_gettime};

use crate::ask::{Answer, Ask, Backing, CONTROL_GPA, COOKIE, FRAME, RECORD_GPA, Ranges};
use crate::guest::Guest;
use crate::memory::Memory;
use crate::missing::Missing;

/// What the guest writes; the same to every frame, so that KSM finds equal pages. Not zero: the kernel has shortcuts for
/// pages of zeros.
const CONTENT: u64 = 0x1234_5678_9abc_def0;

/// Serves until standard input ends.
pub(crate) fn serve(kind: &str, bytes: &str) -> Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot ask to end with the parent")?;
    let backing: Backing = serde_json::from_str(kind)?;
    match Vmm::start(backing, bytes.parse()?) {
        Ok((vmm, ready)) => {
            say(&ready)?;
            for line in std::io::stdin().lock().lines() {
                let ask = serde_json::from_str(&line.context("standard input")?)?;
                say(&vmm.answer(ask).unwrap_or_else(|error| failed(&error)))?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            say(&failed(&error))?;
            Ok(ExitCode::FAILURE)
        }
    }
}

fn failed(error: &anyhow::Error) -> Answer {
    Answer::Failed { why: format!("{error:#}"), missing: error.is::<Missing>() }
}

fn say(answer: &Answer) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, answer)?;
    writeln!(out)?;
    Ok(out.flush()?)
}

/// A stretch to touch: start and end, bytes; passes.
type Stretches = (Ranges, u64);

struct Vmm {
    memory: Memory,
    touch: SyncSender<Stretches>,
    touched: Receiver<Result<Answer>>,
}

impl Vmm {
    fn start(backing: Backing, bytes: u64) -> Result<(Self, Answer)> {
        let memory = Memory::map(backing, bytes)?;
        let (touch, work) = sync_channel(0);
        let (done, touched) = sync_channel(0);
        let mut guest = Guest::start(&memory)?;
        let ready =
            Answer::Ready { address: memory.address(), vm_fd: guest.vm_fd(), memory_fd: memory.file() };
        thread::Builder::new().name("CPU 0/KVM".into()).spawn(move || {
            for (ranges, passes) in work {
                if done.send(run(&mut guest, ranges, passes)).is_err() {
                    return;
                }
            }
        })?;
        let vmm = Self { memory, touch, touched };
        vmm.hello()?;
        Ok((vmm, ready))
    }

    fn answer(&self, ask: Ask) -> Result<Answer> {
        match ask {
            Ask::Touch { ranges, passes } => {
                self.touch.send((ranges, passes)).context("the vCPU thread has ended")?;
                self.touched.recv().context("the vCPU thread has ended")?
            }
            Ask::Offer { ranges, seq } => {
                self.offer(ranges, seq)?;
                Ok(Answer::Is(true))
            }
            Ask::Reclaimed { seq, count } => self.reclaimed(seq, count).map(Answer::Is),
            Ask::Discard { ranges } => timed(|| {
                ranges
                    .starts()
                    .try_for_each(|start| self.memory.advise_part(start, ranges.bytes, Advice::LinuxDontNeed))
            }),
            Ask::Mergeable => {
                self.memory.advise(Advice::LinuxMergeable)?;
                Ok(Answer::Is(true))
            }
        }
    }

    /// Fills the control page, as the module does when it is loaded.
    fn hello(&self) -> Result<()> {
        let field = |offset: usize, bytes: &[u8]| self.memory.write(CONTROL_GPA + offset as u64, bytes);
        field(offset_of!(GuestHalf, abi_version), &ABI_VERSION.to_le_bytes())?;
        field(offset_of!(GuestHalf, record_kind), &RECORD_LIST.to_le_bytes())?;
        field(offset_of!(GuestHalf, cookie), &COOKIE.to_le_bytes())?;
        field(offset_of!(GuestHalf, own_gpa), &CONTROL_GPA.to_le_bytes())?;
        field(offset_of!(GuestHalf, record_gpa), &RECORD_GPA.to_le_bytes())?;
        field(offset_of!(GuestHalf, record_size), &LIST_RECORD_SIZE.to_le_bytes())?;
        field(offset_of!(GuestHalf, magic), &MAGIC.to_le_bytes())
    }

    fn offer(&self, ranges: Ranges, seq: u64) -> Result<()> {
        let count = u32::try_from(ranges.count)?;
        if count == 0 || count as usize > MAX_RANGES || !ranges.bytes.is_power_of_two() {
            bail!("{ranges:?} is no offer");
        }
        let order = (ranges.bytes / FRAME).trailing_zeros();
        for (index, start) in (0..count).zip(ranges.starts()) {
            let next = if index + 1 == count { LIST_END } else { index + 1 };
            let mut entry = [0; 16];
            entry[..8].copy_from_slice(&start.to_le_bytes());
            entry[8..12].copy_from_slice(&order.to_le_bytes());
            entry[12..].copy_from_slice(&next.to_le_bytes());
            self.memory.write(RECORD_GPA + u64::from(index) * 16, &entry)?;
        }
        let field = |offset: usize, bytes: &[u8]| self.memory.write(CONTROL_GPA + offset as u64, bytes);
        field(offset_of!(GuestHalf, offer_count), &count.to_le_bytes())?;
        field(offset_of!(GuestHalf, offer_head), &0_u32.to_le_bytes())?;
        field(offset_of!(GuestHalf, offer_seq), &seq.to_le_bytes())
    }

    fn reclaimed(&self, seq: u64, count: u64) -> Result<bool> {
        let host = CONTROL_GPA + offset_of!(ControlPage, host) as u64;
        let mut done = [0; 8];
        self.memory.read(host + offset_of!(HostHalf, done_seq) as u64, &mut done)?;
        let mut results = vec![0; usize::try_from(count)?];
        self.memory.read(host + offset_of!(HostHalf, results) as u64, &mut results)?;
        Ok(u64::from_le_bytes(done) == seq && results.iter().all(|result| *result == RESULT_RECLAIMED))
    }
}

fn run(guest: &mut Guest, ranges: Ranges, passes: u64) -> Result<Answer> {
    timed(|| ranges.starts().try_for_each(|start| guest.touch(start, start + ranges.bytes, passes, CONTENT)))
}

/// Does it, in this thread, and tells how long it took.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<Answer> {
    let (start, cpu) = (Instant::now(), thread_cpu_ns());
    work()?;
    let cpu_ns = thread_cpu_ns().saturating_sub(cpu);
    Ok(Answer::Done { wall_ns: u64::try_from(start.elapsed().as_nanos())?, cpu_ns })
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // The kernel gives no negative time.
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
