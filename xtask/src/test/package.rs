//! The ring package: the guest's module as strangers get it, and its source as the kernel's own tools see it.
//!
//! In: a filter. Out: a line a test; of an installation the log in `target/package-logs`.
//! Must leave nothing behind: what is installed is in a file system that ends with its process.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use rustix::fs::Mode;

use super::tally::Tally;
use crate::kernel::KernelLine;
use crate::setup::{self, MissingPrerequisite, Need, Root};
use crate::{build_kmod, cache, package_kmod, process};

const INSTALL: &str = include_str!("package/install.sh");
/// How many of a log's last lines a failure shows.
const LAST_LINES: usize = 30;
/// Names that belong to the kernel, and break its rule: the macro's pattern in page-flags.h makes them.
const KERNELS_NAMES: [&str; 2] = ["<__ClearPageReported>", "<__SetPageReported>"];

/// What is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    /// The same sources make the same package.
    Reproducible,
    /// The kernel's check of style.
    Checkpatch,
    /// The kernel's check of address spaces, endianness and locks.
    Sparse(KernelLine),
    /// Installing, building by DKMS, upgrading, removing.
    Install(Root),
}

impl Test {
    const ALL: [Self; 6] = [
        Self::Reproducible,
        Self::Checkpatch,
        Self::Sparse(KernelLine::V6_1),
        Self::Sparse(KernelLine::V6_12),
        Self::Install(Root::Debian12),
        Self::Install(Root::Debian13),
    ];

    fn name(self) -> String {
        match self {
            Self::Reproducible => "package::reproducible".to_owned(),
            Self::Checkpatch => "package::checkpatch".to_owned(),
            Self::Sparse(line) => format!("package::sparse_{}", line.as_str().replace('.', "_")),
            Self::Install(root) => format!("package::install_{}", root.as_str()),
        }
    }

    /// Runs it and says what there was to see.
    fn run(self, place: &Path) -> Result<String> {
        match self {
            Self::Reproducible => reproducible(place),
            Self::Checkpatch => checkpatch(place),
            Self::Sparse(line) => Ok(format!("{} files", build_kmod::sparse(line)?)),
            Self::Install(root) => install(root, place),
        }
    }
}

/// Runs the tests whose names contain `filter`.
///
/// # Errors
/// When what they need cannot be installed, though it could be.
pub(super) fn run(filter: Option<&str>) -> Result<Tally> {
    let mut tests = Test::ALL.to_vec();
    tests.retain(|test| filter.is_none_or(|filter| test.name().contains(filter)));
    let mut tally = Tally::default();
    if tests.is_empty() {
        return Ok(tally);
    }
    if let Err(error) = setup::ensure(&[Need::Package]) {
        if !error.is::<MissingPrerequisite>() {
            return Err(error);
        }
        tests.iter().for_each(|test| tally.skip(&test.name(), &error));
        return Ok(tally);
    }
    let _lock = cache::lock("package-ring")?;
    let place = cache::target_dir().join("package-logs");
    fs::create_dir_all(&place).with_context(|| format!("cannot create {}", place.display()))?;
    for test in tests {
        let start = Instant::now();
        match test.run(&place) {
            Err(error) if error.is::<MissingPrerequisite>() => tally.skip(&test.name(), &error),
            seen => tally.count(&test.name(), start, seen),
        }
    }
    Ok(tally)
}

fn reproducible(place: &Path) -> Result<String> {
    let mut packages = Vec::new();
    // What a careful user's shell, or another's, may have set.
    for (name, mask) in [("first", 0o022), ("second", 0o077)] {
        let dir = place.join(name);
        cache::remove_tree(&dir)?;
        let umask = rustix::process::umask(Mode::from_raw_mode(mask));
        let built = package_kmod::build(&dir);
        rustix::process::umask(umask);
        let built = built?;
        packages.push(fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?);
    }
    if packages[0] != packages[1] {
        bail!("two builds of the package differ: compare {0}/first and {0}/second", place.display());
    }
    Ok(format!("{} bytes", packages[0].len()))
}

