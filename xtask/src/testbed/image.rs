//! The file systems of L1 and of its guests, as initramfs archives.
//!
//! In: the configuration, the kernels, this machine's QEMU and busybox. Out: one initrd file for L1, with the
//! guests' kernel and initrd inside. L1's big part (QEMU, libraries, modules) is kept in target/testbed/ and
//! written anew only when one of its sources changed; the small part is made for every run.
//! Must not depend on the order of directory listings or on times: the same content makes the same bytes.

use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::config::{Config, HostMmu, Script, Terminal};
use super::cpio::Archive;
use super::files::{self, FileMapping};
use super::modules;
use super::payload::Payload;
use super::saved;
use crate::setup::KernelFiles;
use crate::{cache, process};

/// Raised when the layout of the kept layer changes.
const LAYER_FORMAT: u32 = 1;
const VIRTIO: [&str; 2] = ["virtio_pci", "virtio_console"];
const KVM: [&str; 2] = ["kvm-amd", "kvm-intel"];
/// There for scripts to load.
const ON_DEMAND: [&str; 4] = ["loop", "virtio_balloon", "virtio_blk", "zram"];
const FIRMWARE: [&str; 3] = ["bios-256k.bin", "kvmvapic.bin", "linuxboot_dma.bin"];
const FIRMWARE_DIRS: [&str; 3] = ["/usr/share/seabios", "/usr/share/qemu", "/usr/local/share/qemu"];
const TERMINFO_DIRS: [&str; 3] = ["/etc/terminfo", "/lib/terminfo", "/usr/share/terminfo"];
const TERMINALS: [&str; 9] = [
    "linux",
    "screen",
    "screen-256color",
    "tmux",
    "tmux-256color",
    "vt100",
    "vt220",
    "xterm",
    "xterm-256color",
];
/// Where host scripts leave files that are to come out.
const SAVE_DIR: &str = "/root/save";
const LOCALE: &str = "/usr/lib/locale/C.utf8";

const PORTS: &[u8] = include_bytes!("scripts/ports.sh");
const HOST_INIT: &[u8] = include_bytes!("scripts/l1-init.sh");
/// The command `guest`, a shell script.
pub(super) const GUEST_COMMAND: &[u8] = include_bytes!("scripts/guest.sh");
const GUEST_INIT: &[u8] = include_bytes!("scripts/l2-init.sh");
const GUEST_AGENT: &[u8] = include_bytes!("scripts/l2-agent.sh");

/// The terminal that an interactive host script sees.
#[derive(Debug, Clone)]
pub(super) struct TerminalShape {
    /// Lines.
    pub(super) rows: u16,
    /// Columns.
    pub(super) columns: u16,
    /// The value of TERM.
    pub(super) kind: String,
}

/// The kernels of one run.
#[derive(Debug)]
pub(super) struct Kernels {
    /// L1's.
    pub(super) host: KernelFiles,
    /// The guests'.
    pub(super) guest: KernelFiles,
}

