//! A pressure stall trigger: the kernel says at once when tasks wait for memory more than they should.
//!
//! Input: /proc/pressure/memory. Output: wake-ups, at most one a window. How much they wait is read elsewhere.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const PATH: &str = "/proc/pressure/memory";
/// Over which time it is measured, and how often it tells at most, us. Without CAP_SYS_RESOURCE the kernel takes
/// multiples of 2 s only (kernel/sched/psi.c, psi_trigger_create).
const WINDOWS_US: [u32; 2] = [1_000_000, 2_000_000];

/// Tells when tasks stall. Closing it takes it back.
#[derive(Debug)]
pub struct Trigger(AsyncFd<File>);

impl Trigger {
    /// For when some task stalls for more than `percent` of a second or two. `None` where the kernel has no PSI or lets nobody
    /// ask (then reading has to do), or outside of a tokio runtime with I/O.
    #[must_use]
    pub fn new(percent: f32) -> Option<Self> {
        let file = WINDOWS_US.into_iter().find_map(|window_us| {
            // The kernel takes a threshold over 0 and not over the window.
            let threshold_us = (percent / 100.0 * window_us as f32).clamp(1.0, window_us as f32) as u32;
            let mut file =
                OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(PATH).ok()?;
            file.write_all(format!("some {threshold_us} {window_us}\0").as_bytes()).ok()?;
            Some(file)
        })?;
        // SAFETY: the file moves into the AsyncFd, which keeps its descriptor open until it is dropped.
        let ready = unsafe { AsyncFd::register_with_interest(file, Interest::PRIORITY) };
        ready.ok().map(Self)
    }

    /// Waits until it happens.
    ///
    /// # Errors
    /// The trigger is of no use any more.
    pub async fn wait(&mut self) -> io::Result<()> {
        let mut ready = self.0.ready(Interest::PRIORITY).await?;
        let error = ready.ready().is_error();
        // The kernel has forgotten the event when it told of it (psi_trigger_poll).
        ready.clear_ready();
        if error { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Needs PSI and the right to ask: where there is none, reading has to do, and that is what is tested.
    #[tokio::test]
    async fn a_calm_machine_wakes_nobody() {
        // All of a second: that no task can run for a second is not to be expected of a machine that runs tests.
        let Some(mut trigger) = Trigger::new(100.0) else { return };
        assert!(timeout(Duration::from_millis(300), trigger.wait()).await.is_err());
    }
}
