//! imr-top on a real terminal of this machine: it survives whatever size the terminal takes and whatever key is pressed.

use std::time::{Duration, Instant};

use imr_tests::pty::{Pty, Ready};
use imr_tests::ring::Verdict;
use imr_tests::terminal::{Size, Terminal};

/// How long it may take to show what it should.
const LIMIT: Duration = Duration::from_secs(60);
/// Everything but what ends or stops it.
const KEYS: [&str; 22] = [
    "\t", "\x1b[B", "\x1b[A", "\x1b[C", "\x1b[D", "\x1b[6~", "\x1b[5~", "z", "Z", "n", "i", "?", "s", "r",
    ":", "blo\r", " ", " ", "/", "x\r", "\x0c", "\x1b[Z",
];

struct Session {
    pty: Pty,
    screen: Terminal,
}

impl Session {
    fn take_output(&mut self) {
        let output = self.pty.read().unwrap();
        let answer = self.screen.process(&output);
        self.send(&answer);
    }

    fn send(&mut self, mut bytes: &[u8]) {
        let until = Instant::now() + LIMIT;
        while !bytes.is_empty() && self.pty.status().is_none() {
            assert_eq!(self.pty.wait(until, true).unwrap(), Ready::Yes, "imr-top takes no input");
            self.take_written(&mut bytes);
        }
    }

    fn take_written(&mut self, bytes: &mut &[u8]) {
        let written = self.pty.write(bytes).unwrap();
        *bytes = &bytes[written..];
        if written == 0 {
            let output = self.pty.read().unwrap();
            self.screen.process(&output);
        }
    }

    /// Waits until the screen is as it should be; `None`: it has ended instead.
    fn wait(&mut self, what: &str, is_there: impl Fn(&Terminal) -> bool) -> Option<()> {
        let until = Instant::now() + LIMIT;
        while !is_there(&self.screen) {
            let ready = self.pty.wait(until, false).unwrap();
            assert_eq!(ready, Ready::Yes, "{what}: not on the screen\n{}", self.screen.rows().join("\n"));
            self.take_output();
            if self.pty.status().is_some() {
                return None;
            }
        }
        Some(())
    }
}

pub(crate) fn every_size_and_key() -> Verdict {
    let program = match super::program("imr-top") {
        Ok(program) => program.to_string_lossy().into_owned(),
        Err(why) => return Verdict::Skipped(why),
    };
    let size = Size { columns: 80, rows: 24 };
    let environment = [("TERM", "xterm-256color"), ("LANG", "C.UTF-8")];
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let command = [program, "--observe".to_owned(), "-d".to_owned(), "100ms".to_owned()];
    let pty = Pty::start(&command, &environment, size).unwrap();
    let mut session = Session { pty, screen: Terminal::new(size) };
    if session.wait("the first sample", |screen| screen.contains("pressure")).is_none() {
        let said = session.screen.rows().join("\n");
        assert_eq!(session.pty.status(), Some(3), "{said}");
        return Verdict::Skipped(format!("a prerequisite is missing on this machine: {}", said.trim()));
    }
    let sizes = [(20, 5), (1, 1), (200, 60), (3, 40), (300, 2), (80, 24), (19, 4), (40, 12)];
    for (round, (columns, rows)) in sizes.into_iter().cycle().take(KEYS.len() * 2).enumerate() {
        let size = Size { columns, rows };
        session.pty.resize(size).unwrap();
        session.screen.resize(size);
        session.send(KEYS[round % KEYS.len()].as_bytes());
        session.take_output();
        assert_eq!(session.pty.status(), None, "after {:?} at {columns}x{rows}", KEYS[round % KEYS.len()]);
    }
    // Out of whatever is open, and everything is there again.
    let size = Size { columns: 100, rows: 30 };
    session.pty.resize(size).unwrap();
    session.screen.resize(size);
    for key in ["\x1b", "\x1b", "\x1b", "1", "\x0c"] {
        session.send(key.as_bytes());
        // An Esc and what follows it at once would be one key.
        let until = Instant::now() + LIMIT;
        while session.pty.unread().unwrap() {
            assert!(Instant::now() < until, "{key:?} was not read");
            session.pty.wait(Instant::now() + Duration::from_millis(20), false).unwrap();
            session.take_output();
        }
    }
    session.wait("the view of VMs", |screen| screen.contains("[1 VMs]")).expect("imr-top still runs");
    session.send(b"q");
    let until = Instant::now() + LIMIT;
    while session.pty.status().is_none() {
        assert_eq!(session.pty.wait(until, false).unwrap(), Ready::Yes, "q did not end it");
        session.take_output();
    }
    assert_eq!(session.pty.status(), Some(0));
    Verdict::Passed
}
