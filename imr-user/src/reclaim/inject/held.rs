//! A thread of the VMM that stands still and makes system calls for us, and goes on afterwards as if nothing had been.
//!
//! Input: a thread id. Output: results of its calls. At every moment from the first call on, what the thread would do if
//! we died is: the call that it was last given, and then rt_sigreturn with the frame on its own stack, which holds all
//! it had. So nothing but one write of all registers at once leads from one such state to another.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use imr_common::guest_abi::CLAIM_LIFETIME_MS;
use libc::sock_filter;
use rustix::io::Errno;

use super::frame::{self, Frame};
use super::gadgets::{self, Gadgets};
use super::maps::Maps;
use super::ptrace::{Registers, Stop, Tracee};
use super::unfinished::{Leaving, Own, bury, wait_for};
use super::{seccomp, threads};
use crate::reclaim::backend::Failure;

/// How long a thread may take to stop. One that sleeps takes microseconds.
const STOP_LIMIT: Duration = Duration::from_millis(200);
/// How long a call may take; 16 MiB take a few milliseconds. It cannot be taken back, and may yet be made after that: so
/// the time has to be long enough for the claim to be over, and no answer given.
pub(super) const CALL_LIMIT: Duration =
    Duration::from_millis(if cfg!(test) { 300 } else { 2 * CLAIM_LIFETIME_MS });
/// How long one that has not stopped is waited for to let go of it, before that is put off.
const RELEASE_LIMIT: Duration = Duration::from_millis(200);
/// `user_64bit_mode` (arch/x86/include/asm/segment.h, __USER_CS).
const CS_64: u64 = 0x33;
/// The instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Offset of rseq_cs in struct rseq.
const RSEQ_CS: u64 = 8;

/// What was tried, for [`Failure::operation`].
const SEIZE: &str = "PTRACE_SEIZE";
const STOP: &str = "PTRACE_INTERRUPT";
const INSPECT: &str = "looking at the stopped thread";
const PREPARE: &str = "writing the way back to the stack";
const CALL: &str = "a system call in the VMM";

/// What stands in the way of one thread.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Perhaps another one will do.
    Thread(Failure),
    /// It is the same with every thread.
    Vmm(Failure),
}

/// Where the thread is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where it stopped, with its own registers.
    Own,
    /// At a stop, with ours.
    Ours,
    /// On its way, with ours: a stop did not come in time.
    Away,
    /// Let go of, or dead.
    Free,
}

/// The thread. Whoever drops it lets go of the thread first ([`Held::release`]).
#[derive(Debug)]
pub(super) struct Held {
    tracee: Tracee,
    path: String,
    own: Registers,
    mask: u64,
    /// The stack pointer of every call.
    stack: u64,
    gadgets: Gadgets,
    filters: Vec<Vec<sock_filter>>,
    place: Place,
}

impl Held {
    /// Stops thread `tid` of the process `pid`, whose directory `proc_dir` is.
    ///
    /// # Errors
    /// It cannot be stopped or used; it goes on as before.
    pub(super) fn stop(proc_dir: BorrowedFd<'_>, pid: u32, tid: u32, maps: &Maps) -> Result<Self, Refusal> {
        let path = format!("task/{tid}");
        let failure = |operation, errno| Failure { operation, path: path.clone(), errno };
        let tracee = Tracee::seize(tid).map_err(|errno| seize_refused(proc_dir, failure(SEIZE, errno)))?;
        let stopped = tracee.interrupt().and_then(|()| first_stop(tracee));
        let refusal = match stopped {
            Ok(Stop::Trap) => match Self::inspect(proc_dir, pid, tracee, path, maps) {
                Ok(held) => return Ok(held),
                Err(refusal) => refusal,
            },
            Ok(Stop::Gone) => Refusal::Thread(failure(STOP, Errno::SRCH)),
            Ok(_) => Refusal::Vmm(Failure {
                path: format!("{path}, stopped by job control (SIGSTOP); continue the VMM"),
                ..failure(STOP, Errno::AGAIN)
            }),
            Err(errno) => {
                // It has had its time.
                Leaving { tracee, own: None }.within(Duration::ZERO);
                return Err(Refusal::Thread(failure(STOP, errno)));
            }
        };
        Leaving { tracee, own: None }.within(RELEASE_LIMIT);
        Err(refusal)
    }

