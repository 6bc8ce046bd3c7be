//! Which thread of a VMM may be stopped for a moment.
//!
//! Input: /proc/PID/task. Output: threads, the one that is missed least first. It stops nothing; what is seen here is
//! over by the time of the stop and is looked at again then.

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;

use libc::user_regs_struct;
use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::io::Errno;

/// ioctl KVM_RUN.
pub(super) const KVM_RUN: u64 = 0xae80;
const SYS_IOCTL: u64 = 16;
/// Up to this rank no better thread is worth a look at all of them.
pub(super) const GOOD: u8 = 2;

/// Why a thread is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It runs a virtual processor.
    Vcpu,
    /// It waits in a way that no signal ends, or ends for another reason.
    Busy,
    /// It is in a system call that would return early, or may.
    Early,
    /// Stopped by job control.
    Stopped,
    /// Traced by somebody else.
    Traced,
    /// It has ended.
    Gone,
}

/// How a thread was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen<'a> {
    pub(super) is_main: bool,
    pub(super) name: &'a str,
    /// Of /proc/PID/stat.
    pub(super) state: char,
    /// Number and arguments; `None` while it runs.
    pub(super) syscall: Option<(u64, [u64; 6])>,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// Thread ids, best first.
    pub(super) fit: Vec<u32>,
    /// How many are unfit and why, by [`Unfit`].
    unfit: [usize; 6],
}

impl Survey {
    /// Whether a debugger is at work.
    pub(super) fn is_traced(&self) -> bool {
        self.unfit[Unfit::Traced as usize] > 0
    }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [vcpu, busy, early, stopped, traced, gone] = self.unfit;
        let all = self.fit.len() + self.unfit.iter().sum::<usize>();
        write!(
            f,
            "of {all} threads {vcpu} run vCPUs, {busy} wait uninterruptibly, {early} are in calls that would return \
             early, {stopped} are stopped, {traced} traced, {gone} gone"
        )
    }
}

/// Looks at all threads.
pub(super) fn survey(proc_dir: BorrowedFd<'_>, pid: u32) -> Result<Survey, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let tasks = openat(proc_dir, c"task", flags, Mode::empty())?;
    let mut survey = Survey::default();
    let mut fit = Vec::new();
    for entry in Dir::new(tasks)? {
        let entry = entry?;
        let Some(tid) = entry.file_name().to_str().ok().and_then(|name| name.parse().ok()) else { continue };
        match look(proc_dir, pid, tid) {
            Ok(rank) => fit.push((rank, tid)),
            Err(why) => survey.unfit[why as usize] += 1,
        }
    }
    fit.sort_unstable();
    survey.fit = fit.into_iter().map(|(_, tid)| tid).collect();
    Ok(survey)
}

/// How fit one thread is; less is better.
pub(super) fn look(proc_dir: BorrowedFd<'_>, pid: u32, tid: u32) -> Result<u8, Unfit> {
    let stat = read(proc_dir, &format!("task/{tid}/stat")).map_err(|_| Unfit::Gone)?;
    let syscall = read(proc_dir, &format!("task/{tid}/syscall")).map_err(|_| Unfit::Gone)?;
    let (name, state) = name_and_state(&stat).ok_or(Unfit::Gone)?;
    rank(&Seen { is_main: pid == tid, name, state, syscall: number_and_arguments(&syscall) })
}

/// `tid (name) S ...`; the name may hold anything.
fn name_and_state(stat: &str) -> Option<(&str, char)> {
    let (before, rest) = stat.rsplit_once(") ")?;
    Some((before.split_once('(')?.1, rest.chars().next()?))
}

/// `number 0x.. 0x.. 0x.. 0x.. 0x.. 0x.. sp pc`, or `-1 sp pc`, or `running`.
fn number_and_arguments(line: &str) -> Option<(u64, [u64; 6])> {
    let mut words = line.split_ascii_whitespace();
    let number = words.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = u64::from_str_radix(words.next()?.trim_start_matches("0x"), 16).ok()?;
    }
    Some((number, arguments))
}

