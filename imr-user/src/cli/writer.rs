//! Records on their way to standard output, by a thread of their own: a reader that stands still holds up nobody.
//!
//! Input: records. Output: lines, as far as somebody reads them; what there is no room for is counted, and told of in the
//! stream when there is room again.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::exit;
use super::output::Lines;
use crate::pipeline::record::{Happened, Record};

/// Records that wait for the reader. Some MiB at most.
const WAITING: usize = 16 << 10;
/// What the last records get at the end.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// Hands records to the thread that writes them.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::Sender<Job>,
    /// The thread's end.
    ended: oneshot::Receiver<anyhow::Result<()>>,
    failed: Option<anyhow::Error>,
    /// Without room in the queue since the last one that had it.
    lost: u64,
    /// The newest of these, if it is the summary.
    summary: Option<Record>,
    /// In the queue, or being written.
    waiting: Arc<AtomicU64>,
    warned: bool,
}

#[derive(Debug)]
struct Job {
    record: Record,
    /// So many before it were lost.
    lost: u64,
}

/// The end came, and there are records that nobody has read.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads standard output: {0} records could not be handed over")]
pub(super) struct Unread(u64);

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is none to be had.
    pub(super) fn start<W: Write + Send + 'static>(lines: Lines<W>, json: bool) -> anyhow::Result<Self> {
        let (queue, jobs) = mpsc::channel(WAITING);
        let (end, ended) = oneshot::channel();
        let waiting = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&waiting);
        thread::Builder::new()
            .name("imr-records".into())
            .spawn(move || {
                // Nobody asks any more where imr has ended meanwhile.
                let _ = end.send(write_all(lines, jobs, &counted, json));
            })
            .context("cannot start a thread for standard output")?;
        Ok(Self { queue, ended, failed: None, lost: 0, summary: None, waiting, warned: false })
    }

    /// Hands over a record, or counts it as lost. Never waits.
    pub(super) fn put(&mut self, record: Record) {
        if self.failed.is_some() {
            return;
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        match self.queue.try_send(Job { record, lost: self.lost }) {
            Ok(()) => self.lost = 0,
            Err(error) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.lost += 1;
                // A thread that has ended says why by itself.
                if let mpsc::error::TrySendError::Full(Job { record, .. }) = error {
                    self.summary = matches!(record.happened, Happened::Summary(_)).then_some(record);
                    self.warn();
                }
            }
        }
    }

    fn warn(&mut self) {
        if !std::mem::replace(&mut self.warned, true) {
            exit::say("imr: nobody reads standard output; guests are served on, records are lost");
        }
    }

    /// Returns when nothing can be written any more.
    pub(super) async fn failed(&mut self) {
        if self.failed.is_none() {
            let ended = (&mut self.ended).await;
            self.failed = Some(why_ended(ended));
        }
    }

    /// Waits for the last records to be written, the summary among them, but not for long.
    ///
    /// # Errors
    /// [`Unread`], or why nothing could be written.
    pub(super) async fn finish(self) -> anyhow::Result<()> {
        let Self { queue, ended, failed, mut lost, summary, waiting, .. } = self;
        if let Some(error) = failed {
            return Err(error);
        }
        let deadline = Instant::now() + LAST_RECORDS;
        if let Some(record) = summary {
            lost -= 1;
            // Where the thread has ended, it says why.
            match timeout_at(deadline, queue.reserve()).await {
                Ok(Ok(place)) => {
                    waiting.fetch_add(1, Ordering::Relaxed);
                    place.send(Job { record, lost: std::mem::take(&mut lost) });
                }
                Ok(Err(_)) => {}
                Err(_) => lost += 1,
            }
        }
        drop(queue);
        match timeout_at(deadline, ended).await {
            // Only where the pipeline has ended without a summary.
            Ok(Ok(Ok(()))) if lost > 0 => Err(Unread(lost).into()),
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(ended) => Err(why_ended(ended)),
            Err(_) => Err(Unread(lost + waiting.load(Ordering::Relaxed)).into()),
        }
    }
}

fn why_ended(ended: Result<anyhow::Result<()>, oneshot::error::RecvError>) -> anyhow::Error {
    match ended {
        Ok(Err(error)) => error,
        // It ends well only when it is told to.
        Ok(Ok(())) | Err(_) => anyhow::anyhow!("the thread that writes to standard output has ended"),
    }
}

