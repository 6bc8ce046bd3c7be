//! `imr run`: headless, one line an event and a summary at the end.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::config::{FileConfig, Places};
use super::output::Lines;
use super::policy::PolicyArgs;
use super::{ctl, duration};
use crate::model::ids::Pid;
use crate::pipeline::ctl::Listen;
use crate::pipeline::record::{Happened, Record};
use crate::pipeline::stop_at::StopAt;
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

    /// For tests: stop this process (SIGSTOP) at a step of an offer: heard, claimed, half, reclaimed or done; with
    /// ":N" the N-th time.
    #[arg(long, value_name = "STEP", hide = true, value_parser = stop_at)]
    stop_at: Option<Arc<StopAt>>,
}

/// Runs until the time is over or a signal says so.
///
/// # Errors
/// The configuration is wrong, the pipeline could not start or failed, or standard output is gone.
pub fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    let file = FileConfig::load(args.config.as_deref(), &Places::of_process())?;
    let listen = args.ctl.clone().unwrap_or_else(|| file.run.ctl.clone());
    let config = Config {
        pids: args.pid.iter().copied().map(Pid::new).collect(),
        debug_bpf: args.debug_bpf,
        stop_at: args.stop_at.clone(),
        ..args.policy.over(file.run).into()
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio runtime")?;
    runtime.block_on(follow(args, config, &listen))
}

async fn follow(args: &RunArgs, config: Config, listen: &Listen) -> anyhow::Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT handler")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM handler")?;
    let socket = ctl::claim(listen)?;
    let mut handle = pipeline::spawn(config)?;
    let _ctl = socket.serve(&handle);
    let over = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let mut stopping = false;
    let mut lines = Lines::stdout().context("standard output")?;
    let mut unwritable = None;
    loop {
        tokio::select! {
            () = &mut over, if !stopping => { stopping = true; handle.ask_to_stop(); }
            _ = interrupt.recv(), if !stopping => { stopping = true; handle.ask_to_stop(); }
            _ = terminate.recv(), if !stopping => { stopping = true; handle.ask_to_stop(); }
            record = handle.records.recv() => match record {
                Some(_) if unwritable.is_some() => {}
                Some(record) => if let Err(error) = print(&mut lines, &record, args.json) {
                    // Not at once: an offer that a worker is at would be left open.
                    unwritable = Some(error);
                    stopping = true;
                    handle.ask_to_stop();
                },
                None => break,
            },
        }
    }
    handle.join()?;
    unwritable.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn print(lines: &mut Lines<File>, record: &Record, json: bool) -> anyhow::Result<()> {
    let lost = |count: u64| {
        let what = format!("standard output was full: {count} records are missing here");
        line(&Record { happened: Happened::Problem { what }, vm: None, ..*record }, json)
    };
    if lines.put(&line(record, json), lost).context("cannot write to standard output")? {
        // Where standard error is on the same file system, there is nobody to tell.
        let _ = writeln!(
            io::stderr(),
            "imr: standard output is on a full file system; guests are served on, records are lost"
        );
    }
    Ok(())
}

fn line(record: &Record, json: bool) -> Vec<u8> {
    let text = if json {
        // Its parts are text and numbers: nothing of it can fail.
        serde_json::to_string(record)
            .unwrap_or_else(|error| format!("{{\"event\":\"problem\",\"what\":\"{error}\"}}"))
    } else if matches!(record.happened, Happened::Summary(_)) {
        record.happened.to_string()
    } else {
        record.to_string()
    };
    format!("{text}\n").into_bytes()
}

fn stop_at(text: &str) -> Result<Arc<StopAt>, String> {
    text.parse().map(Arc::new)
}
