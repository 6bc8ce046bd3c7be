//! Why something could not be read from the kernel or put into it, and what to do about it.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use thiserror::Error;

use crate::model::ids::{Hva, Pid};

/// A failure of ingest.
#[derive(Debug, Error)]
pub enum IngestError {
    /// The process may not load eBPF programs.
    #[error(
        "not privileged: {missing} missing. Loading eBPF programs needs CAP_BPF and CAP_PERFMON, reading other \
         processes' memory maps CAP_SYS_PTRACE and CAP_SYS_ADMIN: run as root"
    )]
    NotPrivileged {
        /// The capabilities that are not there.
        missing: String,
    },
    /// The kernel describes itself nowhere.
    #[error("{path}: {source}. The kernel must be built with CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf {
        /// Where its BTF should be.
        path: PathBuf,
        /// What opening it said.
        source: io::Error,
    },
    /// The binary has no eBPF object inside.
    #[error("built without the eBPF object: run `cargo xtask build-ebpf` and build again")]
    NoEbpfObject,
    /// No KVM in this kernel, or not loaded.
    #[error(
        "this kernel has no KVM tracepoints ({why}): load kvm_amd or kvm_intel (`modprobe`), or use a kernel with \
         CONFIG_KVM and CONFIG_FTRACE"
    )]
    NoKvm {
        /// What was looked for.
        why: String,
    },
    /// Lockdown forbids reading kernel memory.
    #[error(
        "kernel lockdown is in mode {mode}, which forbids eBPF to read kernel memory: boot with lockdown=integrity or \
         lockdown=none"
    )]
    Lockdown {
        /// `confidentiality`.
        mode: String,
    },
    /// BTF that cannot be understood.
    #[error("{path}: {source}")]
    Btf {
        /// Which BTF.
        path: PathBuf,
        /// What the parser said.
        source: btf_rs::Error,
    },
    /// aya's own look at BTF failed.
    #[error("/sys/kernel/btf/vmlinux: {source}")]
    AyaBtf {
        /// What the parser said.
        source: aya::BtfError,
    },
    /// The kernel refused the eBPF object's maps.
    #[error("cannot load the eBPF object: {source}")]
    Load {
        /// What aya said, with the kernel's errno.
        source: Box<EbpfError>,
    },
    /// The kernel refused a program that nothing can stand in for.
    #[error("eBPF program {program}: {source}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What aya said, with the verifier's log.
        source: Box<ProgramError>,
    },
    /// The eBPF object is not of this version.
    #[error("the eBPF object has no {what}: run `cargo xtask build-ebpf` and build again")]
    WrongObject {
        /// The map or program that is missing.
        what: &'static str,
    },
    /// A table could not be read or written.
    #[error("eBPF map {map}, {operation}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A file operation failed.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The contents of a file in /proc or /sys are not what they should be.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The VMM has ended.
    #[error("VMM process {pid} has ended")]
    VmmGone {
        /// Its process id.
        pid: Pid,
    },
    /// The VMM has mapped something else in a slot since the slot was looked at.
    #[error("pid {pid} has changed its mapping at {hva}: its slots have to be read again")]
    MappingChanged {
        /// Its process id.
        pid: Pid,
        /// Where the slot was mapped.
        hva: Hva,
    },
    /// The slots of a VM changed each time they were read.
    #[error(
        "the memslots of pid {pid} changed during each of {attempts} readings; the next change is followed"
    )]
    SlotsUnstable {
        /// Its process id.
        pid: Pid,
        /// How often it was tried.
        attempts: u32,
    },
    /// The VM has more slots than a walk can carry.
    #[error("fd {fd} of pid {pid} has more than {written} memslots")]
    TooManySlots {
        /// Process.
        pid: Pid,
        /// File descriptor of the VM in it.
        fd: u32,
        /// Slots that could be read.
        written: u64,
    },
    /// The VM table is full.
    #[error("{limit} VMs are followed already")]
    TooManyVms {
        /// How many there is room for.
        limit: u32,
    },
}

impl IngestError {
    /// Whether something that this program needs is not there, as opposed to a failure.
    #[must_use]
    pub fn is_missing_prerequisite(&self) -> bool {
        matches!(
            self,
            Self::NotPrivileged { .. }
                | Self::NoBtf { .. }
                | Self::NoEbpfObject
                | Self::NoKvm { .. }
                | Self::Lockdown { .. }
                | Self::WrongObject { .. }
        )
    }

    /// Whether the VMM is not there any more, which is no fault of anybody.
    #[must_use]
    pub fn is_vmm_gone(&self) -> bool {
        matches!(self, Self::VmmGone { .. })
    }

    /// Whether what was known of a slot's mappings is out of date: reading the slots again helps.
    #[must_use]
    pub fn is_mapping_changed(&self) -> bool {
        matches!(self, Self::MappingChanged { .. })
    }

    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::Io { operation, path: path.into(), source: source.into() }
    }

    pub(super) fn map(map: &'static str, operation: &'static str, source: MapError) -> Self {
        Self::Map { map, operation, source: Box::new(source) }
    }
}
