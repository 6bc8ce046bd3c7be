//! The server with real sockets and real clients; the engine is a thread that answers.

use std::io::{BufRead, BufReader, ErrorKind as IoErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use super::super::protocol::{Selector, VmDone};
use super::super::{Client, ClientError};
use super::*;

struct Running {
    server: Option<Server>,
    path: PathBuf,
    engine: Option<JoinHandle<(Vec<Request>, Vec<String>)>>,
    _folder: tempfile::TempDir,
}

impl Running {
    /// `slow`: how long the engine takes.
    fn new(allowed: [u32; 2], slow: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (asks, mut asked) = mpsc::channel(16);
        let (place, socket) = Place::take(&path).unwrap();
        let server = Some(Server::start_for(place, socket, asks, allowed).unwrap());
        let engine = thread::spawn(move || {
            let (mut requests, mut told) = (Vec::new(), Vec::new());
            while let Some(ask) = asked.blocking_recv() {
                match ask {
                    Ask::Do { request, answer } => {
                        thread::sleep(slow);
                        requests.push(request);
                        let vms =
                            vec![VmDone { id: 1, pid: 2, name: "n".into(), ok: true, what: "w".into() }];
                        let _ = answer.send(Answer::Done { vms });
                    }
                    Ask::Tell(what) => told.push(what),
                }
            }
            (requests, told)
        });
        Self { server, path, engine: Some(engine), _folder: folder }
    }

    fn quick() -> Self {
        Self::new([0, rustix::process::geteuid().as_raw()], Duration::ZERO)
    }

    fn raw(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn say(&self, bytes: &[u8]) -> (UnixStream, Answer) {
        let mut stream = self.raw();
        stream.write_all(bytes).unwrap();
        let answer = answer_of(&stream);
        (stream, answer)
    }

    /// What the engine was asked, and what it was to tell.
    fn end(mut self) -> (Vec<Request>, Vec<String>) {
        drop(self.server.take());
        assert!(!self.path.exists());
        self.engine.take().unwrap().join().unwrap()
    }
}

fn answer_of(stream: &UnixStream) -> Answer {
    let mut line = Vec::new();
    BufReader::new(stream).read_until(b'\n', &mut line).unwrap();
    assert_eq!(line.pop(), Some(b'\n'));
    Answer::parse(&line).unwrap()
}

fn kind(answer: &Answer) -> Option<ErrorKind> {
    match answer {
        Answer::Error { kind, .. } => Some(*kind),
        _ => None,
    }
}

#[test]
fn requests_reach_the_engine_and_answers_come_back() {
    let running = Running::quick();
    let request = Request::Reclaim(Selector::of("guest1"));
    let mut client = Client::connect(&running.path).unwrap();
    for _ in 0..3 {
        assert!(matches!(client.ask(&request), Ok(Answer::Done { vms }) if vms.len() == 1));
    }
    assert_eq!(running.end().0, [request.clone(), request.clone(), request]);
}

#[test]
fn garbage_is_answered_and_the_next_line_is_heard() {
    let running = Running::quick();
    let (mut stream, answer) = running.say(b"\x00\xff{{{\n");
    assert_eq!(kind(&answer), Some(ErrorKind::Malformed));
    stream.write_all(b"{\"version\":1,\"command\":\"status\"}\n").unwrap();
    assert!(matches!(answer_of(&stream), Answer::Done { .. }));
    assert_eq!(running.end().0, [Request::Status]);
}

#[test]
fn several_lines_in_one_piece_are_several_requests() {
    let running = Running::quick();
    let mut stream = running.raw();
    let mut line = Request::Status.line().unwrap();
    line.extend(Request::Reclaim(Selector::All).line().unwrap());
    // And a third that comes in two pieces.
    line.extend(b"{\"version\":1,");
    stream.write_all(&line).unwrap();
    thread::sleep(Duration::from_millis(50));
    stream.write_all(b"\"command\":\"status\"}\n").unwrap();
    let mut reader = BufReader::new(&stream);
    for _ in 0..3 {
        assert!(reader.read_until(b'\n', &mut Vec::new()).unwrap() > 0);
    }
    assert_eq!(running.end().0, [Request::Status, Request::Reclaim(Selector::All), Request::Status]);
}

#[test]
fn half_a_line_is_not_done() {
    let running = Running::quick();
    let mut stream = running.raw();
    let line = Request::Reclaim(Selector::All).line().unwrap();
    stream.write_all(&line[..line.len() - 1]).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "no answer");
    assert!(running.end().0.is_empty());
}

#[test]
fn a_line_of_a_mebibyte_ends_the_client_and_nothing_else() {
    let running = Running::quick();
    let mut stream = running.raw();
    let written = stream.write_all(&vec![b'a'; 1 << 20]);
    let mut said = Vec::new();
    // Hanging up on what is not read resets the connection, and may take the answer with it.
    let read = BufReader::new(&stream).read_until(b'\n', &mut said);
    match (written, read) {
        (_, Ok(0)) => {}
        (_, Ok(_)) => {
            assert_eq!(kind(&Answer::parse(&said[..said.len() - 1]).unwrap()), Some(ErrorKind::Malformed));
        }
        (_, Err(error)) => assert_eq!(error.kind(), IoErrorKind::ConnectionReset),
    }
    assert!(matches!(running.say(b"{\"version\":1,\"command\":\"status\"}\n").1, Answer::Done { .. }));
    running.end();
}

#[test]
fn a_client_too_many_is_told_so_and_others_are_served() {
    let running = Running::quick();
    let mut line = Request::Status.line().unwrap();
    let present: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stream, answer) = running.say(&line);
            assert!(matches!(answer, Answer::Done { .. }));
            stream
        })
        .collect();
    let stream = running.raw();
    assert_eq!(kind(&answer_of(&stream)), Some(ErrorKind::Busy));
    // Those that are in go on being served, and one that leaves makes room.
    let mut first = present.into_iter().next().unwrap();
    first.write_all(&line).unwrap();
    assert!(matches!(answer_of(&first), Answer::Done { .. }));
    drop(first);
    line.clear();
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match Client::connect(&running.path).unwrap().ask(&Request::Status) {
            Ok(Answer::Done { .. }) => break,
            _ => assert!(Instant::now() < until, "there is no room again"),
        }
    }
    running.end();
}

