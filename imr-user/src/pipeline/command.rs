//! What somebody at a screen or a socket may ask of the running pipeline.
//!
//! Commands are asked, not done: what became of one shows in the next snapshots and in the decision log.

use std::time::Duration;

use crate::model::ids::{BlockId, VmId};
use crate::model::snapshot::PolicyName;

/// A wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// What is to be done with a VM's offers from the next one on.
    SetPolicy(VmId, PolicyName),
    /// Ask the VM's guest to look for free memory at once and offer it. Takes nothing by itself: what is done with
    /// the offer is the policy's business, and every guard stands.
    ReclaimNow(VmId),
    /// All that is known of a block, in [`super::Handle::details`].
    Inspect(VmId, BlockId),
    /// Time between two snapshots, 100 ms to an hour.
    SetDelay(Duration),
}
