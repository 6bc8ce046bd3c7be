//! What describing an offer costs the guest: the instructions that the module's own C code takes, counted one by one.
//!
//! In: the record's kind, the guest's size, the number of ranges. Out: instructions, and the bytes of the record. The code is
//! guest-kmod/imr_record.c and imr_handshake.c, compiled for user space and single-stepped, so that the counts are exact and the same each time.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{Kind, Missing};

/// How the instructions were counted, for the output.
pub(crate) const COUNTED_BY: &str =
    "single steps (ptrace) of guest-kmod/imr_record.c and imr_handshake.c, compiled for user space with -O2";
/// More than any offer takes; a program that does not end is a defect.
const MOST_STEPS: u64 = 10_000_000;

/// What one offer costs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuestCost {
    /// Instructions to write the record and to clear it.
    pub(crate) instructions: u64,
    /// Bytes of the record.
    pub(crate) record_bytes: u64,
}

/// The compiled program.
pub(crate) struct Offer {
    program: PathBuf,
}

impl Offer {
    /// Compiles it in `dir`.
    pub(crate) fn compile(dir: &Path) -> Result<Self> {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (here, module) = (tests.join("benches/records"), tests.join("../guest-kmod"));
        let headers = dir.join("include");
        for folder in ["linux", "asm"].map(|name| headers.join(name)) {
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let sources = ["imr_abi.h", "imr_guest.h", "imr_handshake.h", "imr_handshake.c", "imr_record.c"];
        for source in sources {
            let text = fs::read_to_string(module.join(source)).with_context(|| source.to_owned())?;
            let names = text.lines().filter_map(|line| line.strip_prefix("#include <"));
            for name in names.filter_map(|name| name.strip_suffix('>')) {
                fs::write(headers.join(name), "#include \"kernel.h\"\n").with_context(|| name.to_owned())?;
            }
        }
        let program = dir.join("offer");
        let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
        let output = Command::new(&compiler)
            .args(["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fno-strict-aliasing", "-I"])
            .args([&here, Path::new("-I")])
            .args([&headers, Path::new("-I"), &module, Path::new("-o"), &program])
            .arg(here.join("offer.c"))
            .output()
            .map_err(|error| Missing(format!("a C compiler ({compiler}: {error}); apt install gcc")))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the module's record code does not compile for user space:\n{said}");
        Ok(Self { program })
    }

    /// Describes one offer of `ranges` ranges of 2 MiB of a guest of `guest_mib` MiB.
    pub(crate) fn cost(&self, kind: Kind, guest_mib: u64, ranges: usize) -> Result<GuestCost> {
        let mut command = Command::new(&self.program);
        command.args([kind.name(), &guest_mib.to_string(), &ranges.to_string()]).stdout(Stdio::piped());
        // SAFETY: between fork and exec only one system call is made, which allocates nothing.
        unsafe {
            command.pre_exec(trace_me);
        }
        let mut child = command.spawn().context("cannot start the traced program")?;
        let pid = libc::pid_t::try_from(child.id())?;
        let counted = count(pid);
        if counted.is_err() {
            // It may have ended by itself.
            let _ = child.kill();
        }
        let mut said = String::new();
        if let Some(mut out) = child.stdout.take() {
            io::Read::read_to_string(&mut out, &mut said)?;
        }
        let instructions = counted?;
        Ok(GuestCost { instructions, record_bytes: said.trim().parse().context("the record's size")? })
    }
}

fn trace_me() -> io::Result<()> {
    // SAFETY: the request takes no addresses.
    let result = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Steps through what lies between each odd breakpoint and the next, until the program has ended.
fn count(pid: libc::pid_t) -> Result<u64> {
    let mut steps = 0;
    let mut between = false;
    // The stop of exec.
    wait(pid)?;
    loop {
        go_on(pid, if between { libc::PTRACE_SINGLESTEP } else { libc::PTRACE_CONT })?;
        let status = wait(pid)?;
        if libc::WIFEXITED(status) {
            let status = libc::WEXITSTATUS(status);
            ensure!(status == 0 && steps > 0, "the traced program ended with status {status}");
            return Ok(steps);
        }
        ensure!(
            libc::WIFSTOPPED(status) && libc::WSTOPSIG(status) == libc::SIGTRAP,
            "the traced program got a signal (status {status:#x})"
        );
        if is_breakpoint(pid)? {
            between = !between;
        } else {
            steps += 1;
            if steps > MOST_STEPS {
                bail!("the traced program does not end");
            }
        }
    }
}

fn go_on(pid: libc::pid_t, request: libc::c_uint) -> Result<()> {
    // SAFETY: the child is stopped and ours to trace; the request takes no addresses.
    let result = unsafe { libc::ptrace(request, pid, 0, 0) };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("ptrace: cannot let the traced program go on");
    }
    Ok(())
}

fn wait(pid: libc::pid_t) -> Result<libc::c_int> {
    let mut status = 0;
    // SAFETY: `status` is a place for one int.
    if unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        return Err(io::Error::last_os_error()).context("waitpid");
    }
    Ok(status)
}

/// Whether it was stopped by an `int3`, and not by a step.
fn is_breakpoint(pid: libc::pid_t) -> Result<bool> {
    /// `si_code` of a trap that the kernel sends for `int3` (arch/x86/kernel/traps.c, do_int3_user, 6.1 to 6.18).
    const SI_KERNEL: libc::c_int = 0x80;
    // SAFETY: all zeros are a valid siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the child is stopped, and `info` is a place for what the kernel writes.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETSIGINFO, pid, 0, &raw mut info) };
    if result != 0 {
        return Err(io::Error::last_os_error()).context("ptrace: why the traced program stopped");
    }
    Ok(info.si_code == SI_KERNEL)
}