/// Writes L1's initrd for `config` to `path`.
pub(super) fn write_initrd(
    path: &Path,
    config: &Config,
    kernels: &Kernels,
    payload: &Payload,
    ports: &[String],
    terminal: &TerminalShape,
) -> Result<()> {
    let base = host_base(config, &kernels.host)?;
    let guest = guest_initrd(config, &kernels.guest, payload)?;
    let mut archive = Archive::default();
    archive.file("/init", 0o755, HOST_INIT);
    archive.file("/imr/ports.sh", 0o644, PORTS);
    archive.file("/usr/local/bin/guest", 0o755, GUEST_COMMAND);
    archive.file("/imr/guest/initrd", 0o644, &guest);
    archive.file("/imr/guest/vmlinuz", 0o644, &read(&kernels.guest.vmlinuz)?);
    archive.file("/etc/imr/config", 0o644, host_config(config, ports, terminal).as_bytes());
    if let Some(script) = &config.host_script {
        archive.file("/imr/host-script", 0o755, &script_text(script)?);
    }
    for mapping in payload.host.iter().chain(&config.host_files) {
        files::add(&mut archive, mapping)?;
    }
    let mut from = fs::File::open(&base).with_context(|| format!("cannot open {}", base.display()))?;
    let mut into = fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    std::io::copy(&mut from, &mut into)
        .and_then(|_| into.write_all(&archive.finish()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// The guests' file system.
pub(super) fn guest_initrd(config: &Config, kernel: &KernelFiles, payload: &Payload) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    skeleton(&mut archive)?;
    modules::add(&mut archive, kernel, &VIRTIO, &ON_DEMAND, &|_| String::new())?;
    archive.file("/init", 0o755, GUEST_INIT);
    archive.file("/imr/agent", 0o755, GUEST_AGENT);
    archive.file("/imr/ports.sh", 0o644, PORTS);
    if let Some(script) = &config.guest_script {
        archive.file("/imr/guest-script", 0o755, &script_text(script)?);
    }
    for mapping in payload.guest.iter().chain(&config.guest_files) {
        files::add(&mut archive, mapping)?;
    }
    Ok(archive.finish())
}

/// The kept layer of L1, made if need be.
fn host_base(config: &Config, kernel: &KernelFiles) -> Result<PathBuf> {
    let sources = host_sources(config)?;
    let npt = config.host_mmu == HostMmu::Npt;
    let stem = format!("l1-{}-{}", config.host_kernel, if npt { "npt" } else { "shadow" });
    let name = format!("{stem}-{:016x}.cpio", fingerprint(&sources, kernel)?);
    let dir = cache::target_dir().join("testbed");
    let path = dir.join(&name);
    // Machines are booted two at a time, and the first two of a new checkout want the same one.
    let _lock = cache::lock("testbed-image")?;
    if path.is_file() {
        return Ok(path);
    }
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    let mut archive = Archive::default();
    skeleton(&mut archive)?;
    let options = |module: &str| match module {
        // Guests of guests are not wanted, and nested SVM costs the emulator time.
        "kvm_amd" => format!("nested=0 npt={}", u8::from(npt)),
        "kvm_intel" => format!("nested=0 ept={}", u8::from(npt)),
        _ => String::new(),
    };
    modules::add(&mut archive, kernel, &[&VIRTIO[..], &KVM].concat(), &ON_DEMAND, &options)?;
    for source in &sources {
        files::add(&mut archive, source)?;
    }
    cache::write_if_changed(&path, &archive.finish())?;
    forget_others(&dir, &stem, &name)?;
    Ok(path)
}

/// The files of this machine that the kept layer is made of, without libraries.
fn host_sources(config: &Config) -> Result<Vec<FileMapping>> {
    let program = |name: &str| {
        process::find_program(name)
            .with_context(|| format!("{name} is not on this machine; run `cargo xtask setup`"))
    };
    let mut sources = vec![
        FileMapping::new(program("qemu-system-x86_64")?, "/usr/bin/qemu-system-x86_64"),
        FileMapping::new(program("flock")?, "/usr/bin/flock"),
    ];
    for name in FIRMWARE {
        let found = FIRMWARE_DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.exists());
        let Some(found) = found else {
            bail!("QEMU's {name} is in none of {}; run `cargo xtask setup`", FIRMWARE_DIRS.join(", "));
        };
        sources.push(FileMapping::new(found, format!("/usr/share/qemu/{name}")));
    }
    // tmux and imr-top want to know the terminal and to write UTF-8; plain scripts need neither.
    let users = std::env::var("TERM").ok().filter(|_| config.terminal == Terminal::Users);
    for name in TERMINALS.into_iter().chain(users.as_deref()) {
        let below = format!("{}/{name}", name.chars().next().unwrap_or('x'));
        if let Some(found) =
            TERMINFO_DIRS.iter().map(|dir| Path::new(dir).join(&below)).find(|path| path.is_file())
        {
            sources.push(FileMapping::new(found, format!("/usr/share/terminfo/{below}")));
        }
    }
    if Path::new(LOCALE).is_dir() {
        sources.push(FileMapping::new(LOCALE, LOCALE));
    }
    Ok(sources)
}

/// Changes when one of the sources does: they are told apart by path, size and time.
fn fingerprint(sources: &[FileMapping], kernel: &KernelFiles) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    LAYER_FORMAT.hash(&mut hasher);
    kernel.release.hash(&mut hasher);
    let mut paths = vec![busybox()?, kernel.modules.join("modules.dep")];
    for source in sources {
        source.destination.hash(&mut hasher);
        if source.destination.starts_with("/usr/bin/") {
            paths.extend(files::libraries(&source.source)?);
        }
        paths.push(source.source.clone());
    }
    for path in paths {
        let data = fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?;
        (path, data.len(), data.mtime(), data.mtime_nsec()).hash(&mut hasher);
    }
    Ok(hasher.finish())
}

