//! Debian's packages by apt: update, install, look up, download, and the backports suite.
//!
//! In: package names. Out: what apt did, said in one line each. Works as root or by `sudo -n`.
//! Must not prompt, remove packages or name an archive's host: that comes from the machine's own sources.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::apt_sources;
use crate::{cache, process};

/// The suite that has the newer kernel line and QEMU.
pub(super) const BACKPORTS: &str = "bookworm-backports";
const LISTS: &str = "/var/lib/apt/lists";
const LISTS_LAST: Duration = Duration::from_secs(24 * 60 * 60);
/// apt's own waiting for a lock that another apt holds, and its patience with the network.
const PATIENCE: [&str; 4] = ["-o", "DPkg::Lock::Timeout=600", "-o", "Acquire::Retries=3"];

/// Something has to be done as root, and we may not.
#[derive(Debug)]
pub(super) struct NotRoot;

impl fmt::Display for NotRoot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("installing packages needs root, or sudo that asks for no password")
    }
}

impl std::error::Error for NotRoot {}

/// One version of a package, as `apt-cache show` tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stanza {
    /// Its version.
    pub(super) version: String,
    /// Its dependencies, unparsed.
    pub(super) depends: String,
}

/// apt on this machine, during one run of setup.
#[derive(Debug, Default)]
pub(super) struct Apt {
    /// The lists were read anew in this run; doing it again would change nothing.
    updated: bool,
}

impl Apt {
    /// Reads the package lists anew where they are absent or older than a day. Who may not, makes
    /// do with the lists that are there.
    pub(super) fn update_if_stale(&mut self) -> Result<()> {
        if self.updated || !lists_are_stale() {
            return Ok(());
        }
        match self.update() {
            Err(error) if error.is::<NotRoot>() && has_lists() => Ok(()),
            result => result,
        }
    }

    /// Reads the package lists anew.
    pub(super) fn update(&mut self) -> Result<()> {
        let mut command = as_root("apt-get")?;
        eprintln!("setup: apt-get update");
        process::run_quiet(command.args(["-qq", "update"]).args(PATIENCE))?;
        self.updated = true;
        let stamp = cache::dir()?.join(STAMP);
        fs::write(&stamp, []).with_context(|| format!("cannot write {}", stamp.display()))
    }

    /// Installs `packages`, from `suite` where one is given, without what they only recommend.
    pub(super) fn install(&mut self, packages: &[&str], suite: Option<&str>, purpose: &str) -> Result<()> {
        self.update_if_stale()?;
        let from = suite.map(|suite| format!(" from {suite}")).unwrap_or_default();
        as_root("apt-get")?;
        eprintln!("setup: apt-get install {}{from} ({purpose})", packages.join(" "));
        let install = || -> Result<()> {
            let mut command = as_root("apt-get")?;
            command.args(["-y", "-qq", "--no-install-recommends", "--no-remove"]).args(PATIENCE);
            command.args(["-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Options::=--force-confold"]);
            if let Some(suite) = suite {
                command.args(["-t", suite]);
            }
            process::run_quiet(command.arg("install").args(packages))?;
            Ok(())
        };
        match install() {
            // The archive moves on under a list that is an hour old: a version is gone.
            Err(error) if !self.updated && !error.is::<NotRoot>() => {
                self.update()?;
                install()
            }
            result => result,
        }
    }

    /// Every version of `package` that apt knows, the newest first; none when it knows none.
    pub(super) fn show(&mut self, package: &str) -> Result<Vec<Stanza>> {
        self.update_if_stale()?;
        // apt-cache fails when it knows no such package, which is an answer here.
        let said = process::probe(Command::new("apt-cache").args(["show", package])).unwrap_or_default();
        Ok(parse_stanzas(&said))
    }

    /// Downloads `packages` (each `name=version`) into `dir`, without installing them.
    pub(super) fn download(&mut self, packages: &[String], dir: &Path) -> Result<()> {
        let mut command = Command::new("apt-get");
        command.args(["-qq", "download"]).args(PATIENCE).args(packages).current_dir(dir);
        if rustix::process::geteuid().is_root() {
            // apt's own user may not write into root's cache; without this it warns of that.
            command.args(["-o", "APT::Sandbox::User=root"]);
        }
        process::run_quiet(&mut command)?;
        Ok(())
    }

    /// Makes apt know the backports suite: an entry beside the machine's own, of the same archive
    /// and signed by the same key.
    pub(super) fn ensure_backports(&mut self) -> Result<()> {
        self.update_if_stale()?;
        let targets = apt_sources::index_targets()?;
        if targets.iter().any(|target| target.is(BACKPORTS)) {
            return Ok(());
        }
        let Some(own) = targets.iter().find(|target| target.is("bookworm") && target.component == "main")
        else {
            bail!(
                "apt has no source for Debian 12 (`apt-get indextargets` lists no suite bookworm), so there \
                 is nothing to derive {BACKPORTS} from; add it to /etc/apt/sources.list.d by hand"
            );
        };
        let path = "/etc/apt/sources.list.d/imr-backports.sources";
        eprintln!("setup: adding {BACKPORTS} to apt's sources ({path})");
        let draft = cache::dir()?.join("imr-backports.sources");
        fs::write(&draft, own.entry(BACKPORTS)?)
            .with_context(|| format!("cannot write {}", draft.display()))?;
        process::run_quiet(as_root("install")?.args(["-m", "644"]).arg(&draft).arg(path))?;
        self.update()
    }
}

const STAMP: &str = "apt-updated";

/// Whether the lists have to be read anew: only our own reading counts, because lists that an
/// image came with may lack a source that was added to it since.
fn lists_are_stale() -> bool {
    let read_at = cache::dir().and_then(|dir| Ok(fs::metadata(dir.join(STAMP))?.modified()?));
    !has_lists() || read_at.map_or(true, |time| older_than(time, LISTS_LAST))
}

fn has_lists() -> bool {
    fs::read_dir(LISTS).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
    })
}

fn older_than(time: SystemTime, age: Duration) -> bool {
    SystemTime::now().duration_since(time).is_ok_and(|past| past > age)
}

/// `program` run as root: directly, or by sudo if that asks for nothing.
pub(super) fn as_root(program: &str) -> Result<Command> {
    let mut command;
    if rustix::process::geteuid().is_root() {
        command = Command::new(program);
        command.env("DEBIAN_FRONTEND", "noninteractive");
    } else if process::probe(Command::new("sudo").args(["-n", "true"])).is_some() {
        command = Command::new("sudo");
        // sudo drops the environment, so the variable goes through env(1).
        command.args(["-n", "env", "DEBIAN_FRONTEND=noninteractive", program]);
    } else {
        return Err(NotRoot.into());
    }
    Ok(command)
}

fn parse_stanzas(said: &str) -> Vec<Stanza> {
    said.split("\n\n")
        .filter_map(|stanza| {
            let field = |name: &str| stanza.lines().find_map(|line| line.strip_prefix(name));
            Some(Stanza {
                version: field("Version: ")?.to_owned(),
                depends: field("Depends: ").unwrap_or_default().to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_of_a_package_is_a_stanza() {
        let said = "Package: p\nVersion: 6.12.95-1~bpo12+1\nDepends: q (= 6.12.95-1~bpo12+1)\n\n\
                    Package: p\nVersion: 6.1.192-2\n\n";
        assert_eq!(
            parse_stanzas(said),
            [
                Stanza { version: "6.12.95-1~bpo12+1".into(), depends: "q (= 6.12.95-1~bpo12+1)".into() },
                Stanza { version: "6.1.192-2".into(), depends: String::new() },
            ]
        );
    }
}
