//! Where things live: the workspace, its target directory, and the cache of what setup fetched.
//!
//! In: the environment. Out: paths that exist, and locks that the kernel drops when we die.
//! Must not know what is kept there.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::FlockOperation;

/// The root of the workspace.
pub(crate) fn workspace() -> &'static Path {
    // Cargo gives the manifest's folder of xtask itself, one level below the workspace.
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The workspace's target directory, wherever the user moved it.
pub(crate) fn target_dir() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => workspace().join(dir),
        _ => workspace().join("target"),
    }
}

/// The cache directory, made if need be: `$IMR_CACHE_DIR`, else `$XDG_CACHE_HOME/imr`, else
/// `~/.cache/imr`.
pub(crate) fn dir() -> Result<PathBuf> {
    let Some(dir) = choose(|name| env::var_os(name).map(PathBuf::from)) else {
        bail!("no place for the cache: set HOME, XDG_CACHE_HOME or IMR_CACHE_DIR");
    };
    fs::create_dir_all(&dir).with_context(|| {
        format!("cannot create the cache directory {}; set IMR_CACHE_DIR to another", dir.display())
    })?;
    Ok(dir)
}

fn choose(variable: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    // The base directory specification says that a relative path is to be ignored.
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    absolute("IMR_CACHE_DIR")
        .or_else(|| absolute("XDG_CACHE_HOME").map(|dir| dir.join("imr")))
        .or_else(|| absolute("HOME").map(|dir| dir.join(".cache/imr")))
}

/// Removes a folder with all that is in it, if it is there.
///
/// # Errors
/// When it is there and cannot be removed.
pub(crate) fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// An exclusive lock, held until it is dropped or the process ends.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Closing the file releases the lock.
    _file: File,
}

/// Takes the lock called `name`, waiting for whoever holds it, and says so when it has to wait.
pub(crate) fn lock(name: &str) -> Result<Lock> {
    let path = dir()?.join(format!("{name}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open the lock file {}", path.display()))?;
    if rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        eprintln!("{name}: another one is at work; waiting for it ({})", path.display());
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .with_context(|| format!("cannot lock {}", path.display()))?;
    }
    Ok(Lock { _file: file })
}

/// Writes `content` to `path` only where it differs, so that what depends on it is not rebuilt.
/// Returns whether it was written.
pub(crate) fn write_if_changed(path: &Path, content: &[u8]) -> Result<bool> {
    if fs::read(path).is_ok_and(|old| old == content) {
        return Ok(false);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
    }
    // A reader must see the old file or the new one, never half of it.
    let mut fresh = path.as_os_str().to_owned();
    // Nor must two writers, of this process or of others, have the same one in hand.
    fresh.push(format!(".new{}-{:?}", std::process::id(), std::thread::current().id()));
    let fresh = PathBuf::from(fresh);
    fs::write(&fresh, content).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, path).with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)]) -> Option<PathBuf> {
        choose(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| PathBuf::from(v)))
    }

    #[test]
    fn the_most_special_variable_wins_and_relative_ones_do_not_count() {
        let all = [("IMR_CACHE_DIR", "/a"), ("XDG_CACHE_HOME", "/b"), ("HOME", "/c")];
        assert_eq!(chosen(&all), Some(PathBuf::from("/a")));
        assert_eq!(chosen(&all[1..]), Some(PathBuf::from("/b/imr")));
        assert_eq!(chosen(&all[2..]), Some(PathBuf::from("/c/.cache/imr")));
        assert_eq!(chosen(&[("IMR_CACHE_DIR", "a"), ("HOME", "/c")]), Some(PathBuf::from("/c/.cache/imr")));
        assert_eq!(chosen(&[]), None);
    }
}
