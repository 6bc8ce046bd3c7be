//! Parsed arguments -> validated configuration -> one function a subcommand. Exit codes are decided here.
//!
//! 0: done. 1: failed. 2: wrong usage. 3: something that IMR needs is missing on this host.

pub mod config;
pub mod ctl;
pub mod doctor;
pub mod duration;
pub mod exit;
mod output;
pub mod policy;
pub mod run;
pub mod size;
pub mod terminal;
pub mod top;
pub mod vms;
mod writer;
