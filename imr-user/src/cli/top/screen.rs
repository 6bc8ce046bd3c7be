//! The loop of the live screen: keys and samples in, pictures and commands out.
//!
//! Input: terminal events and the pipeline's ends. Output: the terminal, [`Command`]s, and files that somebody asked for.
//! Draws only when something changed, and takes all events that wait before it draws.

use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use crossterm::event::{self, Event};
use rustix::process::Signal as Number;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use super::TopConfig;
use super::session::{Ends, Exit, Feed, due};
use crate::cli::terminal::Screen;
use crate::model::ids::{BlockId, VmId};
use crate::model::snapshot::Snapshot;
use crate::pipeline::command::Command;
use crate::view::theme::Palette;
use crate::view::{App, Intent};

/// Terminal events under way between the thread that reads them and the loop.
const EVENTS: usize = 256;
/// Without a sample for so long, and for three delays, the screen says so.
const STALE_LEAST: Duration = Duration::from_secs(3);

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

/// The name of a file that was asked for, and how writing it went.
type Saved = (String, io::Result<()>);

/// The screen and all that it shows.
struct Session {
    screen: Screen,
    app: App,
    feed: Feed,
    /// The snapshot on the screen, and the newest.
    shown: Arc<Snapshot>,
    newest: Arc<Snapshot>,
    arrived: Instant,
    delay: Duration,
    tick: Interval,
    samples: u64,
    /// The block last asked for.
    inspected: Option<(VmId, BlockId)>,
    /// How the files asked for fared.
    saved: mpsc::UnboundedReceiver<Saved>,
    saver: mpsc::UnboundedSender<Saved>,
}

/// Shows snapshots until somebody or something says stop.
pub(super) async fn show(config: &TopConfig, mut feed: Feed) -> anyhow::Result<Exit> {
    let mut ends = Ends::new()?;
    let mut stop = signal(SignalKind::from_raw(Number::TSTP.as_raw())).context("handler of SIGTSTP")?;
    let mut proceed = signal(SignalKind::from_raw(Number::CONT.as_raw())).context("handler of SIGCONT")?;
    let colours = config.settings.theme.palette != Palette::Mono;
    let first = feed.snapshots.borrow_and_update().clone();
    let mut app = App::new(config.settings.clone(), config.pids.clone());
    app.note(&first);
    app.accept(&first);
    let screen = Screen::enter(colours, config.mouse).context("cannot take the terminal over")?;
    let mut events = read_events()?;
    let (saver, saved) = mpsc::unbounded_channel();
    let mut session = Session {
        screen,
        app,
        feed,
        samples: u64::from(first.sequence > 0),
        newest: first.clone(),
        shown: first,
        arrived: Instant::now(),
        delay: config.delay,
        tick: ticks(config.delay),
        inspected: None,
        saved,
        saver,
    };
    session.inspect(true);
    loop {
        // All that wait, before a picture is drawn that the next of them would change.
        while let Ok(event) = events.try_recv() {
            if let Some(exit) = session.event(&event.context("cannot read keys")?)? {
                return Ok(exit);
            }
        }
        session.draw()?;
        tokio::select! {
            // Keys before samples: they are what somebody waits for.
            biased;
            number = ends.next() => return Ok(Exit::Signal(number)),
            event = events.recv() => {
                let event = event.context("the thread that reads keys has ended")?.context("cannot read keys")?;
                if let Some(exit) = session.event(&event)? {
                    return Ok(exit);
                }
            }
            _ = stop.recv() => session.suspend()?,
            _ = proceed.recv() => session.repaint()?,
            changed = session.feed.snapshots.changed() => {
                if changed.is_err() {
                    return Ok(Exit::PipelineGone);
                }
                let most = config.iterations.map(std::num::NonZeroU64::get);
                if let Some(exit) = session.sample(most) {
                    return Ok(exit);
                }
            }
            // Where the sender is gone, the snapshots' is as well, and that ends the loop.
            Ok(()) = session.feed.details.changed() => {
                let detail = session.feed.details.borrow_and_update().clone();
                session.app.set_detail(detail);
            }
            Some((name, result)) = session.saved.recv() => match result {
                Ok(()) => session.app.notify(format!("saved as {name}"), false),
                Err(error) => session.app.notify(format!("cannot save as {name}: {error}"), true),
            },
            _ = session.tick.tick() => session.look_at_the_clock(),
        }
    }
}

