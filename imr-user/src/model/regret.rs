//! What it costs to take memory, and what policy pressure says of the host and of each VM.
//!
//! Counters that the model keeps as blocks change, and figures that pictures carry. No judgement is made here.

use schemars::JsonSchema;
use serde::Serialize;

/// Within this time after its reclaim a refault counts as soon where nothing else was said, ms.
const SOON_MS: u64 = 30_000;

/// Frames taken and frames that came back, since the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refaults {
    /// In blocks that became reclaimed.
    pub(super) taken_frames: u64,
    /// Touched again afterwards.
    pub(super) refaulted_frames: u64,
    /// Of those, touched within `soon_ms` of the reclaim.
    pub(super) soon_frames: u64,
    pub(super) soon_ms: u64,
}

impl Default for Refaults {
    fn default() -> Self {
        Self { taken_frames: 0, refaulted_frames: 0, soon_frames: 0, soon_ms: SOON_MS }
    }
}

/// What a guest says is free and the host still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FreeHeld {
    /// In all, bytes.
    pub bytes: u64,
    /// The longest time that a block of it has been free, ms.
    pub longest_free_ms: u64,
    /// What the longest run of neighbouring blocks of it holds, bytes.
    pub longest_run_bytes: u64,
}

/// Whether the host is short of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PressureState {
    /// It is not: nothing is taken.
    Calm,
    /// It is: guests are asked, and offers are taken.
    Pressed,
}

/// The host as policy pressure judges it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HostPressure {
    /// Short of memory or not.
    pub state: PressureState,
    /// For how long, milliseconds.
    pub for_ms: u64,
    /// The figure that decided, for people.
    pub why: String,
    /// Bytes that the guests together should give; 0 when calm.
    pub missing_bytes: u64,
}

/// A VM as policy pressure sees it.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, JsonSchema)]
pub struct VmPressure {
    /// Recent regret: bytes that refaulted soon after they were reclaimed, as percent of bytes reclaimed.
    pub regret_percent: f32,
    /// For how long it will still be left alone because its regret passed the limit, milliseconds; 0: it is not.
    pub left_alone_ms: u64,
    /// Bytes that its guest is being asked for; 0: none.
    pub wanted_bytes: u64,
}
