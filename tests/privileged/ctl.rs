//! `imr ctl` and the control socket of a real `imr run`: mode, users, a second one, a dead one.
//!
//! In: the programs. Out: a test each. Must not use the socket in /run/imr: this machine's own imr may have it.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use imr_tests::ring::Verdict;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{LIMIT, NOBODY, finish, json_lines, program, stderr, stdout};

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("imr-ctl-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running `imr run --json`, and the lines that it has said.
struct Imr {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Imr {
    /// Returns when its socket is there; or why it cannot work on this machine.
    fn start(imr: &Path, socket: &Path) -> Result<Self, String> {
        let mut child = Command::new(imr)
            .args(["run", "--json", "--duration", "10m", "--ctl"])
            .arg(socket)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if said.send(serde_json::from_str(&line).expect(&line)).is_err() {
                    return;
                }
            }
        });
        let mut started = Self { child, lines };
        if started.wait_for("ready").is_none() {
            let mut said = String::new();
            started.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            assert_eq!(started.child.wait().unwrap().code(), Some(3), "{said}");
            return Err(format!("a prerequisite is missing on this machine: {}", said.trim()));
        }
        Ok(started)
    }

    fn wait_for(&mut self, event: &str) -> Option<Value> {
        loop {
            match self.lines.recv_timeout(LIMIT) {
                Ok(record) if record["event"] == event => return Some(record),
                Ok(_) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return None,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("no {event} within {LIMIT:?}"),
            }
        }
    }

    fn signal(&mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(mut self, signal: Signal) -> Option<i32> {
        self.signal(signal);
        self.child.wait().unwrap().code()
    }
}

impl Drop for Imr {
    fn drop(&mut self) {
        // After a panic; of one that has ended before, nothing is left to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ctl(imr: &Path, socket: &Path, arguments: &[&str]) -> Output {
    finish(Command::new(imr).arg("ctl").args(arguments).arg("--socket").arg(socket))
}

fn status(imr: &Path, socket: &Path) -> Value {
    let output = ctl(imr, socket, &["status", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    json_lines(&output).remove(0)
}

macro_rules! start_or_skip {
    ($imr:expr, $socket:expr) => {
        match Imr::start($imr, $socket) {
            Ok(running) => running,
            Err(why) => return Verdict::Skipped(why),
        }
    };
}

macro_rules! imr_or_skip {
    () => {
        match program("imr") {
            Ok(path) => path,
            Err(why) => return Verdict::Skipped(why),
        }
    };
}

pub(super) fn asks_and_answers() -> Verdict {
    let imr = imr_or_skip!();
    let folder = Folder::new("asks");
    let socket = folder.0.join("new/ctl.sock");
    let code = |arguments: &[&str]| ctl(&imr, &socket, arguments).status.code();
    let nobody_there = ctl(&imr, &socket, &["status"]);
    assert_eq!(nobody_there.status.code(), Some(3));
    assert!(stderr(&nobody_there).contains("no imr is running"), "{}", stderr(&nobody_there));

    let mut running = start_or_skip!(&imr, &socket);
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777;
    while !socket.exists() {
        // It is ready before it listens.
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!((mode(socket.parent().unwrap()), mode(&socket)), (0o700, 0o600));
    let said = status(&imr, &socket);
    assert_eq!(said["pid"], running.child.id());
    assert_eq!(said["policy"], "immediate");
    assert_eq!(code(&["policy", "observe"]), Some(0));
    assert_eq!(status(&imr, &socket)["policy"], "observe", "of the VMs to come as well");
    assert_eq!(code(&["policy", "never"]), Some(2));
    assert_eq!(code(&["policy"]), Some(2));
    let unknown = ctl(&imr, &socket, &["reclaim", "--vm", "no such"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(stderr(&unknown).contains("\"no such\""), "{}", stderr(&unknown));
    let text = ctl(&imr, &socket, &["status"]);
    assert!(text.status.success() && stdout(&text).contains("policy observe"), "{}", stdout(&text));

    // One that sleeps is told from one that is not there; that nobody waits for ever is bounded by `finish`.
    running.signal(Signal::STOP);
    let asleep = ctl(&imr, &socket, &["status"]);
    running.signal(Signal::CONT);
    assert_eq!(asleep.status.code(), Some(1));
    assert!(stderr(&asleep).contains("does not answer"), "{}", stderr(&asleep));
    assert_eq!(code(&["status"]), Some(0));

    assert_eq!(running.end(Signal::TERM), Some(0));
    assert!(!socket.exists(), "it takes its socket with it");
    assert_eq!(code(&["status"]), Some(3));
    Verdict::Passed
}

pub(super) fn other_users_are_turned_away() -> Verdict {
    let imr = imr_or_skip!();
    let folder = Folder::new("users");
    let socket = folder.0.join("ctl.sock");
    let copy = folder.0.join("imr");
    fs::copy(&imr, &copy).unwrap();
    let mut running = start_or_skip!(&imr, &socket);
    status_when_there(&imr, &socket);
    let as_nobody = || {
        finish(
            Command::new(&copy)
                .args(["ctl", "policy", "observe", "--socket"])
                .arg(&socket)
                .uid(NOBODY)
                .gid(NOBODY)
                .current_dir("/"),
        )
    };
    let closed = as_nobody();
    assert_eq!(closed.status.code(), Some(3), "{}", stderr(&closed));
    assert!(stderr(&closed).contains("no permission"), "{}", stderr(&closed));
    // Were the mode wrong, who they are would still be asked.
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).unwrap();
    let refused = as_nobody();
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert!(stderr(&refused).contains("neither root"), "{}", stderr(&refused));
    // This machine's kernel may give it other things to complain of.
    while !running.wait_for("problem").unwrap()["what"].as_str().unwrap().contains("turned away") {}
    let said = status(&imr, &socket);
    assert_eq!((&said["socket"]["forbidden"], &said["policy"]), (&Value::from(1), &Value::from("immediate")));
    assert_eq!(running.end(Signal::TERM), Some(0));
    Verdict::Passed
}

pub(super) fn one_socket_one_imr() -> Verdict {
    let imr = imr_or_skip!();
    let folder = Folder::new("one");
    let socket = folder.0.join("ctl.sock");
    let first = start_or_skip!(&imr, &socket);
    status_when_there(&imr, &socket);
    // A second one that is told to have the same socket says whose it is, and touches nothing.
    let second = finish(Command::new(&imr).args(["run", "--duration", "1s", "--ctl"]).arg(&socket));
    assert_eq!(second.status.code(), Some(1));
    assert!(stderr(&second).contains(&format!("pid {}", first.child.id())), "{}", stderr(&second));
    assert_eq!(status(&imr, &socket)["pid"], first.child.id());
    // The socket of one that was killed is replaced.
    assert_eq!(first.end(Signal::KILL), None);
    assert!(fs::symlink_metadata(&socket).unwrap().file_type().is_socket());
    assert_eq!(ctl(&imr, &socket, &["status"]).status.code(), Some(3));
    let third = start_or_skip!(&imr, &socket);
    assert_eq!(status_when_there(&imr, &socket)["pid"], third.child.id());
    assert_eq!(third.end(Signal::TERM), Some(0));
    Verdict::Passed
}

/// Its first status: it is ready before it listens.
fn status_when_there(imr: &Path, socket: &Path) -> Value {
    while ctl(imr, socket, &["status"]).status.code() == Some(3) {
        thread::sleep(Duration::from_millis(10));
    }
    status(imr, socket)
}
