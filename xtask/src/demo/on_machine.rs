//! The demo with its guest on this machine itself, where it runs KVM guests at speed and we may load eBPF.
//!
//! In: the demo's scripts. Out: what they say, and how they ended; the guest is stopped, whatever happens.
//! Must not take a /dev/kvm for a KVM that works: see [`possible`].

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use crate::process;
use crate::testbed::bare::Bare;
use crate::testbed::config::{Config, GuestRam, Script};

/// Comes before the demo's script: starts the guest, and stops it at the end, come what may.
const AROUND: &str = "IMR_PID=\ntrap '[ -z \"$IMR_PID\" ] || kill \"$IMR_PID\" 2>/dev/null; guest stop 1' EXIT\n\
                      trap 'exit 130' INT TERM HUP\nguest start 1 || exit 1\n";

/// Whether guests run at speed here and imr may work: SVM or VMX, a /dev/kvm that opens, and root. A /dev/kvm
/// alone says little: there are backends without hardware behind them.
pub(super) fn possible() -> bool {
    let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    has_virtualization(&flags)
        && rustix::process::geteuid().is_root()
        && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

fn has_virtualization(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "svm" || flag == "vmx"))
}

/// Runs the host script of `config`, on the terminal or giving each line to `on_line`. Returns its status.
///
/// # Errors
/// When the guest's files cannot be made, or the shell cannot be started.
pub(super) fn run(config: &Config, live: bool, on_line: &mut dyn FnMut(&str)) -> Result<i32> {
    let config = Config { guest_ram: GuestRam::Memfd, ..config.clone() };
    let bare = Bare::new(&config)?;
    let script = match &config.host_script {
        Some(Script::Text(text)) => format!("{AROUND}{text}"),
        _ => anyhow::bail!("the demo has no script"),
    };
    let path = bare.root().join("root/demo.sh");
    fs::write(&path, script).with_context(|| format!("cannot write {}", path.display()))?;
    let mut search = bare.root().join("bin").into_os_string();
    search.push(":");
    search.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(bare.root().join("bin/busybox"));
    process::forget_calling_cargo(&mut command)
        .arg("sh")
        .arg(&path)
        .env("PATH", search)
        .env("IMR_ROOT", bare.root())
        .current_dir(bare.root().join("root"));
    if !live {
        command.stdin(Stdio::null()).stdout(Stdio::piped());
    }
    let mut child = command.spawn().context("cannot start busybox")?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            on_line(&line.context("cannot read what the demo says")?);
        }
    }
    let status = child.wait().context("cannot wait for the demo")?;
    Ok(status.code().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_flags_of_the_cpu_count() {
        assert!(has_virtualization("processor : 0\nflags\t\t: fpu svm sse\n"));
        assert!(has_virtualization("flags : vmx"));
        assert!(!has_virtualization("flags : fpu svm_lock\nmodel name : svm vmx\n"));
    }

    #[test]
    fn the_shell_takes_the_whole_script() {
        let script = format!("{AROUND}{}", super::super::STORY);
        let path = std::env::temp_dir().join(format!("imr-demo-test-{}.sh", std::process::id()));
        fs::write(&path, script).unwrap();
        let checked = process::run_quiet(Command::new("sh").arg("-n").arg(&path));
        fs::remove_file(&path).unwrap();
        checked.unwrap();
    }
}
