//! What this benchmark changes on the machine, and how it is changed back: on drop, on panic, and on SIGINT, SIGTERM and
//! SIGHUP by a thread of its own.
//!
//! In: changes. Out: a guard for each. A change is on the list before it is made, so that no signal finds it missing.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Signal, pidfd_send_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::missing::Missing;

/// How long a killed process may take to end.
const LIMIT: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };

/// One change, and how to take it back.
enum Undo {
    /// Write this back.
    Write(PathBuf, String),
    /// Take so much from the number in this file: others may have changed it meanwhile, too.
    Less(PathBuf, u64),
    /// Turn this swap file off and remove it.
    Swap(PathBuf),
    /// End this process.
    Kill(OwnedFd),
}

impl Undo {
    fn undo(&self) {
        match self {
            Self::Write(path, value) => write_back(path, value),
            Self::Less(path, added) => {
                // Where it cannot be read there is nothing to put back.
                let now = setting(path).ok().and_then(|text| text.parse::<u64>().ok());
                if let Some(now) = now {
                    write_back(path, &now.saturating_sub(*added).to_string());
                }
            }
            Self::Swap(path) => {
                // Not an error where it was never turned on.
                let _ = Command::new("swapoff").arg(path).output();
                if let Err(error) = fs::remove_file(path) {
                    eprintln!("{} is left behind: {error}", path.display());
                }
            }
            Self::Kill(process) => {
                // It may have ended by itself. Waited for, because its memory is still in the kernel's pools until then.
                let _ = pidfd_send_signal(process, Signal::KILL);
                let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&LIMIT));
            }
        }
    }
}

fn write_back(path: &Path, value: &str) {
    if let Err(error) = fs::write(path, value) {
        eprintln!("{} could not be set back to {value}: {error}", path.display());
    }
}

/// All changes that stand, the oldest first.
static CHANGES: Mutex<(u64, Vec<(u64, Undo)>)> = Mutex::new((0, Vec::new()));

fn changes() -> MutexGuard<'static, (u64, Vec<(u64, Undo)>)> {
    // Whoever panicked with the lock held left a whole list behind.
    CHANGES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A change that is taken back when this is dropped.
pub(crate) struct Change {
    number: u64,
}

impl Change {
    /// Puts `undo` on the list and makes the change, with the list locked: a signal waits until it is made.
    fn make(undo: Undo, change: impl FnOnce() -> Result<()>) -> Result<Self> {
        let mut list = changes();
        list.0 += 1;
        let number = list.0;
        list.1.push((number, undo));
        let made = change();
        drop(list);
        // Also takes a change back that was made by half.
        let guard = Self { number };
        made.map(|()| guard)
    }

    /// Writes `value` to a file of /proc/sys or /sys.
    ///
    /// # Errors
    /// [`Missing`] where there is no such file.
    pub(crate) fn set(path: impl AsRef<Path>, value: &str) -> Result<Self> {
        let path = path.as_ref();
        let before = setting(path)?;
        Self::make(Undo::Write(path.to_owned(), before), || {
            fs::write(path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
        })
    }

    /// Adds to the number in a file of /proc/sys or /sys.
    ///
    /// # Errors
    /// [`Missing`] where there is no such file.
    pub(crate) fn add(path: impl AsRef<Path>, more: u64) -> Result<Self> {
        let path = path.as_ref();
        let before: u64 = setting(path)?.parse().with_context(|| format!("{}: no number", path.display()))?;
        Self::make(Undo::Less(path.to_owned(), more), || {
            fs::write(path, (before + more).to_string())
                .with_context(|| format!("cannot add {more} to {}", path.display()))
        })
    }

    /// A swap file of `bytes`, preferred to every other, in the folder for temporary files.
    pub(crate) fn swap_file(bytes: u64) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("imr-bench-swap-{}", std::process::id()));
        let step = |program: &str, arguments: &[&str]| -> Result<()> {
            let output = Command::new(program)
                .args(arguments)
                .arg(&path)
                .output()
                .map_err(|error| Missing(format!("{program} cannot be started: {error}")))?;
            let said = String::from_utf8_lossy(&output.stderr);
            anyhow::ensure!(output.status.success(), "{program} {}: {}", path.display(), said.trim());
            Ok(())
        };
        Self::make(Undo::Swap(path.clone()), || {
            write_zeros(&path, bytes)?;
            step("mkswap", &[])?;
            step("swapon", &["--priority", "32767"])
        })
    }

    /// Ends this process, if it has not ended by then.
    pub(crate) fn process(process: OwnedFd) -> Result<Self> {
        Self::make(Undo::Kill(process), || Ok(()))
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let mut list = changes();
        if let Some(at) = list.1.iter().position(|(number, _)| *number == self.number) {
            let (_, undo) = list.1.remove(at);
            undo.undo();
        }
    }
}

/// What a file of /proc/sys or /sys says; of several choices, the chosen one.
pub(crate) fn setting(path: impl AsRef<Path>) -> Result<String> {
    let path = path.as_ref();
    let text = fs::read_to_string(path)
        .map_err(|error| Missing(format!("{} cannot be read: {error}", path.display())))?;
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    Ok(chosen.map_or(text.trim(), |(chosen, _)| chosen).to_owned())
}

/// A file without holes, which swapon would refuse.
fn write_zeros(path: &Path, bytes: u64) -> Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    io::copy(&mut io::repeat(0).take(bytes), &mut file)
        .with_context(|| format!("cannot write {bytes} bytes to {}", path.display()))?;
    Ok(file.sync_all()?)
}

/// From here on the signals that end a program take all changes back first.
pub(crate) fn watch_signals() -> Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).context("cannot watch signals")?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            // Kept locked until the end: nothing is changed any more.
            let mut list = changes();
            while let Some((_, undo)) = list.1.pop() {
                undo.undo();
            }
            eprintln!("ended by signal {signal}; all settings are as they were");
            std::process::exit(128 + signal);
        }
    })?;
    Ok(())
}