    /// Looks at the stopped thread, and writes its way back to its stack.
    fn inspect(
        proc_dir: BorrowedFd<'_>,
        pid: u32,
        tracee: Tracee,
        path: String,
        maps: &Maps,
    ) -> Result<Self, Refusal> {
        let failure =
            |operation, errno, why: &str| Failure { operation, path: format!("{path}{why}"), errno };
        let thread = |operation, errno, why: &str| Refusal::Thread(failure(operation, errno, why));
        let at = |operation| move |errno| Refusal::Thread(failure(operation, errno, ""));
        // Through the directory, so that this is the VMM and not another process with its number; from now on the
        // number is this thread's, because a tracee stays until its tracer has taken note of its death.
        let status = threads::read(proc_dir, &format!("{path}/status"))
            .map_err(|_| Refusal::Vmm(failure(INSPECT, Errno::SRCH, "")))?;
        let shadow = field(&status, "x86_Thread_features:").is_some_and(|value| value.contains("shstk"));
        if shadow {
            return Err(thread(INSPECT, Errno::OPNOTSUPP, ", which has a shadow stack"));
        }
        let mut own = tracee.registers().map_err(at(INSPECT))?;
        if own.0.cs != CS_64 {
            return Err(thread(INSPECT, Errno::OPNOTSUPP, ", which is not a 64-bit one"));
        }
        if threads::is_vcpu(&own.0) {
            return Err(thread(INSPECT, Errno::BUSY, ", which runs a vCPU"));
        }
        if threads::is_cut_short(&own.0) {
            own.0.rax = frame::ERESTARTNOHAND.cast_unsigned();
        }
        if threads::is_unrepeatable(&own.0) {
            return Err(thread(
                INSPECT,
                Errno::AGAIN,
                ", which goes on with a call whose number is forgotten",
            ));
        }
        if tracee.dispatches_syscalls().unwrap_or(false) {
            return Err(thread(
                INSPECT,
                Errno::OPNOTSUPP,
                ", which has its system calls dispatched to itself",
            ));
        }
        if frame::restarts(&own.0) {
            let mut code = [0; 2];
            let read = tracee.read(own.0.rip.wrapping_sub(frame::SYSCALL_LENGTH), &mut code);
            if read != Ok(2) || code != SYSCALL {
                return Err(thread(
                    INSPECT,
                    Errno::OPNOTSUPP,
                    ", whose system call was not made by `syscall`",
                ));
            }
        } else if own.0.orig_rax.cast_signed() < 0 && !is_outside_rseq(tracee) {
            // The kernel aborts a restartable sequence when it sees the thread in it on its way back; it would see ours.
            return Err(thread(INSPECT, Errno::AGAIN, ", which may be in a restartable sequence"));
        }
        let filters = match field(&status, "Seccomp:") {
            Some("0") => Vec::new(),
            Some("2") => filters(tracee).map_err(|errno| {
                Refusal::Thread(failure(INSPECT, errno, ", whose seccomp filters cannot be read"))
            })?,
            _ => return Err(thread(INSPECT, Errno::OPNOTSUPP, ", which is in seccomp's strict mode")),
        };
        let mask = tracee.signal_mask().map_err(at(INSPECT))?;
        let xstate = tracee.xstate().map_err(at(INSPECT))?;
        let gadgets = gadgets::find(pid, tracee, maps).map_err(at(INSPECT))?.ok_or_else(|| {
            Refusal::Vmm(failure(
                INSPECT,
                Errno::OPNOTSUPP,
                ": the VMM's code has no `syscall; ret` or no return from signal handlers",
            ))
        })?;
        let frame = frame::build(&own.0, mask, &xstate, gadgets.restorer)
            .ok_or_else(|| thread(INSPECT, Errno::OPNOTSUPP, ", whose registers have no XSAVE area"))?;
        let has_room = maps.find(own.0.rsp).map_err(at(PREPARE))?.is_some_and(|vma| {
            vma.writable && !vma.executable && vma.start <= frame.address && frame.end() <= vma.end
        });
        if !has_room {
            return Err(thread(PREPARE, Errno::NOMEM, ", which has no room left there"));
        }
        let Frame { address: stack, bytes } = frame;
        // Nothing leads there yet.
        tracee.write(stack, &bytes).map_err(at(PREPARE))?;
        Ok(Self { tracee, path, own, mask, stack, gadgets, filters, place: Place::Own })
    }

