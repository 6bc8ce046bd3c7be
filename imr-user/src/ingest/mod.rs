//! Everything that comes in: the eBPF programs and their tables, the ring buffer, what /proc says of VMMs and host.
//!
//! Input: the running kernel. Output: raw events and facts, decoded once. It joins nothing, decides nothing and
//! changes nothing outside its own tables.

pub mod btf;
pub mod discovery;
mod error;
pub mod events;
pub mod hazards;
pub mod host;
pub mod layout;
pub mod loader;
mod privilege;
mod probe_list;
pub mod process_text;
pub mod psi;
pub mod registry;
pub mod residency;
pub mod smaps;
pub mod tables;
pub mod vmm;

pub use error::IngestError;
/// The types of the events, for the layer that reads them.
pub use imr_common as wire;
