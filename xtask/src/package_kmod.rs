//! `cargo xtask package-kmod`: the Debian package of the guest module's source, for DKMS.
//!
//! In: `guest-kmod` with its `debian` folder and `dkms.conf`, docs/guest-module.md, the workspace's version. Out:
//! `target/package/imr-guest-dkms_VERSION_all.deb`, the same bytes whoever builds it, when and where.
//! Must not need root, nor build the module: DKMS does that where the package is installed.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::setup::{self, Need};
use crate::{build_kmod, cache, process};

/// The package.
pub(crate) const PACKAGE: &str = "imr-guest-dkms";
/// Its version, and that of the module: the workspace's.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
const DKMS_CONF: &str = "guest-kmod/dkms.conf";
const CHANGELOG: &str = "guest-kmod/debian/changelog";

/// Arguments of `cargo xtask package-kmod`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder to write the package to [default: target/package]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Runs `cargo xtask package-kmod`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let out = args.out.clone().unwrap_or_else(|| cache::target_dir().join("package"));
    println!("{}", build(&out)?.display());
    Ok(())
}

/// Writes the package to the folder `out` and returns where it is.
///
/// # Errors
/// `MissingPrerequisite` where dpkg-deb is missing and cannot be installed; any other error when a
/// file is missing, or versions differ.
pub(crate) fn build(out: &Path) -> Result<PathBuf> {
    setup::ensure(&[Need::Deb])?;
    let workspace = cache::workspace();
    let changelog = read(&workspace.join(CHANGELOG))?;
    check_version(DKMS_CONF, dkms_version(&read(&workspace.join(DKMS_CONF))?))?;
    check_version(CHANGELOG, changelog_version(&changelog))?;
    let epoch = epoch(&changelog)?;

    make_folder(out)?;
    // Beside the result: each process has its own, and a rename is all that another sees.
    let tree = out.join(format!(".{PACKAGE}.{}", std::process::id()));
    let draft = out.join(format!(".{PACKAGE}.{}.deb", std::process::id()));
    let built = lay_out(&tree).and_then(|()| pack(&tree, &draft, &epoch));
    let removed = fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()));
    built?;
    removed?;
    let package = out.join(format!("{PACKAGE}_{VERSION}_all.deb"));
    fs::rename(&draft, &package).with_context(|| format!("cannot write {}", package.display()))?;
    Ok(package)
}

/// The files as they are to be on the machine, and the package's own.
fn lay_out(tree: &Path) -> Result<()> {
    let workspace = cache::workspace();
    let debian = workspace.join("guest-kmod/debian");
    let source = tree.join("usr/src").join(format!("imr-guest-{VERSION}"));
    for path in sources(&workspace.join("guest-kmod"))? {
        let name = path.file_name().context("a source without a name")?;
        write(&source.join(name), 0o644, &read(&path)?)?;
    }
    write(&source.join("dkms.conf"), 0o644, &read(&workspace.join(DKMS_CONF))?)?;
    let doc = tree.join("usr/share/doc").join(PACKAGE);
    write(&doc.join("copyright"), 0o644, &read(&debian.join("copyright"))?)?;
    for (name, from) in [("changelog", CHANGELOG), ("guest-module.md", "docs/guest-module.md")] {
        let path = doc.join(name);
        write(&path, 0o644, &read(&workspace.join(from))?)?;
        // Neither a name nor a time inside.
        process::run_quiet(Command::new("gzip").args(["-9", "-n"]).arg(&path))?;
    }

    let files = files_below(&tree.join("usr"))?;
    let mut command = Command::new("md5sum");
    command.current_dir(tree);
    for file in &files {
        command.arg(file.strip_prefix(tree).context("a file outside its tree")?);
    }
    let own = tree.join("DEBIAN");
    write(&own.join("md5sums"), 0o644, &process::run_quiet(&mut command)?)?;
    for name in ["postinst", "prerm"] {
        write(&own.join(name), 0o755, &read(&debian.join(name))?.replace("@VERSION@", VERSION))?;
    }
    let control = read(&debian.join("control"))?
        .replace("@VERSION@", VERSION)
        .replace("@SIZE@", &installed_kib(&files)?.to_string());
    write(&own.join("control"), 0o644, &control)
}

