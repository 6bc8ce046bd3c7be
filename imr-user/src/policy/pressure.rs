//! Policy pressure: take free guest memory only while the host is short of memory, so much and no more.
//!
//! [`Pressure`] judges the host, calm or pressed, with hysteresis. [`VmState`] knows what taking from a VM has cost and
//! when it is left alone. [`wishes`] says who is asked for how much, in which order. All three are the engine's. An
//! [`Allowance`] is what they come to for one VM; its [`Taker`], which the VM's worker owns, answers offers by it without
//! waiting for anybody.

#[cfg(test)]
mod round_tests;
mod take;
#[cfg(test)]
mod tests;
mod vm;
mod wishes;

pub use take::{Allowance, Taker};
pub use vm::{VmChange, VmFigures, VmState};
pub use wishes::{Candidate, Wish, wishes};

use super::settings::{Percent, Settings, mib};
use crate::model::regret::{HostPressure, PressureState};

/// What the host is asked to win while only PSI says that it is short: a 64th of its memory.
const PSI_STEP: u64 = 64;

/// The host's memory at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostFigures {
    /// MemTotal, bytes.
    pub mem_total: u64,
    /// MemAvailable, bytes.
    pub mem_available: u64,
    /// PSI `some avg10` of memory; `None` where the kernel has no PSI.
    pub psi: Option<Percent>,
}

/// Calm, or pressed: the host's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pressure {
    state: PressureState,
    since_ns: u64,
    why: String,
    missing_bytes: u64,
}

impl Pressure {
    /// Calm until something else is seen.
    #[must_use]
    pub fn new(now_ns: u64) -> Self {
        Self {
            state: PressureState::Calm,
            since_ns: now_ns,
            why: "not looked at yet".into(),
            missing_bytes: 0,
        }
    }

    /// Takes over new figures. `true`: the host became pressed, or calm again. Between the marks the state stays.
    pub fn feel(&mut self, now_ns: u64, settings: &Settings, host: HostFigures) -> bool {
        let low = settings.available_low.of(host.mem_total);
        // Marks the wrong way round would make it flap.
        let high = settings.available_high.of(host.mem_total).max(low);
        let calm_psi = settings.psi_below.min(settings.psi_above);
        let psi = host.psi.unwrap_or_default();
        let available = mib(host.mem_available);
        let short = host.mem_available < low;
        let stalled = psi >= settings.psi_above && host.psi.is_some();
        let next = match self.state {
            PressureState::Calm if short || stalled => PressureState::Pressed,
            // What makes it pressed also keeps it so: the marks may be one and the same.
            PressureState::Pressed if !short && !stalled && host.mem_available >= high && psi <= calm_psi => {
                PressureState::Calm
            }
            same => same,
        };
        self.missing_bytes = match next {
            PressureState::Calm => 0,
            PressureState::Pressed => {
                let step = if stalled || psi > calm_psi { host.mem_total / PSI_STEP } else { 0 };
                high.saturating_sub(host.mem_available).max(step)
            }
        };
        self.why = match next {
            PressureState::Calm => format!("available memory is {available}, PSI {psi}"),
            PressureState::Pressed if short => {
                format!("available memory is {available}, below the low mark of {}", mib(low))
            }
            PressureState::Pressed if stalled => {
                format!("PSI is {psi}, at or over {}", settings.psi_above)
            }
            PressureState::Pressed if host.mem_available < high => {
                format!("available memory is {available}, not yet at the high mark of {}", mib(high))
            }
            PressureState::Pressed => format!("PSI is {psi}, still over {calm_psi}"),
        };
        let changed = next != self.state;
        if changed {
            self.state = next;
            self.since_ns = now_ns;
        }
        changed
    }

    /// Whether the host is short of memory.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        self.state == PressureState::Pressed
    }

    /// The figure that decided, for people: one clause.
    #[must_use]
    pub fn why(&self) -> &str {
        &self.why
    }

    /// Bytes that the guests together should give; 0 when calm.
    #[must_use]
    pub fn missing_bytes(&self) -> u64 {
        self.missing_bytes
    }

    /// For pictures.
    #[must_use]
    pub fn snapshot(&self, now_ns: u64) -> HostPressure {
        HostPressure {
            state: self.state,
            for_ms: now_ns.saturating_sub(self.since_ns) / 1_000_000,
            why: self.why.clone(),
            missing_bytes: self.missing_bytes,
        }
    }
}
