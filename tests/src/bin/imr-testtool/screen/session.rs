//! A script's steps, done on a program on a terminal.
//!
//! In: steps. Out: keys and clicks to the program, captures to files, or why a step failed.
//! Must wait for output and for ends, each with a limit; only `settle` measures silence.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::keys::Key;
use super::script::{Mouse, Step};
use super::svg;
use imr_tests::pty::{Pty, Ready};
use imr_tests::terminal::Size;
use imr_tests::terminal::Terminal;

/// Silence that counts as the end of a burst of output.
const SETTLE_QUIET: Duration = Duration::from_millis(300);
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// How long what was typed may wait for the program to read it.
const SEND_LIMIT: Duration = Duration::from_secs(5);
/// How long the output that is already there may take to be read.
const DRAIN_LIMIT: Duration = Duration::from_millis(200);
/// How long a process that the program left behind may go on to write.
const ORPHAN_LIMIT: Duration = Duration::from_millis(500);
/// Between two looks at whether the program has read a key; nothing tells of it.
const READ_POLL: Duration = Duration::from_millis(1);

/// What is the same for a whole script.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The terminal's first size.
    pub(crate) size: Size,
    /// Variables of the program's environment, besides ours.
    pub(crate) environment: Vec<(String, String)>,
    /// Where captures go.
    pub(crate) out: Option<PathBuf>,
    /// What the capture at a failed step is called.
    pub(crate) failed: String,
    /// How long to wait where the script does not say.
    pub(crate) limit: Duration,
}

/// A program under way.
pub(crate) struct Session {
    pty: Pty,
    terminal: Terminal,
    /// Typed, but not taken by the terminal yet.
    pending: Vec<u8>,
    settings: Settings,
    captures: u32,
}

/// What came of waiting once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pump {
    Output,
    Nothing,
    Late,
}

impl Session {
    /// Starts the program.
    pub(crate) fn start(command: &[String], settings: Settings) -> io::Result<Self> {
        let pty = Pty::start(command, &settings.environment, settings.size)?;
        let terminal = Terminal::new(settings.size);
        Ok(Self { pty, terminal, pending: Vec::new(), settings, captures: 0 })
    }

