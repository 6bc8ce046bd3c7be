//! IMR, host side: follows every KVM guest's memory, answers the guests that share their free blocks, gives
//! that memory back to the host and shows what every block is doing.
//!
//! Folders in the order of the data: `ingest` -> `correlate` -> `model` -> `policy` -> `guest`, `reclaim`; the
//! `pipeline` joins them; `view` and `cli` are for people; `sys` is the kernel's. `cargo xtask tidy` checks who imports whom.

pub mod cli;
pub mod correlate;
pub mod guest;
pub mod ingest;
pub mod model;
pub mod pipeline;
pub mod policy;
pub mod reclaim;
mod sys;
pub mod view;
