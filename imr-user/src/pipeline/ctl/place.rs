//! A socket's place in the file system: its folder, its mode, and whose it is.
//!
//! Input: a path. Output: a listening socket of mode 0600. A lock beside it, which the kernel releases when its holder
//! dies, says whether the socket that is there belongs to somebody. Must not remove what is no dead socket.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

/// Clients that may wait to be taken up.
const BACKLOG: i32 = 16;
/// Writable by the group or by others.
const OTHERS_WRITE: u32 = 0o022;
/// Sticky: whoever may write may not remove or rename what is another's.
const STICKY: u32 = 0o1000;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// Another process has it.
    #[error("{path} belongs to another imr{}; stop that one, or choose another path with --ctl", of_pid(.pid))]
    Taken {
        /// The socket.
        path: PathBuf,
        /// Whose it is, where that is known.
        pid: Option<u32>,
    },
    /// Something else is there.
    #[error("{path} is there and is no socket; remove it or choose another path with --ctl")]
    NoSocket {
        /// What is there.
        path: PathBuf,
    },
    /// Others could put a socket of theirs in its place.
    #[error("{path}: {why}; use a folder that only root or this user can write to")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The kernel refused.
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

fn of_pid(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// A place that is ours until this is dropped, or the process dies.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Device and inode of our socket: what has been put there since is not ours to remove.
    socket: (u64, u64),
    _lock: File,
}

impl Place {
    /// Takes `path`, with its folder (mode 0700) where there is none. A dead process' socket is replaced.
    ///
    /// # Errors
    /// [`PlaceError`]; whatever was there is still there.
    pub fn take(path: &Path) -> Result<(Self, OwnedFd), PlaceError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        check_folder(folder.unwrap_or_else(|| Path::new(".")))?;
        let lock = lock(path)?;
        clear(path)?;
        let socket = listen(path)?;
        let made = fs::symlink_metadata(path).map_err(|source| failed("look at", path, source))?;
        let place = Self { path: path.to_owned(), socket: (made.dev(), made.ino()), _lock: lock };
        Ok((place, socket))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Before the lock goes: whoever gets it next finds nothing, or something that is not ours.
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.socket);
        if ours {
            // A socket that stays behind is dead, and is replaced by the next one.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn failed(operation: &'static str, path: &Path, source: impl Into<io::Error>) -> PlaceError {
    PlaceError::Io { operation, path: path.to_owned(), source: source.into() }
}

fn check_folder(path: &Path) -> Result<(), PlaceError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| failed("create", path, source))?;
    let found = fs::metadata(path).map_err(|source| failed("look at", path, source))?;
    let wrong = |why| Err(PlaceError::Folder { path: path.to_owned(), why });
    if found.uid() != 0 && found.uid() != rustix::process::geteuid().as_raw() {
        return wrong("it belongs to another user");
    }
    if found.mode() & OTHERS_WRITE != 0 && found.mode() & STICKY == 0 {
        return wrong("others can write to it");
    }
    Ok(())
}

/// The lock beside the socket, with our pid in it.
fn lock(path: &Path) -> Result<File, PlaceError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&lock_path)
        .map_err(|source| failed("open", &lock_path, source))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            // Only for the message.
            let _ = file.take(16).read_to_string(&mut text);
            return Err(PlaceError::Taken { path: path.to_owned(), pid: text.trim().parse().ok() });
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock", &lock_path, source)),
    }
    // Only for the message as well: on a full file system it is missing.
    let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    Ok(file)
}

/// Removes a dead process' socket.
fn clear(path: &Path) -> Result<(), PlaceError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(failed("look at", path, source)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(PlaceError::NoSocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    // The lock says that it is no imr's. It may still be somebody's. Without waiting: a full queue is somebody's, too.
    let (socket, address) = socket_for(path)?;
    match rustix::net::connect(&socket, &address) {
        Err(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(|source| failed("remove the dead socket", path, source))
        }
        Err(Errno::NOENT) => Ok(()),
        Ok(()) | Err(Errno::AGAIN) => Err(PlaceError::Taken { path: path.to_owned(), pid: None }),
        Err(source) => Err(failed("look whether somebody listens at", path, source)),
    }
}

fn socket_for(path: &Path) -> Result<(OwnedFd, SocketAddrUnix), PlaceError> {
    let address = SocketAddrUnix::new(path).map_err(|source| failed("name a socket", path, source))?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(|source| failed("make a socket for", path, source))?;
    Ok((socket, address))
}

fn listen(path: &Path) -> Result<OwnedFd, PlaceError> {
    let (socket, address) = socket_for(path)?;
    // The file gets the socket's own mode (net/unix/af_unix.c, unix_bind_bsd(), 6.1 and 6.12), so there is no moment in
    // which it is open to others, and no umask of the process to change.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)
        .map_err(|source| failed("set the mode of", path, source))?;
    rustix::net::bind(&socket, &address).map_err(|source| failed("bind a socket to", path, source))?;
    let ready = rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)
        .and_then(|()| rustix::net::listen(&socket, BACKLOG))
        .map_err(|source| failed("listen at", path, source));
    if ready.is_err() {
        let _ = fs::remove_file(path);
    }
    ready.map(|()| socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_new_folder_is_0700_and_the_socket_0600() {
        let dir = folder();
        let path = dir.path().join("new/ctl.sock");
        let (place, _socket) = Place::take(&path).unwrap();
        assert_eq!((mode(&dir.path().join("new")), mode(&path)), (0o700, 0o600));
        assert!(UnixStream::connect(&path).is_ok());
        drop(place);
        assert!(!path.exists(), "it leaves no socket behind");
    }

    #[test]
    fn a_second_one_is_told_whose_it_is() {
        let dir = folder();
        let path = dir.path().join("s");
        let first = Place::take(&path).unwrap();
        let Err(error @ PlaceError::Taken { .. }) = Place::take(&path) else { panic!("taken twice") };
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(UnixStream::connect(&path).is_ok(), "the first one's is as it was");
        drop(first);
        assert!(Place::take(&path).is_ok());
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = folder();
        let path = dir.path().join("s");
        let stranger = UnixListener::bind(&path).unwrap();
        assert!(matches!(Place::take(&path), Err(PlaceError::Taken { pid: None, .. })));
        drop(stranger);
        let (place, _socket) = Place::take(&path).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(place);
    }

    #[test]
    fn nothing_else_is_removed_or_followed() {
        let dir = folder();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        assert!(matches!(Place::take(&victim), Err(PlaceError::NoSocket { .. })));
        let path = dir.path().join("s");
        symlink(&victim, &path).unwrap();
        assert!(matches!(Place::take(&path), Err(PlaceError::NoSocket { .. })));
        fs::remove_file(&path).unwrap();
        fs::remove_file(dir.path().join("s.lock")).unwrap();
        symlink(&victim, dir.path().join("s.lock")).unwrap();
        assert!(matches!(Place::take(&path), Err(PlaceError::Io { operation: "open", .. })));
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    }

    #[test]
    fn a_folder_that_others_write_to_is_refused() {
        let dir = folder();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        for (bits, good) in [(0o777, false), (0o775, false), (0o1777, true), (0o755, true)] {
            fs::set_permissions(&open, fs::Permissions::from_mode(bits)).unwrap();
            assert_eq!(Place::take(&open.join("s")).is_ok(), good, "{bits:o}");
        }
    }

    #[test]
    fn what_was_put_in_its_place_stays() {
        let dir = folder();
        let path = dir.path().join("s");
        let (place, _socket) = Place::take(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "other").unwrap();
        drop(place);
        assert!(path.exists());
    }
}