/// Removes the layers that `name` replaces. Whoever boots from one has it open already.
fn forget_others(dir: &Path, stem: &str, name: &str) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let entry = entry.with_context(|| format!("cannot list {}", dir.display()))?;
        let other = entry.file_name().to_string_lossy().into_owned();
        if other != name && other.starts_with(stem) && other.ends_with(".cpio") {
            fs::remove_file(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// What both file systems have: folders, busybox and its applets.
fn skeleton(archive: &mut Archive) -> Result<()> {
    for dir in ["bin", "sbin", "lib", "lib64"] {
        archive.dir(&format!("/usr/{dir}"));
        archive.symlink(&format!("/{dir}"), &format!("usr/{dir}"));
    }
    for dir in ["dev", "etc/imr", "imr", "proc", "root", "run", "sys", "tmp", "usr/local/bin", "var/tmp"] {
        archive.dir(dir);
    }
    archive.file(
        "/etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    );
    archive.file("/etc/group", 0o644, b"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n");
    let busybox = busybox()?;
    archive.file("/usr/bin/busybox", 0o755, &read(&busybox)?);
    let applets = process::run_quiet(Command::new(&busybox).arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        archive.symlink(&format!("/usr/bin/{applet}"), "busybox");
    }
    Ok(())
}

/// The static one that setup looks for; another on PATH would do as well.
/// This machine's static busybox.
pub(super) fn busybox() -> Result<PathBuf> {
    let debians = PathBuf::from("/bin/busybox");
    if debians.is_file() {
        return Ok(debians);
    }
    process::find_program("busybox").context("busybox is not on this machine; run `cargo xtask setup`")
}

fn script_text(script: &Script) -> Result<Vec<u8>> {
    match script {
        Script::File(path) => read(path),
        Script::Text(text) => Ok(text.clone().into_bytes()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The shell variables that L1's init and the command `guest` read.
fn host_config(config: &Config, ports: &[String], terminal: &TerminalShape) -> String {
    let flag = |set: bool| if set { "1" } else { "" };
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (name, value) in [
        ("IMR_GUESTS", config.guests.to_string()),
        ("IMR_HOST_KERNEL", config.host_kernel.to_string()),
        ("IMR_GUEST_KERNEL", config.guest_kernel.to_string()),
        ("IMR_AUTOSTART", flag(config.autostart).to_owned()),
        ("IMR_GUEST_SCRIPT", flag(config.guest_script.is_some()).to_owned()),
        ("IMR_INTERACTIVE", flag(config.terminal == Terminal::Users).to_owned()),
        ("IMR_PORTS", ports.join(" ")),
        ("IMR_SWAP_MIB", config.host_swap.map(|size| size.0.to_string()).unwrap_or_default()),
        ("IMR_SAVE", SAVE_DIR.to_owned()),
        ("IMR_SAVE_MOST", saved::MOST_BYTES.to_string()),
        ("IMR_ROWS", terminal.rows.to_string()),
        ("IMR_COLS", terminal.columns.to_string()),
        ("IMR_TERM", terminal.kind.clone()),
    ] {
        let _ = writeln!(text, "export {name}={}", quoted(&value));
    }
    text.push_str(&guests_config(config));
    text
}

/// The shell variables that say what a guest is made of; the environment overrides them.
pub(super) fn guests_config(config: &Config) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    for (name, value) in [
        ("GUEST_MEM", config.guest_mem.0.to_string()),
        ("GUEST_CPUS", config.guest_cpus.to_string()),
        ("GUEST_RAM", config.guest_ram.as_str().to_owned()),
        ("GUEST_CMDLINE", config.guest_append.clone()),
    ] {
        let _ = writeln!(text, "[ -n \"${{{name}+set}}\" ] || {name}={}", quoted(&value));
    }
    text
}

/// `value` as one word of the shell.
fn quoted(value: &str) -> String {
    format!("'{}'", value.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_shell() {
        let value = "a 'b' $HOME `id` \\";
        let script = format!("printf %s {}", quoted(value));
        let said = process::run_quiet(Command::new("sh").args(["-c", &script])).unwrap();
        assert_eq!(said, value);
    }

    #[test]
    fn the_guests_settings_can_be_overridden_by_the_environment() {
        let shape = TerminalShape { rows: 24, columns: 80, kind: "xterm".to_owned() };
        let mut script = host_config(&Config::default(), &["imr.events".to_owned()], &shape);
        script.push_str("echo $GUEST_MEM $GUEST_RAM $IMR_PORTS");
        let said =
            process::run_quiet(Command::new("sh").args(["-c", &script]).env("GUEST_RAM", "anon")).unwrap();
        assert_eq!(said.trim(), "512 anon imr.events");
    }
}
