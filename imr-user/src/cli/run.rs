//! `imr run`: headless, one line an event and a summary at the end.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::config::{FileConfig, Places};
use super::output::Lines;
use super::policy::PolicyArgs;
use super::writer::Writer;
use super::{ctl, duration};
use crate::model::ids::Pid;
use crate::pipeline::ctl::Listen;
use crate::pipeline::record::Record;
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
/// The configuration is wrong, the pipeline could not start or failed, or standard output is gone or not read at the end.
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
    let stop = async {
        tokio::select! {
            () = over => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let mut writer = Writer::start(Lines::stdout().context("standard output")?, args.json)?;
    let mut records = std::mem::replace(&mut handle.records, unbounded_channel().1);
    relay(&mut records, &mut writer, stop, || handle.ask_to_stop()).await;
    let handed_over = writer.finish().await;
    handle.join()?;
    handed_over.map(|()| ExitCode::SUCCESS)
}

/// Hands records to the writer until they end. The pipeline is asked to stop after `stop`, or when nothing can be written any
/// more, and tells records until it has: an offer that a worker is at would be left open otherwise.
async fn relay(
    records: &mut UnboundedReceiver<Record>,
    writer: &mut Writer,
    stop: impl Future<Output = ()>,
    mut ask_to_stop: impl FnMut(),
) {
    tokio::pin!(stop);
    let mut stopping = false;
    loop {
        tokio::select! {
            () = &mut stop, if !stopping => { stopping = true; ask_to_stop(); }
            () = writer.failed(), if !stopping => { stopping = true; ask_to_stop(); }
            record = records.recv() => match record {
                Some(record) => writer.put(record),
                None => break,
            },
        }
    }
}

fn stop_at(text: &str) -> Result<Arc<StopAt>, String> {
    text.parse().map(Arc::new)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::pipeline::record::{Happened, Summary};

    /// A pipeline that tells more than anybody reads, until it is asked to stop.
    fn relayed(writer: &mut Writer, stop: impl Future<Output = ()>) -> Duration {
        let (sender, mut records) = unbounded_channel();
        let tell = move |happened| sender.send(Record { unix_ms: 0, vm: None, happened }).unwrap();
        let problem = |at| Happened::Problem { what: format!("nr. {at}") };
        (0..50_000).for_each(|at| tell(problem(at)));
        let mut tell = Some(tell);
        let start = Instant::now();
        let ask = || {
            if let Some(tell) = tell.take() {
                tell(Happened::Summary(Summary::default()));
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(relay(&mut records, writer, stop, ask));
        assert!(records.is_empty(), "they do not pile up");
        start.elapsed()
    }

    #[test]
    fn it_can_be_stopped_though_nobody_reads() {
        let (reader, pipe) = std::io::pipe().unwrap();
        let mut writer = Writer::start(Lines::new(pipe), true).unwrap();
        let took = relayed(&mut writer, async { tokio::time::sleep(Duration::from_millis(300)).await });
        assert!(took < Duration::from_secs(5), "{took:?}");
        drop(reader);
    }

    #[test]
    fn it_stops_by_itself_when_the_reader_is_gone() {
        let (reader, pipe) = std::io::pipe().unwrap();
        drop(reader);
        let mut writer = Writer::start(Lines::new(pipe), true).unwrap();
        let took = relayed(&mut writer, std::future::pending());
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
}
