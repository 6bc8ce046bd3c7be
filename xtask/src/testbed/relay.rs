//! The streams of a run as lines: one reading thread a stream, one queue for all.
//!
//! In: sockets and pipes of QEMU. Out: messages in the order of each stream.
//! Must not hold back or drop a line, nor grow without end on one that never ends.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::Duration;

/// Longer lines are cut into several.
const LONGEST_LINE: u64 = 64 * 1024;

/// A stream of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Channel {
    /// What L1's init and the guests' monitors report.
    Events,
    /// The host script's output.
    Host,
    /// What the host script saved (saved.rs).
    Saved,
    /// L1's kernel.
    HostConsole,
    /// A guest script's output.
    Guest(u32),
    /// A guest's kernel.
    GuestConsole(u32),
    /// What QEMU itself says of L1.
    Qemu,
}

impl Channel {
    /// The virtio-serial port in L1 it goes through, if it goes through one.
    pub(super) fn port(&self) -> Option<String> {
        match self {
            Self::Events => Some("imr.events".to_owned()),
            Self::Host => Some("imr.host".to_owned()),
            Self::Saved => Some("imr.saved".to_owned()),
            Self::Guest(n) => Some(format!("imr.guest{n}")),
            Self::GuestConsole(n) => Some(format!("imr.console{n}")),
            Self::HostConsole | Self::Qemu => None,
        }
    }

    /// The file of a kept log.
    pub(super) fn log_name(self) -> String {
        match self {
            Self::Events => "events.log".to_owned(),
            Self::Host => "host.log".to_owned(),
            Self::Saved => "saved.log".to_owned(),
            Self::HostConsole => "host-console.log".to_owned(),
            Self::Guest(n) => format!("guest{n}.log"),
            Self::GuestConsole(n) => format!("guest{n}-console.log"),
            Self::Qemu => "qemu.log".to_owned(),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Events => f.write_str("events"),
            Self::Host => f.write_str("host"),
            Self::HostConsole => f.write_str("kernel console of L1"),
            Self::Guest(n) => write!(f, "guest{n}"),
            Self::GuestConsole(n) => write!(f, "kernel console of guest {n}"),
            Self::Saved => f.write_str("saved files"),
            Self::Qemu => f.write_str("QEMU of L1"),
        }
    }
}

/// What reaches the session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// A line, without its end.
    Line(Channel, String),
    /// A stream has ended.
    Closed(Channel),
    /// This process got a signal that asks it to end.
    Signal(i32),
}

/// Who said a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    /// The host script.
    Host,
    /// A guest's script.
    Guest(u32),
    /// The testbed itself.
    Testbed,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Guest(n) => write!(f, "guest{n}"),
            Self::Testbed => f.write_str("testbed"),
        }
    }
}

/// A line of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Who said it.
    pub(crate) source: Source,
    /// When, from the start of the run.
    pub(crate) at: Duration,
    /// What, without the end of line.
    pub(crate) text: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}|{}", self.source, self.text)
    }
}

/// Reads `stream` to its end on a thread of its own. The queue is bounded: a guest that writes faster
/// than we show is slowed down by its own full socket.
pub(super) fn read(channel: Channel, stream: impl Read + Send + 'static, queue: SyncSender<Message>) {
    thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        loop {
            line.clear();
            // A failed read is an end like any other: QEMU is gone.
            let length = stream.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).unwrap_or(0);
            if length == 0 || queue.send(Message::Line(channel, text(&line))).is_err() {
                break;
            }
        }
        // When nobody listens any more, nobody misses it.
        let _ = queue.send(Message::Closed(channel));
    });
}

fn text(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    String::from_utf8_lossy(line).into_owned()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn lines_come_whole_and_the_end_is_told() {
        let (queue, messages) = sync_channel(16);
        read(Channel::Host, Cursor::new(b"one\r\ntwo\n\nthr\xffee".to_vec()), queue);
        let said: Vec<Message> = messages.iter().collect();
        let line = |text: &str| Message::Line(Channel::Host, text.to_owned());
        assert_eq!(
            said,
            [line("one"), line("two"), line(""), line("thr\u{fffd}ee"), Message::Closed(Channel::Host)]
        );
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let (queue, messages) = sync_channel(16);
        read(Channel::Guest(1), Cursor::new(vec![b'x'; 3 * 64 * 1024 + 1]), queue);
        assert_eq!(messages.iter().filter(|message| matches!(message, Message::Line(..))).count(), 4);
    }
}
