//! The other end: asks a running imr one thing, and waits for its answer.
//!
//! Input: the socket's path and a request. Output: the answer, or why there is none. Must not talk to a socket of
//! anybody but root and this process' own user: it may have been put there.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use thiserror::Error;

use super::protocol::{Answer, MOST_ANSWER_BYTES, Request};

/// For imr to take the request up and to answer it.
const LIMIT: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "no imr is running (nobody listens at {path}); start `imr run` or imr-top, or name its socket with --socket"
    )]
    NotRunning {
        /// The socket.
        path: PathBuf,
    },
    /// The kernel does not let us.
    #[error("no permission for {path}: only root and the user of imr may use it")]
    NoPermission {
        /// The socket.
        path: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error("{path} belongs to user {uid}, who is neither root nor this user: nothing was said to it")]
    Stranger {
        /// The socket.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// It is there and says nothing.
    #[error("the imr at {path} does not answer within {limit_s} s; it may be stopped (SIGSTOP) or very busy")]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long was waited, seconds.
        limit_s: u64,
    },
    /// It says something that is no answer.
    #[error("what listens at {path} does not speak this protocol: {why}")]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        why: String,
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

impl ClientError {
    /// Whether something that is needed is not there, as opposed to a failure.
    #[must_use]
    pub fn is_missing_prerequisite(&self) -> bool {
        matches!(self, Self::NotRunning { .. } | Self::NoPermission { .. } | Self::Stranger { .. })
    }
}

/// A connection to a running imr.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let failed = |operation, source| ClientError::Io { operation, path: path.to_owned(), source };
        let address = SocketAddrUnix::new(path).map_err(|error| failed("name", error.into()))?;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(|error| failed("make a socket for", error.into()))?;
        let stream = UnixStream::from(socket);
        // Before it connects: a process that is stopped takes nobody up, and a full queue would be waited for.
        stream
            .set_read_timeout(Some(LIMIT))
            .and_then(|()| stream.set_write_timeout(Some(LIMIT)))
            .map_err(|source| failed("set a limit for", source))?;
        let connected = rustix::net::connect(&stream, &address).map_err(io::Error::from);
        connected.map_err(|source| match source.kind() {
            io::ErrorKind::WouldBlock => silent(path),
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { path: path.to_owned() }
            }
            io::ErrorKind::PermissionDenied => ClientError::NoPermission { path: path.to_owned() },
            _ => failed("connect to", source),
        })?;
        let peer = rustix::net::sockopt::socket_peercred(&stream)
            .map_err(|error| failed("ask whose is", error.into()))?;
        let (uid, own) = (peer.uid.as_raw(), rustix::process::geteuid().as_raw());
        if uid != 0 && uid != own {
            return Err(ClientError::Stranger { path: path.to_owned(), uid });
        }
        Ok(Self { path: path.to_owned(), stream })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn ask(&mut self, request: &Request) -> Result<Answer, ClientError> {
        let line = request.line().map_err(|error| self.no_answer(error.to_string()))?;
        // Whoever turns us away says why and hangs up; its word is there to be read all the same.
        let wrote = self.stream.write_all(&line);
        let mut answer = Vec::new();
        let mut reader = BufReader::new(Read::take(&self.stream, MOST_ANSWER_BYTES));
        let read = reader.read_until(b'\n', &mut answer);
        match (read, wrote) {
            (Ok(_), _) if answer.pop() == Some(b'\n') => {
                Answer::parse(&answer).map_err(|error| self.no_answer(error.to_string()))
            }
            (Err(error), _) | (Ok(_), Err(error)) => Err(match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => silent(&self.path),
                _ => ClientError::Io { operation: "talk to", path: self.path.clone(), source: error },
            }),
            (Ok(_), Ok(())) => Err(self.no_answer("it ended without an answer".to_owned())),
        }
    }

    fn no_answer(&self, why: String) -> ClientError {
        ClientError::NoAnswer { path: self.path.clone(), why }
    }
}

fn silent(path: &Path) -> ClientError {
    ClientError::Silent { path: path.to_owned(), limit_s: LIMIT.as_secs() }
}
