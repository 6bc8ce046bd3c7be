//! `cargo xtask build-ebpf`: the eBPF object for the running architecture.
//!
//! In: the crate `imr-ebpf`. Out: `target/ebpf/<arch>/imr-ebpf`, which imr-user embeds.
//! Must not let the calling cargo's compiler and flags reach the build: its target is another one.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, EbpfToolchain, Need};
use crate::{cache, process};

/// Cargo separates encoded flags by the ASCII unit separator, so that a flag may hold spaces.
const SEPARATOR: &str = "\x1f";
#[cfg(target_endian = "little")]
const TARGET: &str = "bpfel-unknown-none";
#[cfg(target_endian = "big")]
const TARGET: &str = "bpfeb-unknown-none";

/// Runs `cargo xtask build-ebpf`.
pub(crate) fn run() -> Result<()> {
    let object = ensure_built()?;
    eprintln!("build-ebpf: {}", object.display());
    Ok(())
}

/// Builds the eBPF object if its sources changed, and returns where it is.
///
/// # Errors
/// `MissingPrerequisite` where no compiler for it is there and none could be installed; any other
/// error when the build failed.
pub(crate) fn ensure_built() -> Result<PathBuf> {
    setup::ensure(&[Need::Ebpf])?;
    let crate_dir = cache::workspace().join("imr-ebpf");
    if !crate_dir.join("Cargo.toml").is_file() {
        bail!("no crate imr-ebpf in {}: is the checkout complete?", crate_dir.display());
    }
    let built = build(&crate_dir)?;
    let object = object_path();
    let content = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    cache::write_if_changed(&object, &content)?;
    Ok(object)
}

/// Where the finished object is put for imr-user's build script.
fn object_path() -> PathBuf {
    cache::target_dir().join("ebpf").join(ARCH).join("imr-ebpf")
}

/// Builds with the first toolchain that succeeds.
fn build(crate_dir: &Path) -> Result<PathBuf> {
    // Not below target/ebpf: imr-user's build script watches that folder.
    let target_dir = cache::target_dir().join("ebpf-build");
    let toolchains = setup::ebpf_toolchains();
    let mut failure = None;
    for toolchain in &toolchains {
        if failure.is_some() {
            eprintln!("build-ebpf: trying the next toolchain: {}", describe(toolchain));
        }
        match process::run(&mut command(toolchain, crate_dir, &target_dir)) {
            Ok(()) => return Ok(target_dir.join(TARGET).join("release/imr-ebpf")),
            Err(error) => {
                failure =
                    Some(error.context(format!("imr-ebpf does not build with {}", describe(toolchain))));
            }
        }
    }
    Err(failure.unwrap_or_else(|| anyhow::anyhow!("no toolchain for imr-ebpf; run `cargo xtask setup`")))
}

fn describe(toolchain: &EbpfToolchain) -> String {
    match toolchain {
        EbpfToolchain::Nightly { bpf_linker } => format!("rustup's nightly and {}", bpf_linker.display()),
        EbpfToolchain::Debian { rustc, bpf_linker } => {
            format!("Debian's {} and {}", rustc.display(), bpf_linker.display())
        }
    }
}

fn command(toolchain: &EbpfToolchain, crate_dir: &Path, target_dir: &Path) -> Command {
    let (mut command, bpf_linker) = match toolchain {
        EbpfToolchain::Nightly { bpf_linker } => {
            let mut command = Command::new("rustup");
            process::forget_calling_cargo(&mut command).args(["run", "nightly", "cargo"]);
            (command, bpf_linker)
        }
        EbpfToolchain::Debian { rustc, bpf_linker } => {
            let mut command = Command::new(process::cargo());
            process::forget_calling_cargo(&mut command)
                .env("RUSTC", rustc)
                // A released compiler takes -Z build-std only so; both need it, cargo and rustc.
                .env("RUSTC_BOOTSTRAP", "1");
            (command, bpf_linker)
        }
    };
    command
        .current_dir(crate_dir)
        .args(["build", "--release", "--quiet", "--target", TARGET, "-Z", "build-std=core"])
        .arg("--target-dir")
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(bpf_linker));
    if crate_dir.join("Cargo.lock").is_file() {
        command.arg("--locked");
    }
    command
}

fn rustflags(bpf_linker: &Path) -> String {
    [
        // The verifier's messages and the BTF come from the debug information.
        "-Cdebuginfo=2",
        "-Clink-arg=--btf",
        // Atomics that return a value exist from this instruction set on (Linux 5.12).
        "-Ctarget-cpu=v3",
        &format!("-Clinker={}", bpf_linker.display()),
        // Which kernel's pt_regs aya-ebpf describes.
        &format!("--cfg=bpf_target_arch=\"{ARCH}\""),
    ]
    .join(SEPARATOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_path_with_spaces_stays_one_flag() {
        let flags = rustflags(Path::new("/a b/bpf-linker"));
        assert_eq!(flags.split(SEPARATOR).filter(|flag| *flag == "-Clinker=/a b/bpf-linker").count(), 1);
        assert!(flags.contains("--cfg=bpf_target_arch=\""));
    }

    #[test]
    fn debians_build_names_its_compiler_and_the_target() {
        let toolchain = EbpfToolchain::Debian { rustc: "/r".into(), bpf_linker: "/l".into() };
        let command = command(&toolchain, Path::new("/nonexistent"), Path::new("/t"));
        let line = process::command_line(&command);
        assert!(line.contains("--target bpfel-unknown-none") && line.contains("build-std=core"), "{line}");
        assert!(!line.contains("--locked"), "{line}");
        assert!(command.get_envs().any(|(name, value)| name == "RUSTC" && value == Some("/r".as_ref())));
    }
}
