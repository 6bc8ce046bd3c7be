//! What more than one layer asks the kernel for and no library has.
//!
//! In: open files and numbers. Out: what the kernel says. No state, and no word on what it means for a VM.

pub(crate) mod pagemap_scan;
