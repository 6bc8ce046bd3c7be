//! A victim as its test sees it: started, read, ticked, and killed at the end.
//!
//! In: a kind of victim. Out: its memory and figures, through process_vm_readv(2), so that watching never stops it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use imr_user::ingest::discovery::FoundSlot;
use imr_user::ingest::vmm::Vmm;
use imr_user::model::backing::Segment;
use imr_user::model::ids::{Hva, Pid};
use imr_user::reclaim::backend::{Backend, Call, Failure};
use imr_user::reclaim::inject::Inject;
use rustix::fs::{Mode, OFlags, open};

use super::victim::{Figures, KINDS, Kind, REGION, pattern};
use super::{LIMIT, ROLE};

/// A victim. Killed when dropped.
pub(super) struct Victim {
    child: Child,
    /// Its regions: pages of 4 KiB, huge pages.
    pub(super) regions: [u64; 2],
    figures: u64,
    /// What is in the regions that nothing was taken from.
    patterns: [Vec<u64>; 2],
    ticking: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
}

impl Victim {
    /// Starts one and waits until it is there. With `signals`, queued signals are sent to it all the time.
    pub(super) fn start(kind: &str, signals: bool) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(ROLE, format!("victim {kind}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let numbers: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let mut input = child.stdin.take().unwrap();
        let ticking = Arc::new(AtomicBool::new(true));
        let (is_ticking, pid) = (Arc::clone(&ticking), child.id());
        let ticker = thread::spawn(move || {
            let mut sent = 0_u64;
            for tick in 0_u64.. {
                if !is_ticking.load(SeqCst) {
                    break;
                }
                // A pace, not a wait: the victim has to be caught asleep, too.
                thread::sleep(Duration::from_millis(1));
                // Nobody may be reading; then the pipe is full after eight seconds, and the ticks end with the victim.
                if input.write_all(&tick.to_le_bytes()).is_err() {
                    break;
                }
                if signals {
                    sent += u64::from(queue_signal(pid, sent));
                }
            }
        });
        let patterns =
            [numbers[0], numbers[1]].map(|start| (start..start + REGION).step_by(8).map(pattern).collect());
        Self {
            child,
            regions: [numbers[0], numbers[1]],
            figures: numbers[2],
            patterns,
            ticking,
            ticker: Some(ticker),
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn proc_dir(&self) -> OwnedFd {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        open(format!("/proc/{}", self.pid()), flags, Mode::empty()).unwrap()
    }

    /// A region as the RAM of a VM.
    pub(super) fn segment(&self, region: usize) -> Segment {
        let slot = FoundSlot {
            id: 0,
            base_gfn: 0,
            npages: REGION / 4096,
            userspace_addr: self.regions[region],
            flags: 0,
        };
        let mut segments = Vmm::open(Pid::new(self.pid())).unwrap().segments(&[slot]).unwrap().remove(0);
        assert_eq!(segments.len(), 1, "{segments:?}");
        segments.remove(0)
    }

    pub(super) fn read(&self, address: u64, bytes: u64) -> Vec<u64> {
        let mut words = vec![0_u64; (bytes / 8) as usize];
        let local = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: bytes as usize };
        let remote = libc::iovec { iov_base: address as *mut _, iov_len: bytes as usize };
        let pid = self.pid() as i32;
        // SAFETY: `local` names `words`, which has that many bytes.
        let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
        assert_eq!(read, bytes as isize, "{}", std::io::Error::last_os_error());
        words
    }

    /// Puts the pattern back.
    pub(super) fn fill(&self, start: u64, bytes: u64) {
        let words = self.pattern(start, bytes);
        let local = libc::iovec { iov_base: words.as_ptr().cast_mut().cast(), iov_len: bytes as usize };
        let remote = libc::iovec { iov_base: start as *mut _, iov_len: bytes as usize };
        let pid = self.pid() as i32;
        // SAFETY: `local` names `words`, which is only read.
        let written = unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
        assert_eq!(written, bytes as isize, "{}", std::io::Error::last_os_error());
    }

    /// Whether that part is as it was.
    pub(super) fn is_whole(&self, start: u64, bytes: u64) -> bool {
        self.read(start, bytes) == self.pattern(start, bytes)
    }

    fn pattern(&self, start: u64, bytes: u64) -> &[u64] {
        let region = usize::from(!(self.regions[0]..=self.regions[0] + REGION).contains(&start));
        let first = ((start - self.regions[region]) / 8) as usize;
        &self.patterns[region][first..first + (bytes / 8) as usize]
    }

    pub(super) fn is_zero(&self, start: u64, bytes: u64) -> bool {
        self.read(start, bytes) == vec![0; (bytes / 8) as usize]
    }

    /// Errors, signals, rounds.
    pub(super) fn figures(&self) -> (u64, u64, [u64; KINDS.len()]) {
        let words = self.read(self.figures, size_of::<Figures>() as u64);
        (words[0], words[1], words[2..].try_into().unwrap())
    }

    /// Waits until every thread that has ever been round has been round again, twice: once may have been under way.
    pub(super) fn expect_life(&self, doing: &[Kind], what: &str) {
        let (_, _, before) = self.figures();
        let start = Instant::now();
        loop {
            let (errors, _, now) = self.figures();
            assert_eq!(errors, 0, "{what}: see what the victim said above");
            if doing.iter().all(|kind| now[*kind as usize] >= before[*kind as usize] + 2) {
                return;
            }
            assert!(
                start.elapsed() < LIMIT,
                "{what}: {before:?} became {now:?} of {doing:?}\n{}",
                self.threads()
            );
            thread::sleep(Duration::from_micros(300));
        }
    }

    /// What /proc says of its threads, for the text of a failure.
    fn threads(&self) -> String {
        let mut text = String::new();
        for entry in fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap() {
            let path = entry.unwrap().path();
            for file in ["stat", "syscall", "wchan"] {
                text.push_str(fs::read_to_string(path.join(file)).unwrap_or_default().trim());
                text.push('\n');
            }
        }
        text
    }

    /// One batch of these calls (address, bytes); answers what each did, and what the backend measured.
    pub(super) fn inject(&self, segment: &Segment, calls: &[(u64, u64)]) -> (Vec<Result<(), Failure>>, u64) {
        let proc_dir = self.proc_dir();
        let mut inject = Inject::new(std::os::fd::AsFd::as_fd(&proc_dir), Pid::new(self.pid()));
        inject.prepare(segment).unwrap();
        let before = inject.held_bytes().unwrap();
        let did = calls
            .iter()
            .map(|&(start, bytes)| inject.reclaim(&call(segment, start, bytes)).map(drop))
            .collect();
        let freed = before - inject.held_bytes().unwrap();
        inject.finish();
        (did, freed)
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        // It must not see its input end.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.ticking.store(false, SeqCst);
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
    }
}

/// A call for that part of a segment.
pub(super) fn call(segment: &Segment, start: u64, bytes: u64) -> Call<'_> {
    let skipped = start - segment.hva.get();
    Call {
        segment,
        base_gfn: imr_user::model::ids::Gfn::new(segment.base_gfn.get() + skipped / 4096),
        hva: Hva::new(start),
        file_offset: skipped,
        bytes,
    }
}

/// False where the victim's queue is full: it is counted again.
fn queue_signal(pid: u32, value: u64) -> bool {
    let value = libc::sigval { sival_ptr: value as *mut _ };
    // SAFETY: no pointers are followed: the value is a number.
    unsafe { libc::sigqueue(pid as i32, libc::SIGRTMIN(), value) == 0 }
}
