//! Threads on their way out of our hands, and those that cannot be let go of yet: they wait in the kernel where no stop
//! reaches them.
//!
//! Input: a traced thread. Output: a free one, sooner or later. The stop that was asked for comes when such a wait ends, and
//! lasts until the OS thread that seized it sees to it, which no other can: so each keeps its own list, and has to come
//! back to it ([`settle`]). When the OS thread ends, the kernel lets go of them all.

use std::cell::RefCell;
use std::num::NonZeroU64;
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::thread::set_current_timer_slack;

use super::frame;
use super::ptrace::{Registers, Stop, Tracee};

/// How long the answer is only looked for, giving way to whoever wants the CPU, and not slept for: a stop takes about as
/// long as going to sleep does, a call of 4 MiB a third of a millisecond, and what is seen late adds up over a batch.
const SPIN: Duration = Duration::from_millis(1);
/// After that, one in how many parts of the time that it took is an answer seen late, at most.
const LATE: u32 = 24;

thread_local! {
    static UNFINISHED: RefCell<Vec<Leaving>> = const { RefCell::new(Vec::new()) };
    /// Has the sleeps of this OS thread end when they should: by default they last up to 50 us longer
    /// (PR_SET_TIMERSLACK(2const)).
    static ON_TIME: () = {
        // Where it fails, they last longer.
        let _ = set_current_timer_slack(NonZeroU64::new(1));
    };
}

/// What a thread goes back to.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) registers: Registers,
    pub(super) mask: u64,
    /// The stack pointer and the `syscall; ret` of our calls.
    pub(super) stack: u64,
    pub(super) syscall_ret: u64,
}

/// A thread that is to go on as if nothing had been.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) tracee: Tracee,
    /// Where it has our registers.
    pub(super) own: Option<Own>,
}

impl Leaving {
    /// Waits for it to stop and lets go of it; one that has not stopped by then is left to [`settle`].
    pub(super) fn within(self, limit: Duration) {
        if self.is_free(limit) {
            return;
        }
        UNFINISHED.with_borrow_mut(|unfinished| unfinished.push(self));
    }

    fn is_free(&self, limit: Duration) -> bool {
        // Any other error: nobody traces it any more.
        wait_for(Instant::now() + limit, || self.advance()) != Err(Errno::TIMEDOUT)
    }

    /// Does what can be done at once.
    fn advance(&self) -> Result<Option<()>, Errno> {
        let Some(stop) = self.tracee.stop()? else { return Ok(None) };
        // Where a request fails, the thread was killed this moment, and its death is what is seen next.
        let is_free = match (stop, &self.own) {
            (Stop::Gone, _) => {
                bury(self.tracee);
                true
            }
            (Stop::Signal(signal), None) => self.tracee.detach(signal).is_ok(),
            (_, None) => self.tracee.detach(0).is_ok(),
            (Stop::Trap | Stop::Group, Some(own)) => {
                put_back(self.tracee, own);
                self.tracee.detach(0).is_ok()
            }
            // At the exit of a system call the kernel would not begin the interrupted one again, only where it looks for
            // signals (arch/x86/kernel/signal.c, arch_do_signal_or_restart, 6.12). There PTRACE_INTERRUPT leads, before
            // the thread gets to any instruction of its own.
            (Stop::Syscall, Some(own)) => {
                if withdraw(self.tracee, own).is_ok() {
                    let _ = self.tracee.resume_to_stop(0);
                }
                false
            }
            (Stop::Signal(signal), Some(_)) => {
                let _ = self.tracee.resume_to_stop(signal);
                false
            }
        };
        Ok(is_free.then_some(()))
    }
}

/// At the entry of our call: it is not made. At its exit this changes nothing.
fn withdraw(tracee: Tracee, own: &Own) -> Result<(), Errno> {
    let mut now = tracee.registers()?;
    let at_call = (now.0.rip, now.0.rsp) == (own.syscall_ret + frame::SYSCALL_LENGTH, own.stack);
    // What the kernel puts there at the entry.
    if at_call && now.0.rax.cast_signed() == -i64::from(libc::ENOSYS) {
        now.0.orig_rax = u64::MAX;
        tracee.set_registers(&now)?;
    }
    Ok(())
}

/// At a stop where the kernel goes on to look for signals: everything as it was.
fn put_back(tracee: Tracee, own: &Own) {
    let ours = [own.syscall_ret, own.syscall_ret + frame::SYSCALL_LENGTH];
    let is_ours = tracee.registers().is_ok_and(|now| now.0.rsp == own.stack && ours.contains(&now.0.rip));
    // Where a step fails, the thread is dead, or goes by its frame. The mask first: with its own registers and ours
    // still blocked it would stay deaf if we died in between; with its own mask and our registers it does not.
    if is_ours && tracee.set_signal_mask(own.mask).is_ok() {
        let _ = tracee.set_registers(&own.registers);
    }
}

/// Lets go of those that have stopped meanwhile. Whether some have not.
pub(super) fn settle() -> bool {
    UNFINISHED.with_borrow_mut(|unfinished| {
        unfinished.retain(|leaving| !leaving.is_free(Duration::ZERO));
        !unfinished.is_empty()
    })
}

/// Waits until no thread is in a call of ours any more.
pub(super) fn calls_end(limit: Duration) -> Result<(), Errno> {
    wait_for(Instant::now() + limit, || {
        settle();
        let in_call =
            UNFINISHED.with_borrow(|unfinished| unfinished.iter().any(|leaving| leaving.own.is_some()));
        Ok((!in_call).then_some(()))
    })
}

/// Whether it is one of them.
pub(super) fn has(tid: u32) -> bool {
    UNFINISHED.with_borrow(|unfinished| unfinished.iter().any(|leaving| leaving.tracee.is(tid)))
}

/// Takes note of a death.
pub(super) fn bury(tracee: Tracee) {
    // The leader of a process is not done for before its other threads are: then the kernel says so later, and to
    // whoever traces nothing any more it need not be said.
    let _ = tracee.bury();
}

/// Looks until there is something. The kernel has no wait for a tracee that ends by time, but for signals, which belong
/// to the whole process; so it is asked again and again, at first at once, then after a small part of the time that
/// has passed ([`LATE`]).
pub(super) fn wait_for<T>(
    deadline: Instant,
    mut look: impl FnMut() -> Result<Option<T>, Errno>,
) -> Result<T, Errno> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(Errno::TIMEDOUT);
        }
        let passed = now - start;
        if passed < SPIN {
            thread::yield_now();
        } else {
            ON_TIME.with(|()| ());
            thread::sleep((passed / LATE).min(Duration::from_millis(5)));
        }
    }
}
