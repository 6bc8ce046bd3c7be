//! The tracer dies: at random moments, and at each of its system calls. The victim must not notice.
//!
//! In: an injector, which is this program in that role. Out: a verdict a test.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::Duration;

use imr_tests::ring::Verdict;
use imr_user::ingest::discovery::FoundSlot;
use imr_user::ingest::vmm::Vmm;
use imr_user::model::ids::Pid;
use imr_user::reclaim::backend::Backend as _;
use imr_user::reclaim::inject::Inject;

use super::victim::{KINDS, Kind, REGION};
use super::watch::{Victim, call};
use super::{LIMIT, MIB, ROLE, Seeded, root_or_skip};

/// Times that the injector is killed at random moments, for each kind of victim.
const DEATHS: u64 = 80;
/// The system call with which the injector says that a batch begins; nothing else makes it.
const MARK: i64 = libc::SYS_getpgrp;

/// Takes the first half of a region again and again: a process, a region's address.
pub(super) fn injector(arguments: &[u64]) -> ExitCode {
    let (pid, start) = (arguments[0] as u32, arguments[1]);
    let vmm = Vmm::open(Pid::new(pid)).unwrap();
    let slot = FoundSlot { id: 0, base_gfn: 0, npages: REGION / 4096, userspace_addr: start, flags: 0 };
    let segment = vmm.segments(&[slot]).unwrap().remove(0).remove(0);
    let proc_dir = fs::File::open(format!("/proc/{pid}")).unwrap();
    std::io::stdout().write_all(b"!").unwrap();
    std::io::stdout().flush().unwrap();
    let mut go = [0];
    std::io::stdin().read_exact(&mut go).unwrap();
    loop {
        // SAFETY: no arguments.
        unsafe { libc::syscall(MARK) };
        let mut inject = Inject::new(proc_dir.as_fd(), Pid::new(pid));
        inject.prepare(&segment).unwrap();
        for at in 0..3 {
            // A thread that sleeps on by restart_syscall is refused.
            let _ = inject.reclaim(&call(&segment, start + at * 2 * MIB, 2 * MIB));
        }
        inject.finish();
    }
}

/// Starts one that waits for [`go`].
fn start_injector(victim: &Victim, region: usize) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env(ROLE, format!("injector {} {}", victim.pid(), victim.regions[region]))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    child
}

fn go(child: &mut Child) {
    child.stdin.as_mut().unwrap().write_all(b"!").unwrap();
}

fn doing() -> Vec<Kind> {
    KINDS.into_iter().filter(|kind| *kind != Kind::Sigsuspend).collect()
}

/// The victim after a death: alive, and with every byte that was not to be taken.
fn check(victim: &Victim, doing: &[Kind], what: &str) {
    victim.expect_life(doing, what);
    let kept = victim.regions[0] + 6 * MIB;
    assert!(victim.is_whole(kept, REGION - 6 * MIB), "{what}");
}

pub(crate) fn at_random_moments() -> Verdict {
    root_or_skip!();
    let victims = [
        ("all", doing(), true),
        ("Busy", vec![Kind::Busy], false),
        ("FutexTimed", vec![Kind::FutexTimed], false),
        ("Nanosleep", vec![Kind::Nanosleep], false),
        ("Read", vec![Kind::Read], false),
        ("Sigsuspend", vec![Kind::Sigsuspend], true),
    ];
    let mut seeded = Seeded(4);
    for (name, doing, signals) in victims {
        let victim = Victim::start(name, signals);
        for death in 0..DEATHS {
            let mut injector = start_injector(&victim, 0);
            victim.fill(victim.regions[0], 6 * MIB);
            go(&mut injector);
            thread::sleep(Duration::from_micros(seeded.below(4000)));
            injector.kill().unwrap();
            injector.wait().unwrap();
            check(&victim, &doing, &format!("{name}, death {death}"));
        }
    }
    Verdict::Passed
}

