//! What every way of giving memory back has in common, and the dry run.
//!
//! Input: segments to prepare and calls to make, from the executor. Output: what each call did, or its
//! failure. A backend decides nothing.

use std::fmt;

use rustix::io::Errno;

use super::guards::Guard;
use crate::model::backing::Segment;
use crate::model::ids::{Gfn, Hva};

/// One call: a stretch of one mapping, contiguous in guest, VMM and file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call<'a> {
    /// The mapping of its first byte; prepared in this batch.
    pub segment: &'a Segment,
    /// First frame.
    pub base_gfn: Gfn,
    /// Where its first byte is mapped in the VMM.
    pub hva: Hva,
    /// Where its first byte is in the segment's file; 0 without a file.
    pub file_offset: u64,
    /// Length, bytes; a multiple of the segment's page size, not zero.
    pub bytes: u64,
}

/// What a call that did not fail has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The memory is with the host; it reads as zero.
    Taken,
    /// Nothing was touched: a dry run.
    WouldTake,
}

/// Why a batch cannot touch a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Obstacle {
    /// One of the named reasons.
    Guard(Guard),
    /// The kernel said no.
    Failure(Failure),
}

/// An operation that the kernel did not carry out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// What was tried.
    pub operation: &'static str,
    /// On what: a path, relative to /proc/PID where it has no leading slash.
    pub path: String,
    /// The kernel's answer.
    pub errno: Errno,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}: {}", self.operation, self.path, self.errno)?;
        let remedy = match (self.operation, self.errno) {
            (FALLOCATE, Errno::PERM) => {
                "the file is sealed against writing (F_SEAL_WRITE or F_SEAL_FUTURE_WRITE); \
                 let the VMM create it without that seal"
            }
            (_, Errno::PERM | Errno::ACCESS) => {
                "needs CAP_SYS_ADMIN and CAP_SYS_PTRACE in the initial user namespace, and no security module against it"
            }
            (_, Errno::MFILE | Errno::NFILE) => "raise the limit of open files (ulimit -n, fs.file-max)",
            _ => return Ok(()),
        };
        write!(f, " ({remedy})")
    }
}

/// [`Failure::operation`] of a refused hole.
pub const FALLOCATE: &str = "fallocate(PUNCH_HOLE)";

/// A way of giving memory back.
pub trait Backend {
    /// Name that does not change between versions.
    fn name(&self) -> &'static str;

    /// Gets hold of what is behind `segment` as it is now, once a batch before the first call on it.
    ///
    /// # Errors
    /// The memory is not, or not any more, what `segment` says, or cannot be had.
    fn prepare(&mut self, segment: &Segment) -> Result<(), Obstacle>;

    /// Bytes that the host holds at this moment for everything prepared in this batch, or an upper bound that falls by
    /// what is given back.
    ///
    /// # Errors
    /// It cannot be told.
    fn held_bytes(&self) -> Result<u64, Failure>;

    /// Gives back the memory of one call.
    ///
    /// # Errors
    /// The kernel did not do it; the memory is as before.
    fn reclaim(&mut self, call: &Call<'_>) -> Result<Effect, Failure>;

    /// Gives back the memory of several calls, in order, and adds a result of each to `results`. As little as can be is done
    /// between two of them: in huge pages that shows.
    fn reclaim_all(&mut self, calls: &[Call<'_>], results: &mut Vec<Result<Effect, Failure>>) {
        results.extend(calls.iter().map(|call| self.reclaim(call)));
    }

    /// Bytes that are there after all, where that call took the memory: the kernel kept them, or somebody has had them
    /// allocated since. `None`: it cannot be told. Slow, and asked only where the numbers do not fit.
    fn left_bytes(&self, call: &Call<'_>) -> Option<u64> {
        let _ = call;
        None
    }

    /// Ends the batch: lets go of everything prepared.
    fn finish(&mut self);
}

/// Does all that the backend inside does, except taking the memory.
#[derive(Debug)]
pub struct DryRun<B>(pub B);

impl<B: Backend> Backend for DryRun<B> {
    fn name(&self) -> &'static str {
        "dry-run"
    }

    fn prepare(&mut self, segment: &Segment) -> Result<(), Obstacle> {
        self.0.prepare(segment)
    }

    fn held_bytes(&self) -> Result<u64, Failure> {
        self.0.held_bytes()
    }

    fn reclaim(&mut self, _: &Call<'_>) -> Result<Effect, Failure> {
        Ok(Effect::WouldTake)
    }

    fn finish(&mut self) {
        self.0.finish();
    }
}
