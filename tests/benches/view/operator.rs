//! Somebody at imr-top's terminal: starts it, presses keys, waits for what they do, and reads the clock and /proc.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use imr_tests::pty::{Pty, Ready};
use imr_tests::terminal::{Size, Terminal};

use crate::p99;

const SIZE: Size = Size { columns: 200, rows: 60 };
/// How long anything may take before the benchmark gives up.
const LIMIT: Duration = Duration::from_secs(30);
/// Digits and what their views have in the tab line.
const VIEWS: [(&str, &str); 7] =
    [("1", "[1 "), ("2", "[2 "), ("3", "[3 "), ("4", "[4 "), ("5", "[5 "), ("6", "[6 "), ("7", "[7 ")];

/// The measured process and its terminal.
pub(crate) struct Operator {
    pty: Pty,
    screen: Terminal,
}

/// What a stretch of time cost.
pub(crate) struct Cost {
    pub(crate) cpu_percent: f64,
    /// Largest resident memory of its own, without the shared tables, MiB.
    pub(crate) rss_mib: u64,
    pub(crate) time: Duration,
    pub(crate) keys: usize,
    pub(crate) p99_ms: f64,
}

impl Operator {
    /// Starts it on the tables at `path`.
    pub(crate) fn start(path: &Path) -> Result<Self> {
        let this = std::env::current_exe().context("this program's own path")?;
        let command = [this, "--measured".into(), path.into()];
        let command: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let environment =
            [("TERM", "xterm-256color"), ("LANG", "C.UTF-8"), ("XDG_CONFIG_HOME", "/nonexistent")];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let pty = Pty::start(&command, &environment, SIZE)?;
        Ok(Self { pty, screen: Terminal::new(SIZE) })
    }

    /// Waits until the first samples are on the screen and what they cost once is paid.
    pub(crate) fn settle(&mut self) -> Result<()> {
        self.wait_for("guest-1 ", LIMIT)?;
        self.watch(Duration::from_secs(3))?;
        Ok(())
    }

    /// Looks on for so long.
    pub(crate) fn cost(&mut self, time: Duration) -> Result<Cost> {
        let before = self.cpu_ns()?;
        let began = Instant::now();
        let rss_mib = self.watch(time)?;
        let time = began.elapsed();
        let cpu_percent = (self.cpu_ns()? - before) as f64 * 100.0 / time.as_nanos() as f64;
        Ok(Cost { cpu_percent, rss_mib, time, keys: 0, p99_ms: 0.0 })
    }

    /// Goes from view to view for so long, at times that have nothing to do with the samples'.
    pub(crate) fn keys(&mut self, time: Duration) -> Result<Cost> {
        let before = self.cpu_ns()?;
        let began = Instant::now();
        let mut samples = Vec::new();
        let mut rss_mib = 0;
        for (key, title) in VIEWS.iter().cycle().skip(1) {
            if began.elapsed() >= time {
                break;
            }
            let pressed = Instant::now();
            self.type_text(key)?;
            self.wait_for(title, LIMIT)?;
            samples.push(pressed.elapsed().as_secs_f64() * 1000.0);
            let pause = Duration::from_millis(37 + samples.len() as u64 * 53 % 101);
            rss_mib = rss_mib.max(self.watch(pause)?);
        }
        let time = began.elapsed();
        let cpu_percent = (self.cpu_ns()? - before) as f64 * 100.0 / time.as_nanos() as f64;
        Ok(Cost { cpu_percent, rss_mib, time, keys: samples.len(), p99_ms: p99(samples) })
    }

    fn type_text(&mut self, text: &str) -> Result<()> {
        let mut left = text.as_bytes();
        while !left.is_empty() {
            self.pty.wait(Instant::now() + LIMIT, true)?;
            let written = self.pty.write(left)?;
            left = &left[written..];
        }
        Ok(())
    }

    fn wait_for(&mut self, text: &str, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        while !self.screen.contains(text) {
            if self.pty.wait(until, false)? == Ready::Late {
                bail!("no {text:?} on the screen within {limit:?}:\n{}", self.screen.rows().join("\n"));
            }
            self.take_output()?;
        }
        Ok(())
    }

    /// Reads the screen for so long. Returns the largest memory seen, MiB.
    fn watch(&mut self, time: Duration) -> Result<u64> {
        let until = Instant::now() + time;
        let mut most = self.rss_mib()?;
        while self.pty.wait(until, false)? == Ready::Yes {
            self.take_output()?;
            most = most.max(self.rss_mib()?);
        }
        Ok(most)
    }

    fn take_output(&mut self) -> Result<()> {
        let output = self.pty.read()?;
        let answer = self.screen.process(&output);
        if let Some(status) = self.pty.status() {
            bail!("the measured process ended with {status}:\n{}", self.screen.rows().join("\n"));
        }
        if !answer.is_empty() {
            self.type_text(&String::from_utf8_lossy(&answer))?;
        }
        Ok(())
    }

    /// CPU time of all its threads, ns (Documentation/scheduler/sched-stats.rst).
    fn cpu_ns(&self) -> Result<u64> {
        let tasks = format!("/proc/{}/task", self.pty.id());
        let mut sum = 0;
        for task in fs::read_dir(&tasks).context(tasks)? {
            let path = task?.path().join("schedstat");
            let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
            let ns = text.split_whitespace().next().and_then(|first| first.parse::<u64>().ok());
            sum += ns.with_context(|| format!("{}: {text:?}", path.display()))?;
        }
        Ok(sum)
    }

    /// Memory of its own; the tables, which an eBPF map would hold, are counted in full elsewhere.
    fn rss_mib(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.pty.id());
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
        };
        let parts = kib("RssAnon:").zip(kib("RssFile:"));
        parts.map(|(anon, file)| (anon + file) >> 10).with_context(|| format!("{path} has no RssAnon"))
    }
}
