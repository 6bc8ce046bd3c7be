//! What a testbed run is made of, validated.
//!
//! In: values from the command line or from a test. Out: a `Config` that can be booted, or the reason why not.
//! Must not look at the machine beyond the files that are named.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::files::FileMapping;
use crate::kernel::KernelLine;

/// Each guest takes two ports of L1's virtio-serial device, which has 31.
pub(crate) const MAX_GUESTS: u32 = 12;
/// What L1 needs besides its guests' memory: its file system, QEMU, page tables, and tests' own.
const HOST_OWN_MIB: u32 = 1536;
const HOST_LEAST_MIB: u32 = 3072;
/// A sane end: L1 with all of it has to fit in this machine's memory.
const GUEST_MOST_MIB: u32 = 16 * 1024;
/// Below this Debian's kernel does not unpack its initramfs.
const GUEST_LEAST_MIB: u32 = 128;

/// Less is not worth a disk.
const HOST_SWAP_LEAST_MIB: u32 = 16;
/// What is swapped out takes room on this machine's disk.
const HOST_SWAP_MOST_MIB: u32 = 16 * 1024;

/// What is behind a guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum GuestRam {
    /// A file on a tmpfs mounted huge=always, 2 MiB-aligned and shared.
    Thp,
    /// A shared memfd (4 KiB pages).
    Memfd,
    /// A shared file on hugetlbfs, its pages reserved at L1's boot.
    Hugetlb,
    /// Private anonymous memory, QEMU's own default.
    Anon,
}

impl GuestRam {
    /// As scripts and arguments name it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Thp => "thp",
            Self::Memfd => "memfd",
            Self::Hugetlb => "hugetlb",
            Self::Anon => "anon",
        }
    }
}

/// How L1's KVM translates guest-physical addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum HostMmu {
    /// Nested paging (AMD's NPT, Intel's EPT).
    Npt,
    /// Shadow page tables.
    Shadow,
}

/// A memory size in MiB: written with K, M or G, or as a bare number of MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mib(pub(crate) u32);

impl FromStr for Mib {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("{text:?} is not a size such as 512M or 1G");
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        let kib = match &text[digits.len()..] {
            "K" | "k" | "KiB" => number,
            "" | "M" | "m" | "MiB" => number.saturating_mul(1 << 10),
            "G" | "g" | "GiB" => number.saturating_mul(1 << 20),
            _ => return Err(wrong()),
        };
        if kib % 2048 != 0 {
            return Err(format!("{text:?} is not a multiple of 2 MiB, the size of a block"));
        }
        u32::try_from(kib >> 10).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}M", self.0)
    }
}

/// A script for L1 or for the guests.
#[derive(Debug, Clone)]
pub(crate) enum Script {
    /// A file of this machine.
    File(PathBuf),
    /// Its text.
    Text(String),
}

/// Whose terminal the host script has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Terminal {
    /// None: its output comes as lines.
    None,
    /// The one this program was started on. Lines are held back while the script has it.
    Users,
}

/// What to boot and to run.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// L1's kernel.
    pub(crate) host_kernel: KernelLine,
    /// The guests' kernel.
    pub(crate) guest_kernel: KernelLine,
    /// How many guests, 0 to [`MAX_GUESTS`].
    pub(crate) guests: u32,
    /// Memory of each guest.
    pub(crate) guest_mem: Mib,
    /// Virtual CPUs of each guest.
    pub(crate) guest_cpus: u32,
    /// What is behind each guest's memory.
    pub(crate) guest_ram: GuestRam,
    /// How L1's KVM translates addresses.
    pub(crate) host_mmu: HostMmu,
    /// L1's memory; `None`: enough.
    pub(crate) host_mem: Option<Mib>,
    /// Swap of L1, a file on a disk of its own; `None`: none.
    pub(crate) host_swap: Option<Mib>,
    /// L1's CPUs.
    pub(crate) host_cpus: u32,
    /// More for L1's kernel command line.
    pub(crate) host_append: String,
    /// More for the guests' kernel command line.
    pub(crate) guest_append: String,
    /// Run in L1; its status is the run's.
    pub(crate) host_script: Option<Script>,
    /// Run in every guest, at every boot.
    pub(crate) guest_script: Option<Script>,
    /// Whether the guests start by themselves (else the host script starts them).
    pub(crate) autostart: bool,
    /// More files for L1.
    pub(crate) host_files: Vec<FileMapping>,
    /// More files for the guests.
    pub(crate) guest_files: Vec<FileMapping>,
    /// Whether `imr`, `imr-top`, `imr_guest.ko` and the guest tools are brought up to date first; else
    /// those are taken that are there.
    pub(crate) build: bool,
    /// Whose terminal the host script has.
    pub(crate) terminal: Terminal,
    /// From the first boot to the end; `None`: no limit.
    pub(crate) timeout: Option<Duration>,
    /// How long L1 may take to boot, before it counts as hung and is booted once more.
    pub(crate) boot_timeout: Duration,
    /// Where to keep every stream as a file.
    pub(crate) logs: Option<PathBuf>,
    /// Where the files go that the host script leaves in its `$IMR_SAVE`; `None`: nowhere.
    pub(crate) save: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host_kernel: KernelLine::V6_12,
            guest_kernel: KernelLine::V6_12,
            guests: 1,
            guest_mem: Mib(512),
            guest_cpus: 1,
            guest_ram: GuestRam::Thp,
            host_mmu: HostMmu::Npt,
            host_mem: None,
            host_swap: None,
            host_cpus: 2,
            host_append: String::new(),
            guest_append: String::new(),
            host_script: None,
            guest_script: None,
            autostart: true,
            host_files: Vec::new(),
            guest_files: Vec::new(),
            build: true,
            terminal: Terminal::None,
            timeout: Some(Duration::from_secs(300)),
            boot_timeout: Duration::from_secs(90),
            logs: None,
            save: None,
        }
    }
}

