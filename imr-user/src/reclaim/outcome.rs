//! What really happened with a plan: one answer a range, and what the host got back, as measured.
//!
//! Written by the executor, read by the pipeline. Facts only.

use std::fmt;

use imr_common::guest_abi::{RESULT_KEPT, RESULT_NONE, RESULT_RECLAIMED, RESULT_REFUSED};

use super::backend::Failure;
use super::guards::Guard;
use crate::model::ids::VmId;

/// What became of one offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The VM.
    pub vm: VmId,
    /// The offer.
    pub offer_seq: u64,
    /// Name of the backend.
    pub backend: &'static str,
    /// One entry a range, in the order of the plan.
    pub ranges: Vec<RangeOutcome>,
    /// Calls made.
    pub calls: u64,
    /// Bytes of the calls that succeeded; in a dry run, bytes that would have been taken.
    pub asked_bytes: u64,
    /// Bytes that came back, as measured; never more than `asked_bytes`. Less where memory was not
    /// resident.
    pub freed_bytes: u64,
    /// Whether the measurement agrees with what was asked.
    pub measured: Measured,
    /// Bytes found in the taken ranges after all; looked for only where less came back than was mapped.
    pub left_bytes: u64,
    /// Calls that took what KVM has mapped, without KVM being told of it.
    pub unnotified_calls: u64,
}

/// What became of one range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeOutcome {
    /// The answer.
    pub result: RangeResult,
    /// Bytes of it that were taken: all where reclaimed, perhaps some where failed or stopped.
    pub done_bytes: u64,
}

/// The answer for one range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RangeResult {
    /// The memory is with the host (also where none was resident); it reads as zero.
    Reclaimed,
    /// Not touched.
    Kept(Reason),
    /// Not touched; no guest should have offered it.
    Refused(Reason),
    /// The kernel did not take it, or not all of it.
    Failed(Failure),
    /// The offer had ceased to be live before all of it was taken.
    Stopped,
}

/// Why a range was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The plan said so.
    Policy(String),
    /// A guard forbids it.
    Guard(Guard),
    /// It would have been taken.
    DryRun,
}

/// Measured against asked. Other activity in the same files blurs the sums, so a difference accuses nobody; only
/// [`Measured::Left`] does, which was looked for in the taken ranges themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Measured {
    /// As much came back as was asked for.
    Agrees,
    /// Less came back, and nothing is left: part was not resident, or other memory was taken meanwhile.
    Less,
    /// Nothing came back, and nothing was known to be resident.
    NothingResident,
    /// Less came back than was resident, and there is memory in the taken ranges: still, or again.
    Left,
    /// More came back: something else gave memory back meanwhile.
    More,
    /// Nothing was taken, so nothing was measured.
    Nothing,
    /// The counters could not be read.
    Unknown,
}

impl RangeResult {
    /// Name of the guard or the policy that decided, where one did.
    #[must_use]
    pub fn guard(&self) -> Option<String> {
        match self {
            Self::Kept(Reason::Guard(guard)) | Self::Refused(Reason::Guard(guard)) => {
                Some(guard.name().into())
            }
            Self::Kept(Reason::Policy(policy)) | Self::Refused(Reason::Policy(policy)) => {
                // What follows the colon is why it decided so.
                Some(policy.split(':').next().unwrap_or_default().replace(' ', "-"))
            }
            _ => None,
        }
    }

    /// The answer as the guest is told, `RESULT_*`.
    #[must_use]
    pub const fn wire(&self) -> u8 {
        match self {
            Self::Reclaimed => RESULT_RECLAIMED,
            // Of a range that failed half way the first part reads as zero. The guest holds it as free
            // memory without content, so that is what "kept" allows.
            Self::Kept(_) | Self::Failed(_) => RESULT_KEPT,
            Self::Refused(_) => RESULT_REFUSED,
            // Whoever offered it is not there any more: there is nobody to answer.
            Self::Stopped => RESULT_NONE,
        }
    }
}

impl Outcome {
    /// Whether the offer ceased to be live on the way. It must not be answered then.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.ranges.iter().any(|range| range.result == RangeResult::Stopped)
    }

    /// Whether a guard says that the VMM has ended.
    #[must_use]
    pub fn vmm_gone(&self) -> bool {
        self.kept_by(&Guard::VmmGone)
    }

    /// Whether a guard says that the VMM's mappings must be read again before the next offer.
    #[must_use]
    pub fn mapping_stale(&self) -> bool {
        self.kept_by(&Guard::StaleMapping)
    }

    fn kept_by(&self, guard: &Guard) -> bool {
        let is = |range: &RangeOutcome| matches!(&range.result, RangeResult::Kept(Reason::Guard(why)) if why == guard);
        self.ranges.iter().any(is)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy(why) => f.write_str(why),
            Self::Guard(guard) => guard.fmt(f),
            Self::DryRun => f.write_str("dry run"),
        }
    }
}

impl fmt::Display for RangeResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reclaimed => f.write_str("reclaimed"),
            Self::Kept(why) => write!(f, "kept: {why}"),
            Self::Refused(why) => write!(f, "refused: {why}"),
            Self::Failed(failure) => write!(f, "failed: {failure}"),
            Self::Stopped => f.write_str("stopped: the offer was not live any more"),
        }
    }
}
