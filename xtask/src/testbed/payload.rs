//! What the project itself puts into the testbed: imr and imr-top, the guest's module, the tools for both.
//!
//! In: whether to build first. Out: mappings into L1 and into the guests.
//! Must not fail, when not asked to build, on what was never built: scripts may need none of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::config::Config;
use super::files::FileMapping;
use crate::{build_kmod, build_user, cache};

/// Mappings of the project's own programs.
#[derive(Debug, Default)]
pub(super) struct Payload {
    /// For L1.
    pub(super) host: Vec<FileMapping>,
    /// For the guests.
    pub(super) guest: Vec<FileMapping>,
}

/// Builds, or just finds, what belongs into the images of `config`.
pub(super) fn gather(config: &Config) -> Result<Payload> {
    let target = cache::target_dir();
    let (programs, module, tools) = if config.build {
        let built = build_user::release_binaries()?;
        let module = build_kmod::ensure_built(config.guest_kernel)?;
        (vec![built.imr, built.imr_top], module, build_user::static_tools()?)
    } else {
        let release = target.join("release");
        let module = target.join("kmod").join(config.guest_kernel.as_str()).join("imr_guest.ko");
        let tools = target.join("static/x86_64-unknown-linux-gnu/release");
        (vec![release.join("imr"), release.join("imr-top")], module, tools)
    };
    let mut payload = Payload::default();
    for program in programs.into_iter().filter(|program| program.is_file()) {
        payload.host.push(into_bin(&program)?);
    }
    if module.is_file() {
        payload.guest.push(FileMapping::new(module, "/imr_guest.ko"));
    }
    for tool in programs_in(&tools)? {
        let mapping = into_bin(&tool)?;
        // Callers may bring their own.
        if !config.host_files.iter().any(|own| own.destination == mapping.destination) {
            payload.host.push(mapping.clone());
        }
        payload.guest.push(mapping);
    }
    Ok(payload)
}

fn into_bin(program: &Path) -> Result<FileMapping> {
    let name = program.file_name().and_then(|name| name.to_str()).context("a program without a name")?;
    Ok(FileMapping::new(program, format!("/usr/bin/{name}")))
}

/// The executables in `dir`, sorted; none where it does not exist.
fn programs_in(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut programs = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        let data = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        // Cargo keeps its own files here too: locks, dependency lists.
        if data.is_file() && data.permissions().mode() & 0o111 != 0 && path.extension().is_none() {
            programs.push(path);
        }
    }
    programs.sort();
    Ok(programs)
}
