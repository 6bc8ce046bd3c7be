//! `cargo xtask build-kmod`: the guest's module for Debian's kernels, and those of the tests.
//!
//! In: the sources in `guest-kmod`, `tests/hostile-kmod` and `tests/pages-kmod`. Out: `imr_guest.ko` in
//! `target/kmod/<line>`, `imr_hostile.ko` in `hostile-<line>`, `imr_pages.ko` in `pages-<line>`; a warning is an error.
//! Must not write into the source folders: two kernel lines are built from them.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};

use crate::kernel::KernelLine;
use crate::setup::{self, Need};
use crate::{cache, process};

/// A module and where it comes from.
struct Module {
    /// Its file.
    name: &'static str,
    /// Its sources, from the workspace.
    folder: &'static str,
    /// Files of other folders that it is built from, too.
    borrowed: &'static [&'static str],
    /// Before the kernel line in the name of the folder that it is built in.
    prefix: &'static str,
}

const GUEST: Module = Module { name: "imr_guest.ko", folder: "guest-kmod", borrowed: &[], prefix: "" };
const HOSTILE: Module = Module {
    name: "imr_hostile.ko",
    folder: "tests/hostile-kmod",
    borrowed: &["guest-kmod/imr_abi.h"],
    prefix: "hostile-",
};
const PAGES: Module =
    Module { name: "imr_pages.ko", folder: "tests/pages-kmod", borrowed: &[], prefix: "pages-" };
/// The guest's, apart from the usual build: looked at by sparse.
const SPARSE: Module = Module { prefix: "sparse-", ..GUEST };
/// Written after a build without warnings; holds the release it was built for.
const STAMP: &str = ".imr-built-for";

/// Arguments of `cargo xtask build-kmod`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kernel line to build for, 6.1 or 6.12; may be repeated [default: both]
    #[arg(long = "kernel", value_name = "LINE")]
    kernels: Vec<KernelLine>,
}

/// Runs `cargo xtask build-kmod`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let lines: &[KernelLine] = if args.kernels.is_empty() { &KernelLine::ALL } else { &args.kernels };
    for line in lines {
        for module in [ensure_built(*line)?, ensure_hostile_built(*line)?, ensure_pages_built(*line)?] {
            eprintln!("build-kmod: {}", module.display());
        }
    }
    Ok(())
}

/// Builds the module for `line` if its sources or the headers changed, and returns where it is.
///
/// # Errors
/// `MissingPrerequisite` where headers or compiler are missing and could not be installed; any
/// other error when the build failed or warned.
pub(crate) fn ensure_built(line: KernelLine) -> Result<PathBuf> {
    ensure(&GUEST, line)
}

/// As [`ensure_built`], the module of the hostile guest.
///
/// # Errors
/// As there.
pub(crate) fn ensure_hostile_built(line: KernelLine) -> Result<PathBuf> {
    ensure(&HOSTILE, line)
}

/// As [`ensure_built`], the module that looks at what free pages hold.
///
/// # Errors
/// As there.
pub(crate) fn ensure_pages_built(line: KernelLine) -> Result<PathBuf> {
    ensure(&PAGES, line)
}

fn ensure(module: &Module, line: KernelLine) -> Result<PathBuf> {
    setup::ensure(&[Need::Kmod])?;
    let _lock = cache::lock("build-kmod")?;
    let (release, headers) = setup::headers(line).with_context(|| format!("no headers of kernel {line}"))?;
    let dir = cache::target_dir().join("kmod").join(format!("{}{line}", module.prefix));
    let sources = copy_sources(module, &dir)?;
    let built = dir.join(module.name);
    if built.is_file() && is_fresh(&dir, &sources, &release) {
        return Ok(built);
    }
    let stamp = dir.join(STAMP);
    remove(&stamp)?;
    remove(&built)?;
    eprintln!("build-kmod: building for {release}");
    make(&headers, &dir, &[])?;
    if !built.is_file() {
        bail!("make was content but made no {}; does {}/Kbuild name it?", built.display(), module.folder);
    }
    fs::write(&stamp, &release).with_context(|| format!("cannot write {}", stamp.display()))?;
    Ok(built)
}

/// Brings `dir` up to date with the module's sources, touching only what differs. Returns their names.
fn copy_sources(module: &Module, dir: &Path) -> Result<BTreeSet<OsString>> {
    fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let from = cache::workspace().join(module.folder);
    let own = source_names(&from)?.into_iter().map(|name| from.join(name));
    let borrowed = module.borrowed.iter().map(|path| cache::workspace().join(path));
    let mut sources = BTreeSet::new();
    for path in own.chain(borrowed) {
        let name = path.file_name().context("a source without a name")?.to_owned();
        let content = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        cache::write_if_changed(&dir.join(&name), &content)?;
        sources.insert(name);
    }
    // A source that was removed or renamed must not go on being compiled.
    for stale in source_names(dir)?.difference(&sources) {
        let generated = stale.to_string_lossy().ends_with(".mod.c");
        if !generated {
            remove(&dir.join(stale))?;
            remove(&dir.join(STAMP))?;
        }
    }
    Ok(sources)
}