impl Session {
    fn draw(&mut self) -> anyhow::Result<()> {
        self.app.set_size(self.screen.size().context("cannot read the terminal's size")?);
        if self.app.take_changed() {
            let (app, shown) = (&self.app, &self.shown);
            self.screen.draw(|frame| app.render(frame, shown)).context("cannot write to the terminal")?;
        }
        Ok(())
    }

    fn event(&mut self, event: &Event) -> anyhow::Result<Option<Exit>> {
        let was_paused = self.app.paused();
        match self.app.handle(event, &self.shown) {
            None => {}
            Some(Intent::Quit) => return Ok(Some(Exit::Quit)),
            Some(Intent::Suspend) => self.suspend()?,
            Some(Intent::Repaint) => self.repaint()?,
            Some(Intent::Save(name)) => self.save(name),
            Some(Intent::SetPolicy(vm, policy)) => self.ask(Command::SetPolicy(vm, policy)),
            Some(Intent::ReclaimNow(vm)) => self.ask(Command::ReclaimNow(vm)),
            Some(Intent::SetDelay(delay)) => {
                self.delay = delay;
                self.tick = ticks(delay);
                self.ask(Command::SetDelay(delay));
            }
        }
        if was_paused && !self.app.paused() && !Arc::ptr_eq(&self.shown, &self.newest) {
            self.show_newest();
        }
        self.inspect(false);
        Ok(None)
    }

    /// Takes the newest snapshot; the reason to end where it would be one more than asked for.
    fn sample(&mut self, most: Option<u64>) -> Option<Exit> {
        self.newest = self.feed.snapshots.borrow_and_update().clone();
        self.arrived = Instant::now();
        self.app.note(&self.newest);
        self.app.set_stale(None);
        if !self.app.paused() && due(Some(&self.shown), &self.newest, self.delay) {
            // The last sample asked for stays on the screen for its time.
            if most.is_some_and(|most| self.samples >= most) {
                return Some(Exit::Finished);
            }
            self.show_newest();
        }
        None
    }

    fn show_newest(&mut self) {
        self.shown = self.newest.clone();
        self.samples += 1;
        self.app.accept(&self.shown);
        self.inspect(true);
    }

    /// Asks for all of the block that is shown, if it is another one, or again.
    fn inspect(&mut self, again: bool) {
        let target = self.app.inspect_target(&self.shown);
        if let Some((vm, block)) = target.filter(|_| again || target != self.inspected) {
            self.ask(Command::Inspect(vm, block));
        }
        self.inspected = target;
    }

    fn ask(&mut self, command: Command) {
        // Without a receiver the pipeline has ended, which ends the loop as well.
        let _ = self.feed.commands.send(command);
    }

    fn look_at_the_clock(&mut self) {
        let quiet = self.arrived.elapsed();
        let stale = quiet > STALE_LEAST.max(self.delay * 3) && self.newest.sequence > 0;
        self.app.set_stale(stale.then_some(quiet.as_secs()));
    }

    /// Writes the snapshot on the screen, in a thread of its own: keys must not wait for a disk.
    fn save(&mut self, name: String) {
        let (snapshot, saver) = (self.shown.clone(), self.saver.clone());
        tokio::task::spawn_blocking(move || {
            let result = write_new(Path::new(&name), &snapshot);
            // Nobody listens any more when the program ends.
            let _ = saver.send((name, result));
        });
    }

    fn suspend(&mut self) -> anyhow::Result<()> {
        self.screen.suspend().context("cannot take the terminal over again")?;
        self.fresh();
        Ok(())
    }

    fn repaint(&mut self) -> anyhow::Result<()> {
        self.screen.repaint().context("cannot take the terminal over again")?;
        self.fresh();
        Ok(())
    }

    /// The terminal is empty, and no sample could come while everything stood still.
    fn fresh(&mut self) {
        self.arrived = Instant::now();
        self.app.redraw();
    }
}

fn ticks(delay: Duration) -> Interval {
    let mut tick = tokio::time::interval(delay.max(Duration::from_secs(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

/// Writes the snapshot into a file that was not there before, for its owner only.
fn write_new(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let mut text = serde_json::to_vec(snapshot)?;
    text.push(b'\n');
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(&text)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::two;

    #[test]
    fn a_saved_snapshot_is_whole_private_and_never_replaces_a_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot.json");
        write_new(&path, &two()).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(read["vms"][0]["name"], "alpha");
        assert_eq!(read["schema_version"], crate::model::snapshot::SCHEMA_VERSION);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let again = write_new(&path, &two()).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert!(write_new(&folder.path().join("none/x"), &two()).is_err());
    }
}
