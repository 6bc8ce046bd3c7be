//! A plan: what is to be done with each range of one offer, and why.

use crate::model::ids::{Gfn, VmId};

/// What to do with the ranges of one offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The VM.
    pub vm: VmId,
    /// Sequence number of the offer.
    pub offer_seq: u64,
    /// One entry a range, in the order of the offer.
    pub ranges: Vec<PlannedRange>,
}

/// What to do with one range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedRange {
    /// First frame.
    pub base_gfn: Gfn,
    /// Length, frames.
    pub npages: u64,
    /// What to do.
    pub verdict: Verdict,
}

/// What to do with a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Give its memory back to the host.
    Reclaim,
    /// Leave it, because of what is said here.
    Keep(String),
    /// No guest should have offered it, because of what is said here.
    Refuse(String),
}
