//! The socket's side of imr: takes clients up, reads their lines, asks the engine, writes its answers.
//!
//! Input: clients. Output: [`Ask`]s to the engine, one at a time and spaced, and [`Counters`]. Clients, the length of a
//! line and the time for each are bounded. Must not answer anybody but root and this process' own user.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::protocol::{Answer, Counters, ErrorKind, MOST_REQUEST_BYTES, Request};
use super::{Ask, Place};

/// Clients at one time.
const CLIENTS: usize = 16;
/// For a client to send a whole line, and to take a whole answer.
const CLIENT_LIMIT: Duration = Duration::from_secs(5);
/// For the engine to answer: it may be at a long look at a new VM.
const ENGINE_LIMIT: Duration = Duration::from_secs(5);
/// Between two requests to the engine, so that nobody keeps it from its guests.
const PACE: Duration = Duration::from_millis(5);
/// After an accept that failed, for want of descriptors perhaps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A running server. Dropping it ends it and removes the socket.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    // Dropped last: nobody finds a socket where nobody listens.
    place: Place,
}

impl Server {
    /// Begins to answer at `socket`, which has its place in the file system at `place`.
    ///
    /// # Errors
    /// There is no thread or no runtime to be had.
    pub fn start(place: Place, socket: OwnedFd, asks: mpsc::Sender<Ask>) -> io::Result<Self> {
        let own = rustix::process::geteuid().as_raw();
        Self::start_for(place, socket, asks, [0, own])
    }

    fn start_for(
        place: Place,
        socket: OwnedFd,
        asks: mpsc::Sender<Ask>,
        allowed: [u32; 2],
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let desk = Arc::new(Desk { asks, counts: Counts::default(), allowed, turn: Mutex::new(()) });
        let listener = std::os::unix::net::UnixListener::from(socket);
        let thread = thread::Builder::new().name("imr-ctl".into()).spawn(move || {
            runtime.block_on(async {
                match UnixListener::from_std(listener) {
                    Ok(listener) => serve(&listener, &desk, stopped).await,
                    Err(error) => desk.tell(format!("the control socket cannot be used: {error}")),
                }
            });
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread), place })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.place.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.stop.take().map(|stop| stop.send(()));
        // One that panicked has said so on standard error.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What the clients have in common.
struct Desk {
    asks: mpsc::Sender<Ask>,
    counts: Counts,
    allowed: [u32; 2],
    turn: Mutex<()>,
}

#[derive(Default)]
struct Counts {
    served: AtomicU64,
    forbidden: AtomicU64,
    busy: AtomicU64,
    malformed: AtomicU64,
    slow: AtomicU64,
    failed: AtomicU64,
}

impl Counts {
    fn now(&self) -> Counters {
        Counters {
            served: self.served.load(Relaxed),
            forbidden: self.forbidden.load(Relaxed),
            busy: self.busy.load(Relaxed),
            malformed: self.malformed.load(Relaxed),
            slow: self.slow.load(Relaxed),
            failed: self.failed.load(Relaxed),
        }
    }
}

async fn serve(listener: &UnixListener, desk: &Arc<Desk>, mut stop: oneshot::Receiver<()>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stop => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    if let Some(stream) = desk.admit(stream, clients.len()) {
                        let desk = Arc::clone(desk);
                        clients.spawn(async move { desk.client(stream).await });
                    }
                }
                Err(error) => {
                    desk.counts.failed.fetch_add(1, Relaxed);
                    desk.tell(format!("a client of the control socket cannot be taken up: {error}"));
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = clients.join_next(), if !clients.is_empty() => {}
        }
    }
}

/// How a line came in.
enum Line {
    Whole(Vec<u8>),
    TooLong,
    /// The client is gone; with something half said, or not.
    End {
        half: bool,
    },
    TooSlow {
        half: bool,
    },
}

impl Desk {
    /// Lets people know, unless the engine has too much to do: then the counters must do.
    fn tell(&self, what: String) {
        let _ = self.asks.try_send(Ask::Tell(what));
    }

