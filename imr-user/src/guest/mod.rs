//! The host's side of the handshake with the guest module.
//!
//! Input: proven calls of one VM (HELLO, doorbell, BYE) and its memory. Output: [`session::Session`] answers
//! in the host half of the control page, copied and bounded offers of ranges. Everything the guest
//! wrote is copied once and checked in the copy. It decides nothing about reclaim and touches no guest byte
//! but the host half.

pub mod flat;
pub mod list;
pub mod lock;
pub mod memory;
pub mod page;
pub mod record;
pub mod session;
pub mod want;
