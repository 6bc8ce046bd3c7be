//! What imr's probes cost a guest: its page-touch rate with and without a real `imr run --observe` beside it, in turn.
//!
//! In: the folder of imr. Out: the slowdown of first touches of reclaimed pages, where probes fire, and of pages that are
//! mapped, where none do; how many probes fired.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use crate::ask::{Backing, DATA_GPA, FRAME, Ranges};
use crate::figures::Samples;
use crate::host::Host;
use crate::missing::Missing;
use crate::ratio::{punch_bare, start};
use crate::undo::Change;

/// What is touched in one go.
const TOUCHED: Ranges = Ranges { first: DATA_GPA, bytes: 32 << 20, distance: 32 << 20, count: 1 };
/// First touches of it in each turn, and those that only warm up. Turns are short, so that what else the machine does meets
/// neighbours alike.
const BATCHES: u64 = 4;
const WARM_UP: u64 = 1;
/// Passes over the mapped pages in each turn.
const PASSES: u64 = 400;
/// The turns of a sample, with imr or without: what changes steadily meanwhile is the same for both.
const TURNS: [bool; 4] = [true, false, false, true];

/// What was measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cost {
    /// Slowdown of first touches, percent.
    pub(crate) first_percent: Samples,
    /// The same in time that the vCPU thread was running, percent.
    pub(crate) first_cpu_percent: Samples,
    /// Slowdown of touches of mapped pages, percent.
    pub(crate) mapped_percent: Samples,
    /// First touches a second without imr.
    pub(crate) first_per_s: Samples,
    /// kvm_mmu_set_spte and kvm_page_fault events that the probes counted for each first touch.
    pub(crate) events_per_touch: f64,
}

/// Turns: ns for a first touch by the clock and of the thread, ns for a touch of a mapped page; their sums.
#[derive(Default)]
struct Turns {
    first: f64,
    first_cpu: f64,
    mapped: f64,
}

/// Takes so many samples. `bin_dir`: where `imr` is.
pub(crate) fn cost(bin_dir: &Path, rounds: u64) -> Result<Cost> {
    let mut host = start(Backing::Shared4k, TOUCHED)?;
    let mut cost = Cost::default();
    let (mut events, mut touches) = (0, 0);
    for round in 0..rounds {
        let (mut with, mut without) = (Turns::default(), Turns::default());
        for outer in TURNS {
            // Each way is the outer one in every other sample.
            if outer == (round % 2 == 0) {
                let imr = Imr::start(bin_dir, &host)?;
                with.take(&mut host)?;
                events += imr.stop()?;
                touches += (WARM_UP + BATCHES) * (TOUCHED.total() / FRAME);
            } else {
                without.take(&mut host)?;
            }
        }
        // A rate that is lower by so much: 1 - rate with / rate without.
        let percent = |with: f64, without: f64| (1.0 - without / with) * 100.0;
        cost.first_percent.add(percent(with.first, without.first));
        cost.first_cpu_percent.add(percent(with.first_cpu, without.first_cpu));
        cost.mapped_percent.add(percent(with.mapped, without.mapped));
        cost.first_per_s.add(1e9 * (TURNS.len() / 2) as f64 / without.first);
    }
    cost.events_per_touch = events as f64 / touches as f64;
    // A slowdown of probes that never fire says nothing.
    ensure!(events > 0, "imr's probes saw none of {touches} first touches: nothing was measured");
    Ok(cost)
}

impl Turns {
    /// One more.
    fn take(&mut self, host: &mut Host) -> Result<()> {
        let pages = (TOUCHED.total() / FRAME) as f64;
        let (mut first, mut first_cpu) = (Samples::default(), Samples::default());
        for batch in 0..WARM_UP + BATCHES {
            punch_bare(host, TOUCHED)?;
            let took = host.touch(TOUCHED)?;
            if batch >= WARM_UP {
                first.add(took.wall_ns as f64 / pages);
                first_cpu.add(took.cpu_ns as f64 / pages);
            }
        }
        self.first += first.median();
        self.first_cpu += first_cpu.median();
        self.mapped += host.touch_again(TOUCHED, PASSES)?.wall_ns as f64 / pages / PASSES as f64;
        Ok(())
    }
}

/// A running `imr run --observe`.
struct Imr {
    child: Child,
    records: BufReader<ChildStdout>,
    _ends: Change,
}

impl Imr {
    /// Starts it and waits until it follows the guest.
    fn start(bin_dir: &Path, host: &Host) -> Result<Self> {
        let program = bin_dir.join("imr");
        let mut child = Command::new(&program)
            .args(["run", "--observe", "--json", "--pid", &host.pid().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Missing(format!("{} cannot be started: {error}", program.display())))?;
        let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let process = pidfd_open(pid.context("no such pid")?, PidfdFlags::empty())?;
        let _ends = Change::process(process)?;
        let records = BufReader::new(child.stdout.take().context("imr has no standard output")?);
        let mut imr = Self { child, records, _ends };
        let (mut followed, mut ready) = (false, false);
        while !ready {
            let record = imr.record()?;
            followed |= record["event"] == "vm_added";
            ready = record["event"] == "ready";
        }
        ensure!(followed, "imr does not follow the tiny guest");
        Ok(imr)
    }

    fn record(&mut self) -> Result<Value> {
        let mut line = String::new();
        if self.records.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            let why = format!("imr ended ({status}); what it lacks is said above and by `imr doctor`");
            return Err(Missing(why).into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    /// Ends it; the events that it counted.
    fn stop(mut self) -> Result<u64> {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        // Not waited for yet, so the pid is still this child's.
        let process = pidfd_open(pid.context("no such pid")?, PidfdFlags::empty())?;
        pidfd_send_signal(process, Signal::TERM)?;
        loop {
            let record = self.record()?;
            if record["event"] == "summary" {
                let count = |name: &str| record["events"][name].as_u64().unwrap_or(0);
                return Ok(count("sptes_set") + count("page_faults"));
            }
        }
    }
}

impl Drop for Imr {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