/// A thread that QEMU never waits for stands still unnoticed: its RCU thread, where it has a name (QEMU 11 names all threads;
/// earlier ones start it before they have read `-name debug-threads=on`). Otherwise the main thread: it is no vCPU, and it
/// sleeps most of the time.
fn rank(seen: &Seen<'_>) -> Result<u8, Unfit> {
    match seen.state {
        'S' | 'R' => {}
        'D' | 'I' => return Err(Unfit::Busy),
        'T' => return Err(Unfit::Stopped),
        't' => return Err(Unfit::Traced),
        _ => return Err(Unfit::Gone),
    }
    if seen.name.starts_with("CPU ") {
        return Err(Unfit::Vcpu);
    }
    let Some((number, arguments)) = seen.syscall else {
        // Somewhere in user space, with luck; which system call it will be in when it stops cannot be known.
        return Ok(if seen.is_main { 8 } else { 9 });
    };
    if number == SYS_IOCTL {
        return Err(if arguments[1] == KVM_RUN { Unfit::Vcpu } else { Unfit::Busy });
    }
    match interruption(number, &arguments) {
        Interruption::Exact if seen.name == "call_rcu" => Ok(0),
        Interruption::Exact => Ok(if seen.is_main { 1 } else { 2 }),
        Interruption::Timed => Ok(if seen.is_main { 3 } else { 4 }),
        Interruption::Endless => Ok(if seen.is_main { 5 } else { 6 }),
        Interruption::Early => Err(Unfit::Early),
    }
}

/// What becomes of a system call that a stop interrupts (signal(7), "Interruption of system calls ... by stop signals",
/// and the code of 6.12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Interruption {
    /// The kernel begins it anew, and nobody can tell.
    Exact,
    /// The same with a time-out of which it remembers what is left, but not through rt_sigreturn.
    Timed,
    /// It returns EINTR. As it has no time-out, beginning it anew is the same as going on. Should we die between the
    /// stop and that, it returns EINTR, as after SIGSTOP and SIGCONT: so after those that cannot.
    Endless,
    /// It returns early, or nobody knows. Also restart_syscall(2), in which a thread sleeps that was stopped in a timed
    /// call before: it cannot be begun anew, should we die, because nobody knows what it was.
    Early,
}

fn interruption(number: u64, arguments: &[u64; 6]) -> Interruption {
    let exact_or = |endless: bool, otherwise| if endless { Interruption::Exact } else { otherwise };
    let endless_or_early = |endless: bool| if endless { Interruption::Endless } else { Interruption::Early };
    match i64::try_from(number).unwrap_or(-1) {
        libc::SYS_read
        | libc::SYS_wait4
        | libc::SYS_waitid
        | libc::SYS_pause
        | libc::SYS_select
        | libc::SYS_pselect6
        | libc::SYS_ppoll
        | libc::SYS_rt_sigsuspend => Interruption::Exact,
        // WAIT and WAIT_BITSET, private or not, by either clock.
        libc::SYS_futex if matches!(arguments[1] & 0x7f, 0 | 9) => {
            exact_or(arguments[3] == 0, Interruption::Timed)
        }
        libc::SYS_poll | libc::SYS_nanosleep | libc::SYS_clock_nanosleep => Interruption::Timed,
        // A time-out is an int here.
        libc::SYS_epoll_wait | libc::SYS_epoll_pwait => endless_or_early((arguments[3] as i32) < 0),
        libc::SYS_epoll_pwait2 => endless_or_early(arguments[3] == 0),
        libc::SYS_rt_sigtimedwait => endless_or_early(arguments[2] == 0),
        _ => Interruption::Early,
    }
}

/// Whether a stopped thread runs a virtual processor.
pub(super) fn is_vcpu(registers: &user_regs_struct) -> bool {
    registers.orig_rax == SYS_IOCTL && registers.rsi == KVM_RUN
}

/// Whether it is in restart_syscall(2), having been stopped between the look at it and now.
pub(super) fn is_unrepeatable(registers: &user_regs_struct) -> bool {
    registers.orig_rax == libc::SYS_restart_syscall.cast_unsigned()
}