/// Where a traced injector is: the number of its system call, and for ptrace(2) its request.
type Step = (u64, u64);

pub(crate) fn at_every_step() -> Verdict {
    root_or_skip!();
    let mut steps = BTreeSet::new();
    // Every step of a sleeping thread, and where the way there does not matter, some.
    for (name, doing, signals, step) in [
        ("all", doing(), true, 1),
        ("Busy", vec![Kind::Busy], false, 3),
        ("Nanosleep", vec![Kind::Nanosleep], false, 7),
    ] {
        let victim = Victim::start(name, signals);
        let mut deaths = 0;
        for stops in (1..).step_by(step) {
            let mut injector = start_injector(&victim, 0);
            victim.fill(victim.regions[0], 6 * MIB);
            let reached = run_to(&mut injector, stops);
            check(&victim, &doing, &format!("{name}, death after {stops} system call stops: {reached:?}"));
            match reached {
                Some(step) => {
                    steps.insert(step);
                }
                // It has come to the third batch: all of the first, which looks for everything, and of the second.
                None => break,
            }
            deaths = stops;
        }
        println!("{name}: up to {deaths} stops");
        assert!(deaths > 100, "so few system calls make no two batches");
    }
    for request in [
        libc::PTRACE_SEIZE,
        libc::PTRACE_INTERRUPT,
        libc::PTRACE_GETREGS,
        libc::PTRACE_SETREGS,
        libc::PTRACE_SYSCALL,
        libc::PTRACE_CONT,
        libc::PTRACE_DETACH,
        libc::PTRACE_GETSIGMASK,
        libc::PTRACE_SETSIGMASK,
        libc::PTRACE_GETREGSET,
    ] {
        let step = (libc::SYS_ptrace as u64, u64::from(request));
        assert!(steps.contains(&step), "no death at ptrace request {request:#x}");
    }
    assert!(steps.contains(&(libc::SYS_process_vm_writev as u64, 0)));
    Verdict::Passed
}

/// Lets the injector go on for as many system call stops (two a call) from the first batch on, and kills it there.
/// `None` where the third batch begins before that.
fn run_to(injector: &mut Child, stops: u64) -> Option<Step> {
    let pid = injector.id() as i32;
    request(libc::PTRACE_SEIZE, pid, libc::PTRACE_O_TRACESYSGOOD as usize);
    request(libc::PTRACE_INTERRUPT, pid, 0);
    wait(pid);
    go(injector);
    let (mut marks, mut counted) = (0, 0);
    let mut reached = None;
    while counted < stops {
        request(libc::PTRACE_SYSCALL, pid, 0);
        wait(pid);
        // SAFETY: zeros are valid registers.
        let mut registers = unsafe { std::mem::zeroed::<libc::user_regs_struct>() };
        request(libc::PTRACE_GETREGS, pid, &raw mut registers as usize);
        if registers.orig_rax == MARK as u64 {
            marks += 1;
            // Two stops a mark.
            if marks == 5 {
                reached = None;
                break;
            }
        }
        if marks > 0 {
            counted += 1;
            let is_ptrace = registers.orig_rax == libc::SYS_ptrace as u64;
            reached = Some((registers.orig_rax, if is_ptrace { registers.rdi } else { 0 }));
        }
    }
    injector.kill().unwrap();
    // The wait of the tracer and that of the parent are one.
    injector.wait().unwrap();
    reached
}

fn request(request: libc::c_uint, pid: i32, data: usize) {
    // SAFETY: `data` is a number, or the address of the registers to be filled in.
    let done = unsafe { libc::ptrace(request, pid, 0, data) };
    assert_eq!(done, 0, "ptrace request {request:#x}: {}", std::io::Error::last_os_error());
}

fn wait(pid: i32) {
    let mut status = 0;
    // SAFETY: a status to be filled in.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) };
    assert_eq!(waited, pid);
    assert!(libc::WIFSTOPPED(status), "the injector ended: {status:#x} within {LIMIT:?}");
}
