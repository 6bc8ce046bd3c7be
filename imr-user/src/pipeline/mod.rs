//! The only place that knows all layers: events in, observations, model, policy, answers, snapshots out.
//!
//! Input: [`Config`]. Output: a [`Handle`] with the newest [`Snapshot`] and a stream of [`record::Record`]s.
//! Runs in a thread of its own; each VM whose guest module has called gets one more ([`worker`]).

pub mod answerer;
mod attach;
mod baseline;
mod clock;
pub mod command;
pub mod ctl;
mod debt;
mod doctor;
mod engine;
mod hazard_watch;
pub mod look;
mod orders;
pub mod pageout;
mod pressure;
mod pulse;
mod quota;
pub mod record;
mod reports;
pub mod stop_at;
mod vms;
mod witness;
mod worker;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

pub use doctor::{Feature, FeatureState, examine};

/// Settings of policy pressure and of compaction, for configurations.
pub use crate::policy::settings;

use crate::ingest::IngestError;
use crate::model::ids::Pid;
use crate::model::snapshot::{BlockDetail, PolicyName, Snapshot};
pub use crate::reclaim::choose::Allowed;
use command::Command;
use record::Record;
use settings::{CompactSettings, Settings};

/// Shortest time between two snapshots.
pub const DELAY_LEAST: Duration = Duration::from_millis(100);
/// Longest: past it a screen would look dead.
pub const DELAY_MOST: Duration = Duration::from_secs(3600);

/// What the control socket has asked and is not answered yet. The server asks one at a time.
const ASKS: usize = 16;

/// What to follow and what to do.
#[derive(Debug, Clone)]
pub struct Config {
    /// What is done with offers.
    pub policy: PolicyName,
    /// Which ways of taking memory are allowed.
    pub allowed: Allowed,
    /// Whether guests are answered at all; `false`: only look.
    pub answer: bool,
    /// Only the VMs of these processes; empty: all.
    pub pids: Vec<Pid>,
    /// Time between two snapshots; at least 100 ms.
    pub delay: Duration,
    /// Print what the eBPF programs log.
    pub debug_bpf: bool,
    /// What policy pressure goes by.
    pub pressure: Settings,
    /// When guests are asked to compact.
    pub compact: CompactSettings,
    /// Push idle memory of guests without the module out to swap.
    pub pageout: bool,
    /// For tests: stop at a step of an offer.
    pub stop_at: Option<Arc<stop_at::StopAt>>,
}

/// How long what is being read of VMMs has at the end.
const LAST_READINGS: Duration = Duration::from_secs(1);

impl Default for Config {
    /// Follows every VM and takes what is offered.
    fn default() -> Self {
        Self {
            policy: PolicyName::Immediate,
            allowed: Allowed::default(),
            answer: true,
            pids: Vec::new(),
            delay: Duration::from_secs(1),
            debug_bpf: false,
            pressure: Settings::default(),
            compact: CompactSettings::default(),
            pageout: false,
            stop_at: None,
        }
    }
}

/// Why the pipeline could not start, or ended.
#[derive(Debug, Error)]
pub enum PipelineError {
    /// The eBPF side or /proc.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// No thread or no runtime.
    #[error("cannot start {what}: {source}")]
    Start {
        /// What could not be started.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A defect of this program; the panic message was printed before.
    #[error("the pipeline thread panicked; please report this with the message above")]
    Panicked,
}

impl PipelineError {
    /// Whether something that this program needs is not there, as opposed to a failure.
    #[must_use]
    pub fn is_missing_prerequisite(&self) -> bool {
        matches!(self, Self::Ingest(error) if error.is_missing_prerequisite())
    }
}

/// A running pipeline. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Handle {
    /// The newest snapshot; the first has sequence 0 and is empty.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// What happens, in order; ends after the summary.
    pub records: mpsc::UnboundedReceiver<Record>,
    /// Wishes; answered in the order they come, between events.
    pub commands: mpsc::UnboundedSender<Command>,
    /// What the control socket asks; answered as commands are.
    pub asks: mpsc::Sender<ctl::Ask>,
    /// The newest answer to [`Command::Inspect`]; `None` before the first, and of a block that is not followed.
    pub details: watch::Receiver<Option<Arc<BlockDetail>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: JoinHandle<Result<(), PipelineError>>,
}

impl Handle {
    /// Asks the pipeline to finish what it is doing, write its summary and end.
    pub fn ask_to_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that it has ended already.
            let _ = stop.send(());
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// What ended it, where nobody asked for it.
    pub fn join(self) -> Result<(), PipelineError> {
        self.thread.join().unwrap_or(Err(PipelineError::Panicked))
    }
}

/// Loads the probes, finds the VMs that run, and starts.
///
/// # Errors
/// [`PipelineError`], among them every missing prerequisite, before anything was attached.
pub fn spawn(config: Config) -> Result<Handle, PipelineError> {
    let (snapshot_sender, snapshots) = watch::channel(Arc::new(engine::empty_snapshot(&config)));
    let (record_sender, records) = mpsc::unbounded_channel();
    let (commands, command_receiver) = mpsc::unbounded_channel();
    let (asks, ask_receiver) = mpsc::channel(ASKS);
    let (detail_sender, details) = watch::channel(None);
    let (stop, stopped) = oneshot::channel();
    let (started, start) = std::sync::mpsc::sync_channel(1);
    let out = engine::Channels {
        snapshots: snapshot_sender,
        records: record_sender,
        commands: command_receiver,
        asks: ask_receiver,
        details: detail_sender,
    };
    let thread = thread::Builder::new()
        .name("imr-pipeline".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|source| PipelineError::Start { what: "the runtime", source })?;
            let ended = runtime.block_on(async {
                match engine::Engine::start(config, out) {
                    Ok(engine) => {
                        let _ = started.send(Ok(()));
                        engine.run(stopped).await
                    }
                    Err(error) => {
                        let _ = started.send(Err(error));
                        Ok(())
                    }
                }
            });
            // What is still read of a VMM that stands still is wanted by nobody.
            runtime.shutdown_timeout(LAST_READINGS);
            ended
        })
        .map_err(|source| PipelineError::Start { what: "the pipeline thread", source })?;
    match start.recv() {
        Ok(Ok(())) => Ok(Handle { snapshots, records, commands, asks, details, stop: Some(stop), thread }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(thread
            .join()
            .unwrap_or(Err(PipelineError::Panicked))
            .err()
            .unwrap_or(PipelineError::Panicked)),
    }
}
