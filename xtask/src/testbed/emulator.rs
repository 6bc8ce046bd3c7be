//! Which outer QEMU runs L1, and with what.
//!
//! In: the configuration, this machine. Out: a program and its arguments; for shadow paging under emulation an older
//! QEMU, unpacked into the cache. Must not install anything on the machine.
//!
//! QEMU 10.0's emulator checks a read of any control register against the intercept of CR0 alone. KVM drops that one
//! once the guest's CR0 equals the shadowed one (svm_set_cr0), so on shadow page tables the guest reads KVM's CR3
//! for its own, and dies. 7.2 has it right, but neither it nor 10.0 runs a 6.12 kernel there.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::config::{Config, HostMmu};
use super::files;
use crate::kernel::KernelLine;
use crate::{cache, process};

/// Set by people who try another QEMU.
const OVERRIDE: &str = "IMR_OUTER_QEMU";
/// The release whose QEMU emulates shadow paging under SVM rightly.
const RELEASE: &str = "bookworm";
const PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-system-common"];
const MODULES: &str = "usr/lib/x86_64-linux-gnu/qemu";
/// Where the packages that come with the newer QEMU have the firmware.
const FIRMWARE_DIRS: [&str; 2] = ["/usr/share/qemu", "/usr/share/seabios"];

/// How fast L1 will be: with the machine's own virtualisation, or emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// /dev/kvm and a CPU with SVM or VMX.
    Kvm,
    /// QEMU's emulator.
    Tcg,
}

impl Accelerator {
    /// What this machine has. A /dev/kvm alone says nothing: there are backends that need neither SVM nor
    /// VMX and run an ordinary kernel slower than the emulator does.
    pub(crate) fn of_this_machine() -> Self {
        let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let kvm = rustix::fs::access("/dev/kvm", rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK);
        if kvm.is_ok() && has_virtualisation(&info) { Self::Kvm } else { Self::Tcg }
    }

    /// As messages name it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        }
    }

    /// What cannot work with it, as a sentence for the user.
    pub(crate) fn check(self, config: &Config) -> Result<(), String> {
        let kernels = [config.host_kernel, config.guest_kernel];
        if needs_older(config, self) && kernels != [KernelLine::V6_1; 2] {
            return Err(
                "on shadow page tables QEMU emulates no other kernel than 6.1 rightly, in L1 or in the \
                        guests: give --host-kernel 6.1 --guest-kernel 6.1, or use a machine with SVM or VMX"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

fn has_virtualisation(cpuinfo: &str) -> bool {
    cpuinfo
        .lines()
        .find(|line| line.starts_with("flags"))
        .is_some_and(|flags| flags.split_whitespace().any(|flag| flag == "svm" || flag == "vmx"))
}

fn needs_older(config: &Config, accelerator: Accelerator) -> bool {
    config.host_mmu == HostMmu::Shadow && accelerator == Accelerator::Tcg
}

/// An outer QEMU.
#[derive(Debug)]
pub(super) struct Emulator {
    program: PathBuf,
    /// Where its own modules and firmware are, when they are not where it was built for.
    unpacked: Option<PathBuf>,
    accelerator: Accelerator,
}

impl Emulator {
    /// The one for `config` on this machine, fetched if need be.
    pub(super) fn choose(config: &Config) -> Result<Self> {
        let accelerator = Accelerator::of_this_machine();
        if let Some(program) = std::env::var_os(OVERRIDE) {
            return Ok(Self { program: program.into(), unpacked: None, accelerator });
        }
        if needs_older(config, accelerator) {
            let unpacked = older()?;
            let program = unpacked.join("usr/bin/qemu-system-x86_64");
            return Ok(Self { program, unpacked: Some(unpacked), accelerator });
        }
        let program = process::find_program("qemu-system-x86_64")
            .context("qemu-system-x86_64 is not on this machine; run `cargo xtask setup`")?;
        Ok(Self { program, unpacked: None, accelerator })
    }

    /// What accelerates it.
    pub(super) fn accelerator(&self) -> Accelerator {
        self.accelerator
    }

    /// The beginning of its command line. The kernel ends it for us should we be killed ourselves.
    pub(super) fn command(&self) -> Command {
        let mut command = match process::find_program("setpriv") {
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command.args(["--pdeathsig", "KILL", "--"]).arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        if let Some(unpacked) = &self.unpacked {
            command.env("QEMU_MODULE_DIR", unpacked.join(MODULES));
            for dir in FIRMWARE_DIRS {
                command.args(["-L", dir]);
            }
        }
        match self.accelerator {
            Accelerator::Kvm => command.args(["-accel", "kvm", "-cpu", "host"]),
            // With thread=single and two CPUs guests stand still at boot (10.0).
            Accelerator::Tcg => command.args(["-accel", "tcg,thread=multi", "-cpu", "max"]),
        };
        command
    }
}

/// The folder of the older QEMU, unpacked from the release's packages if it is not there.
fn older() -> Result<PathBuf> {
    let _lock = cache::lock("testbed-qemu")?;
    let into = cache::dir()?.join("testbed-qemu").join(RELEASE);
    if into.is_dir() {
        return Ok(into);
    }
    fetch(&into).with_context(|| {
        format!(
            "cannot get the {RELEASE} release's QEMU, which shadow paging needs under emulation; \
             {OVERRIDE} names another QEMU below 9"
        )
    })?;
    Ok(into)
}

fn fetch(into: &Path) -> Result<()> {
    eprintln!("testbed: downloading {}'s {} into {}", RELEASE, PACKAGES.join(" and "), into.display());
    let fresh = into.with_extension("partial");
    let downloads = into.with_extension("debs");
    for dir in [&fresh, &downloads] {
        if dir.exists() {
            fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    let names: Vec<OsString> = PACKAGES.iter().map(|name| format!("{name}/{RELEASE}").into()).collect();
    process::run_quiet(Command::new("apt-get").arg("download").args(&names).current_dir(&downloads))?;
    for entry in fs::read_dir(&downloads).with_context(|| format!("cannot list {}", downloads.display()))? {
        let package = entry.with_context(|| format!("cannot list {}", downloads.display()))?.path();
        process::run_quiet(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&fresh))?;
    }
    let program = fresh.join("usr/bin/qemu-system-x86_64");
    if !program.is_file() {
        bail!("the packages have no {}", program.display());
    }
    // The newer QEMU's dependencies have to serve this one, too; this fails on a library that is not there.
    files::libraries(&program)?;
    fs::remove_dir_all(&downloads).with_context(|| format!("cannot remove {}", downloads.display()))?;
    fs::rename(&fresh, into)
        .with_context(|| format!("cannot rename {} to {}", fresh.display(), into.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_has_to_be_a_whole_word() {
        assert!(has_virtualisation("processor: 0\nflags\t\t: fpu svm npt\n"));
        assert!(has_virtualisation("flags\t\t: vmx\n"));
        assert!(!has_virtualisation("flags\t\t: fpu svm_lock vmxnet\nmodel name: svm\n"));
    }

    #[test]
    fn shadow_paging_is_emulated_for_the_older_kernel_only() {
        let mut config = Config { host_mmu: HostMmu::Shadow, ..Config::default() };
        assert!(Accelerator::Tcg.check(&config).unwrap_err().contains("--host-kernel 6.1"));
        assert_eq!(Accelerator::Kvm.check(&config), Ok(()));
        (config.host_kernel, config.guest_kernel) = (KernelLine::V6_1, KernelLine::V6_1);
        assert_eq!(Accelerator::Tcg.check(&config), Ok(()));
    }
}
