//! `imr-top`: its arguments, what they mean on this terminal, and the way from start to exit code.
//!
//! Input: parsed arguments and the environment. Output: a validated [`TopConfig`]; then [`run()`] starts the
//! pipeline and shows it. Usage errors end with code 2 before anything is started.

pub mod schema;
mod screen;
mod session;

use std::io::{self, IsTerminal, Write};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{CommandFactory, Parser, ValueEnum, error::ErrorKind};

pub use self::session::{Exit, Feed, run_top};
use super::config::{FileConfig, Places, RunSection};
use super::duration;
use super::policy::PolicyArgs;
use crate::model::ids::Pid;
use crate::pipeline;
use crate::pipeline::ctl::Listen;
use crate::view::Settings;
use crate::view::theme::{Palette, Symbols, Theme};

/// Shortest time between two samples.
pub(super) const DELAY_LEAST: Duration = Duration::from_millis(100);
/// Longest: past it the screen would look dead.
pub(super) const DELAY_MOST: Duration = Duration::from_secs(3600);

/// Shows what every block of every KVM guest's memory is doing, live, and gives back what guests share.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 something that is needed is missing (see `imr doctor`),
/// 128+n ended by signal n.
#[derive(Debug, Parser)]
#[command(name = "imr-top", version)]
pub struct TopArgs {
    /// Time between two samples, such as 1s, 500ms or 0.5; at least 100ms [default: as configured, else 1s]
    #[arg(short, long, value_name = "TIME", value_parser = duration::parse)]
    pub delay: Option<Duration>,

    /// End after so many samples
    #[arg(short = 'n', long, value_name = "N")]
    pub iterations: Option<NonZeroU64>,

    /// Plain text on standard output, a block of lines a sample
    #[arg(short, long)]
    pub batch: bool,

    /// One JSON object a line for each sample; implies --batch
    #[arg(long)]
    pub json: bool,

    /// What is done with memory.
    #[command(flatten)]
    pub policy: PolicyArgs,

    /// Only the VM of this VMM process (may be repeated)
    #[arg(short, long, value_name = "PID")]
    pub pid: Vec<u32>,

    /// Listen for `imr ctl` on this Unix socket, or not at all with "off". Without this: /run/imr/ctl.sock, unless
    /// another imr has it
    #[arg(long, value_name = "PATH", value_parser = Listen::parse)]
    pub ctl: Option<Listen>,

    /// Print what the eBPF programs log, on standard error
    #[arg(long)]
    pub debug_bpf: bool,

    /// Colours: as the terminal and NO_COLOR say, always, or never [default: as configured, else auto]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub color: Option<ColorWhen>,

    /// Configuration file, instead of the first of ~/.config/imr/config.toml and /etc/imr/config.toml that is
    /// there; `imr config default` prints one
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Print the JSON Schema of what --json prints, and end
    #[arg(long, exclusive = true)]
    pub json_schema: bool,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ColorWhen {
    /// As TERM, COLORTERM and NO_COLOR say.
    Auto,
    /// Whatever they say.
    Always,
    /// Not at all.
    Never,
}

/// Where samples go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// The terminal.
    Screen,
    /// Plain text on standard output.
    Text,
    /// JSON lines on standard output.
    Json,
}

/// What imr-top is to do, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopConfig {
    /// Time between two samples.
    pub delay: Duration,
    /// End after so many samples.
    pub iterations: Option<NonZeroU64>,
    /// Where they go.
    pub output: Output,
    /// What is done with memory.
    pub run: RunSection,
    /// Only the VMs of these processes; empty: all.
    pub pids: Vec<Pid>,
    /// Where to listen for `imr ctl`.
    pub ctl: Listen,
    /// Print what the eBPF programs log.
    pub debug_bpf: bool,
    /// How the screen looks and what its keys do.
    pub settings: Settings,
    /// Listen to the mouse.
    pub mouse: bool,
}

/// What of the environment matters, read once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// Standard output is a terminal.
    pub stdout_terminal: bool,
    /// Standard error is a terminal.
    pub stderr_terminal: bool,
    /// NO_COLOR is set to anything.
    pub no_color: bool,
    /// TERM.
    pub term: String,
    /// COLORTERM.
    pub colorterm: String,
    /// The locale for characters: the first of LC_ALL, LC_CTYPE and LANG that is set.
    pub locale: String,
}

