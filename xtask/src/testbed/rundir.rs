//! The folder of one run in target/testbed/run/, gone when the run is.
//!
//! In: nothing. Out: a path to write to. Folders of runs that were killed are removed by the next one.
//! Must not touch the folder of a process that lives.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

use crate::cache;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A folder that is removed when this is dropped.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes the folder, and removes those of dead processes.
    pub(super) fn new() -> Result<Self> {
        let above = cache::target_dir().join("testbed/run");
        fs::create_dir_all(&above).with_context(|| format!("cannot create {}", above.display()))?;
        sweep(&above);
        let path = above.join(format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { path })
    }

    /// Where `name` lies in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("testbed: cannot remove {}: {error}", self.path.display());
        }
    }
}

fn sweep(above: &Path) {
    let Ok(entries) = fs::read_dir(above) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let pid = name.split('-').next().and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
            // Another run may sweep at the same time; what is left over then, the next one gets.
            && fs::remove_dir_all(entry.path()).is_ok()
        {
            eprintln!("testbed: removed what a killed run left: {}", entry.path().display());
        }
    }
}
