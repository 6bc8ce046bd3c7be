//! The user's terminal, lent to L1's console for an interactive run.
//!
//! In: standard input and output. Out: its shape for L1's start, its changes of size while L1 runs, and its modes
//! as they were when the value is dropped (QEMU makes it raw, and does not get to restore it when it is killed).
//! Must not touch the terminal of a run that is not interactive.

use std::io::{IsTerminal as _, Write as _};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use super::config::Terminal;
use super::image::TerminalShape;

/// How soon a change of the terminal's size reaches L1.
const SIZE_POLL: Duration = Duration::from_millis(250);

/// The terminal of a run.
pub(super) struct Tty {
    saved: Option<Termios>,
    shape: TerminalShape,
}

impl Tty {
    /// Takes note of the user's terminal, where the run wants it.
    pub(super) fn open(terminal: Terminal) -> Result<Self> {
        let kind = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
        if terminal == Terminal::None {
            return Ok(Self { saved: None, shape: TerminalShape { rows: 24, columns: 80, kind } });
        }
        if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
            bail!("standard input and output have to be a terminal for an interactive run");
        }
        let saved = tcgetattr(std::io::stdin()).context("cannot read the terminal's modes")?;
        let (rows, columns) = size();
        Ok(Self { saved: Some(saved), shape: TerminalShape { rows, columns, kind } })
    }

    /// What it is like at the start.
    pub(super) fn shape(&self) -> &TerminalShape {
        &self.shape
    }

    /// Tells L1 about every change of size, until the value is dropped.
    pub(super) fn follow(&self, mut events: UnixStream) -> Follower {
        let (stop, stopped) = channel();
        let mut last = (self.shape.rows, self.shape.columns);
        thread::spawn(move || {
            while stopped.recv_timeout(SIZE_POLL) == Err(RecvTimeoutError::Timeout) {
                let now = size();
                // L1 gone: the session notices by itself.
                if now != last && writeln!(events, "winsize {} {}", now.0, now.1).is_err() {
                    break;
                }
                last = now;
            }
        });
        Follower { _stop: stop }
    }
}

impl Drop for Tty {
    fn drop(&mut self) {
        if let Some(saved) = &self.saved {
            // A terminal that is gone needs no modes.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, saved);
        }
    }
}

/// A thread that watches the terminal's size; it ends when this is dropped.
pub(super) struct Follower {
    _stop: Sender<()>,
}

/// Rows and columns; 24 and 80 for a terminal that does not know.
fn size() -> (u16, u16) {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => (24, 80),
    }
}
