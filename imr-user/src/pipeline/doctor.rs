//! What this host can do for IMR: every feature, whether it is there, what is lost without it, how to get it.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::ingest::host;
use crate::ingest::loader::{LoadOptions, Probes};
use crate::model::snapshot::ProbeState;

/// One thing that IMR can use.
#[derive(Debug, Clone, Serialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether it is there.
    pub state: FeatureState,
    /// What was found.
    pub found: String,
    /// What is lost without it; empty where it is there.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub lost: &'static str,
    /// How to get it; empty where it is there or cannot be had.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub remedy: &'static str,
}

/// Whether a feature is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeatureState {
    /// It is.
    Present,
    /// It is not, and something works less well.
    Degraded,
    /// It is not, and IMR cannot do its work.
    Missing,
}

/// Looks at the host. Loads and attaches the probes for a moment; changes nothing.
#[must_use]
pub fn examine() -> Vec<Feature> {
    let mut features = vec![virtualization(), kvm_device(), mmu(), kprobes(), pressure(), swap()];
    features.extend(probes());
    features
}

fn feature(
    name: impl Into<String>,
    state: FeatureState,
    found: impl Into<String>,
    lost: &'static str,
    remedy: &'static str,
) -> Feature {
    let present = state == FeatureState::Present;
    Feature {
        name: name.into(),
        state,
        found: found.into(),
        lost: if present { "" } else { lost },
        remedy: if present { "" } else { remedy },
    }
}

fn present_or(condition: bool, otherwise: FeatureState) -> FeatureState {
    if condition { FeatureState::Present } else { otherwise }
}

fn virtualization() -> Feature {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let found = flags.split_whitespace().find(|flag| matches!(*flag, "svm" | "vmx"));
    let text = match found {
        Some(flag) => format!("the CPU has {flag}"),
        None if Path::new("/dev/kvm").exists() => {
            "the CPU has neither svm nor vmx, yet there is a /dev/kvm: a backend such as PVM".into()
        }
        None => "the CPU has neither svm nor vmx".into(),
    };
    feature(
        "hardware virtualization",
        present_or(found.is_some(), FeatureState::Degraded),
        text,
        "ordinary Linux guests hardly run here, and most KVM tracepoints never fire",
        "use a machine with AMD-V or VT-x enabled, or nested virtualization switched on for this VM",
    )
}

fn kvm_device() -> Feature {
    let there = Path::new("/dev/kvm").exists();
    feature(
        "/dev/kvm",
        present_or(there, FeatureState::Missing),
        if there { "there" } else { "not there" },
        "no KVM guest can run",
        "modprobe kvm_amd or kvm_intel; enable virtualization in the firmware",
    )
}

fn mmu() -> Feature {
    let mmu = host::Mmu::read();
    let found = match (mmu.two_dimensional, mmu.tdp_mmu) {
        (true, Some(on)) => format!("nested page tables (npt/ept), tdp_mmu={}", if on { "Y" } else { "N" }),
        (true, None) => "nested page tables (npt/ept)".into(),
        (false, _) => "shadow paging".into(),
    };
    feature(
        "two-dimensional paging",
        present_or(mmu.two_dimensional, FeatureState::Degraded),
        found,
        "fault addresses are guest-virtual (blocks are still followed, by SPTEs), unmaps carry no level, \
         idle memory does not show",
        "load kvm_amd with npt=1 or kvm_intel with ept=1",
    )
}

fn kprobes() -> Feature {
    let there = Path::new("/sys/bus/event_source/devices/kprobe").exists();
    feature(
        "kprobes",
        present_or(there, FeatureState::Degraded),
        if there { "there" } else { "the kernel has none (CONFIG_KPROBES)" },
        "resets of a VM cannot be seen in time, so guests are shown and not reclaimed from; \
         unmaps are matched to VMs by address",
        "use a kernel with CONFIG_KPROBES=y and CONFIG_KPROBE_EVENTS=y (every large distribution's has them)",
    )
}

fn pressure() -> Feature {
    let there = fs::read_to_string("/proc/pressure/memory").is_ok();
    feature(
        "pressure stall information",
        present_or(there, FeatureState::Degraded),
        if there { "there" } else { "/proc/pressure/memory cannot be read" },
        "the pressure of the host is not shown",
        "boot with psi=1 on a kernel with CONFIG_PSI=y",
    )
}

fn swap() -> Feature {
    let total = host::read().map_or(0, |host| host.swap_total);
    feature("swap", FeatureState::Present, format!("{} MiB", total >> 20), "", "")
}

fn probes() -> Vec<Feature> {
    let name = "eBPF probes";
    let options = LoadOptions { max_guest_bytes: 1 << 30, debug_bpf: false };
    let probes = match Probes::load(&options) {
        Ok(probes) => probes,
        Err(error) => {
            let lost = "IMR cannot see any guest";
            return vec![feature(name, FeatureState::Missing, error.to_string(), lost, "")];
        }
    };
    let mut features = Vec::new();
    for probe in probes.status() {
        let (state, found) = match probe.state {
            ProbeState::Attached => (FeatureState::Present, "attached".into()),
            ProbeState::NotNeeded(why) => (FeatureState::Present, format!("not needed: {why}")),
            ProbeState::StoodIn { reason, by } => {
                (FeatureState::Degraded, format!("{reason}; {by} stands in"))
            }
            ProbeState::Failed(why) => (FeatureState::Degraded, why),
        };
        features.push(feature(probe.hook, state, found, "what it shows; see the lines below", ""));
    }
    let able = |name: &str, result: Result<(), String>| {
        let state = present_or(result.is_ok(), FeatureState::Degraded);
        let found = result.err().unwrap_or_else(|| "yes".into());
        let lost = "no guest is answered, so nothing is reclaimed; everything is still shown";
        feature(name, state, found, lost, "use a kernel with kprobes, see above")
    };
    features.push(able("proof that a call comes from the guest kernel", probes.can_prove_calls()));
    features.push(able("resets of a VM are seen", probes.can_see_resets()));
    let fingerprint = probes.can_fingerprint();
    features.push(feature(
        "calls tell what their VMM has locked and open",
        present_or(fingerprint.is_ok(), FeatureState::Degraded),
        fingerprint.err().unwrap_or_else(|| "yes".into()),
        "a batch waits some hundred microseconds more, for a look at the VMM's descriptors",
        "",
    ));
    features
}
