//! The inject backend on real processes: what it takes, that nobody notices, and that its death harms nobody.
//!
//! In: victims, which are this program again in another role. Out: a verdict a test. Needs root, no VM.

pub(crate) mod death;
mod victim;
mod watch;

use std::fs;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use imr_tests::ring::Verdict;
use imr_user::model::ids::Pid;
use imr_user::reclaim::backend::Backend as _;
use imr_user::reclaim::inject::Inject;

use self::victim::{KINDS, Kind, REGION};
use self::watch::{Victim, call};

/// Which other program this one is for once.
const ROLE: &str = "IMR_TEST_INJECT_ROLE";
/// A thread that has not moved for so long has come to harm.
const LIMIT: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;
/// Batches for each kind of thread.
const BATCHES: usize = 400;

macro_rules! root_or_skip {
    () => {
        if !rustix::process::geteuid().is_root() {
            return Verdict::Skipped("this needs root".to_owned());
        }
    };
}
use root_or_skip;

/// Plays the role that the environment asks for, if any.
pub(super) fn role() -> Option<ExitCode> {
    let role = std::env::var(ROLE).ok()?;
    let mut words = role.split(' ');
    Some(match words.next() {
        Some("victim") => victim::main(words.next().unwrap()),
        Some("injector") => death::injector(&words.map(|word| word.parse().unwrap()).collect::<Vec<u64>>()),
        _ => panic!("{ROLE}={role}"),
    })
}

/// Numbers that look random and are the same each time.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

pub(super) fn takes_only_what_is_named() -> Verdict {
    root_or_skip!();
    let victim = Victim::start("all", true);
    let mut seeded = Seeded(1);
    for (region, unit) in [(0, 4096), (1, 2 * MIB)] {
        let segment = victim.segment(region);
        let start = victim.regions[region];
        for round in 0..40 {
            victim.fill(start, REGION);
            let mut calls = Vec::new();
            let mut at = start;
            while at < start + REGION {
                let bytes = (1 + seeded.below(2 * MIB / unit)) * unit;
                let bytes = bytes.min(start + REGION - at);
                if seeded.below(2) == 0 {
                    calls.push((at, bytes));
                }
                at += bytes;
            }
            let (did, freed) = victim.inject(&segment, &calls);
            assert!(did.iter().all(Result::is_ok), "round {round}: {did:?}");
            assert_eq!(freed, calls.iter().map(|call| call.1).sum::<u64>(), "round {round}");
            let mut kept = start;
            for (at, bytes) in calls {
                assert!(victim.is_whole(kept, at - kept), "round {round}: before {at:#x}");
                assert!(victim.is_zero(at, bytes), "round {round}: {at:#x}+{bytes:#x}");
                kept = at + bytes;
            }
            assert!(victim.is_whole(kept, start + REGION - kept), "round {round}: from {kept:#x}");
        }
    }
    let doing: Vec<Kind> = KINDS.into_iter().filter(|kind| *kind != Kind::Sigsuspend).collect();
    victim.expect_life(&doing, "at the end");
    huge_pages_stay_whole(&victim)
}

fn huge_pages_stay_whole(victim: &Victim) -> Verdict {
    let start = victim.regions[1];
    let segment = victim.segment(1);
    let all = vec![(start, REGION)];
    assert_eq!(victim.inject(&segment, &all).0, [Ok(())]);
    victim.fill(start, REGION);
    if huge_kib(victim, start) != REGION / 1024 {
        return Verdict::Skipped("this machine has no free huge pages".to_owned());
    }
    let (did, freed) =
        victim.inject(&segment, &[(start, 3 * MIB), (start + 5 * MIB, MIB), (start + 4 * MIB, 2 * MIB)]);
    let words: Vec<String> =
        did.iter().map(|did| did.as_ref().map_or_else(ToString::to_string, |()| "ok".into())).collect();
    assert!(words[0].contains("split a huge page") && words[1].contains("split a huge page"), "{words:?}");
    assert_eq!((words[2].as_str(), freed), ("ok", 2 * MIB));
    assert!(victim.is_whole(start, 4 * MIB) && victim.is_zero(start + 4 * MIB, 2 * MIB));
    assert_eq!(huge_kib(victim, start), (REGION - 2 * MIB) / 1024);
    Verdict::Passed
}

fn huge_kib(victim: &Victim, start: u64) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{}/smaps", victim.pid())).unwrap();
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&format!("{start:x}-")));
    let found = lines.find_map(|line| line.strip_prefix("AnonHugePages:")?.strip_suffix(" kB"));
    found.unwrap().trim().parse().unwrap()
}

