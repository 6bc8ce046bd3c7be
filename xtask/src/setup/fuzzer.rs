//! cargo-fuzz, which builds the fuzz targets: where it is, and its installation into the cache.
//!
//! In: what is installed. Out: the program. Must not ask for a nightly toolchain: the one that runs us does, with
//! RUSTC_BOOTSTRAP set.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::keep_toolchain;
use crate::{cache, process};

/// A cargo-fuzz: that of setup, else the user's own.
pub(crate) fn find() -> Option<PathBuf> {
    let own = || {
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
        Some(home.join("bin/cargo-fuzz")).filter(|path| path.is_file())
    };
    let installed = root().map(|root| root.join("bin/cargo-fuzz")).filter(|path| path.is_file());
    installed.or_else(|| process::find_program("cargo-fuzz")).or_else(own)
}

/// Installs it into the cache.
pub(super) fn install() -> Result<()> {
    let root = root().context("no place for the cache: set IMR_CACHE_DIR")?;
    eprintln!("setup: cargo install cargo-fuzz into {} (a minute)", root.display());
    let mut command = Command::new(process::cargo());
    process::forget_calling_cargo(&mut command)
        .args(["install", "cargo-fuzz", "--locked", "--root"])
        .arg(&root);
    process::run_quiet(keep_toolchain(&mut command))?;
    Ok(())
}

/// Whether the compiler that runs us comes with the run-time library of a sanitizer: `asan`, `tsan`.
pub(crate) fn has_sanitizer(short: &str) -> bool {
    let mut command = Command::new("rustc");
    process::forget_calling_cargo(&mut command).args(["--print", "target-libdir"]);
    let Some(said) = process::probe(keep_toolchain(&mut command)) else { return false };
    let Ok(mut entries) = Path::new(said.trim()).read_dir() else { return false };
    entries.any(|entry| entry.is_ok_and(|entry| is_sanitizer(&entry.file_name().to_string_lossy(), short)))
}

/// Its name has the toolchain's in it: `librustc-stable_rt.asan.a`.
fn is_sanitizer(name: &str, short: &str) -> bool {
    name.starts_with("librustc-") && name.ends_with(&format!("_rt.{short}.a"))
}

fn root() -> Option<PathBuf> {
    Some(cache::dir().ok()?.join("cargo-fuzz"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sanitizer_of_any_toolchain_is_known() {
        assert!(is_sanitizer("librustc-stable_rt.asan.a", "asan"));
        assert!(is_sanitizer("librustc-nightly_rt.tsan.a", "tsan"));
        assert!(!is_sanitizer("librustc-stable_rt.msan.a", "asan"));
        assert!(!is_sanitizer("libstd-d1237ef7159db0a2.rlib", "asan"));
    }
}
