//! The system calls of a tracer, typed: ptrace(2), waitid(2) of a tracee, process_vm_readv(2) and its peer.
//!
//! Input: a thread id. Output: registers, masks, stops. It knows nothing of what they are for. All calls for one
//! thread must come from the OS thread that seized it: the kernel answers ESRCH to any other.

use std::mem::{MaybeUninit, size_of};

use libc::{c_void, iovec, user_regs_struct};
use rustix::io::Errno;

/// elf.h, NT_X86_XSTATE.
const NT_X86_XSTATE: usize = 0x202;
/// include/uapi/linux/ptrace.h.
const PTRACE_SECCOMP_GET_FILTER: libc::c_uint = 0x420c;
const PTRACE_GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: libc::c_uint = 0x4211;
const PTRACE_EVENT_STOP: i32 = 128;
/// Bytes of the kernel's signal set.
const SIGSET_SIZE: usize = 8;
/// The largest XSAVE area of any x86-64 processor so far is 11 KiB (AMX).
const MAX_XSTATE: usize = 16 << 10;

/// Registers, aligned so that they lie in one page: one fault at most can interrupt the kernel's copying, and that
/// before the first register is set (arch/x86/kernel/ptrace.c, genregs_set, 6.12).
#[derive(Debug, Clone, Copy)]
#[repr(C, align(256))]
pub(super) struct Registers(pub(super) user_regs_struct);

const _: () = assert!(size_of::<Registers>() == 256);

/// Why a tracee stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// At the entry or the exit of a system call.
    Syscall,
    /// Where PTRACE_INTERRUPT or the end of a job-control stop has put it; no signal.
    Trap,
    /// Its process is stopped by job control.
    Group,
    /// A signal is about to be delivered. It is, by resuming with its number.
    Signal(i32),
    /// It is dead.
    Gone,
}

/// A thread that this OS thread traces, or tries to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tracee {
    tid: i32,
}

impl Tracee {
    /// Begins to trace. The thread goes on running, and is let go of when this OS thread ends.
    ///
    /// TRACESYSGOOD, because whatever a tracer has not yet taken note of is sent to the thread as a signal when the
    /// tracer dies at a system call stop: SIGTRAP would kill it, SIGTRAP | 0x80 is no signal and is dropped
    /// (include/linux/ptrace.h, ptrace_report_syscall, 6.12).
    pub(super) fn seize(tid: u32) -> Result<Self, Errno> {
        let tracee = Self { tid: i32::try_from(tid).map_err(|_| Errno::SRCH)? };
        tracee.request(libc::PTRACE_SEIZE, 0, libc::PTRACE_O_TRACESYSGOOD as usize)?;
        Ok(tracee)
    }

    /// Whether it is this thread.
    pub(super) fn is(self, tid: u32) -> bool {
        u32::try_from(self.tid) == Ok(tid)
    }

    /// Asks it to stop as soon as it can.
    pub(super) fn interrupt(self) -> Result<(), Errno> {
        self.request(libc::PTRACE_INTERRUPT, 0, 0)
    }

    /// Lets it run to the next system call stop, with this signal (0: none).
    pub(super) fn resume_to_syscall(self, signal: i32) -> Result<(), Errno> {
        self.request(libc::PTRACE_SYSCALL, 0, signal as usize)
    }

    /// Lets it run with this signal (0: none), to the next place where PTRACE_INTERRUPT stops it. It is asked again, as any
    /// other stop that comes before that one is in its stead (kernel/signal.c, ptrace_stop, 6.12).
    pub(super) fn resume_to_stop(self, signal: i32) -> Result<(), Errno> {
        self.interrupt()?;
        self.request(libc::PTRACE_CONT, 0, signal as usize)
    }

    /// Lets go of it, with this signal (0: none).
    pub(super) fn detach(self, signal: i32) -> Result<(), Errno> {
        self.request(libc::PTRACE_DETACH, 0, signal as usize)
    }

    pub(super) fn registers(self) -> Result<Registers, Errno> {
        let mut registers = MaybeUninit::<Registers>::uninit();
        self.request(libc::PTRACE_GETREGS, 0, registers.as_mut_ptr() as usize)?;
        // SAFETY: the kernel has filled in all of user_regs_struct, and any bits are a valid value of it; the rest is
        // padding.
        Ok(unsafe { registers.assume_init() })
    }

    /// Sets all registers at once.
    pub(super) fn set_registers(self, registers: &Registers) -> Result<(), Errno> {
        self.request(libc::PTRACE_SETREGS, 0, &raw const *registers as usize)
    }

    /// The signals it blocks, but for those that a system call under way has changed for its own time.
    pub(super) fn signal_mask(self) -> Result<u64, Errno> {
        let mut mask = 0_u64;
        self.request(libc::PTRACE_GETSIGMASK, SIGSET_SIZE, &raw mut mask as usize)?;
        Ok(mask)
    }

    pub(super) fn set_signal_mask(self, mask: u64) -> Result<(), Errno> {
        self.request(libc::PTRACE_SETSIGMASK, SIGSET_SIZE, &raw const mask as usize)
    }

    /// The XSAVE area in its standard format, as the kernel shows it to debuggers.
    pub(super) fn xstate(self) -> Result<Vec<u8>, Errno> {
        let mut bytes = vec![0; MAX_XSTATE];
        let mut vector = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        self.request(libc::PTRACE_GETREGSET, NT_X86_XSTATE, &raw mut vector as usize)?;
        bytes.truncate(vector.iov_len);
        Ok(bytes)
    }

