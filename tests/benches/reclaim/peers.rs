//! What else gives a guest's memory back to the host: swap and KSM, on the same tiny guest.
//!
//! In: page sizes and tunings. Out: us for 2 MiB of each, from the first moment to the moment when the memory is gone from
//! the guest. What is not over within its time is a lower bound and said to be one.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::fd::AsRawFd as _;

use crate::ask::{Ask, Backing, DATA_GPA, FRAME, Ranges};
use crate::figures::Samples;
use crate::host::Host;
use crate::missing::Missing;
use crate::ratio::{check_pages, micros, prepare, start};
use crate::undo::{Change, setting};

/// What swap has to take.
const SWAPPED: Ranges = Ranges { first: DATA_GPA, bytes: 64 << 20, distance: 64 << 20, count: 1 };
/// What KSM has to merge.
const MERGED: Ranges = Ranges { first: DATA_GPA, bytes: 32 << 20, distance: 32 << 20, count: 1 };
const KSM: &str = "/sys/kernel/mm/ksm";
/// Of what is to go, so much: a few pages are always in somebody's hands.
const ENOUGH: f64 = 0.95;
/// Calls after which swap has failed.
const SWAP_CALLS: u32 = 50;

/// What one peer took.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Its name.
    pub(crate) peer: &'static str,
    /// How it was set.
    pub(crate) tuning: String,
    /// What it worked on.
    pub(crate) backing: Backing,
    /// us for 2 MiB; `None`: it was not done in the time it had.
    pub(crate) us_per_2mib: Option<f64>,
    /// It took at least so long, us for 2 MiB, where it was not done.
    pub(crate) at_least_us_per_2mib: Option<f64>,
    /// What else is to be said.
    pub(crate) note: String,
}

/// Pace of KSM.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pages_to_scan: u64,
    sleep_millisecs: u64,
}

impl Pace {
    /// As the kernel sets it (mm/ksm.c, 6.12).
    pub(crate) const DEFAULT: Self = Self { pages_to_scan: 100, sleep_millisecs: 20 };
    /// As fast as it gets.
    pub(crate) const TUNED: Self = Self { pages_to_scan: 20_000, sleep_millisecs: 1 };
}

/// A peer that this machine does not have, as one without figures: the others' are worth having.
pub(crate) fn or_absent(peer: &'static str, backing: Backing, measured: Result<Peer>) -> Result<Peer> {
    match measured {
        Err(error) if error.is::<Missing>() => Ok(Peer {
            peer,
            tuning: String::new(),
            backing,
            us_per_2mib: None,
            at_least_us_per_2mib: None,
            note: format!("not measured: {error:#}"),
        }),
        other => other,
    }
}

/// process_madvise(MADV_PAGEOUT) to a swap file.
pub(crate) fn swap(backing: Backing, rounds: u64) -> Result<Peer> {
    let _settings = prepare(backing, SWAPPED.total())?;
    let _swap = Change::swap_file(4 * SWAPPED.total())?;
    let mut host = start(backing, SWAPPED)?;
    let mut samples = Samples::default();
    let mut most_calls = 0;
    for round in 0..rounds {
        host.touch(SWAPPED)?;
        if round == 0 {
            check_pages(&host, backing, SWAPPED.total())?;
        }
        let before = host.smaps("Rss")?;
        let (mut us, mut calls) = (0.0, 0);
        // A page that is being written stays; the next call takes it.
        while before.saturating_sub(host.smaps("Rss")?) < (SWAPPED.total() as f64 * ENOUGH) as u64 {
            ensure!(
                calls < SWAP_CALLS,
                "{calls} calls of MADV_PAGEOUT did not get {} bytes out",
                SWAPPED.total()
            );
            let start = Instant::now();
            page_out(&host, SWAPPED)?;
            us += micros(start);
            calls += 1;
        }
        samples.add(us / SWAPPED.blocks());
        most_calls = most_calls.max(calls);
    }
    Ok(Peer {
        peer: "swap",
        tuning: "MADV_PAGEOUT, swap file".into(),
        backing,
        us_per_2mib: Some(samples.median()),
        at_least_us_per_2mib: None,
        note: format!("calls a round: {most_calls} at most"),
    })
}

