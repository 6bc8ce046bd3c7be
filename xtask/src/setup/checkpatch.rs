//! checkpatch, the kernel's own check of style, taken out of Debian's package of the kernel's source.
//!
//! In: apt's package. Out: the script and the lists it reads, in the cache.
//! Must not keep the rest: that is 1.5 GB.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::apt::Apt;
use crate::{cache, process};

const SOURCE: &str = "linux-source-6.12";
const FILES: [&str; 3] = ["checkpatch.pl", "spelling.txt", "const_structs.checkpatch"];

/// The script, where it is in the cache.
pub(crate) fn find() -> Option<PathBuf> {
    let dir = dir().ok()?;
    FILES.iter().all(|file| dir.join(file).is_file()).then(|| dir.join(FILES[0]))
}

/// Fetches it.
pub(super) fn fetch(apt: &mut Apt) -> Result<()> {
    apt.ensure_backports()?;
    let dir = dir()?;
    let work = dir.with_extension("partial");
    cache::remove_tree(&work)?;
    fs::create_dir_all(&work).with_context(|| format!("cannot create {}", work.display()))?;
    eprintln!("setup: downloading {SOURCE} for its checkpatch.pl");
    if apt.download(&[SOURCE.to_owned()], &work).is_err() {
        // A version that the archive no longer has: the lists are too old.
        apt.update()?;
        apt.download(&[SOURCE.to_owned()], &work)?;
    }
    let mut packages = fs::read_dir(&work).with_context(|| format!("cannot list {}", work.display()))?;
    let Some(Ok(package)) = packages.next() else {
        bail!("apt-get download {SOURCE} left nothing in {}", work.display());
    };
    process::run_quiet(Command::new("dpkg-deb").arg("-x").arg(package.path()).arg(&work))?;
    let mut unpack = Command::new("tar");
    unpack.args(["--strip-components=2", "-C"]).arg(&work);
    unpack.arg("-xJf").arg(work.join("usr/src").join(format!("{SOURCE}.tar.xz")));
    unpack.args(FILES.map(|file| format!("{SOURCE}/scripts/{file}")));
    process::run_quiet(&mut unpack)?;
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for file in FILES {
        let to = dir.join(file);
        fs::rename(work.join(file), &to).with_context(|| format!("cannot write {}", to.display()))?;
    }
    cache::remove_tree(&work)
}

fn dir() -> Result<PathBuf> {
    Ok(cache::dir()?.join("checkpatch"))
}
