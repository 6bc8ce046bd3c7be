//! A process that does as it is told, a letter at a time: also wait where no stop reaches it, as vfork(2) does.
//!
//! In: letters. Out: the same letters, when done. It is a fork of the test with its threads gone, so it makes system calls
//! only.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid as Child, Signal, WaitOptions, getpid, kill_process, waitpid};

use crate::reclaim::inject::ptrace::Tracee;
use crate::reclaim::testing::Ram;

/// Whatever is waited for comes within this.
const LIMIT: Duration = Duration::from_secs(20);
/// It makes a child, and waits until that has read the next letter and ended.
pub(super) const VFORK: u8 = b'v';
/// The second page of its RAM is read-only from now on.
pub(super) const PROTECT: u8 = b'p';
/// Its RAM is of one kind again.
pub(super) const UNPROTECT: u8 = b'u';
/// Nothing.
pub(super) const ECHO: u8 = b'e';

/// A puppet. Killed when dropped.
pub(super) struct Puppet {
    child: Child,
    ask: PipeWriter,
    told: PipeReader,
}

impl Puppet {
    /// Starts one that has a copy of `ram`. `None`, and says so, where `test` has to be skipped.
    pub(super) fn start(test: &str, ram: &Ram) -> Option<Self> {
        let (asked, ask) = pipe().unwrap();
        let (told, tell) = pipe().unwrap();
        // SAFETY: the child makes system calls only, until it ends.
        let child = unsafe { libc::fork() };
        assert!(child >= 0);
        if child == 0 {
            obey(&asked, &tell, ram.address());
        }
        let puppet = Self { child: Child::from_raw(child).unwrap(), ask, told };
        match Tracee::seize(puppet.pid()) {
            Ok(tracee) => {
                tracee.interrupt().unwrap();
                puppet.await_state('t');
                tracee.detach(0).unwrap();
                Some(puppet)
            }
            Err(errno) => {
                println!("SKIPPED {test}: this process may not ptrace its child: {errno}");
                None
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_raw_nonzero().get().cast_unsigned()
    }

    pub(super) fn send(&mut self, letter: u8) {
        self.ask.write_all(&[letter]).unwrap();
    }

    /// What it says next.
    pub(super) fn says(&mut self) -> u8 {
        let mut letter = [0];
        self.told.read_exact(&mut letter).unwrap();
        letter[0]
    }

    pub(super) fn state(&self) -> char {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
    }

    pub(super) fn await_state(&self, wanted: char) {
        until(|| self.state() == wanted, || format!("state {} instead of {wanted}", self.state()));
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        // A child of its own ends with the last writer of its letters.
        let _ = kill_process(self.child, Signal::KILL);
        let _ = waitpid(Some(self.child), WaitOptions::empty());
    }
}

/// Waits for it.
pub(super) fn until(mut so: impl FnMut() -> bool, what: impl Fn() -> String) {
    let begin = Instant::now();
    while !so() {
        assert!(begin.elapsed() < LIMIT, "{}", what());
        std::thread::yield_now();
    }
}

fn obey(asked: &PipeReader, tell: &PipeWriter, ram: u64) -> ! {
    let me = getpid();
    loop {
        let mut letter = [0_u8];
        // SAFETY: room for a byte.
        let read = unsafe { libc::read(asked.as_raw_fd(), letter.as_mut_ptr().cast(), 1) };
        // A copy made by an injected vfork: its life is over.
        if read != 1 || getpid() != me {
            exit();
        }
        match letter[0] {
            VFORK => {
                // SAFETY: without CLONE_VM the child has memory of its own.
                let child = unsafe { libc::syscall(libc::SYS_clone, vfork_flags(), 0, 0, 0, 0) };
                if child == 0 {
                    // SAFETY: room for a byte.
                    unsafe { libc::read(asked.as_raw_fd(), letter.as_mut_ptr().cast(), 1) };
                    exit();
                }
            }
            PROTECT => protect(ram, libc::PROT_READ),
            UNPROTECT => protect(ram, libc::PROT_READ | libc::PROT_WRITE),
            _ => {}
        }
        // SAFETY: a byte.
        unsafe { libc::write(tell.as_raw_fd(), letter.as_ptr().cast(), 1) };
    }
}

fn protect(ram: u64, access: i32) {
    // SAFETY: a page of the puppet's own copy of the RAM, which nothing in it refers to.
    unsafe { libc::mprotect((ram + 4096) as *mut _, 4096, access) };
}

/// Of a vfork(2) whose child has memory of its own.
pub(super) fn vfork_flags() -> u64 {
    (libc::CLONE_VFORK | libc::SIGCHLD) as u64
}

fn exit() -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(0) }
}
