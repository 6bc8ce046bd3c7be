//! Guests on this machine itself, without L1 around them: for machines that run KVM guests at speed.
//!
//! In: a `Config`. Out: a folder that has what L1 has for its guests, for the command `guest` with `IMR_ROOT` set to
//! it; gone when the value is dropped. Must not touch the machine outside that folder, nor start anything itself.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::config::Config;
use super::{image, payload};
use crate::process;
use crate::setup::{self, Need};

/// The folder. It lies below the directory for temporary files because a socket's path has at most 107 bytes.
#[derive(Debug)]
pub(crate) struct Bare {
    root: PathBuf,
}

impl Bare {
    /// Makes the folder for the guests of `config`, with its host files and the command `guest`.
    ///
    /// # Errors
    /// When something is missing on this machine, could not be built or written.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        setup::ensure(&[Need::Testbed])?;
        let root = std::env::temp_dir().join(format!("imr-guests-{}", std::process::id()));
        let bare = Self { root };
        for dir in ["bin", "etc/imr", "imr/guest", "root", "run/imr", "tmp"] {
            let path = bare.root.join(dir);
            fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        }
        bare.fill(config)?;
        Ok(bare)
    }

    /// Where it is: the value for `IMR_ROOT`.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    fn fill(&self, config: &Config) -> Result<()> {
        let payload = payload::gather(config)?;
        let kernel = setup::kernel(config.guest_kernel)?;
        self.write("imr/guest/initrd", &image::guest_initrd(config, &kernel, &payload)?)?;
        self.link(&kernel.vmlinuz, "imr/guest/vmlinuz")?;
        self.write("etc/imr/config", image::guests_config(config).as_bytes())?;
        self.write("bin/guest", image::GUEST_COMMAND)?;
        process::run_quiet(Command::new("mkfifo").arg(self.root.join("run/imr/events")))?;
        let busybox = image::busybox()?;
        for applet in process::run_quiet(Command::new(&busybox).arg("--list"))?.lines() {
            self.link(&busybox, &format!("bin/{applet}"))?;
        }
        for mapping in payload.host.iter().chain(&config.host_files) {
            // Programs of L1 lie in bin here; everything else where it would lie there.
            let destination = mapping.destination.trim_start_matches('/');
            let destination = destination.strip_prefix("usr/").unwrap_or(destination);
            let source = mapping.source.canonicalize();
            let source = source.with_context(|| format!("cannot read {}", mapping.source.display()))?;
            self.link(&source, destination)?;
        }
        Ok(())
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.root.join(name);
        let executable = fs::Permissions::from_mode(0o755);
        fs::write(&path, content)
            .and_then(|()| fs::set_permissions(&path, executable))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn link(&self, target: &Path, name: &str) -> Result<()> {
        let path = self.root.join(name);
        symlink(target, &path).with_context(|| format!("cannot create {}", path.display()))
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.root) {
            eprintln!("testbed: cannot remove {}: {error}", self.root.display());
        }
    }
}
