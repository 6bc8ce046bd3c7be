//! The ring buffer's reader: bytes to [`Event`], once.
//!
//! Output: events in the order the kernel committed them. What has the wrong length is counted and skipped. With
//! debugging it also prints what the eBPF programs log.

use std::io;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use imr_common::host_abi::Event;
use log::{Level, Log, Metadata, Record};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::IngestError;

/// Events handed over at a time, so that a flood cannot keep the reader from everything else.
const BATCH: usize = 1024;
const RING: &str = "ring buffer EVENTS";

/// Reads the ring buffer `EVENTS`.
pub struct Events {
    ring: Option<RingBuf<MapData>>,
    ready: Option<AsyncFd<RingBuf<MapData>>>,
    log: Option<EbpfLogger<StandardError>>,
    undecodable: u64,
}

/// Prints log lines of the eBPF programs.
struct StandardError;

impl Events {
    pub(super) fn new(ring: RingBuf<MapData>, debug: Option<&mut Ebpf>) -> Self {
        let log = debug.and_then(|ebpf| match EbpfLogger::init_with_logger(ebpf, StandardError) {
            Ok(logger) => Some(logger),
            Err(error) => {
                eprintln!("bpf: no log: {error}");
                None
            }
        });
        Self { ring: Some(ring), ready: None, log, undecodable: 0 }
    }

    /// Waits for events and appends those that are there to `out`, at most some thousand. Nothing is lost when the
    /// future is dropped before it is ready. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// Registering or waiting for the descriptor failed.
    pub async fn next_batch(&mut self, out: &mut Vec<Event>) -> Result<(), IngestError> {
        if let Some(ring) = self.ring.take() {
            // SAFETY: the ring buffer moves into the AsyncFd, which keeps its descriptor open until it is dropped.
            let ready = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
            self.ready = Some(ready.map_err(|error| IngestError::io("watch", RING, error))?);
        }
        let Some(ready) = self.ready.as_mut() else {
            return Err(IngestError::io("watch", RING, io::Error::from(io::ErrorKind::NotConnected)));
        };
        loop {
            let mut guard =
                ready.readable_mut().await.map_err(|error| IngestError::io("wait for", RING, error))?;
            if let Some(log) = self.log.as_mut() {
                log.flush();
            }
            let ring = guard.get_inner_mut();
            let mut taken = 0;
            while taken < BATCH {
                let Some(item) = ring.next() else {
                    // Only an empty ring may be waited for: readiness is told once.
                    guard.clear_ready();
                    break;
                };
                taken += 1;
                match decode(&item) {
                    Some(event) => out.push(event),
                    None => self.undecodable += 1,
                }
            }
            if taken > 0 {
                return Ok(());
            }
        }
    }

    /// Records whose length was wrong.
    #[must_use]
    pub fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// Prints what the eBPF programs have logged since; for when no event comes.
    pub fn flush_log(&mut self) {
        if let Some(log) = self.log.as_mut() {
            log.flush();
        }
    }
}

/// One record; `None` when its length is not an event's. The layout is [`Event`]'s; both sides run on one machine.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Event> {
    if bytes.len() != size_of::<Event>() {
        return None;
    }
    let u32_at = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    Some(Event {
        kind: u32_at(0)?,
        vm: u32_at(4)?,
        time_ns: u64_at(8)?,
        kvm: u64_at(16)?,
        tgid: u32_at(24)?,
        tid: u32_at(28)?,
        args: [u64_at(32)?, u64_at(40)?, u64_at(48)?, u64_at(56)?, u64_at(64)?],
    })
}

impl Log for StandardError {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= Level::Trace
    }

    fn log(&self, record: &Record<'_>) {
        eprintln!("bpf: {}", record.args());
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bit_of_an_event_is_lost(words in any::<[u64; 9]>(), cut in 1..size_of::<Event>()) {
            let bytes = words.map(u64::to_ne_bytes).concat();
            let event = decode(&bytes).unwrap();
            let halves = |first: u32, second: u32| {
                u64::from_ne_bytes([first.to_ne_bytes(), second.to_ne_bytes()].concat().try_into().unwrap())
            };
            let [a, b, c, d, e] = event.args;
            let (kind, ids) = (halves(event.kind, event.vm), halves(event.tgid, event.tid));
            prop_assert_eq!([kind, event.time_ns, event.kvm, ids, a, b, c, d, e], words);
            prop_assert!(decode(&bytes[cut..]).is_none());
        }
    }

    #[test]
    fn decodes_what_the_struct_says() {
        let mut bytes = vec![0; size_of::<Event>()];
        bytes[offset_of!(Event, kind)] = 1;
        bytes[offset_of!(Event, vm)] = 2;
        bytes[offset_of!(Event, time_ns)] = 3;
        bytes[offset_of!(Event, kvm)] = 4;
        bytes[offset_of!(Event, tgid)] = 5;
        bytes[offset_of!(Event, tid)] = 6;
        bytes[offset_of!(Event, args)] = 7;
        bytes[offset_of!(Event, args) + 32] = 8;
        let event = decode(&bytes).unwrap();
        assert_eq!((event.kind, event.vm, event.time_ns, event.kvm), (1, 2, 3, 4));
        assert_eq!((event.tgid, event.tid, event.args), (5, 6, [7, 0, 0, 0, 8]));
    }

    #[test]
    fn another_length_is_no_event() {
        assert!(decode(&[0; 8]).is_none());
        assert!(decode(&vec![0; size_of::<Event>() + 8]).is_none());
    }
}
