//! Debian systems to install the guest's package in: archives of small roots with DKMS and kernel headers.
//!
//! In: the machine's own Debian archive, by mmdebstrap. Out: one archive a system in the cache.
//! Must not be changed once made: whoever uses one unpacks it. To get newer kernels, remove it and set up again.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::apt::{self, Apt, BACKPORTS};
use super::{apt_sources, kernels};
use crate::kernel::KernelLine;
use crate::{cache, process};

/// A Debian release to install in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Root {
    /// Debian 12 with headers of 6.1, its own, and 6.12, of its backports.
    Debian12,
    /// Debian 13 with headers of the newest kernel that any stable Debian offers, of its backports.
    Debian13,
}

impl Root {
    /// Each.
    pub(crate) const ALL: [Self; 2] = [Self::Debian12, Self::Debian13];

    /// Its name.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Debian12 => "debian12",
            Self::Debian13 => "debian13",
        }
    }

    fn suites(self) -> (&'static str, &'static str) {
        match self {
            Self::Debian12 => ("bookworm", BACKPORTS),
            Self::Debian13 => ("trixie", "trixie-backports"),
        }
    }

    fn headers(self, apt: &mut Apt) -> Result<Vec<String>> {
        match self {
            Self::Debian12 => {
                let package = |line| Ok(format!("linux-headers-{}", kernels::newest(apt, line)?));
                KernelLine::ALL.into_iter().map(package).collect()
            }
            Self::Debian13 => {
                Ok(vec![format!("linux-headers-cloud-{}/{}", kernels::debian_arch()?, self.suites().1)])
            }
        }
    }
}

/// The archive of `root`, where it is in the cache.
pub(crate) fn find(root: Root) -> Option<PathBuf> {
    Some(archive(root).ok()?).filter(|path| path.is_file())
}

/// Makes the archive of `root`. Takes a minute or two.
pub(super) fn fetch(apt: &mut Apt, root: Root) -> Result<()> {
    let path = archive(root)?;
    let folder = path.parent().context("the cache has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    apt.ensure_backports()?;
    let mut packages = vec!["dkms".to_owned()];
    packages.extend(root.headers(apt)?);
    let (suite, _) = root.suites();
    let sources = folder.join(format!("{}.sources", root.as_str()));
    fs::write(&sources, entries(root)?).with_context(|| format!("cannot write {}", sources.display()))?;

    eprintln!("setup: mmdebstrap {suite} with {} into {}", packages.join(" "), path.display());
    // mmdebstrap compresses by the name's ending.
    let draft = folder.join(format!("{}.partial.tar.zst", root.as_str()));
    let mut command = apt::as_root("mmdebstrap")?;
    command
        .args(["--quiet", "--mode=root", "--variant=minbase", "--format=tar"])
        // It is written once, and a crash only means to write it again.
        .arg("--dpkgopt=force-unsafe-io")
        .arg(format!("--include={}", packages.join(",")))
        .args([suite.as_ref(), draft.as_os_str(), sources.as_os_str()]);
    let made = process::run_quiet(&mut command);
    if made.is_err() {
        fs::remove_file(&draft).ok();
    }
    made?;
    fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))
}

fn archive(root: Root) -> Result<PathBuf> {
    Ok(cache::dir()?.join("roots").join(format!("{}.tar.zst", root.as_str())))
}

/// apt's sources inside: of the archives, and signed by the keys, that this machine uses.
fn entries(root: Root) -> Result<String> {
    let targets = apt_sources::index_targets()?;
    let of = |suite: &str| targets.iter().find(|target| target.is(suite) && target.component == "main");
    let Some(main) = of("bookworm") else {
        bail!("apt has no source for Debian 12 (`apt-get indextargets` lists no suite bookworm)");
    };
    let (suite, backports) = root.suites();
    let mut text = main.entry(&format!("{suite} {backports}"))?;
    if root == Root::Debian12
        && let Some(security) = of("bookworm-security")
    {
        text.push('\n');
        text.push_str(&security.entry("bookworm-security")?);
    }
    Ok(text)
}
