//! What a prerequisite is, whether it is there, and the error that says which are not.
//!
//! In: the file system and the programs on it. Out: a list of what is missing and what for.
//! Must not install anything: the check has to be safe to run anywhere.

use std::fmt;
use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::process::Command;

use super::roots::{self, Root};
use super::{Need, checkpatch, fuzzer, kernels, toolchain};
use crate::kernel::KernelLine;
use crate::process;

/// One thing that has to be on the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing {
    /// What it is, as a person would look for it.
    pub(crate) what: String,
    /// What IMR uses it for.
    pub(crate) purpose: &'static str,
    /// How setup gets it on Debian 12.
    pub(crate) remedy: Remedy,
}

/// How a missing thing is got on Debian 12.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// A package of the release itself.
    Package(&'static str),
    /// A package of the release's backports.
    Backport(&'static str),
    /// Debian's rustc with its library's source, the LLVM it was built with, and bpf-linker.
    EbpfToolchain,
    /// The program cargo-fuzz, installed by cargo.
    CargoFuzz,
    /// The headers of one kernel line.
    Headers(KernelLine),
    /// The image of one kernel line, unpacked into the cache.
    Image(KernelLine),
    /// The kernel's checkpatch, taken from its source into the cache.
    Checkpatch,
    /// The archive of a Debian system, made into the cache.
    Root(Root),
    /// Nothing that setup could do.
    None,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.purpose)
    }
}

/// Prerequisites are missing and setup did not, or could not, install them.
#[derive(Debug)]
pub(crate) struct MissingPrerequisite {
    /// Everything that is missing.
    pub(crate) list: Vec<Missing>,
    /// Why it was not installed, and what to do.
    pub(crate) advice: String,
}

impl fmt::Display for MissingPrerequisite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "prerequisites are missing:")?;
        for missing in &self.list {
            writeln!(f, "  {missing}")?;
        }
        f.write_str(&self.advice)
    }
}

impl std::error::Error for MissingPrerequisite {}

/// Everything in `needs` that is not there. Takes well under half a second and changes nothing.
pub(crate) fn missing(needs: &[Need]) -> Vec<Missing> {
    let mut list: Vec<Missing> = needs.iter().flat_map(|need| of(*need)).collect();
    let mut seen = Vec::new();
    list.retain(|missing| {
        let new = !seen.contains(&missing.what);
        seen.push(missing.what.clone());
        new
    });
    list
}

fn of(need: Need) -> Vec<Missing> {
    match need {
        Need::Ebpf => ebpf(),
        Need::Kmod => kmod(),
        Need::Testbed => testbed(),
        Need::Fuzz => fuzz(),
        Need::Proof => proof(),
        Need::Stress => stress(),
        Need::Deb => deb(),
        Need::Package => package(),
    }
}

fn ebpf() -> Vec<Missing> {
    if !toolchain::find().is_empty() {
        return Vec::new();
    }
    vec![Missing {
        what: "a rustc with its library's source, and bpf-linker for its LLVM".to_owned(),
        purpose: "building imr-ebpf (a nightly with rust-src, or Debian's rustc-web, rust-web-src and llvm-N-dev)",
        remedy: Remedy::EbpfToolchain,
    }]
}

fn kmod() -> Vec<Missing> {
    const FOR: &str = "building guest-kmod";
    // Debian's headers name their compiler with its version, and their objtool is linked to libelf.
    let mut list = programs(&[("make", "make", FOR), ("gcc-12", "gcc-12", FOR)]);
    if !LIB_DIRS.iter().any(|dir| Path::new(dir).join("libelf.so.1").exists()) {
        list.push(Missing {
            what: "libelf.so.1".to_owned(),
            purpose: FOR,
            remedy: Remedy::Package("libelf1"),
        });
    }
    // W=1 runs the kernel's kernel-doc script, and Debian's minimal perl lacks a module of its.
    if process::probe(Command::new("perl").args(["-MPod::Usage", "-e", "1"])).is_none() {
        list.push(Missing {
            what: "perl with Pod::Usage".to_owned(),
            purpose: FOR,
            remedy: Remedy::Package("perl"),
        });
    }
    for line in KernelLine::ALL {
        if kernels::headers(line).is_none() {
            list.push(Missing {
                what: format!("headers of Debian's {line} cloud kernel"),
                purpose: FOR,
                remedy: Remedy::Headers(line),
            });
        }
    }
    list
}

fn fuzz() -> Vec<Missing> {
    // libFuzzer is C++, and comes as source.
    let mut list = programs(&[("c++", "g++", "building libFuzzer")]);
    if fuzzer::find().is_none() {
        list.push(Missing {
            what: "cargo-fuzz".to_owned(),
            purpose: "building the fuzz targets",
            remedy: Remedy::CargoFuzz,
        });
    }
    list
}