fn checkpatch(place: &Path) -> Result<String> {
    let script = setup::checkpatch().context("checkpatch.pl was there a moment ago")?;
    let folder = cache::workspace().join("guest-kmod");
    let names = build_kmod::source_names(&folder)?;
    let mut command = Command::new("perl");
    command.arg(script).args(["--strict", "--no-tree", "--no-summary", "--terse", "--show-types", "--file"]);
    let line = process::command_line(&command);
    let output = command
        .args(names.iter().map(|name| folder.join(name)))
        // It leaves a file of what it has learnt.
        .current_dir(place)
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("cannot start `{line}`"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = complaints(&said);
    if !complaints.is_empty() {
        bail!("`{line}` complains:\n{}", complaints.join("\n"));
    }
    // It ends with 1 for a complaint, and says so.
    if !output.status.success() && said.trim().is_empty() {
        bail!("`{line}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(format!("{} files", names.len()))
}

/// What checkpatch says that is not the kernel's own fault.
fn complaints(said: &str) -> Vec<&str> {
    let kernels =
        |line: &str| line.contains("CAMELCASE") && KERNELS_NAMES.iter().any(|name| line.ends_with(name));
    said.lines().filter(|line| !line.trim().is_empty() && !kernels(line)).collect()
}

fn install(root: Root, place: &Path) -> Result<String> {
    if process::probe(setup::as_root("unshare")?.args(NAMESPACES).arg("true")).is_none() {
        let advice = "this machine gives root no namespaces of its own (a container without CAP_SYS_ADMIN?)";
        return Err(MissingPrerequisite { list: Vec::new(), advice: advice.to_owned() }.into());
    }
    let archive = setup::root_archive(root).context("the archive was there a moment ago")?;
    let package = package_kmod::build(place)?;
    let script = place.join("install.sh");
    cache::write_if_changed(&script, INSTALL.as_bytes())?;
    let empty = place.join("root");
    fs::create_dir_all(&empty).with_context(|| format!("cannot create {}", empty.display()))?;
    let path = place.join(format!("{}.log", root.as_str()));
    let log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;

    let mut command = setup::as_root("unshare")?;
    command.args(NAMESPACES).arg("sh").args([&script, &archive, &package, &empty]).arg(package_kmod::VERSION);
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("cannot write to the log twice")?)
        .stderr(log);
    let status =
        command.status().with_context(|| format!("cannot start `{}`", process::command_line(&command)))?;
    let said = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let said = String::from_utf8_lossy(&said);
    if !status.success() {
        bail!("it ended with {status}; {} has all of it, the end is:\n{}", path.display(), last_lines(&said));
    }
    let builds = sections(&said, "warnings ");
    let warnings: Vec<&str> = builds.iter().flat_map(|said| build_kmod::warnings(said)).collect();
    if !warnings.is_empty() {
        bail!("with warnings, which are errors here ({}):\n{}", path.display(), warnings.join("\n"));
    }
    let kernels = built(&said);
    let expected = if root == Root::Debian12 { KernelLine::ALL.len() } else { 1 };
    if kernels.len() != expected || builds.len() != expected {
        bail!(
            "built for {} kernels, with warnings on for {}, where {expected} have headers: {}",
            kernels.len(),
            builds.len(),
            path.display()
        );
    }
    Ok(kernels.join(", "))
}

/// Mounts and processes end with the first process; no network, so nothing is fetched.
const NAMESPACES: [&str; 5] = ["--mount", "--pid", "--fork", "--kill-child", "--net"];

/// What the log says below each title that begins so.
fn sections<'a>(said: &'a str, title: &str) -> Vec<&'a str> {
    said.split("\n== ").filter(|section| section.starts_with(title)).collect()
}

/// The kernels that the module was built for.
fn built(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("built ")).collect()
}

fn last_lines(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpatch_may_complain_of_the_kernels_names_only() {
        let said = "imr_sweep.c:226: CHECK:CAMELCASE: Avoid CamelCase: <__ClearPageReported>\n\n\
                    imr_sweep.c:9: CHECK:CAMELCASE: Avoid CamelCase: <myName>\n\
                    imr_main.c:1: WARNING:LONG_LINE: line length of 120 exceeds 100 columns\n";
        assert_eq!(complaints(said).len(), 2);
    }

    #[test]
    fn what_was_built_is_read_from_the_log() {
        let said = "== module of a\nbuilt a\nbuilt b-cloud\nrebuilt c\n== warnings a\nCC x\n== warnings b\nCC y\n== again";
        assert_eq!(built(said), ["a", "b-cloud"]);
        assert_eq!(sections(said, "warnings "), ["warnings a\nCC x", "warnings b\nCC y"]);
    }
}