/// The names of the files in `dir` that a module is built from.
///
/// # Errors
/// When `dir` cannot be listed.
pub(crate) fn source_names(dir: &Path) -> Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        if let Some(name) = path.file_name().filter(|name| is_source(name)) {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

fn is_source(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let generated = name.starts_with('.') || name.ends_with(".mod.c");
    !generated && (name.ends_with(".c") || name.ends_with(".h") || name == "Kbuild" || name == "Makefile")
}

fn is_fresh(dir: &Path, sources: &BTreeSet<OsString>, release: &str) -> bool {
    let modified = |path: PathBuf| fs::metadata(path).and_then(|data| data.modified()).ok();
    let stamp = dir.join(STAMP);
    let Some(built) = modified(stamp.clone()) else { return false };
    let newest = sources.iter().filter_map(|name| modified(dir.join(name))).max();
    fs::read_to_string(stamp).is_ok_and(|built_for| built_for == release)
        && newest.unwrap_or(SystemTime::UNIX_EPOCH) <= built
}

/// Has sparse look at the guest's module against the headers of `line`, and returns at how many files
/// it looked.
///
/// # Errors
/// As [`ensure_built`]; sparse's warnings are errors, too.
pub(crate) fn sparse(line: KernelLine) -> Result<usize> {
    setup::ensure(&[Need::Kmod, Need::Package])?;
    let _lock = cache::lock("build-kmod")?;
    let (release, headers) = setup::headers(line).with_context(|| format!("no headers of kernel {line}"))?;
    let dir = cache::target_dir().join("kmod").join(format!("{}{line}", SPARSE.prefix));
    let sources = copy_sources(&SPARSE, &dir)?;
    let said = make(&headers, &dir, &["C=2"])?;
    // Kbuild goes on without a sparse that it finds too old.
    let looked_at = said.lines().filter(|line| line.trim_start().starts_with("CHECK ")).count();
    let to_look_at = sources.iter().filter(|name| name.to_string_lossy().ends_with(".c")).count();
    if looked_at != to_look_at {
        bail!("{release}: sparse looked at {looked_at} of {to_look_at} files; make said:\n{said}");
    }
    Ok(looked_at)
}

/// Runs the kernel's make, and returns what it said, standard output first.
fn make(headers: &Path, dir: &Path, more: &[&str]) -> Result<String> {
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let mut command = Command::new("make");
    process::forget_calling_cargo(&mut command)
        .arg(format!("-j{jobs}"))
        .arg("-C")
        .arg(headers)
        .arg(format!("M={}", dir.display()))
        // The headers come without the vmlinux and the pahole that a module's BTF needs.
        .args(["W=1", "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
        .args(more)
        // The compiler's messages are searched, so they have to be in one language.
        .env("LC_ALL", "C");
    let line = process::command_line(&command);
    let output = command.output().with_context(|| format!("cannot start `{line}`"))?;
    let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.push_str(&String::from_utf8_lossy(&output.stderr));
    if !output.status.success() {
        bail!("`{line}` ended with {}; it said:\n{said}", output.status);
    }
    let warnings = warnings(&said);
    if !warnings.is_empty() {
        bail!("`{line}` warned, and warnings are errors here:\n{}", warnings.join("\n"));
    }
    Ok(said)
}

/// The lines of make's output that warn of something in the module. (sparse has errors, too, and make
/// goes on after them.)
pub(crate) fn warnings(said: &str) -> Vec<&str> {
    said.lines()
        .filter(|line| ["warning:", "WARNING:", " error:"].iter().any(|word| line.contains(word)))
        // Kbuild compares the compiler's full version text with that of the machine Debian builds
        // on; a security update of gcc changes it and means nothing for a module.
        .filter(|line| !line.contains("the compiler differs from the one used to build the kernel"))
        .collect()
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_person_wrote_is_a_source() {
        let is = |name: &str| is_source(OsStr::new(name));
        assert!(is("imr_main.c") && is("imr_abi.h") && is("Kbuild") && is("Makefile"));
        assert!(
            !is("imr_guest.mod.c") && !is(".module-common.c") && !is("imr_main.o") && !is("Module.symvers")
        );
    }

    #[test]
    fn warnings_of_compiler_and_modpost_are_found() {
        let said = "  CC [M]  a.o\na.c:3:5: warning: unused variable 'x' [-Wunused-variable]\n\
                    WARNING: modpost: missing MODULE_DESCRIPTION() in a.o\n\
                    warning: the compiler differs from the one used to build the kernel\n";
        assert_eq!(warnings(said).len(), 2);
    }
}