pub(super) fn goes_unnoticed() -> Verdict {
    root_or_skip!();
    for kind in KINDS {
        // Some need the ticks of another thread, which is less fit to be stopped than they are.
        let alone = !matches!(kind, Kind::Ppoll | Kind::Futex | Kind::Epoll);
        let signals = matches!(kind, Kind::Ppoll | Kind::Sigsuspend);
        let name = if alone { format!("{kind:?}") } else { format!("{kind:?}+Nanosleep") };
        let victim = Victim::start(&name, signals);
        let segment = victim.segment(0);
        let start = victim.regions[0];
        let calls: Vec<(u64, u64)> = (0..4).map(|call| (start + call * MIB, MIB / 2)).collect();
        let mut failures = Vec::new();
        for batch in 0..BATCHES {
            let (did, _) = victim.inject(&segment, &calls);
            failures.extend(did.into_iter().filter_map(Result::err).take(1));
            if batch % 50 == 0 {
                victim.expect_life(&[kind], &name);
            }
        }
        victim.expect_life(&[kind], &name);
        let (errors, signals_seen, _) = victim.figures();
        assert_eq!(errors, 0, "{name}");
        assert!(!signals || signals_seen > 0, "{name}: no signal came");
        println!(
            "{name}: {} of {BATCHES} batches were refused, {signals_seen} signals; {:?}",
            failures.len(),
            failures.first()
        );
        // A call with a time-out can be interrupted once only, and there is no other thread here.
        let once = matches!(kind, Kind::FutexTimed | Kind::Nanosleep);
        let limit = if once { BATCHES - 5 } else { BATCHES / 10 };
        assert!(failures.len() <= limit, "{name}: {}", failures[0]);
        assert!(victim.is_whole(start + 4 * MIB, REGION - 4 * MIB), "{name}");
    }
    Verdict::Passed
}

pub(super) fn says_why_it_cannot() -> Verdict {
    root_or_skip!();
    let victim = Victim::start("Nanosleep", false);
    let segment = victim.segment(0);
    let start = victim.regions[0];
    // SAFETY: no pointers.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, victim.pid() as i32, 0, 0) };
    assert_eq!(seized, 0);
    let error = victim.inject(&segment, &[(start, MIB)]).0.remove(0).unwrap_err().to_string();
    assert!(error.contains("traces") && error.contains(&std::process::id().to_string()), "{error}");
    assert!(victim.is_whole(start, REGION));

    let mut gone = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap();
    let path = format!("/proc/{}", gone.id());
    let proc_dir = fs::File::open(&path).unwrap();
    let mut inject = Inject::new(std::os::fd::AsFd::as_fd(&proc_dir), Pid::new(gone.id()));
    gone.kill().unwrap();
    gone.wait().unwrap();
    let obstacle = format!("{:?}", inject.prepare(&segment).unwrap_err());
    assert!(obstacle.contains("VmmGone"), "{obstacle}");
    let error = inject.reclaim(&call(&segment, start, MIB)).unwrap_err();
    assert!(error.to_string().contains("madvise"), "not prepared: {error}");
    Verdict::Passed
}

pub(super) fn stopped_stays_stopped() -> Verdict {
    root_or_skip!();
    // Without epoll_wait, which returns EINTR after SIGSTOP and SIGCONT by itself (signal(7)).
    let doing = [Kind::Ppoll, Kind::Read, Kind::Futex, Kind::FutexTimed, Kind::Nanosleep, Kind::Busy];
    let victim = Victim::start(&doing.map(|kind| format!("{kind:?}")).join("+"), true);
    let segment = victim.segment(0);
    let start = victim.regions[0];
    for _ in 0..50 {
        signal(&victim, libc::SIGSTOP);
        let error = victim.inject(&segment, &[(start, MIB)]).0.remove(0);
        assert!(error.is_err() || state(&victim) != 'S', "it was not stopped yet, or it is now");
        expect_state(&victim, 'T');
        let (_, _, before) = victim.figures();
        let error = victim.inject(&segment, &[(start, MIB)]).0.remove(0).unwrap_err().to_string();
        assert!(error.contains("stopped"), "{error}");
        expect_state(&victim, 'T');
        assert_eq!(victim.figures().2, before, "it has moved");
        signal(&victim, libc::SIGCONT);
        victim.expect_life(&doing, "after SIGCONT");
    }
    // Stopped while a batch is under way, at a moment that nobody chose.
    let proc_dir = victim.proc_dir();
    for round in 0..200 {
        let mut inject = Inject::new(std::os::fd::AsFd::as_fd(&proc_dir), Pid::new(victim.pid()));
        inject.prepare(&segment).unwrap();
        let first = inject.reclaim(&call(&segment, start, MIB));
        assert!(first.is_ok(), "{first:?}");
        signal(&victim, libc::SIGSTOP);
        let second = inject.reclaim(&call(&segment, start + MIB, MIB));
        if round % 2 == 0 {
            let _ = inject.reclaim(&call(&segment, start + MIB, MIB));
        }
        inject.finish();
        assert!(second.is_ok() || second.as_ref().unwrap_err().to_string().contains("stopped"), "{second:?}");
        expect_state(&victim, 'T');
        signal(&victim, libc::SIGCONT);
        victim.expect_life(&[Kind::Ppoll], "after SIGCONT in a batch");
    }
    victim.expect_life(&doing, "at the end");
    Verdict::Passed
}

fn signal(victim: &Victim, signal: i32) {
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::kill(victim.pid() as i32, signal) }, 0);
}

fn state(victim: &Victim) -> char {
    let stat = fs::read_to_string(format!("/proc/{}/stat", victim.pid())).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

fn expect_state(victim: &Victim, wanted: char) {
    let begin = Instant::now();
    while state(victim) != wanted {
        assert!(begin.elapsed() < LIMIT, "{} instead of {wanted}", state(victim));
        std::thread::yield_now();
    }
}
