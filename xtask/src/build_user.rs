//! The programs of imr-user, and the static ones that the testbed's guests run.
//!
//! In: the workspace's crates. Out: paths of finished programs.
//! Must not build imr without its eBPF object: that is what the testbed is for.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{build_ebpf, cache, process, setup};

/// The triple whose C library can be linked statically; guests have no dynamic linker.
const STATIC_TARGET: &str = "x86_64-unknown-linux-gnu";

/// The programs of imr-user.
#[derive(Debug, Clone)]
pub(crate) struct UserBinaries {
    /// The command line tool.
    pub(crate) imr: PathBuf,
    /// The live display.
    pub(crate) imr_top: PathBuf,
}

/// Runs `cargo xtask build-user`.
pub(crate) fn run() -> Result<()> {
    let binaries = release_binaries()?;
    eprintln!("build-user: {} {}", binaries.imr.display(), binaries.imr_top.display());
    Ok(())
}

/// Builds `imr` and `imr-top` for release, with the eBPF object inside.
///
/// # Errors
/// As of [`build_ebpf::ensure_built`], and when the build failed.
pub(crate) fn release_binaries() -> Result<UserBinaries> {
    build_ebpf::ensure_built()?;
    let target = cache::target_dir();
    let mut command = cargo_build();
    command.args(["--package", "imr-user", "--bins"]).arg("--target-dir").arg(&target);
    process::run(&mut command)?;
    let release = target.join("release");
    let binaries = UserBinaries { imr: release.join("imr"), imr_top: release.join("imr-top") };
    for binary in [&binaries.imr, &binaries.imr_top] {
        if !binary.is_file() {
            bail!("cargo was content but made no {}", binary.display());
        }
    }
    Ok(binaries)
}

/// Builds the programs of the tests crate so that each runs as a single file, and returns their
/// folder.
///
/// # Errors
/// When the build failed.
pub(crate) fn static_tools() -> Result<PathBuf> {
    // A target directory of its own: other flags would rebuild everything again and again.
    let target = cache::target_dir().join("static");
    let mut command = cargo_build();
    command
        .args(["--package", "imr-tests", "--bins", "--target", STATIC_TARGET])
        .arg("--target-dir")
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    process::run(&mut command)?;
    Ok(target.join(STATIC_TARGET).join("release"))
}

fn cargo_build() -> Command {
    let mut command = Command::new(process::cargo());
    process::forget_calling_cargo(&mut command).current_dir(cache::workspace()).args([
        "build",
        "--release",
        "--quiet",
        "--locked",
    ]);
    setup::keep_toolchain(&mut command);
    command
}
