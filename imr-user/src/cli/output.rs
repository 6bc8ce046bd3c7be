//! Standard output of a program that runs for long: a full file system ends nobody's service.
//!
//! Input: whole lines. Output: the same, and how many could not be written. A reader that is gone is an error.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;

/// Where lines go.
#[derive(Debug)]
pub(super) struct Lines<W> {
    out: W,
    /// Lines that could not be written since the last one that could.
    lost: u64,
    /// The file system was full at the last one.
    full: bool,
    /// The last line that was begun has no end.
    torn: bool,
}

impl Lines<File> {
    /// Standard output, without a buffer: who waits for a line gets it at once, and what cannot be written is not tried
    /// again later.
    ///
    /// # Errors
    /// It is closed, or there is no descriptor to be had.
    pub(super) fn stdout() -> io::Result<Self> {
        Ok(Self::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }
}

impl<W: Write> Lines<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, lost: 0, full: false, torn: false }
    }

    /// So many lines were lost before the next one, and not here.
    pub(super) fn miss(&mut self, count: u64) {
        self.lost += count;
    }

    /// Writes a line, which ends in one. `note` makes the line that says how many are missing, for when there is room
    /// again. Returns whether this is the first of those that a full file system has lost.
    ///
    /// # Errors
    /// Anything but a full file system.
    pub(super) fn put(&mut self, line: &[u8], note: impl FnOnce(u64) -> Vec<u8>) -> io::Result<bool> {
        let mut whole = Vec::new();
        if self.torn {
            whole.push(b'\n');
        }
        if self.lost > 0 {
            whole.extend(note(self.lost));
        }
        whole.extend(line);
        match self.write(&whole) {
            Ok(()) => {
                self.lost = 0;
                self.full = false;
                Ok(false)
            }
            Err(error) if is_full(&error) => {
                self.lost += 1;
                Ok(!std::mem::replace(&mut self.full, true))
            }
            Err(error) => Err(error),
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.out.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.torn = bytes[count - 1] != b'\n';
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.flush()
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system with so much room.
    #[derive(Default)]
    struct Disk {
        said: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room);
            if count == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.room -= count;
            self.said.extend(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn note(lost: u64) -> Vec<u8> {
        format!("{lost} lost\n").into_bytes()
    }

    #[test]
    fn what_does_not_fit_is_counted_and_told_of() {
        let mut lines = Lines::new(Disk { room: 5, ..Disk::default() });
        assert!(!lines.put(b"one\n", note).unwrap());
        assert!(lines.put(b"two\n", note).unwrap(), "the first that is lost");
        assert!(!lines.put(b"three\n", note).unwrap());
        lines.out.room = 100;
        assert!(!lines.put(b"four\n", note).unwrap());
        assert!(!lines.put(b"five\n", note).unwrap());
        assert_eq!(String::from_utf8(lines.out.said).unwrap(), "one\nt\n2 lost\nfour\nfive\n");
    }

    #[test]
    fn what_was_missed_elsewhere_is_told_of_too() {
        let mut lines = Lines::new(Disk { room: 4, ..Disk::default() });
        assert!(!lines.put(b"one\n", note).unwrap());
        lines.miss(5);
        assert!(lines.put(b"two\n", note).unwrap(), "the first that the disk has lost");
        lines.out.room = 100;
        assert!(!lines.put(b"three\n", note).unwrap());
        assert_eq!(String::from_utf8(lines.out.said).unwrap(), "one\n6 lost\nthree\n");
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let error = Lines::new(writer).put(b"x\n", note).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
