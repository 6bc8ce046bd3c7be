//! From snapshots to the terminal or to standard output, until somebody or something says stop.
//!
//! Input: a configuration and the pipeline's ends. Output: the reason why it ended. The terminal is given back before
//! this returns. Starts and stops no pipeline.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::{Output, TopConfig, screen};
use crate::model::snapshot::{BlockDetail, Snapshot};
use crate::pipeline::command::Command;
use crate::view::batch;

/// The pipeline's ends: what it tells, and what it may be asked.
#[derive(Debug, Clone)]
pub struct Feed {
    /// The newest snapshot.
    pub snapshots: watch::Receiver<Arc<Snapshot>>,
    /// The newest answer to [`Command::Inspect`].
    pub details: watch::Receiver<Option<Arc<BlockDetail>>>,
    /// Wishes.
    pub commands: mpsc::UnboundedSender<Command>,
}

/// Why [`run_top`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The number of samples asked for was shown, or the reader of standard output had enough.
    Finished,
    /// Somebody pressed q or Ctrl-C.
    Quit,
    /// By this signal.
    Signal(u8),
    /// The pipeline has ended; its own result says why.
    PipelineGone,
}

impl Exit {
    /// The exit code that shells expect.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Finished | Self::Quit => 0,
            Self::Signal(number) => 128u8.saturating_add(number),
            Self::PipelineGone => crate::cli::exit::FAILED,
        }
    }
}

/// Shows snapshots as the configuration says until it is over.
///
/// # Errors
/// The terminal cannot be used or went away, or standard output cannot be written.
pub fn run_top(config: &TopConfig, feed: Feed) -> anyhow::Result<Exit> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio runtime")?;
    let exit = runtime.block_on(async {
        match config.output {
            Output::Screen => screen::show(config, feed).await,
            Output::Text | Output::Json => as_lines(config, feed.snapshots).await,
        }
    });
    // A write to a reader that has stopped reading would otherwise hold up the end for ever.
    runtime.shutdown_background();
    exit
}

/// The signals that end the program.
pub(super) struct Ends {
    all: [(u8, Signal); 4],
}

impl Ends {
    pub(super) fn new() -> anyhow::Result<Self> {
        let listen = |number: Number| -> anyhow::Result<(u8, Signal)> {
            let raw = number.as_raw();
            let stream =
                signal(SignalKind::from_raw(raw)).with_context(|| format!("handler of {number:?}"))?;
            Ok((u8::try_from(raw).unwrap_or(u8::MAX), stream))
        };
        Ok(Self {
            all: [listen(Number::INT)?, listen(Number::TERM)?, listen(Number::HUP)?, listen(Number::QUIT)?],
        })
    }

    pub(super) async fn next(&mut self) -> u8 {
        let [a, b, c, d] = &mut self.all;
        tokio::select! {
            _ = a.1.recv() => a.0,
            _ = b.1.recv() => b.0,
            _ = c.1.recv() => c.0,
            _ = d.1.recv() => d.0,
        }
    }
}

/// Whether `new` is the next sample after `shown`. Measured by the snapshots' own time, with a tenth of the delay
/// for a pipeline that publishes a little early.
pub(super) fn due(shown: Option<&Snapshot>, new: &Snapshot, delay: Duration) -> bool {
    new.sequence > 0
        && shown.is_none_or(|shown| {
            shown.sequence == 0
                || (new.sequence != shown.sequence
                    && new.uptime.saturating_sub(shown.uptime) >= delay * 9 / 10)
        })
}

async fn as_lines(config: &TopConfig, mut snapshots: watch::Receiver<Arc<Snapshot>>) -> anyhow::Result<Exit> {
    let mut ends = Ends::new()?;
    let mut printed: u64 = 0;
    let mut last: Option<Arc<Snapshot>> = None;
    loop {
        let latest = snapshots.borrow_and_update().clone();
        if due(last.as_deref(), &latest, config.delay) {
            let sample = match config.output {
                Output::Json => {
                    let mut line = serde_json::to_vec(latest.as_ref()).context("JSON of a snapshot")?;
                    line.push(b'\n');
                    line
                }
                Output::Text | Output::Screen => {
                    let gap = if printed > 0 { "\n" } else { "" };
                    format!("{gap}{}", batch::text(&latest)).into_bytes()
                }
            };
            // In a thread of its own: the reader of a pipe may take its time, and signals have to be heard.
            let write = tokio::task::spawn_blocking(move || {
                let mut out = io::stdout().lock();
                out.write_all(&sample)?;
                out.flush()
            });
            let written = tokio::select! {
                written = write => written.context("writer thread")?,
                number = ends.next() => return Ok(Exit::Signal(number)),
            };
            match written {
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(Exit::Finished),
                other => other.context("cannot write to standard output")?,
            }
            printed += 1;
            last = Some(latest);
            if config.iterations.is_some_and(|most| printed >= most.get()) {
                return Ok(Exit::Finished);
            }
        }
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return Ok(Exit::PipelineGone) },
            number = ends.next() => return Ok(Exit::Signal(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::snapshot;

    fn at(sequence: u64, uptime_ms: u64) -> Snapshot {
        let mut snapshot = snapshot(Vec::new());
        snapshot.sequence = sequence;
        snapshot.uptime = Duration::from_millis(uptime_ms);
        snapshot
    }

    #[test]
    fn samples_are_a_delay_apart_by_their_own_time() {
        let delay = Duration::from_secs(1);
        assert!(!due(None, &at(0, 0), delay), "the empty snapshot is no sample");
        assert!(due(None, &at(1, 10), delay));
        assert!(due(Some(&at(0, 0)), &at(1, 10), delay), "the first sample is due at once");
        assert!(!due(Some(&at(1, 10)), &at(1, 10), delay));
        assert!(!due(Some(&at(1, 10)), &at(2, 500), delay));
        assert!(due(Some(&at(1, 10)), &at(3, 960), delay));
        assert!(!due(Some(&at(9, 5000)), &at(10, 10), delay), "time does not go back");
    }

    #[test]
    fn exit_codes_are_those_that_shells_know() {
        assert_eq!(Exit::Quit.code(), 0);
        assert_eq!(Exit::Finished.code(), 0);
        assert_eq!(Exit::PipelineGone.code(), 1);
        assert_eq!(Exit::Signal(15).code(), 143);
    }
}
