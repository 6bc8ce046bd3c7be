//! One host process at a time answers a VM: a file lock that the kernel releases when its holder dies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::ids::Pid;

/// Where the lock files are.
const LOCK_DIR: &str = "/run/imr";

/// Why a VM could not be locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process answers this VM.
    #[error("another imr answers this VM ({path} is locked); stop it, or use --observe elsewhere")]
    Taken {
        /// The lock file.
        path: PathBuf,
    },
    /// The lock file could not be made.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The right to answer one VM, given up on drop or death.
#[derive(Debug)]
pub struct VmLock {
    _file: File,
}

impl VmLock {
    /// Takes the lock of the VM whose `struct kvm` is at the kernel address `kvm`, of the VMM with this pid that was started at
    /// `start_ticks` (field 22 of /proc/PID/stat): an address or a pid that is used again has a lock of its own. A VMM may
    /// have several descriptors of one VM, so none of them names it.
    ///
    /// # Errors
    /// [`LockError::Taken`] when another process holds it.
    pub fn take(pid: Pid, start_ticks: u64, kvm: u64) -> Result<Self, LockError> {
        Self::take_in(Path::new(LOCK_DIR), pid, start_ticks, kvm)
    }

    fn take_in(dir: &Path, pid: Pid, start_ticks: u64, kvm: u64) -> Result<Self, LockError> {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(dir).map_err(|source| LockError::Io {
            operation: "create",
            path: dir.to_owned(),
            source,
        })?;
        let path = dir.join(format!("vm-{pid}-{start_ticks}-{kvm:x}.lock"));
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|source| LockError::Io { operation: "open", path: path.clone(), source })?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => Err(LockError::Taken { path }),
            Err(TryLockError::Error(source)) => Err(LockError::Io { operation: "lock", path, source }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    const PID: Pid = Pid::new(1);

    #[test]
    fn one_at_a_time_and_a_lock_that_was_left_is_free() {
        let folder = tempfile::tempdir().unwrap();
        let first = VmLock::take_in(folder.path(), PID, 2, 3).unwrap();
        assert!(matches!(VmLock::take_in(folder.path(), PID, 2, 3), Err(LockError::Taken { .. })));
        assert!(VmLock::take_in(folder.path(), PID, 9, 3).is_ok(), "another process with the pid used again");
        drop(first);
        let left = folder.path().join("vm-1-2-3.lock");
        assert_eq!(fs::metadata(&left).unwrap().permissions().mode() & 0o7777, 0o600);
        assert!(VmLock::take_in(folder.path(), PID, 2, 3).is_ok(), "its file is there, its holder is not");
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let victim = folder.path().join("victim");
        symlink(&victim, folder.path().join("vm-1-2-3.lock")).unwrap();
        let refused = VmLock::take_in(folder.path(), PID, 2, 3);
        assert!(matches!(refused, Err(LockError::Io { operation: "open", .. })), "{refused:?}");
        assert!(!victim.exists());
    }

    #[test]
    fn a_folder_that_it_makes_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("a/b");
        let _lock = VmLock::take_in(&dir, PID, 2, 3).unwrap();
        assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o7777, 0o700);
    }
}
