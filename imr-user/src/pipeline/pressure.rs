//! The host's memory, watched for policy pressure: read every second, and at once when the kernel says that tasks stall.
//!
//! Input: /proc by way of ingest. Output: [`Pressure`], and wake-ups. Decides nothing.

use super::clock;
use crate::ingest::IngestError;
use crate::ingest::host;
use crate::ingest::psi::Trigger;
use crate::model::regret::HostPressure;
use crate::policy::pressure::{HostFigures, Pressure};
use crate::policy::settings::{Percent, Settings};

/// Whether the host is short of memory, and what tells of it early.
pub(super) struct HostWatch {
    state: Option<Pressure>,
    /// `None` where it is not watched, or the kernel has no such thing: then what is read every second has to do.
    trigger: Option<Trigger>,
}

impl HostWatch {
    /// Not watching.
    pub(super) fn new() -> Self {
        Self { state: None, trigger: None }
    }

    /// Reads the host's memory; watches it from the first time on. Returns its state, and whether that has just changed.
    pub(super) fn feel(&mut self, settings: &Settings) -> Result<(&Pressure, bool), IngestError> {
        let host = host::read()?;
        let now_ns = clock::monotonic_ns();
        let figures = HostFigures {
            mem_total: host.mem_total,
            mem_available: host.mem_available,
            psi: host.pressure_some_avg10.map(Percent::new),
        };
        if self.state.is_none() {
            self.trigger = Trigger::new(settings.psi_above.get());
        }
        let state = self.state.get_or_insert_with(|| Pressure::new(now_ns));
        let changed = state.feel(now_ns, settings, figures);
        Ok((state, changed))
    }

    /// Whether the host was short of memory when it was read last; not where nobody needs to know.
    pub(super) fn is_pressed(&self) -> bool {
        self.state.as_ref().is_some_and(Pressure::is_pressed)
    }

    /// Nobody needs to know any more.
    pub(super) fn rest(&mut self) {
        *self = Self::new();
    }

    /// Waits until tasks stall for memory; for ever where nothing tells.
    pub(super) async fn woken(&mut self) {
        match &mut self.trigger {
            Some(trigger) => {
                if trigger.wait().await.is_err() {
                    // It is read every second all the same.
                    self.trigger = None;
                }
            }
            None => std::future::pending().await,
        }
    }

    /// For pictures.
    pub(super) fn snapshot(&self) -> Option<HostPressure> {
        self.state.as_ref().map(|state| state.snapshot(clock::monotonic_ns()))
    }
}