impl Environment {
    /// That of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        Self {
            stdout_terminal: std::io::stdout().is_terminal(),
            stderr_terminal: std::io::stderr().is_terminal(),
            no_color: !variable("NO_COLOR").is_empty(),
            term: variable("TERM"),
            colorterm: variable("COLORTERM"),
            locale: ["LC_ALL", "LC_CTYPE", "LANG"]
                .into_iter()
                .map(variable)
                .find(|value| !value.is_empty())
                .unwrap_or_default(),
        }
    }

    fn palette(&self, when: ColorWhen, chosen: Option<Palette>) -> Palette {
        // The terminals of serial consoles, whose colours nobody knows.
        let plain =
            matches!(self.term.as_str(), "" | "dumb" | "vt52" | "vt100" | "vt102" | "vt220" | "vt320");
        let many = self.term.contains("256color")
            || self.term.contains("direct")
            || matches!(self.colorterm.as_str(), "truecolor" | "24bit")
            || ["kitty", "alacritty", "foot", "ghostty", "wezterm"]
                .iter()
                .any(|name| self.term.contains(name));
        let seen = if many { Palette::Indexed256 } else { Palette::Ansi16 };
        match (when, chosen) {
            (ColorWhen::Never, _) => Palette::Mono,
            // Somebody chose it for this program: that is more than NO_COLOR, which is for all programs.
            (_, Some(chosen)) => chosen,
            (ColorWhen::Auto, None) if self.no_color || plain => Palette::Mono,
            (_, None) => seen,
        }
    }

    fn symbols(&self) -> Symbols {
        let locale = self.locale.to_ascii_lowercase();
        if locale.contains("utf-8") || locale.contains("utf8") { Symbols::Unicode } else { Symbols::Ascii }
    }
}

impl TopArgs {
    /// Checks the arguments against each other and the environment, and takes from the file what they do not say.
    ///
    /// # Errors
    /// What is wrong and what to do, for people; the caller ends with code 2.
    pub fn validate(self, environment: &Environment, file: FileConfig) -> Result<TopConfig, String> {
        let FileConfig { run, top: file } = file;
        let output = match (self.batch, self.json) {
            (_, true) => Output::Json,
            (true, false) => Output::Text,
            (false, false) => Output::Screen,
        };
        if output == Output::Screen {
            if !environment.stdout_terminal {
                return Err("standard output is not a terminal: use -b for text or --json".to_owned());
            }
            if environment.term == "dumb" {
                return Err("this terminal (TERM=dumb) cannot show a screen: use -b for text".to_owned());
            }
            if self.debug_bpf && environment.stderr_terminal {
                return Err("--debug-bpf writes to standard error and would spoil the screen: \
                            redirect it (2>FILE), or use -b"
                    .to_owned());
            }
        }
        let delay = self.delay.unwrap_or(file.delay);
        if !(DELAY_LEAST..=DELAY_MOST).contains(&delay) {
            return Err(format!("a delay of {delay:?} is not between 100ms and 60m"));
        }
        if self.pid.contains(&0) {
            return Err("--pid 0 is no process".to_owned());
        }
        let palette = environment.palette(self.color.unwrap_or(file.colors), file.palette);
        let symbols = file.symbols.unwrap_or_else(|| environment.symbols());
        let settings = Settings {
            theme: Theme { palette, symbols },
            keys: file.keys,
            columns: file.columns,
            sort: file.sort,
            reverse: file.reverse,
            view: file.view,
            delay,
        };
        Ok(TopConfig {
            delay,
            iterations: self.iterations,
            output,
            ctl: self.ctl.unwrap_or_else(|| run.ctl.clone()),
            run: self.policy.over(run),
            pids: self.pid.into_iter().map(Pid::new).collect(),
            debug_bpf: self.debug_bpf,
            settings,
            mouse: file.mouse,
        })
    }
}

/// Parses, validates, runs. Wrong usage ends the process with code 2 here.
///
/// # Errors
/// The pipeline could not start or failed; the terminal or standard output is gone.
pub fn run() -> anyhow::Result<ExitCode> {
    let arguments = TopArgs::parse();
    if arguments.json_schema {
        io::stdout().write_all(schema::text()?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let file = FileConfig::load(arguments.config.as_deref(), &Places::of_process())?;
    let config = arguments
        .validate(&Environment::of_process(), file)
        .unwrap_or_else(|wrong| TopArgs::command().error(ErrorKind::ValueValidation, wrong).exit());
    let socket = super::ctl::claim(&config.ctl)?;
    let mut pipeline = pipeline::spawn(pipeline::Config {
        pids: config.pids.clone(),
        delay: config.delay,
        debug_bpf: config.debug_bpf,
        ..config.run.clone().into()
    })?;
    let _ctl = socket.serve(&pipeline);
    // Nobody reads them here, and unread they would pile up.
    pipeline.records.close();
    let feed = Feed {
        snapshots: pipeline.snapshots.clone(),
        details: pipeline.details.clone(),
        commands: pipeline.commands.clone(),
    };
    let ended = run_top(&config, feed);
    pipeline.ask_to_stop();
    // Where both failed, the pipeline's error is the cause.
    pipeline.join()?;
    match ended? {
        Exit::PipelineGone => Err(anyhow::anyhow!("the pipeline ended without an error"))
            .context("no more samples; please report this"),
        exit => Ok(ExitCode::from(exit.code())),
    }
}

#[cfg(test)]
mod tests;