    /// Has the thread make a system call of up to three arguments.
    ///
    /// # Errors
    /// It failed, or was not made; where it has taken too long, it may yet be.
    pub(super) fn call(&mut self, number: i64, arguments: [u64; 3]) -> Result<(), Failure> {
        self.begin(number, arguments)?;
        self.run_to_syscall_stop()?;
        let after = self.tracee.registers().map_err(|errno| self.failure(CALL, errno))?.0;
        let end = self.gadgets.syscall_ret + frame::SYSCALL_LENGTH;
        if (after.rip, after.rsp, after.orig_rax) != (end, self.stack, number.cast_unsigned()) {
            return Err(self.failure(CALL, Errno::PROTO));
        }
        match i32::try_from(after.rax.cast_signed()) {
            Ok(0) => Ok(()),
            Ok(result @ -4095..0) => Err(self.failure(CALL, Errno::from_raw_os_error(-result))),
            _ => Err(self.failure(CALL, Errno::PROTO)),
        }
    }

    /// Leads it to the entry of a system call.
    pub(super) fn begin(&mut self, number: i64, arguments: [u64; 3]) -> Result<(), Failure> {
        if !matches!(self.place, Place::Own | Place::Ours) {
            return Err(self.failure(CALL, Errno::SRCH));
        }
        let number = number.cast_unsigned();
        self.check_filters(number, arguments)?;
        let mut registers = self.own;
        let r = &mut registers.0;
        (r.rip, r.rsp, r.rax) = (self.gadgets.syscall_ret, self.stack, number);
        [r.rdi, r.rsi, r.rdx] = arguments;
        // Not in a system call: or else the kernel would begin the interrupted one again.
        r.orig_rax = u64::MAX;
        // The atomic step: before it the thread goes on as it was, after it this call comes first.
        self.tracee.set_registers(&registers).map_err(|errno| self.failure(CALL, errno))?;
        if self.place == Place::Own {
            self.place = Place::Ours;
            // No handler may run while the registers are ours. Not earlier, as the frame is what puts the mask back.
            self.tracee.set_signal_mask(u64::MAX).map_err(|errno| self.failure(CALL, errno))?;
        }
        self.run_to_syscall_stop()
    }

    /// Whether the thread's filters let the call and the way back through.
    fn check_filters(&self, number: u64, arguments: [u64; 3]) -> Result<(), Failure> {
        let r = &self.own.0;
        let [a, b, c] = arguments;
        let allowed = [(number, self.gadgets.syscall_ret), (15, self.gadgets.restorer)].iter().all(|call| {
            let call = seccomp::Call {
                number: call.0 as u32,
                // The restorer's `syscall` is some bytes on; no filter of a VMM goes by that.
                ip: call.1 + frame::SYSCALL_LENGTH,
                arguments: [a, b, c, r.r10, r.r8, r.r9],
            };
            seccomp::allow(&self.filters, &call)
        });
        if allowed {
            return Ok(());
        }
        let path = format!("{}, whose seccomp filters forbid it", self.path);
        Err(Failure { path, ..self.failure(CALL, Errno::PERM) })
    }