/// Asks the kernel to write the range out: rustix does not know the call.
fn page_out(host: &Host, ranges: Ranges) -> Result<()> {
    let pid = i32::try_from(host.pid().get()).ok().and_then(rustix::process::Pid::from_raw);
    let pid = pid.context("no such pid")?;
    let process = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    for start in ranges.starts() {
        let range = libc::iovec {
            iov_base: host.hva(start) as *mut libc::c_void,
            iov_len: usize::try_from(ranges.bytes)?,
        };
        // SAFETY: the kernel reads one iovec, which lives until the call returns; its addresses are another process'.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                process.as_raw_fd(),
                &raw const range,
                1,
                libc::MADV_PAGEOUT,
                0,
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error()).context("process_madvise(MADV_PAGEOUT)");
        }
    }
    Ok(())
}

/// KSM at this pace, for so long at most.
pub(crate) fn ksm(name: &str, pace: Pace, backing: Backing, limit: Duration) -> Result<Peer> {
    if setting(format!("{KSM}/run"))? != "0" {
        let why =
            "KSM is at work on this machine: its pace is somebody's choice (echo 0 > /sys/kernel/mm/ksm/run)";
        return Err(Missing(why.into()).into());
    }
    let _settings = prepare(backing, MERGED.total())?;
    let mut host = start(backing, MERGED)?;
    host.touch(MERGED)?;
    check_pages(&host, backing, MERGED.total())?;
    host.is(Ask::Mergeable)?;
    let set = |file: &str, value: u64| Change::set(format!("{KSM}/{file}"), &value.to_string());
    let _pages = set("pages_to_scan", pace.pages_to_scan)?;
    let _sleep = set("sleep_millisecs", pace.sleep_millisecs)?;
    let wanted = (MERGED.total() as f64 * ENOUGH) as u64;
    let cpu_before = ksmd_cpu_s();
    let begin = Instant::now();
    let _run = set("run", 1)?;
    let mut merged = 0;
    while merged < wanted && begin.elapsed() < limit {
        // Nothing tells when KSM has merged something.
        std::thread::sleep(Duration::from_millis(5));
        merged = FRAME * host.vmm.merged_pages().context("this kernel does not say what KSM has merged")?;
    }
    let us = micros(begin);
    let done = merged >= wanted;
    let blocks = MERGED.blocks();
    let cpu = match (cpu_before, ksmd_cpu_s()) {
        (Some(before), Some(after)) => format!(", {:.1} s of CPU", after - before),
        _ => String::new(),
    };
    Ok(Peer {
        peer: "ksm",
        tuning: format!("{name}: {} pages, {} ms", pace.pages_to_scan, pace.sleep_millisecs),
        backing,
        us_per_2mib: done.then_some(us / blocks),
        // All of the time was not enough for all of the blocks.
        at_least_us_per_2mib: (!done).then_some(us / blocks),
        note: if done {
            format!("{} MiB in {:.1} s{cpu}", MERGED.total() >> 20, us / 1e6)
        } else {
            format!("{} of {} MiB merged in {:.0} s{cpu}", merged >> 20, MERGED.total() >> 20, us / 1e6)
        },
    })
}

/// CPU time of the kernel's ksmd so far, s; `None` where it cannot be told.
fn ksmd_cpu_s() -> Option<f64> {
    let processes = fs::read_dir("/proc").ok()?.flatten().map(|entry| entry.path());
    let is_ksmd = |path: &PathBuf| fs::read_to_string(path.join("comm")).is_ok_and(|name| name == "ksmd\n");
    let text = fs::read_to_string(processes.into_iter().find(is_ksmd)?.join("schedstat")).ok()?;
    text.split(' ').next()?.parse::<u64>().ok().map(|ns| ns as f64 / 1e9)
}
