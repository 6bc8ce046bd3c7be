//! Signals that ask this process to end, as messages of a run.
//!
//! In: SIGINT, SIGTERM, SIGHUP. Out: a message for each to every run that is under way; between runs they end the
//! process as usual. Must not exit during a run: the session cleans up first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use signal_hook::iterator::{Handle, Signals as Arrivals};

use super::relay::Message;

const ENDING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Whether no run is under way. A signal that was ever watched does nothing by itself any more, so its
/// usual effect is registered too, on this condition.
static IDLE: OnceLock<Arc<AtomicBool>> = OnceLock::new();
/// How many runs are under way; whoever changes it sets `IDLE`, too.
static RUNS: Mutex<u32> = Mutex::new(0);

/// Forwards signals until it is dropped.
pub(super) struct Signals {
    handle: Handle,
    idle: Arc<AtomicBool>,
}

impl Signals {
    /// Sends a message to `queue` for every signal from now on.
    pub(super) fn forward(queue: &SyncSender<Message>) -> Result<Self> {
        let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = match IDLE.get() {
            Some(idle) => idle.clone(),
            None => {
                let idle = IDLE.get_or_init(|| Arc::new(AtomicBool::new(false))).clone();
                for signal in ENDING {
                    flag::register_conditional_default(signal, idle.clone())
                        .context("cannot watch for signals")?;
                }
                idle
            }
        };
        let mut arrivals = Arrivals::new(ENDING).context("cannot watch for signals")?;
        *runs += 1;
        idle.store(false, Ordering::SeqCst);
        let handle = arrivals.handle();
        let queue = queue.clone();
        thread::spawn(move || {
            for signal in arrivals.forever() {
                if queue.send(Message::Signal(signal)).is_err() {
                    break;
                }
            }
        });
        Ok(Self { handle, idle })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let mut runs = RUNS.lock().unwrap_or_else(PoisonError::into_inner);
        *runs -= 1;
        self.idle.store(*runs == 0, Ordering::SeqCst);
        self.handle.close();
    }
}
