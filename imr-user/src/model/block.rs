//! The two axes of a block: what the guest claims of it and what the host knows of it. Never mixed.

use serde::Serialize;

/// What the guest says of a block. Never trusted for anything but the guest's own memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestClaim {
    /// The guest has said nothing of it.
    #[default]
    Unknown,
    /// It was free once and the guest has touched it since.
    InUse,
    /// Offered, and not touched since.
    Free,
}

/// What the host knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HostFact {
    /// No memory behind it, and none was ever seen there.
    #[default]
    Untouched,
    /// Some or all of its frames have memory behind them.
    Resident,
    /// Its memory was taken back, and the guest has not touched it since.
    Reclaimed,
    /// It was reclaimed, and the guest has touched it again.
    Refaulted,
}

/// Both axes of one block and how much of it has memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct BlockState {
    /// The guest's word.
    pub claim: GuestClaim,
    /// The host's knowledge.
    pub fact: HostFact,
    /// Frames with memory behind them, 0 to 512.
    pub resident_frames: u16,
}
