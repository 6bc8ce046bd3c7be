//! What is known of VMs, slots and blocks, and the immutable picture of it that the view shows.
//!
//! Input: observations and outcomes, with their time. Output: [`snapshot::Snapshot`]. Pure: no clock, file,
//! thread, lock or log line, and no other layer of this crate.

pub mod backing;
pub mod block;
pub mod blocks;
pub mod decision;
pub mod free_memory;
pub mod ids;
pub mod latency;
pub mod life;
pub mod pageout;
pub mod regret;
mod slot;
pub mod snapshot;
pub mod sums;
pub mod vm;
