//! Snapshot to screen: the picture that people look at, and plain text for `imr-top -b`.
//!
//! Input: [`Snapshot`](crate::model::snapshot::Snapshot)s and terminal events. Output: cells of a ratatui frame, text,
//! and [`Intent`]s for the caller to act on. Performs no I/O, reads no clock, no environment, and knows of the crate
//! only the model.

mod app;
pub mod batch;
mod blocks;
mod cells;
pub mod columns;
mod context;
mod cross;
mod decisions;
mod edit;
mod empty;
pub mod format;
mod free_memory;
mod health;
mod heatmap;
mod help;
mod history;
mod host_line;
pub mod keys;
mod layout;
mod listing;
mod log;
mod page;
mod palette;
mod stages;
pub mod tabs;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod theme;
mod timeline;
pub mod verb;
mod vm_detail;
mod vm_table;

pub use self::app::{App, Intent, Settings};
pub use self::cells::CellKind;
