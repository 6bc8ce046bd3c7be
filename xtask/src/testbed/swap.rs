//! A disk for L1's swap file: a sparse image with an ext4 file system, in the run's folder and gone with it.
//!
//! In: a path, a size. Out: the file, and what QEMU is told of it; L1's init makes the swap file on it.
//! Must not care for its content to outlive a crash: nobody reads it again.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::config::Mib;
use crate::process;

/// How L1 knows the disk.
const SERIAL: &str = "imr-swap";
/// For the file system itself: without a journal and with hardly any inodes it takes a few MiB.
const FILE_SYSTEM_MIB: u32 = 16;

/// The image.
#[derive(Debug)]
pub(super) struct SwapDisk<'a> {
    path: &'a Path,
}

impl<'a> SwapDisk<'a> {
    /// Makes the image, with room for a swap file of `size`.
    pub(super) fn new(path: &'a Path, size: Mib) -> Result<Self> {
        let program = process::find_program("mkfs.ext4")
            .context("mkfs.ext4 is not on this machine; run `cargo xtask setup`")?;
        let image = File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        image
            .set_len(u64::from(size.0 + size.0 / 64 + FILE_SYSTEM_MIB) << 20)
            .with_context(|| format!("cannot make {} as large as {size}", path.display()))?;
        process::run_quiet(
            Command::new(program).args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-N", "16"]).arg(path),
        )?;
        Ok(Self { path })
    }

    /// For QEMU's command line.
    pub(super) fn arguments(&self) -> [String; 4] {
        // In QEMU's options a comma is written twice.
        let path = self.path.display().to_string().replace(',', ",,");
        [
            "-drive".to_owned(),
            format!("if=none,id=swap,format=raw,cache=unsafe,discard=unmap,file={path}"),
            "-device".to_owned(),
            format!("virtio-blk-pci,drive=swap,serial={SERIAL}"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn an_image_is_sparse_and_has_room_for_the_file() {
        let path = std::env::temp_dir().join(format!("imr-swap-test-{}", std::process::id()));
        let made = SwapDisk::new(&path, Mib(512)).map(|_| ());
        let (image, free) = (std::fs::metadata(&path), free_bytes(&path));
        let _ = std::fs::remove_file(&path);
        if process::find_program("mkfs.ext4").is_none() {
            assert!(made.unwrap_err().to_string().contains("cargo xtask setup"));
            return;
        }
        made.unwrap();
        assert!(image.unwrap().blocks() * 512 < 32 << 20);
        let free = free.unwrap();
        assert!(free >= 512 << 20, "{free}");
    }

    /// By the file system's own superblock.
    fn free_bytes(path: &Path) -> Option<u64> {
        let told = process::probe(Command::new(process::find_program("dumpe2fs")?).arg("-h").arg(path))?;
        let value = |name: &str| told.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value("Free blocks:").zip(value("Block size:")).map(|(blocks, size): (u64, u64)| blocks * size)
    }

    #[test]
    fn a_comma_in_the_path_reaches_qemu_as_one() {
        let disk = SwapDisk { path: Path::new("/run/a,b") };
        assert!(disk.arguments()[1].ends_with("file=/run/a,,b"));
    }
}
