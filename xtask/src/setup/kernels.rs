//! Debian's cloud kernels of both lines: headers to build guest-kmod, images for the testbed.
//!
//! In: apt's packages. Out: trees unpacked into the cache, headers and image of the same release.
//! Must not install kernels on the machine: the 6.12 headers depend on their image, which would
//! put a kernel into /boot of a developer's machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::apt::Apt;
use crate::kernel::KernelLine;
use crate::{cache, process};

/// Where one kernel is.
#[derive(Debug, Clone)]
pub(crate) struct KernelFiles {
    /// Its release, as `uname -r` says it.
    pub(crate) release: String,
    /// Its image.
    pub(crate) vmlinuz: PathBuf,
    /// Its folder of modules, `.../lib/modules/<release>`, with `modules.dep`.
    pub(crate) modules: PathBuf,
}

/// The release and the folder for `make -C` of the headers of `line`, where they are in the cache.
pub(crate) fn headers(line: KernelLine) -> Option<(String, PathBuf)> {
    let root = root(line).ok()?;
    let release = fs::read_to_string(root.join("release")).ok()?.trim().to_owned();
    let dir = root.join(&release).join("headers/usr/src").join(format!("linux-headers-{release}"));
    dir.join("Makefile").is_file().then_some((release, dir))
}

/// Headers and image of `line`, where both are in the cache.
pub(crate) fn kernel_files(line: KernelLine) -> Option<KernelFiles> {
    let (release, _) = headers(line)?;
    let image = root(line).ok()?.join(&release).join("image");
    let vmlinuz = image.join("boot").join(format!("vmlinuz-{release}"));
    let modules = modules_dir(&image, &release)?;
    (vmlinuz.is_file() && modules.join("modules.dep").is_file()).then_some(KernelFiles {
        release,
        vmlinuz,
        modules,
    })
}

fn modules_dir(image: &Path, release: &str) -> Option<PathBuf> {
    // Debian moves from /lib to /usr/lib from one version to another.
    ["lib/modules", "usr/lib/modules"]
        .into_iter()
        .map(|folder| image.join(folder).join(release))
        .find(|dir| dir.is_dir())
}

/// Fetches the headers of `line`, and its image where `with_image`, into the cache.
pub(super) fn fetch(apt: &mut Apt, line: KernelLine, with_image: bool) -> Result<()> {
    if line == KernelLine::V6_12 {
        apt.ensure_backports()?;
    }
    let mut release = headers(line).map(|(release, _)| release);
    if let Some(known) = &release
        && with_image
        && apt.show(&format!("linux-image-{known}"))?.is_empty()
    {
        // The archive has moved on; headers and image must be of one release.
        release = None;
    }
    let release = match release {
        Some(release) => release,
        None => {
            let release = newest(apt, line)?;
            fetch_headers(apt, line, &release)?;
            let name = root(line)?.join("release");
            cache::write_if_changed(&name, release.as_bytes())?;
            release
        }
    };
    if with_image && kernel_files(line).is_none() {
        fetch_image(apt, line, &release)?;
    }
    Ok(())
}

/// The newest release of `line`, from what the metapackage of the headers depends on.
pub(super) fn newest(apt: &mut Apt, line: KernelLine) -> Result<String> {
    let arch = debian_arch()?;
    // The second is how the release itself offers a later line than its own.
    let metapackages = [format!("linux-headers-cloud-{arch}"), format!("linux-headers-{line}-cloud-{arch}")];
    for metapackage in &metapackages {
        let found = newest_in(&apt.show(metapackage)?, line);
        if let Some(release) = found {
            return Ok(release);
        }
    }
    apt.update()?;
    for metapackage in &metapackages {
        if let Some(release) = newest_in(&apt.show(metapackage)?, line) {
            return Ok(release);
        }
    }
    bail!("apt offers no kernel {line}: no version of {} is of that line", metapackages.join(" or "))
}

fn newest_in(versions: &[super::apt::Stanza], line: KernelLine) -> Option<String> {
    let prefix = format!("{line}.");
    versions.iter().filter(|version| version.version.starts_with(&prefix)).find_map(|version| {
        dependencies(&version.depends).find_map(|name| name.strip_prefix("linux-headers-").map(str::to_owned))
    })
}

/// The names of the packages in a `Depends` field; of alternatives, the first.
fn dependencies(depends: &str) -> impl Iterator<Item = &str> {
    depends.split(',').filter_map(|one| one.split_whitespace().next())
}

