//! The outer QEMU: L1 as one process, with a socket pair for each of its streams.
//!
//! In: the configuration and L1's initrd. Out: a running process that dies with us, and our ends of the streams.
//! Must not interpret what comes over the streams.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::config::{Config, Terminal};
use super::emulator::Emulator;
use super::image::Kernels;
use super::relay::Channel;
use super::swap::SwapDisk;
use crate::process;

/// How long QEMU may take to end when asked to.
const QEMU_END: Duration = Duration::from_secs(5);

/// A port in L1 and who reads it here.
pub(super) struct Stream {
    /// What comes over it.
    pub(super) channel: Channel,
    /// Our end.
    pub(super) socket: UnixStream,
}

/// L1, running.
pub(super) struct Outer {
    /// The process.
    pub(super) qemu: Qemu,
    /// Its streams.
    pub(super) streams: Vec<Stream>,
}

/// While one thread has made descriptors inheritable, another must not start a program with them.
static INHERITANCE: Mutex<()> = Mutex::new(());

/// The streams of a run: L1's kernel console, then the virtio-serial ports.
pub(super) fn channels(config: &Config) -> Vec<Channel> {
    let mut channels = vec![Channel::HostConsole, Channel::Events, Channel::Host];
    if config.save.is_some() {
        channels.push(Channel::Saved);
    }
    for n in 1..=config.guests {
        channels.push(Channel::Guest(n));
        channels.push(Channel::GuestConsole(n));
    }
    channels
}

/// The names of the virtio-serial ports that L1 waits for.
pub(super) fn port_names(config: &Config) -> Vec<String> {
    channels(config).iter().filter_map(Channel::port).collect()
}

/// Starts L1.
pub(super) fn start(
    config: &Config,
    emulator: &Emulator,
    kernels: &Kernels,
    initrd: &Path,
    swap: Option<&SwapDisk<'_>>,
) -> Result<Outer> {
    let mut command = command(config, emulator, kernels, initrd);
    if let Some(swap) = swap {
        command.args(swap.arguments());
    }
    let _one_at_a_time = INHERITANCE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut streams = Vec::new();
    let mut theirs: Vec<OwnedFd> = Vec::new();
    for (index, channel) in channels(config).into_iter().enumerate() {
        let (socket, other) = UnixStream::pair().context("cannot make a socket pair")?;
        rustix::io::fcntl_setfd(&other, FdFlags::empty()).context("cannot make a socket inheritable")?;
        let device = match channel.port() {
            None => format!("isa-serial,chardev=c{index}"),
            Some(name) => format!("virtserialport,chardev=c{index},name={name}"),
        };
        command.arg("-chardev").arg(format!("socket,id=c{index},fd={}", other.as_raw_fd()));
        command.arg("-device").arg(device);
        theirs.push(other.into());
        streams.push(Stream { channel, socket });
    }
    let child =
        command.spawn().with_context(|| format!("cannot start `{}`", process::command_line(&command)))?;
    // With our copies of its ends closed, its death is the end of every stream.
    drop(theirs);
    Ok(Outer { qemu: Qemu { child }, streams })
}

fn command(config: &Config, emulator: &Emulator, kernels: &Kernels, initrd: &Path) -> Command {
    let mut command = emulator.command();
    command
        .args([
            "-name",
            "imr-testbed",
            "-machine",
            "pc,usb=off",
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
        ])
        .args([
            "-display",
            "none",
            "-m",
            &format!("{}M", config.host_mib()),
            "-smp",
            &config.host_cpus.to_string(),
        ])
        .arg("-kernel")
        .arg(&kernels.host.vmlinuz)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", &kernel_arguments(config)])
        .args(["-device", "virtio-serial-pci,max_ports=31"])
        .stderr(Stdio::piped());
    match config.terminal {
        Terminal::None => command.stdin(Stdio::null()).stdout(Stdio::null()),
        Terminal::Users => {
            command.args(["-chardev", "stdio,id=tty,signal=off", "-device", "virtconsole,chardev=tty"])
        }
    };
    command
}

fn kernel_arguments(config: &Config) -> String {
    // Serial output is slow, so it is kept small; a panic ends QEMU by the reboot it is not allowed.
    let mut arguments = "console=ttyS0 quiet loglevel=4 mitigations=off panic=-1".to_owned();
    for more in [
        Some(config.huge_pages()).filter(|pages| *pages > 0).map(|pages| format!("hugepages={pages}")),
        Some(config.host_append.clone()).filter(|append| !append.is_empty()),
    ]
    .into_iter()
    .flatten()
    {
        arguments.push(' ');
        arguments.push_str(&more);
    }
    arguments
}

/// L1's process; dropped, it is dead.
pub(super) struct Qemu {
    child: Child,
}

impl Qemu {
    /// What it says on standard error; once.
    pub(super) fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Ends it, unless it ended by itself, and returns its status.
    pub(super) fn end(&mut self, by_itself: bool) -> Option<ExitStatus> {
        if !by_itself && let Some(pid) = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or_default()) {
            // On SIGTERM, QEMU hands on what it has and gives the terminal back. It may be gone already.
            let _ = kill_process(pid, Signal::TERM);
        }
        let until = Instant::now() + QEMU_END;
        loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(5)),
                Ok(Some(status)) => return Some(status),
                _ => break,
            }
        }
        // Fails only when it is dead already.
        let _ = self.child.kill();
        self.child.wait().ok()
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::{GuestRam, Mib};
    use super::*;

    #[test]
    fn the_kernel_is_told_what_to_reserve() {
        let config = Config {
            guest_ram: GuestRam::Hugetlb,
            guest_mem: Mib(256),
            host_append: "ignore_loglevel".to_owned(),
            ..Config::default()
        };
        let arguments = kernel_arguments(&config);
        assert!(arguments.ends_with(" hugepages=136 ignore_loglevel"), "{arguments}");
        assert!(!kernel_arguments(&Config::default()).contains("hugepages"));
    }

    #[test]
    fn every_guest_has_two_ports() {
        let mut config = Config { guests: 2, ..Config::default() };
        let names = port_names(&config).join(" ");
        assert_eq!(names, "imr.events imr.host imr.guest1 imr.console1 imr.guest2 imr.console2");
        config.save = Some("saved".into());
        assert!(port_names(&config).contains(&"imr.saved".to_owned()));
    }
}
