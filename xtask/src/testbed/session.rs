//! One run of the testbed, from its images to its outcome.
//!
//! In: a `Config` and somebody to show lines to. Out: an `Outcome`, saved files; nothing is left running and no file is left
//! behind, however it ended. A hung boot of L1 is tried again once, and counted.
//! Must not decide what the user sees: it hands every line on.

use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::config::{Config, Terminal};
use super::emulator::{Accelerator, Emulator};
use super::image::{self, Kernels};
use super::logs::Logs;
use super::outcome::{Outcome, Problem};
use super::outer;
use super::relay::{self, Channel, Line, Message, Source};
use super::rundir::RunDir;
use super::saved::Saved;
use super::signals::Signals;
use super::swap::SwapDisk;
use super::tty::Tty;
use super::{events::Event, payload};
use crate::setup::{self, Need};

/// One attempt more when L1 hangs at boot: seen about once in twenty boots under the emulator.
const BOOT_ATTEMPTS: u32 = 2;
/// L1 gives a sign of life every ten seconds (scripts/l1-init.sh); after so long without any message it counts as hung.
/// Now and then its clock stops under the emulator: nothing that waits for a time goes on, in it and in its guests.
const SILENCE: Duration = Duration::from_secs(90);
/// How many messages may wait to be shown.
const QUEUE: usize = 1024;

/// Boots the testbed as `config` says, gives every line to `on_line` as it comes, and returns how it ended.
///
/// # Errors
/// When something is missing on this machine, could not be built, or an image could not be written. What
/// goes wrong from the boot on is in the outcome.
pub(crate) fn run(config: &Config, on_line: &mut dyn FnMut(&Line)) -> Result<Outcome> {
    config.check().map_err(anyhow::Error::msg)?;
    Accelerator::of_this_machine().check(config).map_err(anyhow::Error::msg)?;
    setup::ensure(&[Need::Testbed])?;
    let emulator = Emulator::choose(config)?;
    let payload = payload::gather(config)?;
    let kernels =
        Kernels { host: setup::kernel(config.host_kernel)?, guest: setup::kernel(config.guest_kernel)? };
    // From here on a signal must not end us before the folder is removed.
    let (queue, messages) = sync_channel(QUEUE);
    let _signals = Signals::forward(&queue)?;
    let dir = RunDir::new()?;
    let initrd = dir.join("initrd");
    let tty = Tty::open(config.terminal)?;
    image::write_initrd(&initrd, config, &kernels, &payload, &outer::port_names(config), tty.shape())?;
    let mut logs = Logs::new(config)?;
    if let Some(dir) = &config.save {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let mut session = Session {
        config,
        kernels: &kernels,
        initrd: &initrd,
        swap: &dir.join("swap"),
        emulator: &emulator,
        queue,
        messages,
        begun: Instant::now(),
        outcome: Outcome::default(),
        on_line,
        logs: &mut logs,
        tty: &tty,
        shown_from: None,
        saved: config.save.as_deref().map(Saved::new),
        unsaved: None,
        exited: false,
    };
    session.run()?;
    Ok(session.outcome)
}

/// How one boot of L1 ended.
#[derive(Debug, PartialEq, Eq)]
enum Boot {
    /// With a status, or with a problem that a second try does not mend.
    Over,
    /// It never came up.
    Hung,
}

struct Session<'a> {
    config: &'a Config,
    kernels: &'a Kernels,
    initrd: &'a Path,
    /// Where the disk for L1's swap lies, if it is to have one.
    swap: &'a Path,
    emulator: &'a Emulator,
    queue: SyncSender<Message>,
    messages: Receiver<Message>,
    begun: Instant,
    outcome: Outcome,
    on_line: &'a mut dyn FnMut(&Line),
    logs: &'a mut Logs,
    tty: &'a Tty,
    /// Set while the host script has the user's terminal: lines from here on are shown afterwards.
    shown_from: Option<usize>,
    /// What the host script saved, as far as it has come.
    saved: Option<Saved>,
    /// Why that is not all.
    unsaved: Option<String>,
    /// L1 has nothing more to do but to hand over what was saved.
    exited: bool,
}

