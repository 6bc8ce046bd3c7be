//! From snapshots to the terminal or to standard output, until somebody or something says stop.
//!
//! Input: a configuration and the pipeline's snapshots. Output: the reason why it ended. Draws only when something
//! changed; the terminal is given back before this returns. Starts and stops no pipeline.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossterm::event::{self, Event};
use rustix::process::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use super::{Output, TopConfig};
use crate::cli::terminal::Screen;
use crate::model::snapshot::Snapshot;
use crate::view::theme::Palette;
use crate::view::{App, Intent, batch};

/// Terminal events under way between the thread that reads them and the loop.
const EVENTS: usize = 256;
/// Without a sample for so long, and for three delays, the screen says so.
const STALE_LEAST: Duration = Duration::from_secs(3);

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
pub fn run_top(config: &TopConfig, snapshots: watch::Receiver<Arc<Snapshot>>) -> anyhow::Result<Exit> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("tokio runtime")?;
    let exit = runtime.block_on(async {
        match config.output {
            Output::Screen => on_screen(config, snapshots).await,
            Output::Text | Output::Json => as_lines(config, snapshots).await,
        }
    });
    // A write to a reader that has stopped reading would otherwise hold up the end for ever.
    runtime.shutdown_background();
    exit
}

/// The signals that end the program.
struct Ends {
    all: [(u8, Signal); 4],
}

impl Ends {
    fn new() -> anyhow::Result<Self> {
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

    async fn next(&mut self) -> u8 {
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
fn due(shown: Option<&Snapshot>, new: &Snapshot, delay: Duration) -> bool {
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

/// Reads terminal events in a thread of its own. It is never joined: nothing but another event ends a read.
fn read_events() -> anyhow::Result<mpsc::Receiver<io::Result<Event>>> {
    let (sender, events) = mpsc::channel(EVENTS);
    std::thread::Builder::new()
        .name("imr-keys".into())
        .spawn(move || {
            loop {
                let read = event::read();
                let over = read.is_err();
                if sender.blocking_send(read).is_err() || over {
                    break;
                }
            }
        })
        .context("cannot start the thread that reads keys")?;
    Ok(events)
}

/// The snapshots of a screen: the newest there is, and the one that is shown.
struct Shown {
    shown: Arc<Snapshot>,
    newest: Arc<Snapshot>,
    arrived: Instant,
    samples: u64,
}

async fn on_screen(
    config: &TopConfig,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
) -> anyhow::Result<Exit> {
    let mut ends = Ends::new()?;
    let mut stop = signal(SignalKind::from_raw(Number::TSTP.as_raw())).context("handler of SIGTSTP")?;
    let mut proceed = signal(SignalKind::from_raw(Number::CONT.as_raw())).context("handler of SIGCONT")?;
    let mut tick = tokio::time::interval(config.delay.max(Duration::from_secs(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);

    let mut app = App::new(config.theme, config.pids.clone());
    let first = snapshots.borrow_and_update().clone();
    let mut state = Shown { samples: 0, arrived: Instant::now(), newest: first.clone(), shown: first };
    state.samples += u64::from(state.shown.sequence > 0);
    let mut screen =
        Screen::enter(config.theme.palette != Palette::Mono).context("cannot take the terminal over")?;
    let mut events = read_events()?;
    app.accept(&state.shown);
    let mut drawn: Option<(App, Arc<Snapshot>)> = None;
    loop {
        app.set_size(screen.size().context("cannot read the terminal's size")?);
        let current =
            drawn.as_ref().is_some_and(|(was, shown)| *was == app && Arc::ptr_eq(shown, &state.shown));
        if !current {
            screen.draw(|frame| app.render(frame, &state.shown)).context("cannot write to the terminal")?;
            drawn = Some((app.clone(), state.shown.clone()));
        }
        tokio::select! {
            // Keys before samples: they are what somebody waits for.
            biased;
            number = ends.next() => return Ok(Exit::Signal(number)),
            event = events.recv() => {
                let event = event.context("the thread that reads keys has ended")?.context("cannot read keys")?;
                let was_paused = app.paused();
                match app.handle(&event, &state.shown) {
                    None => {}
                    Some(Intent::Quit) => return Ok(Exit::Quit),
                    Some(Intent::Suspend) => suspend(&mut screen, &mut state, &mut drawn)?,
                    Some(Intent::Repaint) => repaint(&mut screen, &mut drawn)?,
                }
                if was_paused && !app.paused() && !Arc::ptr_eq(&state.shown, &state.newest) {
                    state.show_newest(&mut app);
                }
            }
            _ = stop.recv() => suspend(&mut screen, &mut state, &mut drawn)?,
            _ = proceed.recv() => {
                state.arrived = Instant::now();
                repaint(&mut screen, &mut drawn)?;
            }
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return Ok(Exit::PipelineGone);
                }
                state.newest = snapshots.borrow_and_update().clone();
                state.arrived = Instant::now();
                app.set_stale(None);
                if !app.paused() && due(Some(&state.shown), &state.newest, config.delay) {
                    // The last sample asked for stays on the screen for its time.
                    if config.iterations.is_some_and(|most| state.samples >= most.get()) {
                        return Ok(Exit::Finished);
                    }
                    state.show_newest(&mut app);
                }
            }
            _ = tick.tick() => {
                let quiet = state.arrived.elapsed();
                let stale = quiet > STALE_LEAST.max(config.delay * 3) && state.newest.sequence > 0;
                app.set_stale(stale.then_some(quiet.as_secs()));
            }
        }
    }
}

impl Shown {
    fn show_newest(&mut self, app: &mut App) {
        self.shown = self.newest.clone();
        self.samples += 1;
        app.accept(&self.shown);
    }
}

fn suspend(
    screen: &mut Screen,
    state: &mut Shown,
    drawn: &mut Option<(App, Arc<Snapshot>)>,
) -> anyhow::Result<()> {
    screen.suspend().context("cannot take the terminal over again")?;
    // No sample could come while everything stood still.
    state.arrived = Instant::now();
    *drawn = None;
    Ok(())
}

fn repaint(screen: &mut Screen, drawn: &mut Option<(App, Arc<Snapshot>)>) -> anyhow::Result<()> {
    screen.repaint().context("cannot take the terminal over again")?;
    *drawn = None;
    Ok(())
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
