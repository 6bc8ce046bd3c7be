//! The compilers that can build `imr-ebpf`: a rustc that has its library's source, and a
//! bpf-linker for the LLVM of that rustc.
//!
//! In: what is installed. Out: the usable ones, upstream's first; and the installation of Debian's.
//! Must not pin a version: Debian's rustc moves, and its LLVM with it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::apt::Apt;
use crate::{cache, process};

/// Debian's compiler. Not the first on `PATH`: rustup's stands before it there and has no source.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// Debian's copy of the standard library's source, where `-Z build-std` of that rustc looks.
const DEBIAN_SOURCE: &str = "/usr/lib/rustlib/src/rust/library/core/src/lib.rs";
/// The oldest rustc minor version that compiles imr-ebpf (edition 2024 and its dependencies).
const OLDEST_MINOR: u32 = 88;

/// A way to build the eBPF object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EbpfToolchain {
    /// rustup's nightly with the component rust-src, and a bpf-linker on `PATH`.
    Nightly {
        /// The linker to use.
        bpf_linker: PathBuf,
    },
    /// Debian's rustc with its source, driven by the stable cargo, and a bpf-linker in the cache.
    Debian {
        /// The compiler.
        rustc: PathBuf,
        /// The linker to use.
        bpf_linker: PathBuf,
    },
}

/// Every usable way, the preferred one first.
pub(crate) fn find() -> Vec<EbpfToolchain> {
    let mut found = Vec::new();
    if let Some(bpf_linker) = bpf_linker_on_path()
        && nightly_has_source()
    {
        found.push(EbpfToolchain::Nightly { bpf_linker });
    }
    if let Some(llvm) = debian_llvm()
        && let Some(bpf_linker) = bpf_linker_for(llvm)
        && bpf_linker.is_file()
    {
        found.push(EbpfToolchain::Debian { rustc: DEBIAN_RUSTC.into(), bpf_linker });
    }
    found
}

/// Installs Debian's pair and the bpf-linker that belongs to it, saying each step.
pub(super) fn install(apt: &mut Apt) -> Result<()> {
    const FOR: &str = "building imr-ebpf";
    if debian_llvm().is_none() {
        apt.install(&["rustc-web", "rust-web-src"], None, FOR)?;
    }
    let Some(llvm) = debian_llvm() else {
        bail!(
            "{DEBIAN_RUSTC} is not a rustc 1.{OLDEST_MINOR} or later with its source in {DEBIAN_SOURCE}; \
             does apt know the suite bookworm-security, which has the newest rustc-web, and is it of that \
             package? (apt-cache policy rustc-web; dpkg -S {DEBIAN_RUSTC})"
        );
    };
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("bin/llvm-config").exists() {
        apt.install(&[&format!("llvm-{llvm}-dev")], None, FOR)?;
    }
    let root = linker_root(llvm).context("no place for the cache: set IMR_CACHE_DIR")?;
    if root.join("bin/bpf-linker").is_file() {
        return Ok(());
    }
    eprintln!("setup: cargo install bpf-linker for LLVM {llvm} into {} (a minute)", root.display());
    let mut command = Command::new(process::cargo());
    process::forget_calling_cargo(&mut command)
        .args(["install", "bpf-linker", "--locked", "--no-default-features", "--features"])
        .arg(format!("llvm-{llvm}"))
        .arg("--root")
        .arg(&root)
        .env("LLVM_PREFIX", &prefix);
    process::run_quiet(keep_toolchain(&mut command))?;
    Ok(())
}

/// Leaves `command` with the toolchain that runs us: a machine may have no default one.
pub(crate) fn keep_toolchain(command: &mut Command) -> &mut Command {
    if let Some(toolchain) = env::var_os("RUSTUP_TOOLCHAIN") {
        command.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    command
}

fn bpf_linker_on_path() -> Option<PathBuf> {
    process::find_program("bpf-linker").or_else(|| {
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let linker = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
        Some(linker.join("bin/bpf-linker")).filter(|path| path.is_file())
    })
}

fn nightly_has_source() -> bool {
    let mut command = Command::new("rustup");
    process::forget_calling_cargo(&mut command)
        .args(["run", "nightly", "rustc", "--print", "sysroot"])
        // Looking must not download a toolchain.
        .env("RUSTUP_AUTO_INSTALL", "0");
    process::probe(&mut command).is_some_and(|sysroot| {
        Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file()
    })
}

/// The LLVM major version of Debian's rustc, where that is there, new enough and has its source.
fn debian_llvm() -> Option<u32> {
    if !Path::new(DEBIAN_SOURCE).is_file() {
        return None;
    }
    let mut command = Command::new(DEBIAN_RUSTC);
    let said = process::probe(process::forget_calling_cargo(&mut command).arg("-vV"))?;
    let (minor, llvm) = parse_version(&said)?;
    (minor >= OLDEST_MINOR).then_some(llvm)
}

/// The minor version and the LLVM major version in the output of `rustc -vV`.
fn parse_version(said: &str) -> Option<(u32, u32)> {
    let field = |name: &str| said.lines().find_map(|line| line.strip_prefix(name));
    let minor = field("release: 1.")?.split('.').next()?.parse().ok()?;
    let llvm = field("LLVM version: ")?.split('.').next()?.parse().ok()?;
    Some((minor, llvm))
}

fn bpf_linker_for(llvm: u32) -> Option<PathBuf> {
    Some(linker_root(llvm)?.join("bin/bpf-linker"))
}

fn linker_root(llvm: u32) -> Option<PathBuf> {
    Some(cache::dir().ok()?.join(format!("bpf-linker/llvm-{llvm}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_rustc_says() {
        let said = "rustc 1.96.0 (ac68faa20 2026-05-25) (built from a source tarball)\nbinary: rustc\n\
                    host: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(said), Some((96, 22)));
        assert_eq!(parse_version("release: 1.63.0\nLLVM version: 14.0.6\n"), Some((63, 14)));
        assert_eq!(parse_version("error"), None);
    }
}