impl Session<'_> {
    fn run(&mut self) -> Result<()> {
        for attempt in 1..=BOOT_ATTEMPTS {
            if self.boot()? == Boot::Over || self.outcome.problem.is_some() {
                break;
            }
            let limit = self.config.boot_timeout.as_secs();
            if attempt == BOOT_ATTEMPTS {
                self.outcome.problem = Some(Problem::BootHung(self.config.boot_timeout));
            } else {
                self.outcome.retries += 1;
                let console = self.outcome.last_words();
                self.outcome.tails.clear();
                self.note(&format!("L1 was not up within {limit} s; booting it once more. retries: 1"));
                for line in console.lines() {
                    self.note(line);
                }
            }
        }
        self.outcome.elapsed = self.begun.elapsed();
        for line in &self.outcome.lines[self.shown_from.unwrap_or(self.outcome.lines.len())..] {
            (self.on_line)(line);
        }
        if self.outcome.status == 0 && !self.outcome.guest_failures.is_empty() {
            self.outcome.status = 1;
        }
        // A status of the script's own says more.
        if let Some(why) = self.unsaved.take().filter(|_| self.outcome.status == 0) {
            self.outcome.problem.get_or_insert(Problem::Failed(format!("not all was saved: {why}")));
        }
        Ok(())
    }

    fn boot(&mut self) -> Result<Boot> {
        let started = Instant::now();
        // Anew for each boot: one that hung may have left anything on it.
        let swap = self.config.host_swap.map(|size| SwapDisk::new(self.swap, size)).transpose()?;
        let outer = outer::start(self.config, self.emulator, self.kernels, self.initrd, swap.as_ref())?;
        let mut qemu = outer.qemu;
        let mut open = outer.streams.len();
        let mut events = None;
        for stream in outer.streams {
            if stream.channel == Channel::Events {
                events = Some(stream.socket.try_clone().context("cannot duplicate a socket")?);
            }
            relay::read(stream.channel, stream.socket, self.queue.clone());
        }
        if let Some(stderr) = qemu.stderr() {
            open += 1;
            relay::read(Channel::Qemu, stderr, self.queue.clone());
        }
        let watch = events.filter(|_| self.config.terminal == Terminal::Users).map(|to| self.tty.follow(to));
        let result = self.follow(started, &mut open);
        drop(watch);
        let status = qemu.end(result == Follow::Ended);
        // Killed or not, what L1 had written by then is still to be shown.
        while open > 0 {
            match self.messages.recv() {
                Ok(message) => self.take(message, &mut open, started),
                Err(_) => break,
            };
        }
        if result == Follow::Ended && self.outcome.problem.is_none() {
            if self.outcome.host_up.is_none() {
                // A QEMU that refuses its arguments says so itself, and would again.
                return Ok(if status.is_none_or(|status| status.success()) {
                    Boot::Hung
                } else {
                    self.died(status)
                });
            }
            return Ok(self.died(status));
        }
        Ok(if result == Follow::Hung { Boot::Hung } else { Boot::Over })
    }

    fn died(&mut self, status: Option<ExitStatus>) -> Boot {
        let how = status.map_or_else(|| "status unknown".to_owned(), |status| status.to_string());
        self.outcome.problem = Some(Problem::QemuEnded(how));
        Boot::Over
    }

    /// Follows a boot until it is over, one way or the other.
    fn follow(&mut self, started: Instant, open: &mut usize) -> Follow {
        loop {
            let up = self.outcome.host_up.is_some();
            let quiet_end = if up { Instant::now() + SILENCE } else { started + self.config.boot_timeout };
            let run_end = self.config.timeout.map(|timeout| self.begun + timeout);
            let end = run_end.map_or(quiet_end, |run_end| quiet_end.min(run_end));
            let message = self.messages.recv_timeout(end.saturating_duration_since(Instant::now()));
            match message {
                Ok(message) => {
                    if let Some(end) = self.take(message, open, started) {
                        return end;
                    }
                }
                Err(_) if run_end.is_some_and(|end| end <= Instant::now()) => {
                    let limit = self.config.timeout.unwrap_or_default();
                    self.outcome.problem = Some(Problem::TimedOut(limit));
                    return Follow::Over;
                }
                Err(RecvTimeoutError::Timeout) if up => {
                    self.outcome.problem = Some(Problem::HostHung(SILENCE));
                    return Follow::Over;
                }
                Err(_) => return Follow::Hung,
            }
        }
    }

    /// Takes in one message; says whether the boot is over with it.
    fn take(&mut self, message: Message, open: &mut usize, started: Instant) -> Option<Follow> {
        match message {
            Message::Signal(signal) => {
                self.outcome.problem.get_or_insert(Problem::Interrupted(signal));
                Some(Follow::Over)
            }
            Message::Closed(channel) => {
                *open -= 1;
                (channel == Channel::Events).then_some(Follow::Ended)
            }
            Message::Line(Channel::Saved, text) => {
                self.save(&text);
                (self.exited && self.handed_over()).then_some(Follow::Over)
            }
            Message::Line(channel, text) => {
                self.logs.write(channel, self.begun.elapsed(), &text);
                match channel {
                    Channel::Host => self.line(Source::Host, text),
                    Channel::Guest(n) => self.line(Source::Guest(n), text),
                    Channel::Events => return self.event(&text, started),
                    Channel::HostConsole | Channel::GuestConsole(_) | Channel::Qemu => {
                        return self.console(channel, text);
                    }
                    Channel::Saved => {}
                }
                None
            }
        }
    }

    /// Keeps what a kernel or QEMU says, and looks for the last line of a panic.
    fn console(&mut self, channel: Channel, text: String) -> Option<Follow> {
        let panicked = text.contains("---[ end Kernel panic");
        // That is us, ending it.
        if channel != Channel::Qemu || !text.contains("terminating on signal 15") {
            self.outcome.keep_tail(channel, text);
        }
        match channel {
            // It ends QEMU too, and only after all is said. A panic at boot is as good as a hang.
            Channel::HostConsole if panicked && self.outcome.host_up.is_some() => {
                self.outcome.problem.get_or_insert(Problem::HostPanicked);
                None
            }
            Channel::GuestConsole(n) if panicked => {
                self.outcome.problem.get_or_insert(Problem::GuestPanicked(n));
                Some(Follow::Over)
            }
            _ => None,
        }
    }

    fn event(&mut self, text: &str, started: Instant) -> Option<Follow> {
        match Event::parse(text) {
            Event::HostUp => {
                let took = started.elapsed();
                self.outcome.host_up = Some(took);
                let kernel = &self.kernels.host.release;
                let accelerator = self.emulator.accelerator().as_str();
                self.note(&format!("L1 is up: {kernel} under {accelerator}, {:.1} s", took.as_secs_f64()));
            }
            Event::Alive => {}
            Event::GuestUp(n) => {
                let took = started.elapsed();
                let again = self.outcome.guests_up.iter().any(|(other, _)| *other == n);
                if again {
                    self.outcome.guest_resets += 1;
                    self.note(&format!("guest {n} is up again"));
                } else {
                    self.outcome.guests_up.push((n, took));
                    let kernel = &self.kernels.guest.release;
                    self.note(&format!("guest {n} is up: {kernel}, {:.1} s", took.as_secs_f64()));
                }
            }
            Event::GuestScript(n, status) => {
                if status != 0 {
                    self.outcome.guest_failures.push((n, status));
                    self.note(&format!("guest {n}: its script ended with status {status}"));
                }
            }
            Event::GuestOff(n, status) => {
                self.note(&format!("guest {n}: its QEMU ended with status {status}"));
            }
            Event::Attached => self.shown_from = Some(self.outcome.lines.len()),
            Event::Exit(status) => {
                self.outcome.status = status;
                self.exited = true;
                // The ports are read by threads of their own: this one may be ahead.
                return self.handed_over().then_some(Follow::Over);
            }
            Event::Failed(what) => {
                self.outcome.problem.get_or_insert(Problem::Failed(what));
                return Some(Follow::Over);
            }
            Event::Progress => {}
            Event::Unknown => self.note(&format!("L1 reports something unknown: {text:?}")),
        }
        None
    }

    /// Whether nothing that was saved is still to come.
    fn handed_over(&self) -> bool {
        self.saved.as_ref().is_none_or(Saved::ended)
    }

    /// Takes in a line of what was saved, and tells of it when it was the last.
    fn save(&mut self, line: &str) {
        let Some(report) = self.saved.as_mut().and_then(|saved| saved.line(line)) else { return };
        let dir = self.config.save.as_deref().unwrap_or(Path::new("")).display();
        self.note(&format!("saved {} file(s), {} bytes, in {dir}", report.files, report.bytes));
        if !report.missing.is_empty() {
            let why = report.missing.join("; ");
            self.note(&format!("not all was saved: {why}"));
            self.unsaved = Some(why);
        }
    }

    fn note(&mut self, text: &str) {
        self.line(Source::Testbed, text.to_owned());
    }

    fn line(&mut self, source: Source, text: String) {
        let line = Line { source, at: self.begun.elapsed(), text };
        if self.shown_from.is_none() {
            (self.on_line)(&line);
        }
        self.outcome.lines.push(line);
    }
}

/// Why following a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// There is a status or a problem.
    Over,
    /// L1 did not come up in time.
    Hung,
    /// L1's QEMU is gone.
    Ended,
}
