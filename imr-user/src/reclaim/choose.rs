//! Which backend takes the memory of a mapping, and what forbids all of them.
//!
//! Input: a [`Segment`] and what the operator has allowed. Output: a [`BackendKind`] or a named [`Guard`]. Pure: it
//! goes by what was read of the mapping; a backend looks again at what only the live process can tell.

#[cfg(test)]
mod tests;

use super::guards::Guard;
use crate::model::backing::{BackingKind, Segment};

/// What the operator has allowed. Nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allowed {
    /// Stop the VMM for an instant and run `madvise` inside it: the only way to private anonymous memory.
    pub inject: bool,
    /// Say what would be taken, and take nothing.
    pub dry_run: bool,
}

/// A way of giving memory back, by what the mapping is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendKind {
    /// Holes in the file behind shared memory.
    Punch,
    /// `madvise(MADV_DONTNEED)` run inside the VMM, for private anonymous memory.
    Inject,
}

impl BackendKind {
    /// Name that does not change between versions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Punch => "punch",
            Self::Inject => "inject",
        }
    }
}

/// The backends that some memory needs, in mappings of several kinds perhaps more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Backends {
    punch: bool,
    inject: bool,
}

impl Backends {
    /// Adds one.
    pub fn add(&mut self, backend: BackendKind) {
        match backend {
            BackendKind::Punch => self.punch = true,
            BackendKind::Inject => self.inject = true,
        }
    }

    /// Whether it is among them.
    #[must_use]
    pub const fn has(self, backend: BackendKind) -> bool {
        match backend {
            BackendKind::Punch => self.punch,
            BackendKind::Inject => self.inject,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        !self.punch && !self.inject
    }

    /// Names that do not change between versions; `none` of none.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match (self.punch, self.inject) {
            (true, true) => "punch+inject",
            (true, false) => BackendKind::Punch.name(),
            (false, true) => BackendKind::Inject.name(),
            (false, false) => "none",
        }
    }
}

/// The backend for a mapping, whatever the range in it.
///
/// # Errors
/// What forbids to take any of it.
pub fn backend_of(segment: &Segment, allowed: Allowed) -> Result<BackendKind, Guard> {
    if segment.flags.device {
        return Err(Guard::DeviceMemory);
    }
    if segment.flags.userfaultfd {
        return Err(Guard::Userfaultfd);
    }
    if segment.flags.locked {
        return Err(Guard::Locked);
    }
    let backend = match (&segment.kind, segment.shared) {
        (BackingKind::OtherFile(path), _) => return Err(Guard::OtherFile(path.clone())),
        (BackingKind::Memfd | BackingKind::Tmpfs | BackingKind::Hugetlbfs, true) => BackendKind::Punch,
        // A hole would not free the VMM's copies, and without them the mapping shows the file, not zeros.
        (BackingKind::Memfd | BackingKind::Tmpfs | BackingKind::Hugetlbfs, false) => {
            return Err(Guard::PrivateFile);
        }
        (BackingKind::Anonymous, false) if allowed.inject => BackendKind::Inject,
        (BackingKind::Anonymous, false) => return Err(Guard::PrivateMapping),
        // Shared memory always has a file, on a tmpfs of the kernel's own if on no other (mm/shmem.c, shmem_zero_setup).
        (BackingKind::Anonymous, true) => return Err(Guard::StaleMapping),
    };
    // To discard is to write zeros: where the VMM cannot write, neither may its guest through us.
    if !segment.writable {
        return Err(Guard::ReadOnlySlot);
    }
    Ok(backend)
}