    /// The `index`th seccomp filter; `None` past the last.
    pub(super) fn seccomp_filter(self, index: usize) -> Result<Option<Vec<libc::sock_filter>>, Errno> {
        let count = match self.request_value(PTRACE_SECCOMP_GET_FILTER, index, 0) {
            Ok(count) => count,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(errno),
        };
        // One that has no classic program has no length either.
        let mut filter = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; count];
        // The number of instructions of a filter never changes, so the kernel writes no more than `count`.
        self.request_value(PTRACE_SECCOMP_GET_FILTER, index, filter.as_mut_ptr() as usize)?;
        Ok(Some(filter))
    }

    /// Where its struct rseq is (0: nowhere).
    pub(super) fn rseq_address(self) -> Result<u64, Errno> {
        // struct ptrace_rseq_configuration: pointer, then sizes and flags.
        let mut configuration = [0_u64; 3];
        let size = size_of_val(&configuration);
        self.request_value(PTRACE_GET_RSEQ_CONFIGURATION, size, configuration.as_mut_ptr() as usize)?;
        Ok(configuration[0])
    }

    /// Whether system calls of it can be turned into SIGSYS (prctl(PR_SET_SYSCALL_USER_DISPATCH)).
    pub(super) fn dispatches_syscalls(self) -> Result<bool, Errno> {
        // struct ptrace_sud_config: mode, selector, offset, length.
        let mut configuration = [0_u64; 4];
        let size = size_of_val(&configuration);
        self.request(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, size, configuration.as_mut_ptr() as usize)?;
        Ok(configuration[0] != 0)
    }

    /// How it stands, if it does: returns at once.
    ///
    /// The stop is only looked at (WNOWAIT). Where the kernel was told that the tracer has seen it, and the tracer
    /// dies, the signal of a signal-delivery-stop is lost (kernel/exit.c, wait_task_stopped, 6.12).
    pub(super) fn stop(self) -> Result<Option<Stop>, Errno> {
        let options = libc::WSTOPPED | libc::WEXITED | libc::__WALL | libc::WNOHANG | libc::WNOWAIT;
        Ok(self.wait(options)?.map(|(code, status)| match (code, status & 0xff, status >> 8) {
            (libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED, ..) => Stop::Gone,
            (_, signal, 0) if signal == libc::SIGTRAP | 0x80 => Stop::Syscall,
            (_, libc::SIGTRAP, PTRACE_EVENT_STOP) => Stop::Trap,
            (_, _, PTRACE_EVENT_STOP) => Stop::Group,
            (_, signal, _) => Stop::Signal(signal),
        }))
    }

    /// Takes note of its death. A dead thread that its tracer has not taken note of keeps its whole process from being
    /// taken note of by its parent.
    pub(super) fn bury(self) -> Result<bool, Errno> {
        match self.wait(libc::WEXITED | libc::__WALL | libc::WNOHANG) {
            Ok(found) => Ok(found.is_some()),
            Err(Errno::CHILD) => Ok(true),
            Err(errno) => Err(errno),
        }
    }

    fn wait(self, options: i32) -> Result<Option<(i32, i32)>, Errno> {
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        // SAFETY: `info` is a siginfo_t that the kernel may fill.
        let done = unsafe { libc::waitid(libc::P_PID, self.tid as libc::id_t, info.as_mut_ptr(), options) };
        if done != 0 {
            return Err(last_errno());
        }
        // SAFETY: zeroed above, and zeros are a valid siginfo_t.
        let info = unsafe { info.assume_init() };
        // SAFETY: waitid fills in the fields of SIGCHLD, or leaves the zeros where there is nothing to tell.
        let pid = unsafe { info.si_pid() };
        // SAFETY: as above.
        let status = unsafe { info.si_status() };
        Ok((pid != 0).then_some((info.si_code, status)))
    }

    /// Reads its memory as itself could read it. Returns how much could be read.
    pub(super) fn read(self, address: u64, bytes: &mut [u8]) -> Result<usize, Errno> {
        let local = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let remote = iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
        // SAFETY: `local` names `bytes`, borrowed mutably; the other address is of another process.
        let read = unsafe { libc::process_vm_readv(self.tid, &raw const local, 1, &raw const remote, 1, 0) };
        usize::try_from(read).map_err(|_| last_errno())
    }

    /// Writes all of `bytes` to its memory, where it could write itself: /proc/PID/mem would write past a guard page.
    pub(super) fn write(self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        let local = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = iovec { iov_base: address as *mut c_void, iov_len: bytes.len() };
        // SAFETY: `local` names `bytes`, which the kernel only reads; the other address is of another process.
        let written =
            unsafe { libc::process_vm_writev(self.tid, &raw const local, 1, &raw const remote, 1, 0) };
        match usize::try_from(written) {
            Ok(written) if written == bytes.len() => Ok(()),
            Ok(_) => Err(Errno::FAULT),
            Err(_) => Err(last_errno()),
        }
    }

    fn request(self, request: libc::c_uint, address: usize, data: usize) -> Result<(), Errno> {
        self.request_value(request, address, data).map(|_| ())
    }

    /// The callers above pass as `data` a number, or the address of a live value of the type of their request.
    fn request_value(self, request: libc::c_uint, address: usize, data: usize) -> Result<usize, Errno> {
        // SAFETY: the requests of this file make the kernel write to `data` only, and what its callers pass there lives
        // until the call is over and has room for what the request writes.
        let done =
            unsafe { libc::syscall(libc::SYS_ptrace, request as usize, self.tid as usize, address, data) };
        usize::try_from(done).map_err(|_| last_errno())
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
