//! How the host swaps idle memory of a VM out on this program's advice: whether it may, what was asked, what went out.
//!
//! Written by the pipeline, shown by the view. Facts only.

use schemars::JsonSchema;
use serde::Serialize;

/// Whether idle blocks of a VM are swapped out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum PageoutState {
    /// Nobody asked for it.
    #[default]
    Off,
    /// Idle blocks go out.
    Ready,
    /// Not now: `reason` passes by itself.
    Waiting {
        /// Name that does not change between versions, such as `no-idle-information`.
        reason: String,
        /// What it is, for people.
        why: String,
    },
    /// Not as things are, by this guard.
    Forbidden {
        /// Name of the guard, such as `no-swap`.
        guard: String,
        /// What it found and what to do, for people.
        why: String,
    },
}

/// What has come of it. All since the start of this process, bytes where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct PageoutCounters {
    /// Called cold: the kernel takes them first when it needs memory.
    pub cold_bytes: u64,
    /// Resident before they were advised to go out.
    pub asked_bytes: u64,
    /// Of these not in memory afterwards, as the page tables and files say: in swap, or dropped where they held zeroes.
    pub out_bytes: u64,
    /// Of these touched again by the guest within two minutes.
    pub back_bytes: u64,
    /// Calls after which over a tenth of what was resident still was.
    pub mismatches: u64,
    /// Idle, and not advised: a hole, a mapping that changed meanwhile, or a part of one of the VMM's huge pages.
    pub skipped_bytes: u64,
    /// Times the VM was left alone because too much came back, or nothing went out.
    pub rests: u64,
}

/// Both.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct Pageout {
    /// Whether.
    #[serde(flatten)]
    pub state: PageoutState,
    /// How much.
    #[serde(flatten)]
    pub counters: PageoutCounters,
}