/// Whether the stop has made a system call without time-out return EINTR, which then begins anew instead. Where a signal
/// is pending, too, the kernel makes EINTR of it again.
pub(super) fn is_cut_short(registers: &user_regs_struct) -> bool {
    let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
    registers.rax.cast_signed() == -i64::from(libc::EINTR)
        && interruption(registers.orig_rax, &arguments) == Interruption::Endless
}

/// A file below /proc/PID.
pub(super) fn read(proc_dir: BorrowedFd<'_>, path: &str) -> Result<String, Errno> {
    let fd = openat(proc_dir, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::with_capacity(2048);
    let read = File::from(fd).read_to_end(&mut bytes);
    read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLEEPING: Seen<'_> = Seen { is_main: false, name: "qemu", state: 'S', syscall: None };

    fn asleep_in(number: i64, arguments: [u64; 6]) -> Seen<'static> {
        Seen { syscall: Some((number.cast_unsigned(), arguments)), ..SLEEPING }
    }

    #[test]
    fn lines_of_proc() {
        assert_eq!(name_and_state("12 (CPU 0/KVM) S 1 2"), Some(("CPU 0/KVM", 'S')));
        assert_eq!(name_and_state("12 (a) R (b) D 1 2"), Some(("a) R (b", 'D')));
        assert_eq!(name_and_state(""), None);
        let arguments = [1, 0xae80, 0, 4, 5, 6];
        assert_eq!(number_and_arguments("16 0x1 0xae80 0x0 0x4 0x5 0x6 0x7ff 0x7f0"), Some((16, arguments)));
        assert_eq!(number_and_arguments("running\n"), None);
        assert_eq!(number_and_arguments("-1 0x7ff 0x7f0"), None);
    }

    #[test]
    fn vcpus_and_those_who_cannot_stop_are_left_alone() {
        assert_eq!(rank(&asleep_in(16, [1, KVM_RUN, 0, 0, 0, 0])), Err(Unfit::Vcpu));
        assert_eq!(rank(&Seen { name: "CPU 3/KVM", ..asleep_in(202, [0; 6]) }), Err(Unfit::Vcpu));
        assert_eq!(rank(&asleep_in(16, [1, 2, 0, 0, 0, 0])), Err(Unfit::Busy));
        for (state, why) in
            [('D', Unfit::Busy), ('T', Unfit::Stopped), ('t', Unfit::Traced), ('Z', Unfit::Gone)]
        {
            assert_eq!(rank(&Seen { state, ..SLEEPING }), Err(why));
        }
    }

    #[test]
    fn whoever_is_missed_least_comes_first() {
        let rcu = Seen { name: "call_rcu", ..asleep_in(202, [0; 6]) };
        let main = Seen { is_main: true, ..asleep_in(271, [0; 6]) };
        let order = [
            rcu,
            main,
            asleep_in(0, [0; 6]),
            asleep_in(35, [0; 6]),
            Seen { is_main: true, ..asleep_in(232, [0, 0, 0, u64::from(u32::MAX), 0, 0]) },
            SLEEPING,
        ];
        let ranks: Vec<u8> = order.iter().map(|seen| rank(seen).unwrap()).collect();
        assert!(ranks.is_sorted(), "{ranks:?}");
    }

    #[test]
    fn calls_that_would_return_early_are_not_interrupted() {
        assert_eq!(
            rank(&asleep_in(232, [0, 0, 0, 1000, 0, 0])),
            Err(Unfit::Early),
            "epoll_wait for a second"
        );
        assert_eq!(rank(&asleep_in(128, [0, 0, 1, 0, 0, 0])), Err(Unfit::Early));
        assert_eq!(rank(&asleep_in(202, [0, 6, 0, 0, 0, 0])), Err(Unfit::Early), "FUTEX_LOCK_PI");
        assert_eq!(rank(&asleep_in(65, [0; 6])), Err(Unfit::Early), "semop");
        assert_eq!(rank(&asleep_in(202, [0, 128 | 9, 0, 8, 0, 0])), Ok(4), "a futex with a time-out");
    }
}
