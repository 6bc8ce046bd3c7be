//! `cargo xtask setup`: everything the other commands need, on a Debian 12 that has Rust only.
//!
//! In: what is needed. Out: it is there, or an error that lists what is not.
//! Must not ask questions, nor touch the network when nothing is missing.

mod apt;
mod apt_sources;
mod checkpatch;
mod fuzzer;
mod kernels;
mod missing;
mod roots;
mod toolchain;

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::cache;
use crate::kernel::KernelLine;
use apt::{Apt, BACKPORTS, NotRoot};
use missing::{Missing, Remedy};

pub(crate) use checkpatch::find as checkpatch;
pub(crate) use fuzzer::{find as cargo_fuzz, has_sanitizer};
pub(crate) use kernels::{KernelFiles, headers};
pub(crate) use missing::MissingPrerequisite;
pub(crate) use roots::{Root, find as root_archive};
pub(crate) use toolchain::{EbpfToolchain, find as ebpf_toolchains, keep_toolchain};

/// What a command wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Build imr-ebpf.
    Ebpf,
    /// Build guest-kmod for every kernel line.
    Kmod,
    /// Run the nested testbed.
    Testbed,
    /// Build the fuzz targets.
    Fuzz,
    /// Check the handshake's models.
    Proof,
    /// Build the handshake's stress test.
    Stress,
    /// Pack the guest module's source as a Debian package.
    Deb,
    /// Install that package in other Debians, and check the module's source.
    Package,
}

impl Need {
    /// Everything.
    const ALL: [Self; 8] = [
        Self::Ebpf,
        Self::Kmod,
        Self::Testbed,
        Self::Fuzz,
        Self::Proof,
        Self::Stress,
        Self::Deb,
        Self::Package,
    ];
}

/// Arguments of `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Change nothing; list what is missing, one thing a line, and exit with 3 if anything is
    #[arg(long)]
    check: bool,
}

/// Runs `cargo xtask setup`.
pub(crate) fn run(args: &Args) -> Result<()> {
    if !args.check {
        ensure(&Need::ALL)?;
        eprintln!("setup: everything is there");
        return Ok(());
    }
    let list = missing::missing(&Need::ALL);
    if list.is_empty() {
        eprintln!("setup: everything is there");
        return Ok(());
    }
    Err(MissingPrerequisite { list, advice: "`cargo xtask setup` installs them on Debian 12".to_owned() }
        .into())
}

/// Sees to it that everything in `needs` is there. Quick when it is.
///
/// # Errors
/// [`MissingPrerequisite`] where this machine or this user cannot install what is missing; any
/// other error when an installation failed.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    if missing::missing(needs).is_empty() {
        return Ok(());
    }
    let _lock = cache::lock("setup")?;
    // Whoever held the lock may have installed it.
    let list = missing::missing(needs);
    if list.is_empty() {
        return Ok(());
    }
    if !is_debian_12() {
        let advice =
            "this is not Debian 12, so setup installs nothing: install them by hand (see CONTRIBUTING.md)";
        return Err(MissingPrerequisite { list, advice: advice.to_owned() }.into());
    }
    match install(&list) {
        Err(error) if error.is::<NotRoot>() => {
            let advice = format!("{error}: run `cargo xtask setup` as root once");
            return Err(MissingPrerequisite { list: missing::missing(needs), advice }.into());
        }
        result => result?,
    }
    let list = missing::missing(needs);
    if list.is_empty() {
        return Ok(());
    }
    let advice = "setup did what it can, and these are still not there".to_owned();
    Err(MissingPrerequisite { list, advice }.into())
}

/// Headers and image of one kernel line; both are of the same release.
///
/// # Errors
/// When they are not in the cache: call [`ensure`] with [`Need::Testbed`] first.
pub(crate) fn kernel(line: KernelLine) -> Result<KernelFiles> {
    kernels::kernel_files(line)
        .with_context(|| format!("Debian's {line} kernel is not in the cache; run `cargo xtask setup`"))
}

/// `program` to be run as root: directly, or by a sudo that asks for nothing.
///
/// # Errors
/// [`MissingPrerequisite`] where neither is possible.
pub(crate) fn as_root(program: &str) -> Result<Command> {
    apt::as_root(program).map_err(|error| {
        let advice =
            format!("{program} has to run as root: run this as root, or allow sudo without password");
        if error.is::<NotRoot>() { MissingPrerequisite { list: Vec::new(), advice }.into() } else { error }
    })
}

fn install(list: &[Missing]) -> Result<()> {
    let mut apt = Apt::default();
    let has = |remedy: &Remedy| list.iter().any(|missing| missing.remedy == *remedy);

    let packages: Vec<&str> = list
        .iter()
        .filter_map(|missing| match missing.remedy {
            Remedy::Package(package) => Some(package),
            _ => None,
        })
        .collect();
    if !packages.is_empty() {
        apt.install(&packages, None, &purposes(list, |remedy| matches!(remedy, Remedy::Package(_))))?;
    }
    if has(&Remedy::EbpfToolchain) {
        toolchain::install(&mut apt)?;
    }
    if has(&Remedy::CargoFuzz) {
        fuzzer::install()?;
    }
    for line in KernelLine::ALL {
        let with_image = has(&Remedy::Image(line));
        if with_image || has(&Remedy::Headers(line)) {
            kernels::fetch(&mut apt, line, with_image)?;
        }
    }
    let backports: Vec<&str> = list
        .iter()
        .filter_map(|missing| match missing.remedy {
            Remedy::Backport(package) => Some(package),
            _ => None,
        })
        .collect();
    if !backports.is_empty() {
        apt.ensure_backports()?;
        let purpose = purposes(list, |remedy| matches!(remedy, Remedy::Backport(_)));
        apt.install(&backports, Some(BACKPORTS), &purpose)?;
    }
    if has(&Remedy::Checkpatch) {
        checkpatch::fetch(&mut apt)?;
    }
    for root in Root::ALL {
        if has(&Remedy::Root(root)) {
            roots::fetch(&mut apt, root)?;
        }
    }
    Ok(())
}

/// What the missing things with a certain remedy are for, each purpose once.
fn purposes(list: &[Missing], with: impl Fn(&Remedy) -> bool) -> String {
    let mut purposes: Vec<&str> =
        list.iter().filter(|missing| with(&missing.remedy)).map(|missing| missing.purpose).collect();
    purposes.dedup();
    purposes.join("; ")
}

fn is_debian_12() -> bool {
    fs::read_to_string("/etc/os-release").is_ok_and(|text| names_debian_12(&text))
}

fn names_debian_12(os_release: &str) -> bool {
    let field = |name: &str| {
        os_release.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim_matches('"'))
    };
    field("ID=") == Some("debian") && field("VERSION_ID=") == Some("12")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_12_is_debian_12() {
        assert!(names_debian_12(
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n"
        ));
        assert!(!names_debian_12("ID=debian\nVERSION_ID=\"13\"\n"));
        assert!(!names_debian_12("ID=ubuntu\nVERSION_ID=\"12\"\n"));
        assert!(!names_debian_12("ID=debian\n"));
    }
}
