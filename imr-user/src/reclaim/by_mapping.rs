//! The backend of a whole VM: gives each mapping to the backend that can take it, so that a VM with memory of several
//! kinds is served in one batch.
//!
//! Input and output as of any [`Backend`]. What no backend may take is refused here too, though guards come first.

#[cfg(test)]
mod tests;

use std::os::fd::BorrowedFd;

use rustix::io::Errno;

use super::backend::{Backend, Call, DryRun, Effect, Failure, Obstacle};
use super::choose::{Allowed, BackendKind, Backends, backend_of};
use super::guards::Guard;
use super::inject::Inject;
use super::punch::{KeptFiles, Punch};
use super::still_there;
use crate::model::backing::Segment;
use crate::model::ids::Pid;

/// Makes the backend of a VM for one batch: from its /proc/PID, its pid, what is allowed, and what was kept open.
pub type MakeBackend = for<'a> fn(BorrowedFd<'a>, Pid, Allowed, &'a mut KeptFiles) -> Box<dyn Backend + 'a>;

/// The backend of the VM with this /proc/PID (see [`Punch::new`]) and pid.
#[must_use]
pub fn backend_for<'a>(
    proc_dir: BorrowedFd<'a>,
    pid: Pid,
    allowed: Allowed,
    kept: &'a mut KeptFiles,
) -> Box<dyn Backend + 'a> {
    let inject: Option<Box<dyn Backend + 'a>> =
        if allowed.inject { Some(Box::new(Inject::new(proc_dir, pid))) } else { None };
    let by_mapping = ByMapping::new(proc_dir, allowed, Punch::keeping(proc_dir, kept), inject);
    if allowed.dry_run { Box::new(DryRun(by_mapping)) } else { Box::new(by_mapping) }
}

/// The backends of one VM.
pub struct ByMapping<'a> {
    proc_dir: BorrowedFd<'a>,
    allowed: Allowed,
    punch: Punch<'a>,
    inject: Option<Box<dyn Backend + 'a>>,
    /// Those that have something prepared in this batch, or had in the one that ended last.
    used: Backends,
    ended: bool,
}

impl<'a> ByMapping<'a> {
    /// `inject`: what takes private anonymous memory, if anything does.
    #[must_use]
    pub fn new(
        proc_dir: BorrowedFd<'a>,
        allowed: Allowed,
        punch: Punch<'a>,
        inject: Option<Box<dyn Backend + 'a>>,
    ) -> Self {
        Self { proc_dir, allowed, punch, inject, used: Backends::default(), ended: false }
    }

    fn of(&mut self, segment: &Segment) -> Result<(BackendKind, &mut (dyn Backend + 'a)), Guard> {
        match backend_of(segment, self.allowed)? {
            BackendKind::Punch => Ok((BackendKind::Punch, &mut self.punch)),
            BackendKind::Inject => match &mut self.inject {
                Some(inject) => Ok((BackendKind::Inject, inject.as_mut())),
                None => Err(Guard::PrivateMapping),
            },
        }
    }
}

impl Backend for ByMapping<'_> {
    /// Of all that had something to do in the newest batch.
    fn name(&self) -> &'static str {
        self.used.name()
    }

    fn prepare(&mut self, segment: &Segment) -> Result<(), Obstacle> {
        if std::mem::take(&mut self.ended) {
            self.used = Backends::default();
        }
        let (kind, backend) = self.of(segment).map_err(Obstacle::Guard)?;
        backend.prepare(segment)?;
        self.used.add(kind);
        Ok(())
    }

    fn held_bytes(&self) -> Result<u64, Failure> {
        let mut sum = 0_u64;
        if self.used.has(BackendKind::Punch) {
            sum += self.punch.held_bytes()?;
        }
        if let Some(inject) = self.inject.as_ref().filter(|_| self.used.has(BackendKind::Inject)) {
            sum = sum.saturating_add(inject.held_bytes()?);
        }
        Ok(sum)
    }

    fn reclaim(&mut self, call: &Call<'_>) -> Result<Effect, Failure> {
        match self.of(call.segment) {
            Ok((_, backend)) => backend.reclaim(call),
            // The executor makes calls on prepared segments only.
            Err(_) => Err(Failure {
                operation: "choose a backend",
                path: format!("mapping at {:#x}", call.segment.vma_start.get()),
                errno: Errno::INVAL,
            }),
        }
    }

    fn reclaim_all(&mut self, calls: &[Call<'_>], results: &mut Vec<Result<Effect, Failure>>) {
        for calls in calls.chunk_by(|a, b| std::ptr::eq(a.segment, b.segment)) {
            match calls.first().map(|call| self.of(call.segment)) {
                Some(Ok((_, backend))) => backend.reclaim_all(calls, results),
                _ => results.extend(calls.iter().map(|call| self.reclaim(call))),
            }
        }
    }

    fn left_bytes(&self, call: &Call<'_>) -> Option<u64> {
        match backend_of(call.segment, self.allowed).ok()? {
            BackendKind::Punch => self.punch.left_bytes(call),
            BackendKind::Inject => still_there::in_page_tables(self.proc_dir, call.hva, call.bytes),
        }
    }

    fn finish(&mut self) {
        self.punch.finish();
        if let Some(inject) = &mut self.inject {
            inject.finish();
        }
        self.ended = true;
    }
}