fn pack(tree: &Path, package: &Path, epoch: &str) -> Result<()> {
    let times = format!("@{epoch}");
    // dpkg-deb only brings later times down to the epoch; the machine's clock may be behind it.
    process::run_quiet(
        Command::new("find").arg(tree).args(["-exec", "touch", "-h", "-d", &times, "{}", "+"]),
    )?;
    let mut command = Command::new("dpkg-deb");
    command
        .args(["--root-owner-group", "-Zxz", "--build"])
        .arg(tree)
        .arg(package)
        .env("SOURCE_DATE_EPOCH", epoch)
        // xz cuts its input by the number of threads.
        .env("DPKG_DEB_THREADS_MAX", "1");
    process::run_quiet(&mut command)?;
    Ok(())
}

/// The module's sources, by name.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let names = build_kmod::source_names(folder)?;
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// The moment the package says it was built at, in seconds since 1970: `SOURCE_DATE_EPOCH`, else
/// the newest entry's of the changelog.
fn epoch(changelog: &str) -> Result<String> {
    if let Ok(epoch) = std::env::var("SOURCE_DATE_EPOCH") {
        if epoch.is_empty() || !epoch.bytes().all(|byte| byte.is_ascii_digit()) {
            bail!("SOURCE_DATE_EPOCH={epoch:?} is no number of seconds");
        }
        return Ok(epoch);
    }
    let written = changelog.lines().find_map(|line| line.strip_prefix(" -- ")?.split_once(">  "));
    let (_, date) = written.with_context(|| format!("{CHANGELOG}: its newest entry has no date"))?;
    let said = process::run_quiet(Command::new("date").args(["-d", date, "+%s"]).env("LC_ALL", "C"))?;
    Ok(said.trim().to_owned())
}

fn dkms_version(conf: &str) -> Option<&str> {
    conf.lines().find_map(|line| line.strip_prefix("PACKAGE_VERSION=")).map(|value| value.trim_matches('"'))
}

fn changelog_version(changelog: &str) -> Option<&str> {
    Some(changelog.lines().next()?.split_once('(')?.1.split_once(')')?.0)
}

fn check_version(file: &str, found: Option<&str>) -> Result<()> {
    if found != Some(VERSION) {
        bail!(
            "{file} has version {}, the workspace {VERSION}: bring {file} up to date",
            found.unwrap_or("none")
        );
    }
    Ok(())
}

/// KiB as dpkg counts them: each file rounded up, one for each folder.
fn installed_kib(files: &[PathBuf]) -> Result<u64> {
    let mut folders = BTreeSet::new();
    let mut kib = 0;
    for file in files {
        let size = fs::metadata(file).with_context(|| format!("cannot look at {}", file.display()))?.len();
        kib += size.div_ceil(1024);
        folders.extend(file.parent());
    }
    Ok(kib + folders.len() as u64)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        if path.is_dir() {
            files.extend(files_below(&path)?);
        } else {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes `path` and the folders above it, with permissions that the umask does not change.
fn write(path: &Path, mode: u32, content: &str) -> Result<()> {
    make_folder(path.parent().unwrap_or(Path::new(".")))?;
    let mut options = fs::OpenOptions::new();
    let file = options.create(true).write(true).truncate(true).mode(mode).open(path);
    file.and_then(|mut file| {
        file.write_all(content.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(mode))
    })
    .with_context(|| format!("cannot write {}", path.display()))
}

fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() || path.as_os_str() == OsStr::new("") {
        return Ok(());
    }
    make_folder(path.parent().unwrap_or(Path::new("")))?;
    let made = DirBuilder::new().mode(0o755).create(path);
    match made.and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755))) {
        // Another process was quicker.
        Err(_) if path.is_dir() => Ok(()),
        result => result.with_context(|| format!("cannot create {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_has_the_workspaces_version() {
        let read = |file: &str| read(&cache::workspace().join(file)).unwrap();
        assert_eq!(dkms_version(&read(DKMS_CONF)), Some(VERSION));
        assert_eq!(changelog_version(&read(CHANGELOG)), Some(VERSION));
    }

    #[test]
    fn another_version_says_which_file_to_change() {
        let error = check_version(CHANGELOG, Some("0.0.1")).unwrap_err().to_string();
        assert!(error.contains(CHANGELOG) && error.contains("0.0.1") && error.contains(VERSION), "{error}");
        assert!(check_version(DKMS_CONF, None).is_err());
    }

    #[test]
    fn the_newest_entry_dates_the_package() {
        let text = "p (2) unstable; urgency=low\n\n  * x\n\n -- A <a@b>  Thu, 01 Jan 1970 00:01:40 +0000\n\n -- B <b@b>  never\n";
        assert_eq!(changelog_version(text), Some("2"));
        if std::env::var_os("SOURCE_DATE_EPOCH").is_none() {
            assert_eq!(epoch(text).unwrap(), "100");
            assert!(epoch("p (2) unstable\n").is_err());
        }
    }
}
