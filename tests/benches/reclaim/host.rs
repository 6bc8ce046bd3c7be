//! The measuring process' side of one VMM: it starts it, asks it, ends it.
//!
//! In: the kind and size of guest memory. Out: answers, and what imr's host side needs to know of the VM. Guest memory
//! is touched by the guest alone.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use imr_user::ingest::discovery::FoundSlot;
use imr_user::ingest::vmm::Vmm;
use imr_user::model::ids::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use crate::ask::{Answer, Ask, Backing, FRAME, Ranges};
use crate::missing::Missing;
use crate::undo::Change;

/// How long something took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Took {
    /// By the clock, ns.
    pub(crate) wall_ns: u64,
    /// That the thread was running, ns.
    pub(crate) cpu_ns: u64,
}

/// A VMM process with its tiny guest.
pub(crate) struct Host {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    _ends: Change,
    /// The VMM as imr sees it.
    pub(crate) vmm: Arc<Vmm>,
    /// The VM's descriptor in the VMM.
    pub(crate) vm_fd: u32,
    /// Its only memory slot.
    pub(crate) slot: FoundSlot,
    /// The file of guest memory.
    memory: Option<File>,
}

impl Host {
    /// Starts a VMM whose guest has `bytes` of memory.
    ///
    /// # Errors
    /// [`Missing`] where the machine cannot have such a guest.
    pub(crate) fn start(backing: Backing, bytes: u64) -> Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut child = Command::new(program)
            .args(["--vmm", &serde_json::to_string(&backing)?, &bytes.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the VMM")?;
        let pid = Pid::new(child.id());
        let _ends = Change::process(pidfd(pid)?)?;
        let asks = child.stdin.take().context("the VMM has no standard input")?;
        let mut answers = BufReader::new(child.stdout.take().context("the VMM has no standard output")?);
        let Answer::Ready { address, vm_fd, memory_fd } = read(&mut answers)? else {
            bail!("the VMM does not say where guest memory is");
        };
        let vmm = Arc::new(Vmm::open(pid)?);
        let slot = FoundSlot { id: 0, base_gfn: 0, npages: bytes / FRAME, userspace_addr: address, flags: 0 };
        let memory = if memory_fd < 0 {
            None
        } else {
            let path = format!("/proc/{pid}/fd/{memory_fd}");
            Some(File::options().read(true).write(true).open(&path).with_context(|| path)?)
        };
        Ok(Self { child, asks, answers, _ends, vmm, vm_fd: u32::try_from(vm_fd)?, slot, memory })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> Pid {
        self.vmm.pid()
    }

    /// The file of guest memory.
    pub(crate) fn memory(&self) -> Result<&File> {
        self.memory.as_ref().context("this guest's memory is no file")
    }

    /// Where a guest-physical address is in the VMM.
    pub(crate) fn hva(&self, gpa: u64) -> u64 {
        self.slot.userspace_addr + gpa
    }

    /// The guest writes to every frame of the ranges.
    pub(crate) fn touch(&mut self, ranges: Ranges) -> Result<Took> {
        self.touch_again(ranges, 1)
    }

    /// The same, so many times.
    pub(crate) fn touch_again(&mut self, ranges: Ranges, passes: u64) -> Result<Took> {
        self.timed(Ask::Touch { ranges, passes })
    }

    /// The VMM gives the ranges back by itself.
    pub(crate) fn discard(&mut self, ranges: Ranges) -> Result<Took> {
        self.timed(Ask::Discard { ranges })
    }

    fn timed(&mut self, ask: Ask) -> Result<Took> {
        match self.ask(ask)? {
            Answer::Done { wall_ns, cpu_ns } => Ok(Took { wall_ns, cpu_ns }),
            other => bail!("the VMM answers {ask:?} with {other:?}"),
        }
    }

    /// Asks, where the answer is yes or no.
    pub(crate) fn is(&mut self, ask: Ask) -> Result<bool> {
        match self.ask(ask)? {
            Answer::Is(answer) => Ok(answer),
            other => bail!("the VMM answers {ask:?} with {other:?}"),
        }
    }

    fn ask(&mut self, ask: Ask) -> Result<Answer> {
        let mut line = serde_json::to_vec(&ask)?;
        line.push(b'\n');
        self.asks.write_all(&line).context("the VMM does not listen")?;
        read(&mut self.answers)
    }

    /// The sum of a field over the VMAs of guest memory, bytes.
    pub(crate) fn smaps(&self, field: &str) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps", self.pid())).context("smaps of the VMM")?;
        let (start, end) = (self.slot.userspace_addr, self.hva(self.slot.npages * FRAME));
        let mut inside = false;
        let mut kib = 0;
        for line in text.lines() {
            let first = line.split_ascii_whitespace().next().unwrap_or_default();
            if let Some((from, to)) = first.split_once('-')
                && let (Ok(from), Ok(to)) = (u64::from_str_radix(from, 16), u64::from_str_radix(to, 16))
            {
                inside = from >= start && to <= end;
            } else if inside
                && let Some(value) = line.strip_prefix(field).and_then(|rest| rest.strip_prefix(':'))
            {
                kib += value.trim().trim_end_matches(" kB").parse::<u64>().context("smaps of the VMM")?;
            }
        }
        Ok(kib * 1024)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Killed here and not by the guard, so that it is gone when its memory is asked for next.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pidfd(pid: Pid) -> Result<OwnedFd> {
    let raw =
        i32::try_from(pid.get()).ok().and_then(rustix::process::Pid::from_raw).context("no such pid")?;
    pidfd_open(raw, PidfdFlags::empty()).context("pidfd_open of the VMM")
}

fn read(answers: &mut impl BufRead) -> Result<Answer> {
    let mut line = String::new();
    if answers.read_line(&mut line).context("the VMM's answer")? == 0 {
        bail!("the VMM has ended without an answer");
    }
    match serde_json::from_str(&line)? {
        Answer::Failed { why, missing: true } => Err(Missing(why).into()),
        Answer::Failed { why, missing: false } => bail!("the VMM: {why}"),
        answer => Ok(answer),
    }
}