fn write_all<W: Write>(
    mut lines: Lines<W>,
    mut jobs: mpsc::Receiver<Job>,
    waiting: &AtomicU64,
    json: bool,
) -> anyhow::Result<()> {
    while let Some(Job { record, lost }) = jobs.blocking_recv() {
        lines.miss(lost);
        let note = |count: u64| {
            let what =
                format!("standard output was full, or nobody read it: {count} records are missing here");
            line(&Record { happened: Happened::Problem { what }, vm: None, ..record }, json)
        };
        if lines.put(&line(&record, json), note).context("cannot write to standard output")? {
            // Where standard error is on the same file system, there is nobody to tell.
            exit::say(
                "imr: standard output is on a full file system; guests are served on, records are lost",
            );
        }
        waiting.fetch_sub(1, Ordering::Relaxed);
    }
    Ok(())
}

fn line(record: &Record, json: bool) -> Vec<u8> {
    let text = if json {
        // Its parts are text and numbers: nothing of it can fail.
        serde_json::to_string(record)
            .unwrap_or_else(|error| format!("{{\"event\":\"problem\",\"what\":\"{error}\"}}"))
    } else if matches!(record.happened, Happened::Summary(_)) {
        record.happened.to_string()
    } else {
        record.to_string()
    };
    format!("{text}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::io::{self, Read};

    use super::*;
    use crate::pipeline::record::Summary;

    /// More than fits into queue and pipe.
    const MANY: u64 = 4 * WAITING as u64;

    fn record(what: String) -> Record {
        Record { unix_ms: 0, vm: None, happened: Happened::Problem { what } }
    }

    fn summary() -> Record {
        Record { happened: Happened::Summary(Summary::default()), ..record(String::new()) }
    }

    fn run<F: Future>(what: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what)
    }

    #[test]
    fn a_reader_that_stands_still_holds_up_nobody() {
        let (reader, pipe) = io::pipe().unwrap();
        let mut writer = Writer::start(Lines::new(pipe), false).unwrap();
        let start = std::time::Instant::now();
        (0..MANY).for_each(|at| writer.put(record(format!("nr. {at}"))));
        assert!(start.elapsed() < LAST_RECORDS, "{:?}", start.elapsed());
        writer.put(summary());
        let start = std::time::Instant::now();
        let error = run(writer.finish()).unwrap_err();
        assert!(start.elapsed() < 2 * LAST_RECORDS, "{:?}", start.elapsed());
        let Unread(count) = error.downcast_ref().unwrap();
        assert!(*count >= MANY / 2 && *count <= MANY + 1, "{count}");
        drop(reader);
    }

    #[test]
    fn what_was_lost_is_told_of_when_somebody_reads_again() {
        let (mut reader, pipe) = io::pipe().unwrap();
        let mut writer = Writer::start(Lines::new(pipe), false).unwrap();
        (0..MANY).for_each(|at| writer.put(record(format!("nr. {at}"))));
        let reading = thread::spawn(move || {
            let mut said = String::new();
            reader.read_to_string(&mut said).map(|_| said)
        });
        // There is room again for it, or will be soon.
        writer.put(summary());
        run(writer.finish()).unwrap();
        let said = reading.join().unwrap().unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines.last().unwrap().starts_with("summary: "), "{lines:?}");
        let written = lines.iter().filter(|line| line.contains("problem: nr. ")).count() as u64;
        let missing =
            lines.iter().filter_map(|line| line.split("nobody read it: ").nth(1)?.split(' ').next());
        let missing: u64 = missing.map(|count| count.parse::<u64>().unwrap()).sum();
        assert!(missing > 0 && written + missing == MANY, "{written} and {missing}");
    }

    #[test]
    fn a_reader_that_is_gone_is_an_error() {
        let (reader, pipe) = io::pipe().unwrap();
        drop(reader);
        let mut writer = Writer::start(Lines::new(pipe), true).unwrap();
        writer.put(record("x".into()));
        run(writer.failed());
        writer.put(summary());
        let error = run(writer.finish()).unwrap_err();
        let cause = error.root_cause().downcast_ref::<io::Error>().unwrap();
        assert_eq!(cause.kind(), io::ErrorKind::BrokenPipe);
    }
}
