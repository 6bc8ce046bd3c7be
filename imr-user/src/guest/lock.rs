//! One host process at a time answers a VM: a file lock that the kernel releases when its holder dies.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;

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
    /// Takes the lock of the VMM with this pid that was started at `start_ticks` (field 22 of
    /// /proc/PID/stat), so that a reused pid has a lock of its own. `fd` is the VM's descriptor in it.
    ///
    /// # Errors
    /// [`LockError::Taken`] when another process holds it.
    pub fn take(pid: Pid, start_ticks: u64, fd: u32) -> Result<Self, LockError> {
        let dir = PathBuf::from(LOCK_DIR);
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(&dir).map_err(|source| LockError::Io {
            operation: "create",
            path: dir.clone(),
            source,
        })?;
        let path = dir.join(format!("vm-{pid}-{start_ticks}-{fd}.lock"));
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