#[test]
fn a_client_that_does_not_finish_its_line_is_let_go() {
    let running = Running::quick();
    let mut slow = running.raw();
    slow.write_all(b"{\"version\":1").unwrap();
    let start = Instant::now();
    assert!(matches!(running.say(&Request::Status.line().unwrap()).1, Answer::Done { .. }));
    assert!(start.elapsed() < CLIENT_LIMIT / 2, "nobody waits for it");
    assert_eq!(slow.read(&mut [0]).unwrap(), 0);
    assert!(start.elapsed() < 3 * CLIENT_LIMIT);
    running.end();
}

#[test]
fn other_users_are_turned_away_in_words_and_counted() {
    // As if this process' user were another one.
    let running = Running::new([u32::MAX, u32::MAX], Duration::ZERO);
    for _ in 0..3 {
        let stream = running.raw();
        assert_eq!(kind(&answer_of(&stream)), Some(ErrorKind::Forbidden));
    }
    let (asked, told) = running.end();
    assert!(asked.is_empty());
    assert_eq!(told.len(), 3);
    assert!(told[2].contains("3 so far") && told[2].contains("only root"), "{told:?}");
}

#[test]
fn an_engine_that_takes_long_is_said_to() {
    let running =
        Running::new([0, rustix::process::geteuid().as_raw()], ENGINE_LIMIT + Duration::from_secs(1));
    let (_, answer) = running.say(&Request::Status.line().unwrap());
    assert_eq!(kind(&answer), Some(ErrorKind::NoAnswer));
    running.end();
}

#[test]
fn where_nobody_listens_no_imr_is_running() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let Err(none) = Client::connect(&path) else { panic!("connected") };
    assert!(matches!(none, ClientError::NotRunning { .. }) && none.is_missing_prerequisite());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let Err(dead) = Client::connect(&path) else { panic!("connected") };
    assert!(matches!(dead, ClientError::NotRunning { .. }), "{dead}");
}
