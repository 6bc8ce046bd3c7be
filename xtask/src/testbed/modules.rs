//! Kernel modules for an image: the wanted ones, what they depend on, and the index for modprobe.
//!
//! In: a kernel's folder of modules with its `modules.dep`. Out: entries of an archive; the names in load order.
//! Must not complain about a module that is not there: one kernel line builds in what the other has as a module.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::cpio::Archive;
use crate::setup::KernelFiles;

/// What `modules.dep` says: a module's name, its file below the folder, and the files it needs.
#[derive(Debug)]
struct Index {
    by_name: BTreeMap<String, (String, Vec<String>)>,
}

impl Index {
    fn parse(text: &str) -> Self {
        let mut by_name = BTreeMap::new();
        for line in text.lines() {
            if let Some((file, needs)) = line.split_once(':') {
                let needs = needs.split_whitespace().map(str::to_owned).collect();
                by_name.insert(name_of(file), (file.to_owned(), needs));
            }
        }
        Self { by_name }
    }

    /// The files of `wanted` and all they need, each after those it needs.
    fn load_order(&self, wanted: &[&str]) -> Vec<&str> {
        let mut order: Vec<&str> = Vec::new();
        for name in wanted {
            if let Some((file, needs)) = self.by_name.get(&name.replace('-', "_")) {
                // depmod lists the needed ones so that the last has to be loaded first.
                for one in needs.iter().rev().chain([file]) {
                    if !order.contains(&one.as_str()) {
                        order.push(one);
                    }
                }
            }
        }
        order
    }
}

/// Puts modules into `archive`: those that are to be loaded at boot, in `/etc/imr/modules` with the
/// options that `options` has for them, and those that scripts may load with modprobe.
pub(super) fn add(
    archive: &mut Archive,
    kernel: &KernelFiles,
    at_boot: &[&str],
    on_demand: &[&str],
    options: &dyn Fn(&str) -> String,
) -> Result<()> {
    let index_path = kernel.modules.join("modules.dep");
    let text =
        fs::read_to_string(&index_path).with_context(|| format!("cannot read {}", index_path.display()))?;
    let index = Index::parse(&text);
    let folder = format!("/usr/lib/modules/{}", kernel.release);
    let mut boot_list = String::new();
    for file in index.load_order(at_boot) {
        let name = name_of(file);
        // Writing to a String cannot fail.
        let _ = writeln!(boot_list, "{folder}/{} {}", uncompressed(file), options(&name));
    }
    let mut dependencies = String::new();
    for file in index.load_order(&[at_boot, on_demand].concat()) {
        archive.file(&format!("{folder}/{}", uncompressed(file)), 0o644, &read(&kernel.modules.join(file))?);
        let (_, needs) = &index.by_name[&name_of(file)];
        let needs: Vec<&str> = needs.iter().map(|one| uncompressed(one)).collect();
        let _ = writeln!(dependencies, "{}: {}", uncompressed(file), needs.join(" "));
    }
    archive.file(&format!("{folder}/modules.dep"), 0o644, dependencies.as_bytes());
    archive.file("/etc/imr/modules", 0o644, boot_list.as_bytes());
    Ok(())
}

/// A module's name as the kernel knows it, from its file name.
fn name_of(file: &str) -> String {
    let base = file.rsplit('/').next().unwrap_or(file);
    base.split(".ko").next().unwrap_or(base).replace('-', "_")
}

fn uncompressed(file: &str) -> &str {
    file.strip_suffix(".xz").or_else(|| file.strip_suffix(".zst")).unwrap_or(file)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let tool = match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
    };
    let output = Command::new(tool)
        .arg("-dc")
        .arg(path)
        .output()
        .with_context(|| format!("cannot start {tool} to unpack {}", path.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{tool} cannot unpack {}: {}", path.display(), said.trim());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_needs_and_only_once() {
        let index = Index::parse(
            "kernel/kvm/kvm-amd.ko.xz: kernel/kvm/kvm.ko.xz kernel/irqbypass.ko.xz\n\
             kernel/kvm/kvm-intel.ko.xz: kernel/kvm/kvm.ko.xz kernel/irqbypass.ko.xz\n\
             kernel/kvm/kvm.ko.xz: kernel/irqbypass.ko.xz\nkernel/irqbypass.ko.xz:\n",
        );
        let order = index.load_order(&["kvm-amd", "kvm-intel", "built-in-here"]);
        assert_eq!(
            order,
            [
                "kernel/irqbypass.ko.xz",
                "kernel/kvm/kvm.ko.xz",
                "kernel/kvm/kvm-amd.ko.xz",
                "kernel/kvm/kvm-intel.ko.xz"
            ]
        );
        assert_eq!(name_of(order[2]), "kvm_amd");
        assert_eq!(uncompressed(order[0]), "kernel/irqbypass.ko");
    }
}
