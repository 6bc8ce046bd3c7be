//! The guests that imr-top is measured with: their size, and the faults they have.
//!
//! In: a rate. Out: changes in the shared tables, made as the eBPF side makes them, by a thread of the parent process:
//! what they cost is not imr-top's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use imr_user::ingest::tables::Tables;
use rustix::time::{ClockId, clock_gettime};

/// Guests.
pub(crate) const VMS: u64 = 100;
/// Blocks of 2 MiB of each: 64 GiB.
pub(crate) const BLOCKS_PER_VM: u64 = 32 * 1024;
/// All blocks.
pub(crate) const BLOCKS: u64 = VMS * BLOCKS_PER_VM;
/// Bytes of the shared table.
pub(crate) const TABLE_BYTES: u64 =
    BLOCKS * size_of::<imr_common::host_abi::BlockRecord>() as u64 + BLOCKS / 8;

/// Of so many faults one is anywhere; the others go through a block from its first frame to its last, as a guest does
/// that fills memory.
const SCATTERED_ONE_IN: u64 = 10;
const FRAMES: u64 = 512;
/// How often the thread wakes up.
const STEP: Duration = Duration::from_millis(1);

/// The running load. Dropped, it ends.
pub(crate) struct Load {
    per_s: Arc<AtomicU64>,
    made: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    pub(crate) fn start(tables: Tables) -> Self {
        let (per_s, made) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let (rate, count, stopped) = (Arc::clone(&per_s), Arc::clone(&made), Arc::clone(&stop));
        let thread = thread::spawn(move || run(&tables, &rate, &count, &stopped));
        Self { per_s, made, stop, thread: Some(thread) }
    }

    /// Faults a second from now on.
    pub(crate) fn set(&self, per_s: u64) {
        self.per_s.store(per_s, Ordering::Relaxed);
    }

    /// Faults so far.
    pub(crate) fn made(&self) -> u64 {
        self.made.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// CLOCK_MONOTONIC, ns.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned()
}

fn run(tables: &Tables, per_s: &AtomicU64, made: &AtomicU64, stop: &AtomicBool) {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut block = 0;
    let mut frame = 0;
    let mut owed = 0.0;
    let mut before = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        // The pace of the load itself: there is nothing to wait for.
        thread::sleep(STEP);
        let now = Instant::now();
        owed += now.duration_since(before).as_secs_f64() * per_s.load(Ordering::Relaxed) as f64;
        before = now;
        let now_ns = now_ns();
        let whole = owed as u64;
        owed -= whole as f64;
        for count in 0..whole {
            if count % SCATTERED_ONE_IN == 0 {
                let at = random.next();
                tables.note_mapped(at % BLOCKS, (at >> 40) as u32 % FRAMES as u32, now_ns);
                continue;
            }
            tables.note_mapped(block, frame, now_ns);
            frame += 1;
            if u64::from(frame) == FRAMES {
                frame = 0;
                block = random.next() % BLOCKS;
            }
        }
        made.fetch_add(whole, Ordering::Relaxed);
    }
}

/// xorshift64*: the same faults in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
