//! `imr run`: headless, one line an event and a summary at the end.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::config::{FileConfig, Places};
use super::policy::PolicyArgs;
use super::{ctl, duration};
use crate::model::ids::Pid;
use crate::pipeline::ctl::Listen;
use crate::pipeline::record::{Happened, Record};
use crate::pipeline::{self, Config};

/// Arguments of `imr run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// One JSON object a line instead of text.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    policy: PolicyArgs,

    /// Only the VMs of this VMM process (may be repeated).
    #[arg(short, long, value_name = "PID")]
    pid: Vec<u32>,

    /// Stop after this time, such as 10s or 5m; without it, at SIGINT or SIGTERM.
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    duration: Option<Duration>,

    /// Listen for `imr ctl` on this Unix socket, or not at all with "off". Without this: /run/imr/ctl.sock, unless
    /// another imr has it
    #[arg(long, value_name = "PATH", value_parser = Listen::parse)]
    ctl: Option<Listen>,

    /// Print what the eBPF programs log.
    #[arg(long)]
    debug_bpf: bool,

    /// Configuration file, instead of the first of ~/.config/imr/config.toml and /etc/imr/config.toml that is
    /// there; `imr config default` prints one.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Runs until the time is over or a signal says so.
///
/// # Errors
/// The configuration is wrong, the pipeline could not start or failed, or standard output is gone.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let file = FileConfig::load(args.config.as_deref(), &Places::of_process())?;
    let config = Config {
        pids: args.pid.iter().copied().map(Pid::new).collect(),
        debug_bpf: args.debug_bpf,
        ..args.policy.over(file.run).into()
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio runtime")?;
    runtime.block_on(follow(args, config))
}

async fn follow(args: &RunArgs, config: Config) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT handler")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM handler")?;
    let mut handle = pipeline::spawn(config)?;
    let _ctl = ctl::listen(args.ctl.as_ref(), &handle)?;
    let over = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let mut stopping = false;
    loop {
        tokio::select! {
            () = &mut over, if !stopping => { stopping = true; handle.ask_to_stop(); }
            _ = interrupt.recv(), if !stopping => { stopping = true; handle.ask_to_stop(); }
            _ = terminate.recv(), if !stopping => { stopping = true; handle.ask_to_stop(); }
            record = handle.records.recv() => match record {
                Some(record) => print(&record, args.json)?,
                None => break,
            },
        }
    }
    handle.join()?;
    Ok(ExitCode::SUCCESS)
}

fn print(record: &Record, json: bool) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        serde_json::to_writer(&mut out, record).map_err(io::Error::from)?;
        writeln!(out)?;
    } else if matches!(record.happened, Happened::Summary(_)) {
        writeln!(out, "{}", record.happened)?;
    } else {
        writeln!(out, "{record}")?;
    }
    // A script that waits for a line must get it now.
    out.flush()?;
    Ok(())
}
