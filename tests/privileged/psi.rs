//! The kernel's word that tasks stall for memory: a process whose cgroup is too small for what it writes, and the trigger
//! that policy pressure wakes up by.
//!
//! Leaves no cgroup, process or file behind. Skipped where there is no PSI or no memory controller.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use imr_tests::ring::Verdict;
use imr_user::ingest::psi::Trigger;
use rustix::process::Signal;
use tokio::time::timeout;

/// What the cgroup may have, bytes.
const LIMIT: u64 = 16 << 20;
/// Of the time, percent: little, as the machine's disk may be fast.
const THRESHOLD: f32 = 0.2;
/// Every window is one chance; the kernel's are 2 s at most here.
const WAIT: Duration = Duration::from_secs(30);

/// A memory cgroup; gone with this.
struct Cgroup(PathBuf);

impl Cgroup {
    /// By version 2 or 1, whichever has the memory controller.
    fn new() -> Option<Self> {
        let name = format!("imr-psi-{}", std::process::id());
        let places = [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
        places.into_iter().find_map(|(root, limit)| {
            let folder = Path::new(root).join(&name);
            fs::create_dir(&folder).ok()?;
            let group = Self(folder);
            // Without the controller the file is not there; the folder goes with `group`.
            let limit = group.0.join(limit);
            (limit.exists() && fs::write(limit, LIMIT.to_string()).is_ok()).then_some(group)
        })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let start = Instant::now();
        // A process leaves it a little after it was reaped.
        while fs::remove_dir(&self.0).is_err() && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Writes 64 MiB to a file again and again, in the cgroup, until it is dropped.
struct Writer {
    child: Child,
    file: PathBuf,
}

impl Writer {
    fn start(cgroup: &Cgroup) -> Self {
        let file = std::env::temp_dir().join(format!("imr-psi-{}", std::process::id()));
        let script = format!(
            "echo $$ >{}/cgroup.procs && while dd if=/dev/zero of={} bs=1M count=64; do :; done",
            cgroup.0.display(),
            file.display(),
        );
        let mut shell = Command::new("sh");
        // A group of its own, so that the newest dd ends with the shell.
        let child = shell.args(["-c", &script]).stderr(Stdio::null()).process_group(0).spawn().unwrap();
        Self { child, file }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ =
            rustix::process::kill_process_group(rustix::process::Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.file);
    }
}

/// It tells again and again while something stalls.
pub(crate) fn trigger_wakes() -> Verdict {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let Some(mut trigger) = Trigger::new(THRESHOLD) else {
            return Verdict::Skipped("this kernel has no PSI, or no triggers for it".to_owned());
        };
        let Some(cgroup) = Cgroup::new() else {
            return Verdict::Skipped("there is no cgroup with the memory controller".to_owned());
        };
        let _writer = Writer::start(&cgroup);
        for wake in 0..2 {
            let woken = timeout(WAIT, trigger.wait()).await;
            assert!(matches!(woken, Ok(Ok(()))), "wake {wake}: {woken:?}");
        }
        Verdict::Passed
    })
}
