//! The stress program, once for each sanitizer.
//!
//! In: `tests/stress`, the module's handshake, imr-user's. Out: programs in `target/stress`.
//! Must not need a nightly toolchain or the standard library's source: the program uses nothing of that library that
//! ThreadSanitizer would have to see into.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result};

use crate::setup;
use crate::{cache, process};

/// What watches a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sanitizer {
    None,
    Address,
    Thread,
}

impl Sanitizer {
    /// As rustc and the C compiler call it; `plain` without.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "plain",
            Self::Address => "address",
            Self::Thread => "thread",
        }
    }

    /// Whether the toolchain comes with its run-time library.
    pub(super) fn is_there(self) -> bool {
        match self {
            Self::None => true,
            Self::Address => setup::has_sanitizer("asan"),
            Self::Thread => setup::has_sanitizer("tsan"),
        }
    }
}

/// The programs built by now.
#[derive(Debug, Default)]
pub(super) struct Built(BTreeMap<Sanitizer, PathBuf>);

impl Built {
    /// Builds the one with `sanitizer`, once.
    ///
    /// # Errors
    /// When it does not build.
    pub(super) fn ensure(&mut self, sanitizer: Sanitizer) -> Result<()> {
        if let Entry::Vacant(missing) = self.0.entry(sanitizer) {
            missing.insert(build(sanitizer)?);
        }
        Ok(())
    }

    /// Where it is.
    ///
    /// # Errors
    /// When it was not built.
    pub(super) fn program(&self, sanitizer: Sanitizer) -> Result<&Path> {
        self.0.get(&sanitizer).map(PathBuf::as_path).context("the program was not built")
    }

    /// Where what it says is kept when it fails.
    pub(super) fn log(&self, sanitizer: Sanitizer) -> PathBuf {
        target_dir().join(format!("{}.log", sanitizer.as_str()))
    }
}

fn target_dir() -> PathBuf {
    cache::target_dir().join("stress")
}

fn build(sanitizer: Sanitizer) -> Result<PathBuf> {
    let project = cache::workspace().join("tests/stress");
    // With a target of its own the flags are not those of build scripts and macros. All builds share a folder: what
    // differs by flags is kept apart there, and the rest is built once.
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = Command::new(process::cargo());
    process::forget_calling_cargo(&mut command)
        .args(["build", "--release", "--locked", "--target", &triple, "--target-dir"])
        .arg(target_dir())
        .current_dir(&project)
        .env_remove("IMR_STRESS_SANITIZER");
    if sanitizer != Sanitizer::None {
        let name = sanitizer.as_str();
        command
            .env("IMR_STRESS_SANITIZER", name)
            .env("RUSTFLAGS", format!("-Zsanitizer={name} -Cunsafe-allow-abi-mismatch=sanitizer"))
            // The flags are called unstable; the compiler is the usual one.
            .env("RUSTC_BOOTSTRAP", "1");
    }
    let start = Instant::now();
    process::run_quiet(setup::keep_toolchain(&mut command))?;
    // The next build has the same name.
    let built = target_dir().join(triple).join("release/imr-stress");
    let kept = target_dir().join(format!("imr-stress-{}", sanitizer.as_str()));
    fs::remove_file(&kept).ok();
    fs::copy(&built, &kept)
        .with_context(|| format!("cannot copy {} to {}", built.display(), kept.display()))?;
    println!("stress: {} built in {:.0} s", sanitizer.as_str(), start.elapsed().as_secs_f64());
    Ok(kept)
}