impl Config {
    /// Everything that cannot work, as a sentence for the user.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.guests > MAX_GUESTS {
            return Err(format!("{} guests are too many: at most {MAX_GUESTS}", self.guests));
        }
        if !(GUEST_LEAST_MIB..=GUEST_MOST_MIB).contains(&self.guest_mem.0) {
            return Err(format!(
                "a guest with {} of memory does not work here: {GUEST_LEAST_MIB}M to {GUEST_MOST_MIB}M",
                self.guest_mem
            ));
        }
        if !(1..=8).contains(&self.guest_cpus) || !(1..=16).contains(&self.host_cpus) {
            return Err("a guest has 1 to 8 CPUs, L1 1 to 16".to_owned());
        }
        let needed = self.guests_mib() + 1024;
        if let Some(given) = self.host_mem
            && given.0 < needed
        {
            return Err(format!(
                "L1 with {given} has no room for {} guests with {}: it needs {needed}M",
                self.guests, self.guest_mem
            ));
        }
        if let Some(swap) = self.host_swap
            && !(HOST_SWAP_LEAST_MIB..=HOST_SWAP_MOST_MIB).contains(&swap.0)
        {
            return Err(format!(
                "{swap} of swap for L1 does not work here: {HOST_SWAP_LEAST_MIB}M to {HOST_SWAP_MOST_MIB}M"
            ));
        }
        Ok(())
    }

    /// L1's memory in MiB.
    pub(crate) fn host_mib(&self) -> u32 {
        let enough = (self.guests_mib() + HOST_OWN_MIB).max(HOST_LEAST_MIB);
        self.host_mem.map_or(enough, |given| given.0)
    }

    /// 2 MiB pages that L1 reserves at boot; at run time only a few can be had.
    pub(crate) fn huge_pages(&self) -> u32 {
        // QEMU asks for no page beyond the guest's memory; the few more are for a test's own.
        if self.guest_ram == GuestRam::Hugetlb { self.guests_mib() / 2 + 8 } else { 0 }
    }

    fn guests_mib(&self) -> u32 {
        self.guests * self.guest_mem.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        assert_eq!("512M".parse(), Ok(Mib(512)));
        assert_eq!("1G".parse(), Ok(Mib(1024)));
        assert_eq!("262144K".parse(), Ok(Mib(256)));
        assert_eq!("256".parse(), Ok(Mib(256)));
        assert!("3M".parse::<Mib>().unwrap_err().contains("2 MiB"));
        for wrong in ["", "M", "lots", "1T", "-4M", "99999999999999999999G", "12XB"] {
            assert!(wrong.parse::<Mib>().unwrap_err().contains(wrong), "{wrong}");
        }
    }

    #[test]
    fn a_host_has_room_for_its_guests_or_is_refused() {
        let mut config = Config { guests: 4, guest_mem: Mib(1024), ..Config::default() };
        assert_eq!(config.host_mib(), 4 * 1024 + HOST_OWN_MIB);
        config.host_mem = Some(Mib(2048));
        assert!(config.check().unwrap_err().contains("5120M"));
        config.host_mem = None;
        assert_eq!(config.check(), Ok(()));
        config.guests = MAX_GUESTS + 1;
        assert!(config.check().unwrap_err().contains("at most"));
    }

    #[test]
    fn swap_has_a_size_that_a_disk_can_have() {
        let mut config = Config { host_swap: Some(Mib(512)), ..Config::default() };
        assert_eq!(config.check(), Ok(()));
        for wrong in [Mib(14), Mib(32 * 1024)] {
            config.host_swap = Some(wrong);
            assert!(config.check().unwrap_err().contains(&wrong.to_string()), "{wrong}");
        }
    }

    #[test]
    fn only_hugetlb_reserves_pages() {
        let mut config = Config { guests: 2, guest_mem: Mib(256), ..Config::default() };
        assert_eq!(config.huge_pages(), 0);
        config.guest_ram = GuestRam::Hugetlb;
        assert_eq!(config.huge_pages(), 264);
    }
}
