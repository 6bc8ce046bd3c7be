//! `cargo xtask tidy`: the rules of the house that no compiler checks.
//!
//! In: the sources of the workspace. Out: each breach as file, line, what, and what to do.
//! Must not change anything, but for `--bless`, which writes the generated files.

mod abi_header;
mod abi_lock;
mod files;
mod guest_abi;
mod guest_docs;
mod imports;
mod lexer;
mod paths;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::cache;

/// The generated header, below the workspace.
const HEADER: &str = "guest-kmod/imr_abi.h";
/// Folders without sources of ours.
const SKIPPED_DIRS: [&str; 3] = ["target", ".git", "node_modules"];
const SOURCE_EXTENSIONS: [&str; 4] = ["rs", "c", "h", "sh"];

/// Arguments of `cargo xtask tidy`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Write the generated files (the guest ABI's C header and lock) before checking
    #[arg(long)]
    bless: bool,
}

/// A breach of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Failure {
    path: PathBuf,
    /// From 1.
    line: usize,
    what: String,
    remedy: String,
}

impl Failure {
    fn new(path: &Path, line: usize, what: String, remedy: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, what, remedy: remedy.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}; {}", self.path.display(), self.line, self.what, self.remedy)
    }
}

/// Runs `cargo xtask tidy`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let workspace = cache::workspace();
    if args.bless {
        for (file, written) in [
            (HEADER, cache::write_if_changed(&workspace.join(HEADER), abi_header::text().as_bytes())?),
            (abi_lock::LOCK, abi_lock::bless(workspace)?),
        ] {
            eprintln!("tidy: {file} {}", if written { "written" } else { "is as it should be" });
        }
    }
    let mut failures = Vec::new();
    let files = check_sources(workspace, &mut failures)?;
    check_guest_abi(workspace, &mut failures);
    guest_docs::check(workspace, &mut failures)?;
    for failure in &failures {
        eprintln!("{failure}");
    }
    if !failures.is_empty() {
        bail!("tidy: {} failures in {files} files", failures.len());
    }
    eprintln!("tidy: {files} files, nothing to complain of");
    Ok(())
}

fn check_sources(workspace: &Path, failures: &mut Vec<Failure>) -> Result<usize> {
    let mut sources = Vec::new();
    collect(workspace, &mut sources)?;
    sources.sort();
    for path in &sources {
        let shown = path.strip_prefix(workspace).unwrap_or(path);
        if shown == Path::new(HEADER) {
            continue;
        }
        let source = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        files::check(shown, &source, failures);
        if let Ok(below) = shown.strip_prefix("imr-user/src") {
            imports::check(below, shown, &source, failures);
        }
    }
    Ok(sources.len())
}

fn collect(dir: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        let path = entry.path();
        let kind = entry.file_type().with_context(|| format!("cannot look at {}", path.display()))?;
        if kind.is_dir() {
            if !SKIPPED_DIRS.iter().any(|skipped| path.ends_with(skipped)) {
                collect(&path, sources)?;
            }
        } else if kind.is_file() && is_source(&path) {
            sources.push(path);
        }
    }
    Ok(())
}

fn is_source(path: &Path) -> bool {
    // make leaves C files of its own beside a module's.
    let generated = path.to_string_lossy().ends_with(".mod.c");
    !generated
        && path.extension().is_some_and(|extension| SOURCE_EXTENSIONS.iter().any(|known| extension == *known))
}

fn check_guest_abi(workspace: &Path, failures: &mut Vec<Failure>) {
    for name in guest_abi::forgotten() {
        failures.push(Failure::new(
            Path::new("imr-common/src/guest_abi.rs"),
            1,
            format!("`{name}` is not in the C header"),
            "name it in xtask/src/tidy/guest_abi.rs",
        ));
    }
    let expected = abi_header::text();
    let found = fs::read_to_string(workspace.join(HEADER)).unwrap_or_default();
    if found != expected {
        let same = found.lines().zip(expected.lines()).take_while(|(a, b)| a == b).count();
        failures.push(Failure::new(
            Path::new(HEADER),
            same + 1,
            "is not what imr-common/src/guest_abi.rs says".to_owned(),
            "never edit it; cargo xtask tidy --bless writes it",
        ));
    }
    abi_lock::check(workspace, failures);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_where_what_and_what_to_do() {
        let failure = Failure::new(Path::new("a/b.rs"), 3, "is wrong".to_owned(), "right it");
        assert_eq!(failure.to_string(), "a/b.rs:3: is wrong; right it");
    }

    #[test]
    fn what_make_generates_is_no_source() {
        assert!(is_source(Path::new("guest-kmod/imr_main.c")));
        assert!(!is_source(Path::new("guest-kmod/imr_guest.mod.c")));
        assert!(!is_source(Path::new("Cargo.toml")));
    }
}