    /// Does one step; says why it failed.
    pub(crate) fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Wait { text, there, limit } => {
                let limit = limit.unwrap_or(self.settings.limit);
                self.until(limit, |session| session.terminal.contains(text) == *there)
            }
            Step::Check { text, there } => {
                self.drain()?;
                match (self.terminal.contains(text), there) {
                    (false, true) => Err("it is not there".into()),
                    (true, false) => Err("it is there".into()),
                    _ => Ok(()),
                }
            }
            Step::Keys(keys) => keys.iter().try_for_each(|key| self.key(key)),
            Step::Type(text) => self.send(text.as_bytes()),
            Step::Mouse(what, column, row) => self.mouse(*what, *column, *row),
            Step::Resize(size) => {
                self.drain()?;
                self.terminal.resize(*size);
                self.pty.resize(*size).map_err(told)
            }
            Step::Settle => self.settle(),
            Step::Capture(name) => {
                self.drain()?;
                self.capture(name)
            }
            Step::Exit { status, limit } => self.exit(*status, limit.unwrap_or(self.settings.limit)),
        }
    }

    /// `why`, what can be known of the program, and the screen; the latter also as a capture.
    pub(crate) fn failure(&mut self, why: &str) -> String {
        let Size { columns, rows } = self.terminal.size();
        let mut text = why.to_owned();
        if let Some(status) = self.pty.status() {
            text.push_str(&format!(" (the program ended with status {status})"));
        }
        text.push_str(&self.unknown());
        text.push_str(&format!("\n--- the screen, {columns}x{rows} ---\n"));
        for row in self.terminal.rows() {
            text.push_str(&row);
            text.push('\n');
        }
        text.push_str("--- end of the screen ---");
        if self.settings.out.is_some()
            && let Err(error) = self.capture(&self.settings.failed.clone())
        {
            text.push_str(&format!("\nno capture of it: {error}"));
        }
        text
    }

    /// What was done, as `name=value`.
    pub(crate) fn summary(&self, steps: usize) -> String {
        let status = self.pty.status().map_or("running".to_owned(), |status| status.to_string());
        format!("commands={steps} captures={} status={status}{}", self.captures, self.unknown())
    }

    fn unknown(&self) -> String {
        let unknown = self.terminal.unknown();
        if unknown.is_empty() {
            return String::new();
        }
        let told: Vec<String> = unknown.iter().map(|(name, count)| format!("{name} x{count}")).collect();
        format!(" unknown_sequences=\"{}\"", told.join(", "))
    }

    /// Waits for one event: output is taken in, what is pending is written.
    fn pump(&mut self, until: Instant) -> Result<Pump, String> {
        if self.pty.wait(until, !self.pending.is_empty()).map_err(told)? == Ready::Late {
            return Ok(Pump::Late);
        }
        let output = self.pty.read().map_err(told)?;
        let answers = self.terminal.process(&output);
        self.pending.extend(answers);
        if self.pty.closed() {
            self.pending.clear();
        } else if !self.pending.is_empty() {
            let written = self.pty.write(&self.pending).map_err(told)?;
            self.pending.drain(..written);
        }
        Ok(if output.is_empty() { Pump::Nothing } else { Pump::Output })
    }

    fn over(&self) -> bool {
        self.pty.closed() && self.pty.status().is_some()
    }

    fn until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        let mut until = Instant::now() + limit;
        let mut orphaned = false;
        while !done(self) {
            if self.over() {
                return Err("that cannot happen any more".into());
            }
            if self.pty.status().is_some() && !orphaned {
                // Somebody else has the terminal open still.
                orphaned = true;
                until = until.min(Instant::now() + ORPHAN_LIMIT);
            }
            if self.pump(until)? == Pump::Late {
                return Err(format!("not within {} s", limit.as_secs_f64()));
            }
        }
        Ok(())
    }

    /// Takes in what the program has written by now.
    fn drain(&mut self) -> Result<(), String> {
        let end = Instant::now() + DRAIN_LIMIT;
        while !self.over() && Instant::now() < end && self.pump(Instant::now())? != Pump::Late {}
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
        let end = Instant::now() + SETTLE_LIMIT;
        let mut quiet = Instant::now() + SETTLE_QUIET;
        while !self.over() {
            match self.pump(quiet)? {
                Pump::Late => return Ok(()),
                Pump::Output => quiet = Instant::now() + SETTLE_QUIET,
                Pump::Nothing => {}
            }
            if Instant::now() >= end {
                return Err(format!("there was output all the time, for {} s", SETTLE_LIMIT.as_secs()));
            }
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.pending.extend(bytes);
        let until = Instant::now() + SEND_LIMIT;
        while !self.pending.is_empty() {
            if self.pty.status().is_some() || self.pty.closed() {
                return Err("nobody is there to read it".into());
            }
            if self.pump(until)? == Pump::Late {
                return Err(format!("the program did not read it within {} s", SEND_LIMIT.as_secs()));
            }
        }
        Ok(())
    }

    fn key(&mut self, key: &Key) -> Result<(), String> {
        let bytes = key.bytes(self.terminal.screen().application_cursor());
        self.send(&bytes)?;
        if bytes != b"\x1b" {
            return Ok(());
        }
        // Read together with the next key, Esc would be an Alt.
        let until = Instant::now() + SEND_LIMIT;
        while !self.pty.closed() && self.pty.unread().map_err(told)? {
            if Instant::now() >= until {
                return Err(format!("the program did not read it within {} s", SEND_LIMIT.as_secs()));
            }
            self.pump(Instant::now() + READ_POLL)?;
        }
        Ok(())
    }

    fn mouse(&mut self, what: Mouse, column: u16, row: u16) -> Result<(), String> {
        self.drain()?;
        let size = self.terminal.size();
        if column > size.columns || row > size.rows {
            return Err(format!("the screen has {} columns and {} rows", size.columns, size.rows));
        }
        if !self.terminal.wants_mouse() {
            return Err("the program has not asked the terminal for SGR mouse reports".into());
        }
        // xterm's control sequences, "Extended coordinates": M for down, m for up.
        let report = match what {
            Mouse::Click => format!("\x1b[<0;{column};{row}M\x1b[<0;{column};{row}m"),
            Mouse::WheelUp => format!("\x1b[<64;{column};{row}M"),
            Mouse::WheelDown => format!("\x1b[<65;{column};{row}M"),
        };
        self.send(report.as_bytes())
    }

    fn exit(&mut self, wanted: i32, limit: Duration) -> Result<(), String> {
        self.until(limit, |session| session.pty.status().is_some())?;
        self.drain()?;
        match self.pty.status() {
            Some(status) if status == wanted => Ok(()),
            _ => Err("it ended otherwise".into()),
        }
    }

    fn capture(&mut self, name: &str) -> Result<(), String> {
        let dir = self.settings.out.as_ref().ok_or("there is no --out DIR")?;
        let mut plain = self.terminal.rows().join("\n");
        plain.push('\n');
        let coloured = format!("{}\x1b[m\n", self.terminal.screen().contents_formatted_basic());
        let picture = svg::render(self.terminal.screen(), name);
        for (end, content) in [("txt", plain), ("ansi", coloured), ("svg", picture)] {
            let path = dir.join(format!("{name}.{end}"));
            fs::write(&path, content).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        self.captures += 1;
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is handed to map_err")]
fn told(error: io::Error) -> String {
    format!("the terminal fails: {error}")
}