    /// Lets it run to the entry of the call, or from there to its exit.
    fn run_to_syscall_stop(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + CALL_LIMIT;
        let mut signal = 0;
        loop {
            self.tracee.resume_to_syscall(signal).map_err(|errno| self.failure(CALL, errno))?;
            self.place = Place::Away;
            let stop = wait(self.tracee, deadline).map_err(|errno| self.failure(CALL, errno))?;
            self.place = Place::Ours;
            match stop {
                Stop::Syscall => return Ok(()),
                Stop::Trap => signal = 0,
                // SIGSTOP: no other that is not blocked leaves a choice.
                Stop::Signal(number) => signal = number,
                Stop::Group => {
                    self.release();
                    let path = format!("{}, as the VMM was stopped by job control (SIGSTOP)", self.path);
                    return Err(Failure { path, ..self.failure(CALL, Errno::AGAIN) });
                }
                Stop::Gone => {
                    self.place = Place::Free;
                    bury(self.tracee);
                    return Err(self.failure(CALL, Errno::SRCH));
                }
            }
        }
    }

    /// Lets it go on as if nothing had been, at once or when it stops.
    pub(super) fn release(&mut self) {
        let own = match std::mem::replace(&mut self.place, Place::Free) {
            Place::Free => return,
            Place::Own => None,
            Place::Ours | Place::Away => {
                // Where this fails, it is dead.
                let _ = self.tracee.interrupt();
                Some(Own {
                    registers: self.own,
                    mask: self.mask,
                    stack: self.stack,
                    syscall_ret: self.gadgets.syscall_ret,
                })
            }
        };
        Leaving { tracee: self.tracee, own }.within(RELEASE_LIMIT);
    }

    fn failure(&self, operation: &'static str, errno: Errno) -> Failure {
        Failure { operation, path: self.path.clone(), errno }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

/// Waits for the stop that PTRACE_INTERRUPT asked for. Signals that come first are delivered.
fn first_stop(tracee: Tracee) -> Result<Stop, Errno> {
    let deadline = Instant::now() + STOP_LIMIT;
    loop {
        match wait(tracee, deadline)? {
            Stop::Signal(signal) => tracee.resume_to_stop(signal)?,
            Stop::Syscall => tracee.resume_to_stop(0)?,
            stop => return Ok(stop),
        }
    }
}

/// Waits for a stop.
fn wait(tracee: Tracee, deadline: Instant) -> Result<Stop, Errno> {
    wait_for(deadline, || tracee.stop())
}

/// Whether it is in no restartable sequence.
fn is_outside_rseq(tracee: Tracee) -> bool {
    let Ok(address) = tracee.rseq_address() else { return false };
    if address == 0 {
        return true;
    }
    let mut section = [0; 8];
    tracee.read(address + RSEQ_CS, &mut section) == Ok(8) && section == [0; 8]
}

fn filters(tracee: Tracee) -> Result<Vec<Vec<sock_filter>>, Errno> {
    let mut filters = Vec::new();
    while let Some(filter) = tracee.seccomp_filter(filters.len())? {
        filters.push(filter);
    }
    if filters.is_empty() { Err(Errno::NODATA) } else { Ok(filters) }
}

fn seize_refused(proc_dir: BorrowedFd<'_>, failure: Failure) -> Refusal {
    if failure.errno == Errno::SRCH {
        return Refusal::Thread(failure);
    }
    let status = threads::read(proc_dir, &format!("{}/status", failure.path)).unwrap_or_default();
    match field(&status, "TracerPid:") {
        Some(tracer) if tracer != "0" => Refusal::Vmm(Failure {
            path: format!("{}, which process {tracer} traces (gdb, strace); end that first", failure.path),
            errno: Errno::BUSY,
            ..failure
        }),
        _ => Refusal::Vmm(failure),
    }
}

/// The value of a line of /proc/PID/status.
fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}
