//! A program on a pseudo-terminal of its own.
//!
//! In: a command line, bytes to type. Out: the bytes it wrote, whether it has ended and how. Dropped, the program is
//! dead and reaped. Must not interpret what is written, nor block anywhere but in [`Pty::wait`].

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcsetwinsize};

use crate::terminal::Size;

/// How long the program may take to end after SIGTERM.
const TERM_LIMIT: Duration = Duration::from_secs(2);
const CHUNK: usize = 16 * 1024;

/// A running program and our side of its terminal.
#[derive(Debug)]
pub struct Pty {
    terminal: OwnedFd,
    child: Child,
    pid: Pid,
    /// Readable once the program has ended.
    end: OwnedFd,
    /// As a shell says it; `None` while it runs.
    status: Option<i32>,
    /// Nobody has the other side open any more, and all that was written there has been read.
    closed: bool,
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// Output to read, room to write, or an end to take note of.
    Yes,
    /// The time was over first.
    Late,
}

impl Pty {
    /// Starts `command` as the leader of a session with the terminal as its controlling one.
    pub fn start(command: &[String], environment: &[(String, String)], size: Size) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = rustix::pty::openpt(flags)?;
        rustix::pty::unlockpt(&terminal)?;
        rustix::fs::fcntl_setfl(&terminal, OFlags::NONBLOCK)?;
        tcsetwinsize(&terminal, winsize(size))?;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&terminal, flags)?;
        let (program, arguments) =
            command.split_first().ok_or_else(|| io::Error::other("there is no program to start"))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            // They would speak of the terminal that we were started on.
            .env_remove("COLUMNS")
            .env_remove("LINES")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(theirs.try_clone()?))
            .stdout(Stdio::from(theirs.try_clone()?))
            .stderr(Stdio::from(theirs.try_clone()?));
        let become_leader = move || {
            rustix::process::setsid()?;
            rustix::process::ioctl_tiocsctty(&theirs)?;
            // Should we be killed ourselves, the kernel ends it.
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes three system calls on what it owns; it neither allocates
        // nor takes a lock.
        unsafe { command.pre_exec(become_leader) };
        let child = command.spawn()?;
        let pid = Pid::from_child(&child);
        // It cannot be reaped before we do it, so the number is still its own.
        let end = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self { terminal, child, pid, end, status: None, closed: false })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until there is output or the program has ended, or, with `to_write`, until there is room to write.
    pub fn wait(&self, until: Instant, to_write: bool) -> io::Result<Ready> {
        let events = if to_write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut descriptors = Vec::with_capacity(2);
        if !self.closed {
            descriptors.push(PollFd::new(&self.terminal, events));
        }
        if self.status.is_none() {
            descriptors.push(PollFd::new(&self.end, PollFlags::IN));
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut descriptors, Some(&left)) {
                Ok(0) => return Ok(Ready::Late),
                Ok(_) => return Ok(Ready::Yes),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Reads what is there, as far as a chunk goes, and takes note of an end.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        if self.status.is_none()
            && let Some(status) = self.child.try_wait()?
        {
            self.status = Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()));
        }
        let mut chunk = vec![0; CHUNK];
        let length = match rustix::io::read(&self.terminal, &mut chunk[..]) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            // The other side is closed. The kernel says so only after all output has been read (n_tty_read flushes
            // tty_buffer_flush_work first).
            Err(Errno::IO) => {
                self.closed = true;
                0
            }
            Err(error) => return Err(error.into()),
        };
        chunk.truncate(length);
        Ok(chunk)
    }

    /// Writes as much of `bytes` as there is room for, and returns how much that was.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match rustix::io::write(&self.terminal, bytes) {
            Ok(length) => Ok(length),
            Err(Errno::AGAIN | Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the terminal another size; the kernel sends SIGWINCH to the program in its foreground.
    pub fn resize(&self, size: Size) -> io::Result<()> {
        Ok(tcsetwinsize(&self.terminal, winsize(size))?)
    }

    /// Whether the program has input that it has not read.
    pub fn unread(&self) -> io::Result<bool> {
        // Seen from the program's side; unlike FIONREAD, poll there first moves on what we wrote (n_tty_poll,
        // tty_buffer_flush_work).
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let theirs = rustix::pty::ioctl_tiocgptpeer(&self.terminal, flags)?;
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok(poll(&mut [PollFd::new(&theirs, PollFlags::IN)], Some(&now))? > 0)
    }

    /// How it ended, as a shell says it: 128 + N for signal N. `None` while it runs (as far as `read` knows).
    pub fn status(&self) -> Option<i32> {
        self.status
    }

    /// Whether no more output can come.
    pub fn closed(&self) -> bool {
        self.closed
    }

    /// Ends the program and reaps it.
    fn end(&mut self) -> io::Result<()> {
        if self.status.is_none() {
            // The program and what it started. A group that is gone has nobody to be told.
            let _ = kill_process_group(self.pid, Signal::TERM);
            // A stopped one has to go on to hear of it.
            let _ = kill_process_group(self.pid, Signal::CONT);
            let until = Instant::now() + TERM_LIMIT;
            // Its last output has to go somewhere, or it hangs in write.
            while self.status.is_none() && self.wait(until, false)? == Ready::Yes {
                self.read()?;
            }
        }
        Ok(())
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.end();
        if self.status.is_none() {
            let _ = kill_process_group(self.pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

fn winsize(size: Size) -> Winsize {
    Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
}