fn testbed() -> Vec<Missing> {
    if let Some(missing) = not_x86("the nested testbed (its host kernel runs under emulated AMD SVM)") {
        return vec![missing];
    }
    const FOR: &str = "the nested testbed";
    let mut list = programs(&[
        ("cpio", "cpio", "packing the testbed's initramfs"),
        ("xz", "xz-utils", "unpacking kernel modules for the testbed"),
        ("depmod", "kmod", "ordering kernel modules for the testbed"),
        ("mkfs.ext4", "e2fsprogs", "making the disk of the testbed's swap file"),
    ]);
    if !is_static(Path::new("/bin/busybox")) {
        list.push(Missing {
            what: "busybox, statically linked".to_owned(),
            purpose: "userspace of the testbed's host and guests",
            remedy: Remedy::Package("busybox-static"),
        });
    }
    if qemu_major().is_none_or(|major| major < 10) {
        list.push(Missing {
            what: "qemu-system-x86_64, version 10 or later".to_owned(),
            purpose: FOR,
            remedy: Remedy::Backport("qemu-system-x86"),
        });
    }
    for (file, package) in [("bios-256k.bin", "seabios"), ("kvmvapic.bin", "qemu-system-data")] {
        if !FIRMWARE_DIRS.iter().any(|dir| Path::new(dir).join(file).exists()) {
            list.push(Missing {
                what: format!("{file} (package {package})"),
                purpose: "firmware of the testbed's machines",
                remedy: Remedy::Backport(package),
            });
        }
    }
    for line in KernelLine::ALL {
        if kernels::kernel_files(line).is_none() {
            list.push(Missing {
                what: format!("image of Debian's {line} cloud kernel, of the same release as its headers"),
                purpose: "the testbed's host and guests",
                remedy: Remedy::Image(line),
            });
        }
    }
    list
}

fn proof() -> Vec<Missing> {
    const FOR: &str = "checking the handshake's models";
    programs(&[("spin", "spin", FOR), ("cc", "gcc", FOR)])
}

fn stress() -> Vec<Missing> {
    programs(&[("cc", "gcc", "building the module's handshake for user space")])
}

fn deb() -> Vec<Missing> {
    const FOR: &str = "packing the guest module's source";
    programs(&[("dpkg-deb", "dpkg", FOR), ("gzip", "gzip", FOR), ("md5sum", "coreutils", FOR)])
}

fn package() -> Vec<Missing> {
    const FOR: &str = "installing the guest's package in other Debians";
    if let Some(missing) = not_x86("the guest's module, which is for x86-64 only") {
        return vec![missing];
    }
    let mut list = deb();
    list.extend(kmod());
    list.extend(programs(&[
        ("mmdebstrap", "mmdebstrap", FOR),
        ("zstd", "zstd", FOR),
        ("unshare", "util-linux", FOR),
        ("mount", "mount", FOR),
        ("sparse", "sparse", "checking the guest module's source"),
        ("xz", "xz-utils", "unpacking the kernel's checkpatch.pl"),
    ]));
    if checkpatch::find().is_none() {
        list.push(Missing {
            what: "the kernel's checkpatch.pl".to_owned(),
            purpose: "checking the guest module's style",
            remedy: Remedy::Checkpatch,
        });
    }
    for root in Root::ALL {
        if roots::find(root).is_none() {
            list.push(Missing {
                what: format!("the archive of a small {} with kernel headers", root.as_str()),
                purpose: FOR,
                remedy: Remedy::Root(root),
            });
        }
    }
    list
}

fn not_x86(purpose: &'static str) -> Option<Missing> {
    (std::env::consts::ARCH != "x86_64").then(|| Missing {
        what: "an x86_64 machine".to_owned(),
        purpose,
        remedy: Remedy::None,
    })
}

const LIB_DIRS: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64"];
const FIRMWARE_DIRS: [&str; 3] = ["/usr/share/seabios", "/usr/share/qemu", "/usr/local/share/qemu"];

fn programs(list: &[(&'static str, &'static str, &'static str)]) -> Vec<Missing> {
    list.iter()
        .filter(|(program, ..)| process::find_program(program).is_none())
        .map(|&(program, package, purpose)| Missing {
            what: program.to_owned(),
            purpose,
            remedy: Remedy::Package(package),
        })
        .collect()
}

fn qemu_major() -> Option<u32> {
    let said = process::probe(Command::new("qemu-system-x86_64").arg("--version"))?;
    parse_qemu_major(&said)
}

fn parse_qemu_major(said: &str) -> Option<u32> {
    said.split_once("version ")?.1.split('.').next()?.parse().ok()
}

/// Whether `path` is a program that needs no dynamic linker. A dynamic one names its interpreter
/// right behind the ELF program headers.
fn is_static(path: &Path) -> bool {
    let mut start = Vec::with_capacity(4096);
    let Ok(file) = fs::File::open(path) else { return false };
    if file.take(4096).read_to_end(&mut start).is_err() || !start.starts_with(b"\x7fELF") {
        return false;
    }
    !start.windows(6).any(|window| window == b"/ld-li")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemu_version_is_read_from_its_banner() {
        let banner = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright (c)";
        assert_eq!(parse_qemu_major(banner), Some(10));
        assert_eq!(parse_qemu_major("something else"), None);
    }

    #[test]
    fn a_dynamic_program_is_not_taken_for_a_static_one() {
        assert!(!is_static(&std::env::current_exe().unwrap()));
        assert!(!is_static(Path::new("/nonexistent")));
    }

    #[test]
    fn the_error_lists_each_thing_on_a_line_of_its_own() {
        let list = programs(&[("imr-no-such-program", "none", "this test")]);
        let error = MissingPrerequisite { list, advice: "do something".to_owned() };
        assert_eq!(
            error.to_string(),
            "prerequisites are missing:\n  imr-no-such-program: this test\ndo something"
        );
    }
}
