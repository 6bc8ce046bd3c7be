//! `imr-common/abi.lock`: the guest ABI's version beside a hash of what that version means.
//!
//! In: the ABI as data and the committed lock. Out: a failure when the one changed without the other.
//! Must not hash words: a comment is no change of the contract.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::Failure;
use super::guest_abi::{Constant, Struct, constants, structs};

/// The committed file, below the workspace.
pub(super) const LOCK: &str = "imr-common/abi.lock";

/// A version and what it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lock {
    version: i128,
    hash: u64,
}

impl Lock {
    fn current() -> Self {
        let constants = constants();
        let version =
            constants.iter().find(|constant| constant.name == "ABI_VERSION").map_or(0, |one| one.value);
        Self { version, hash: hash(&describe(&constants, &structs())) }
    }

    fn parse(text: &str) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('=').map(str::trim))
        };
        Some(Self {
            version: field("version")?.parse().ok()?,
            hash: u64::from_str_radix(field("hash")?, 16).ok()?,
        })
    }

    fn text(&self) -> String {
        format!(
            "# What version of the guest ABI means what. Written by `cargo xtask tidy --bless`.\n\
             version = {}\nhash = {:016x}\n",
            self.version, self.hash
        )
    }
}

/// Compares the ABI with the committed lock.
pub(super) fn check(workspace: &Path, failures: &mut Vec<Failure>) {
    let committed = fs::read_to_string(workspace.join(LOCK)).ok().and_then(|text| Lock::parse(&text));
    let current = Lock::current();
    let (what, remedy) = match committed {
        None => ("is missing or unreadable".to_owned(), "write it: cargo xtask tidy --bless"),
        Some(committed) if committed == current => return,
        Some(committed) if committed.version == current.version => (unversioned(&current), RAISE),
        Some(committed) => (
            format!("is of version {}, the guest ABI of {}", committed.version, current.version),
            "write it: cargo xtask tidy --bless",
        ),
    };
    failures.push(Failure::new(Path::new(LOCK), 1, what, remedy));
}

const RAISE: &str = "raise ABI_VERSION in imr-common/src/guest_abi.rs, then cargo xtask tidy --bless";

fn unversioned(current: &Lock) -> String {
    format!(
        "the guest ABI is not what version {} stood for: a guest and a host of different builds would \
         misread each other",
        current.version
    )
}

/// Writes the lock of a new version. Refuses to give a version another meaning.
pub(super) fn bless(workspace: &Path) -> Result<bool> {
    let path = workspace.join(LOCK);
    let current = Lock::current();
    let committed = fs::read_to_string(&path).ok().and_then(|text| Lock::parse(&text));
    if let Some(committed) = committed
        && committed.version == current.version
        && committed.hash != current.hash
    {
        bail!("{LOCK}: {}; {RAISE}", unversioned(&current));
    }
    crate::cache::write_if_changed(&path, current.text().as_bytes())
        .with_context(|| format!("cannot bless {}", path.display()))
}

/// Everything that both sides have to agree on, one item a line.
fn describe(constants: &[Constant], structs: &[Struct]) -> String {
    let mut out = String::new();
    for constant in constants {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "const {} {} {}", constant.name, constant.rust_type, constant.value);
    }
    for one in structs {
        let _ = writeln!(out, "struct {} {} {:?}", one.name, one.size, one.align);
        for field in &one.fields {
            let _ = writeln!(out, "field {} {} {}", field.name, field.rust_type, field.offset);
        }
    }
    out
}

/// FNV-1a, 64 bits: stable everywhere, and accidents are what it guards against.
fn hash(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_fnv_1a() {
        assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash("a"), 0xaf63_dc4c_8601_ec8c);
    }

    #[test]
    fn a_lock_is_read_as_written() {
        let lock = Lock { version: 3, hash: 0x12 };
        assert_eq!(Lock::parse(&lock.text()), Some(lock));
        assert_eq!(Lock::parse("version = x"), None);
    }

    #[test]
    fn a_moved_field_changes_the_hash() {
        let mut moved = structs();
        moved[0].fields[1].offset += 4;
        assert_ne!(hash(&describe(&constants(), &moved)), hash(&describe(&constants(), &structs())));
    }

    #[test]
    fn a_version_does_not_change_its_meaning() {
        let dir = std::env::temp_dir().join(format!("imr-abi-lock-{}", std::process::id()));
        fs::create_dir_all(dir.join("imr-common")).unwrap();
        let mut other = Lock::current();
        other.hash ^= 1;
        fs::write(dir.join(LOCK), other.text()).unwrap();
        let mut failures = Vec::new();
        check(&dir, &mut failures);
        let blessed = bless(&dir);
        fs::remove_dir_all(&dir).unwrap();
        assert!(failures[0].remedy.contains("raise ABI_VERSION"), "{}", failures[0].remedy);
        assert!(blessed.is_err());
    }
}