fn fetch_headers(apt: &mut Apt, line: KernelLine, release: &str) -> Result<()> {
    let package = format!("linux-headers-{release}");
    let Some(version) = apt.show(&package)?.into_iter().next() else {
        bail!("apt knows no package {package}, though the metapackage names it");
    };
    // The parts all kernels of this release share, and the build scripts; they are of one version.
    let parts = dependencies(&version.depends).filter(|name| {
        (name.starts_with("linux-headers-") && name.contains("-common")) || name.starts_with("linux-kbuild-")
    });
    let mut packages: Vec<String> = std::iter::once(package.as_str())
        .chain(parts)
        .map(|name| format!("{name}={}", version.version))
        .collect();
    packages.dedup();
    if packages.len() != 3 {
        bail!(
            "package {package} {} depends on other parts than expected: {}",
            version.version,
            version.depends
        );
    }
    let into = root(line)?.join(release).join("headers");
    unpack(apt, &packages, &into, |fresh| {
        // The Makefile includes the shared part by the absolute path it would have when installed.
        let makefile = fresh.join("usr/src").join(&package).join("Makefile");
        let text =
            fs::read_to_string(&makefile).with_context(|| format!("cannot read {}", makefile.display()))?;
        let ours = format!("include {}/usr/src/", into.display());
        let text = text.replace("include /usr/src/", &ours);
        fs::write(&makefile, text).with_context(|| format!("cannot write {}", makefile.display()))
    })
}

fn fetch_image(apt: &mut Apt, line: KernelLine, release: &str) -> Result<()> {
    let package = format!("linux-image-{release}");
    let Some(version) = apt.show(&package)?.into_iter().next() else {
        bail!(
            "apt knows no package {package}; its headers are here, so the archive has moved on: set up again"
        );
    };
    let into = root(line)?.join(release).join("image");
    unpack(apt, &[format!("{package}={}", version.version)], &into, |fresh| {
        let Some(modules) = modules_dir(fresh, release) else {
            bail!("package {package} has no modules of {release}");
        };
        // depmod wants lib/modules below its base, wherever this package keeps them.
        let base = modules.ancestors().nth(3).unwrap_or(fresh);
        let depmod = process::find_program("depmod").context("no depmod: install the package kmod")?;
        process::run_quiet(Command::new(depmod).arg("-b").arg(base).arg(release))?;
        Ok(())
    })
}

/// Downloads `packages` and unpacks them into `into`, which appears only when `finish` is done.
fn unpack(
    apt: &mut Apt,
    packages: &[String],
    into: &Path,
    finish: impl Fn(&Path) -> Result<()>,
) -> Result<()> {
    eprintln!("setup: downloading {} into {}", packages.join(" "), into.display());
    let fresh = into.with_extension("partial");
    let downloads = into.with_extension("debs");
    for dir in [&fresh, &downloads] {
        cache::remove_tree(dir)?;
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    }
    if apt.download(packages, &downloads).is_err() {
        // A version that the archive no longer has: the lists are too old.
        apt.update()?;
        apt.download(packages, &downloads)?;
    }
    for entry in fs::read_dir(&downloads).with_context(|| format!("cannot list {}", downloads.display()))? {
        let package = entry.with_context(|| format!("cannot list {}", downloads.display()))?.path();
        process::run_quiet(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&fresh))?;
    }
    finish(&fresh)?;
    cache::remove_tree(&downloads)?;
    cache::remove_tree(into)?;
    fs::rename(&fresh, into)
        .with_context(|| format!("cannot rename {} to {}", fresh.display(), into.display()))
}

fn root(line: KernelLine) -> Result<PathBuf> {
    Ok(cache::dir()?.join("kernels").join(line.as_str()))
}

/// This machine's architecture, as Debian calls it.
pub(super) fn debian_arch() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("Debian has no cloud kernel for {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::apt::Stanza;
    use super::*;

    fn stanza(version: &str, depends: &str) -> Stanza {
        Stanza { version: version.to_owned(), depends: depends.to_owned() }
    }

    #[test]
    fn each_line_finds_its_own_newest_version() {
        let versions = [
            stanza("6.12.95-1~bpo12+1", "linux-headers-6.12.95+deb12-cloud-amd64 (= 6.12.95-1~bpo12+1)"),
            stanza("6.1.192-2", "linux-headers-6.1.0-56-cloud-amd64 (= 6.1.192-2)"),
            stanza("6.1.176-1", "linux-headers-6.1.0-50-cloud-amd64 (= 6.1.176-1)"),
        ];
        assert_eq!(newest_in(&versions, KernelLine::V6_1).as_deref(), Some("6.1.0-56-cloud-amd64"));
        assert_eq!(newest_in(&versions, KernelLine::V6_12).as_deref(), Some("6.12.95+deb12-cloud-amd64"));
        assert_eq!(newest_in(&versions[..1], KernelLine::V6_1), None);
    }

    #[test]
    fn of_alternatives_the_first_counts() {
        let names: Vec<&str> = dependencies("a (>= 4.12~), b (= 1) | c (= 1), d").collect();
        assert_eq!(names, ["a", "b", "d"]);
    }
}
