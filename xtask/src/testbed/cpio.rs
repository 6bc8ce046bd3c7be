//! A cpio archive in the "newc" format, as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format).
//!
//! In: paths and contents. Out: bytes; archives written one after the other make one file system.
//! Must not read files: what goes in is chosen elsewhere. Owners are root and times are zero, so that
//! the same content makes the same bytes.

use std::collections::BTreeSet;

const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFLNK: u32 = 0o120_000;
/// Each archive is padded to this, so that the next one starts where the kernel expects a header.
const BLOCK: usize = 512;

/// An archive being written.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    written: BTreeSet<String>,
}

impl Archive {
    /// A directory with everything above it.
    pub(super) fn dir(&mut self, path: &str) {
        let path = normal(path);
        if path.is_empty() || self.written.contains(&path) {
            return;
        }
        self.parents(&path);
        self.entry(&path, S_IFDIR | 0o755, &[]);
    }

    /// A regular file; `mode` is its permission bits.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        let path = normal(path);
        self.parents(&path);
        self.entry(&path, S_IFREG | (mode & 0o7777), content);
    }

    /// A symbolic link at `path` to `target`.
    pub(super) fn symlink(&mut self, path: &str, target: &str) {
        let path = normal(path);
        self.parents(&path);
        self.entry(&path, S_IFLNK | 0o777, target.as_bytes());
    }

    /// Whether `path` was written.
    pub(super) fn contains(&self, path: &str) -> bool {
        self.written.contains(&normal(path))
    }

    /// The bytes of the archive, its trailer included.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.header("TRAILER!!!", 0, 0);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.dir(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.written.insert(path.to_owned());
        self.inode += 1;
        self.header(path, mode, content.len());
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn header(&mut self, path: &str, mode: u32, size: usize) {
        let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        // Magic, then thirteen numbers of eight hexadecimal digits: inode, mode, uid, gid, links,
        // mtime, size, device and rdevice as major and minor, length of the name with its NUL, checksum.
        let name_size = path.len() + 1;
        let header = format!(
            "070701{:08X}{mode:08X}{:08X}{:08X}{links:08X}{:08X}{size:08X}{:08X}{:08X}{:08X}{:08X}{name_size:08X}{:08X}",
            self.inode, 0, 0, 0, 0, 0, 0, 0, 0
        );
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// `path` as the archive names it: no slash in front, and below `usr` what a merged `/usr` has there
/// (the images have `/bin`, `/lib` and so on as links, which a directory entry would replace).
fn normal(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let first = path.split('/').next().unwrap_or_default();
    if matches!(first, "bin" | "sbin" | "lib" | "lib64") && first != path {
        format!("usr/{path}")
    } else {
        path.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn an_independent_cpio_unpacks_what_was_packed() {
        let mut archive = Archive::default();
        archive.file("/etc/deep/motd", 0o640, b"odd");
        archive.file("/bin/tool", 0o755, b"#!/bin/sh\n");
        archive.symlink("/bin/alias", "tool");
        assert!(archive.contains("/usr/bin/tool"));
        let mut bytes = archive.finish();
        assert_eq!(bytes.len() % BLOCK, 0);
        let first = bytes.len();
        let mut second = Archive::default();
        second.file("etc/second", 0o644, b"");
        bytes.extend(second.finish());

        let dir = std::env::temp_dir().join(format!("imr-cpio-test-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for archive in [&bytes[..first], &bytes[first..]] {
            let mut cpio = Command::new("busybox")
                .args(["cpio", "-idm"])
                .current_dir(&dir)
                .stdin(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            let Ok(cpio) = cpio.as_mut() else {
                eprintln!("skipped: no busybox on this machine");
                return;
            };
            cpio.stdin.take().unwrap().write_all(archive).unwrap();
            assert!(cpio.wait().unwrap().success());
        }
        assert_eq!(fs::read(dir.join("etc/deep/motd")).unwrap(), b"odd");
        assert_eq!(fs::read_link(dir.join("usr/bin/alias")).unwrap().to_str(), Some("tool"));
        assert_eq!(fs::read(dir.join("etc/second")).unwrap(), b"");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn the_links_of_a_merged_usr_stay_links() {
        assert_eq!(normal("/lib64/ld.so"), "usr/lib64/ld.so");
        assert_eq!(normal("/lib"), "lib");
        assert_eq!(normal("/library/x"), "library/x");
    }
}