    /// The client, if it may come in; else it is told why not, as far as it listens.
    fn admit(&self, stream: UnixStream, present: usize) -> Option<UnixStream> {
        let peer = stream.peer_cred();
        let answer = match peer {
            Ok(peer) if self.allowed.contains(&peer.uid()) && present < CLIENTS => return Some(stream),
            Ok(peer) if self.allowed.contains(&peer.uid()) => {
                self.counts.busy.fetch_add(1, Relaxed);
                Answer::error(ErrorKind::Busy, format!("{present} clients are being served; try again"))
            }
            Ok(peer) => {
                let (uid, pid) = (peer.uid(), peer.pid().unwrap_or_default());
                let count = 1 + self.counts.forbidden.fetch_add(1, Relaxed);
                // The first few by name; whoever goes on must not fill the log.
                if count <= 10 || count.is_multiple_of(1000) {
                    self.tell(format!(
                        "control socket: process {pid} of user {uid} was turned away ({count} so far); only root and \
                         the user of imr may use it"
                    ));
                }
                Answer::error(ErrorKind::Forbidden, format!("user {uid} is neither root nor the user of imr"))
            }
            Err(error) => {
                self.counts.failed.fetch_add(1, Relaxed);
                self.tell(format!("control socket: who a client is cannot be told: {error}"));
                return None;
            }
        };
        if let Ok(line) = answer.line() {
            // It fits into the socket's buffer, or the client has had its answer already.
            let _ = stream.try_write(&line);
        }
        None
    }

    async fn client(&self, mut stream: UnixStream) {
        let mut read = Vec::new();
        loop {
            let answer = match next_line(&mut stream, &mut read).await {
                Line::Whole(line) => match Request::parse(&line) {
                    Ok(request) => self.ask(request).await,
                    Err(answer) => {
                        self.counts.malformed.fetch_add(1, Relaxed);
                        answer
                    }
                },
                Line::TooLong => {
                    self.counts.malformed.fetch_add(1, Relaxed);
                    let why = format!("a request is at most {MOST_REQUEST_BYTES} bytes long");
                    self.answer(&mut stream, Answer::error(ErrorKind::Malformed, why)).await;
                    return;
                }
                // What was half said is not done.
                Line::End { half } => {
                    self.counts.malformed.fetch_add(u64::from(half), Relaxed);
                    return;
                }
                Line::TooSlow { half } => {
                    self.counts.slow.fetch_add(u64::from(half), Relaxed);
                    return;
                }
            };
            if !self.answer(&mut stream, answer).await {
                return;
            }
        }
    }

    /// Whether the client took it.
    async fn answer(&self, stream: &mut UnixStream, mut answer: Answer) -> bool {
        if let Answer::Status(status) = &mut answer {
            status.socket = self.counts.now();
        }
        let Ok(line) = answer.line() else {
            self.counts.failed.fetch_add(1, Relaxed);
            return false;
        };
        match timeout(CLIENT_LIMIT, stream.write_all(&line)).await {
            Ok(Ok(())) => true,
            Ok(Err(_)) => false,
            Err(_) => {
                self.counts.slow.fetch_add(1, Relaxed);
                false
            }
        }
    }

    async fn ask(&self, request: Request) -> Answer {
        let _turn = self.turn.lock().await;
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Do { request, answer };
        let asked = async {
            self.asks.send(ask).await.ok()?;
            answered.await.ok()
        };
        let answer = match timeout(ENGINE_LIMIT, asked).await {
            Ok(Some(answer)) => {
                self.counts.served.fetch_add(1, Relaxed);
                answer
            }
            Ok(None) => Answer::error(ErrorKind::NoAnswer, "imr is ending"),
            Err(_) => Answer::error(
                ErrorKind::NoAnswer,
                format!(
                    "the pipeline did not answer within {} s; it may still do it",
                    ENGINE_LIMIT.as_secs()
                ),
            ),
        };
        sleep(PACE).await;
        answer
    }
}

/// The next line, without its end. `read` holds what came after the one before.
async fn next_line(stream: &mut UnixStream, read: &mut Vec<u8>) -> Line {
    let whole = async {
        let mut looked = 0;
        loop {
            if let Some(end) = read[looked..].iter().position(|byte| *byte == b'\n') {
                let rest = read.split_off(looked + end + 1);
                let mut line = std::mem::replace(read, rest);
                line.pop();
                return if line.len() > MOST_REQUEST_BYTES { Line::TooLong } else { Line::Whole(line) };
            }
            looked = read.len();
            if looked > MOST_REQUEST_BYTES {
                return Line::TooLong;
            }
            let mut piece = [0; 1024];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return Line::End { half: looked > 0 },
                Ok(count) => read.extend_from_slice(&piece[..count]),
            }
        }
    };
    match timeout(CLIENT_LIMIT, whole).await {
        Ok(line) => line,
        Err(_) => Line::TooSlow { half: !read.is_empty() },
    }
}

#[cfg(test)]
mod tests;
