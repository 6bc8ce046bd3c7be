//! What the vm ring runs: each scenario is a machine and a host script of `tests/vm`.
//!
//! In: nothing. Out: the table. Scenarios that differ only in the machine share a script.
//! Must not hold logic: what is tested is in the scripts.

use std::collections::BTreeSet;

use crate::kernel::KernelLine;
use crate::testbed::config::{Config, GuestRam, HostMmu, Mib};

/// One named test of the vm ring.
#[derive(Debug)]
pub(super) struct Scenario {
    /// Its name.
    pub(super) name: &'static str,
    /// The host script, in `tests/vm`.
    pub(super) script: &'static str,
    /// The machine it runs on, apart from the script.
    pub(super) machine: fn() -> Machine,
}

/// What a scenario may choose.
#[derive(Debug)]
pub(super) struct Machine {
    /// L1's kernel, and the guests'.
    pub(super) kernels: (KernelLine, KernelLine),
    /// Guests that start by themselves.
    pub(super) guests: u32,
    /// Whether the guests start by themselves; else the script starts them.
    pub(super) autostart: bool,
    /// Whether each guest loads the module at boot.
    pub(super) module: bool,
    /// How it does, as a script, where that is not with the default parameters.
    pub(super) load: Option<&'static str>,
    /// Memory of each guest, MiB.
    pub(super) guest_mib: u32,
    /// What is behind it.
    pub(super) ram: GuestRam,
    /// How L1's KVM translates addresses.
    pub(super) mmu: HostMmu,
    /// CPUs of L1: with more than one the emulator loses L1 or a guest in one scenario of ten or twenty, so only those
    /// scenarios have more that are to race.
    pub(super) host_cpus: u32,
    /// Swap of L1, MiB; 0: none.
    pub(super) swap_mib: u32,
    /// The longest that the scenario may take, the boot of L1 included, seconds; most need a tenth of the default on a fast
    /// machine, and several times that on a slow one.
    pub(super) limit_s: u64,
}

impl Scenario {
    /// Whether its script has a guest attack the host.
    pub(super) fn is_hostile(&self) -> bool {
        self.name.contains("hostile")
    }

    /// Whether its script has a guest's kernel look at what free pages hold.
    pub(super) fn looks_at_pages(&self) -> bool {
        self.name.starts_with("strangers")
    }

    /// How often its script has a guest boot again, at most: after a reset, or started anew.
    pub(super) fn boots_again(&self) -> u32 {
        match self.script {
            "reset_in_batch.sh" => 4,
            "backends.sh" => 3,
            "strangers_end.sh" | "strangers.sh" => 2,
            "reset_open_batch.sh"
            | "reset_hostile.sh"
            | "fail_vmm.sh"
            | "sweep.sh"
            | "inject_in_batch.sh" => 1,
            _ => 0,
        }
    }
}

/// What is run for a filter.
pub(super) fn chosen(filter: Option<&str>) -> Vec<&'static Scenario> {
    SCENARIOS.iter().filter(|scenario| filter.is_none_or(|filter| scenario.name.contains(filter))).collect()
}

/// Apart: the first scenario of each script, and those that have a script run on another machine.
pub(super) fn firsts(scenarios: Vec<&'static Scenario>) -> (Vec<&'static Scenario>, Vec<&'static Scenario>) {
    let mut scripts = BTreeSet::new();
    scenarios.into_iter().partition(|scenario| scripts.insert(scenario.script))
}

impl Default for Machine {
    fn default() -> Self {
        Self {
            kernels: (KernelLine::V6_12, KernelLine::V6_12),
            guests: 1,
            autostart: true,
            module: true,
            load: None,
            guest_mib: 512,
            ram: GuestRam::Thp,
            mmu: HostMmu::Npt,
            host_cpus: 1,
            swap_mib: 0,
            limit_s: 720,
        }
    }
}

impl Machine {
    /// As the testbed wants it, without scripts and files.
    pub(super) fn config(&self) -> Config {
        Config {
            host_kernel: self.kernels.0,
            guest_kernel: self.kernels.1,
            guests: self.guests,
            autostart: self.autostart,
            guest_mem: Mib(self.guest_mib),
            guest_ram: self.ram,
            host_mmu: self.mmu,
            host_cpus: self.host_cpus,
            host_swap: (self.swap_mib > 0).then_some(Mib(self.swap_mib)),
            ..Config::default()
        }
    }
}

/// 4 KiB pages make reclaiming a batch take long enough to be interrupted; they make filling slow, too. There is room for what
/// a script holds and fills beside a batch that is not answered and the 64 MiB that page reporting leaves alone
/// (mm/page_reporting.c, page_reporting_process_zone).
fn slow_batches() -> Machine {
    Machine { ram: GuestRam::Memfd, guest_mib: 320, ..Machine::default() }
}

/// Small, as all of it is scanned, swapped out and read back in 4 KiB pages; the script has it in a cgroup.
fn pushed_out() -> Machine {
    Machine { ram: GuestRam::Memfd, guest_mib: 256, swap_mib: 512, autostart: false, ..Machine::default() }
}

/// Of 4 KiB pages each is taken by itself, so that a page too many would show.
fn one_of_two_is_hostile() -> Machine {
    Machine { guests: 2, module: false, ..slow_batches() }
}

/// With a flat record; a guest that falls back to the list is left without the module.
fn flat_record() -> Machine {
    const LOAD: &str = "insmod /imr_guest.ko record=flat
grep -qx 'record_kind 2' /sys/kernel/debug/imr/stats || rmmod imr_guest
";
    Machine { load: Some(LOAD), ..Machine::default() }
}

/// Where imr and the guests' CPUs run at the same time.
fn racing(machine: Machine) -> Machine {
    Machine { host_cpus: 2, ..machine }
}

/// With free memory by sweeps though page reporting is nobody's.
fn by_sweep() -> Machine {
    Machine { load: Some("insmod /imr_guest.ko source=sweep\n"), ..Machine::default() }
}

/// The script starts the guest and loads the module.
fn by_hand() -> Machine {
    Machine { module: false, autostart: false, limit_s: 1200, ..Machine::default() }
}

/// All of them, the simplest first.
pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "boot_and_free", script: "boot_and_free.sh", machine: Machine::default },
    Scenario {
        name: "boot_and_free_6_1",
        script: "boot_and_free.sh",
        machine: || Machine { kernels: (KernelLine::V6_1, KernelLine::V6_1), ..Machine::default() },
    },
    Scenario { name: "boot_and_free_memfd", script: "boot_and_free.sh", machine: slow_batches },
    Scenario {
        name: "shadow_boot_and_free",
        script: "boot_and_free.sh",
        // Under emulation nothing else runs on shadow page tables (testbed/emulator.rs).
        machine: || Machine {
            mmu: HostMmu::Shadow,
            kernels: (KernelLine::V6_1, KernelLine::V6_1),
            ..Machine::default()
        },
    },
    // Huge pages of hugetlbfs are there from the boot on; the script says what each guest's memory is made of.
    Scenario {
        name: "backends",
        script: "backends.sh",
        machine: || Machine {
            ram: GuestRam::Hugetlb,
            guest_mib: 256,
            autostart: false,
            limit_s: 1200,
            ..Machine::default()
        },
    },
    Scenario { name: "churn", script: "churn.sh", machine: || racing(Machine::default()) },
    Scenario {
        name: "flat_boot_and_free",
        script: "boot_and_free.sh",
        machine: || Machine { kernels: (KernelLine::V6_1, KernelLine::V6_12), ..flat_record() },
    },
    Scenario {
        name: "flat_boot_and_free_6_1",
        script: "boot_and_free.sh",
        machine: || Machine { kernels: (KernelLine::V6_1, KernelLine::V6_1), ..flat_record() },
    },
    Scenario {
        name: "flat_churn",
        script: "churn.sh",
        machine: || racing(Machine { kernels: (KernelLine::V6_12, KernelLine::V6_1), ..flat_record() }),
    },
    // The script gives the guest a balloon, and has lists first, then flat records.
    Scenario { name: "sweep", script: "sweep.sh", machine: by_hand },
    Scenario {
        name: "sweep_6_1",
        script: "sweep.sh",
        machine: || Machine { kernels: (KernelLine::V6_1, KernelLine::V6_1), ..by_hand() },
    },
    Scenario { name: "strangers", script: "strangers.sh", machine: by_hand },
    Scenario {
        name: "strangers_6_1",
        script: "strangers.sh",
        machine: || Machine { kernels: (KernelLine::V6_12, KernelLine::V6_1), ..by_hand() },
    },
    Scenario { name: "strangers_end", script: "strangers_end.sh", machine: by_hand },
    Scenario { name: "strangers_plug", script: "strangers_plug.sh", machine: by_hand },
    Scenario {
        name: "files_keep_checksums",
        script: "files_keep_checksums.sh",
        machine: || Machine { autostart: false, ..Machine::default() },
    },
    Scenario { name: "vm_before_imr", script: "vm_before_imr.sh", machine: Machine::default },
    Scenario {
        name: "vm_before_imr_6_1",
        script: "vm_before_imr.sh",
        machine: || Machine { kernels: (KernelLine::V6_1, KernelLine::V6_1), ..Machine::default() },
    },
    Scenario {
        name: "vm_after_imr",
        script: "vm_after_imr.sh",
        machine: || Machine { autostart: false, ..Machine::default() },
    },
    Scenario {
        name: "two_vms",
        script: "two_vms.sh",
        machine: || racing(Machine { guests: 2, ..Machine::default() }),
    },
    Scenario {
        name: "kill_in_batch",
        script: "kill_in_batch.sh",
        machine: || racing(Machine { module: false, ..slow_batches() }),
    },
    Scenario {
        name: "late_host",
        script: "late_host.sh",
        machine: || Machine { module: false, ..Machine::default() },
    },
    Scenario { name: "module_reload", script: "module_reload.sh", machine: Machine::default },
    Scenario {
        name: "shutdown_in_batch",
        script: "shutdown_in_batch.sh",
        machine: || Machine { guests: 2, module: false, ..slow_batches() },
    },
    Scenario {
        name: "reset_open_batch",
        script: "reset_open_batch.sh",
        machine: || Machine { module: false, ..Machine::default() },
    },
    Scenario {
        name: "reset_in_batch",
        script: "reset_in_batch.sh",
        machine: || Machine { module: false, ..slow_batches() },
    },
    Scenario {
        name: "pressure",
        script: "pressure.sh",
        machine: || Machine { limit_s: 1200, ..Machine::default() },
    },
    // The host asks a guest that sweeps.
    Scenario {
        name: "pressure_sweep",
        script: "pressure.sh",
        machine: || Machine { limit_s: 1200, ..by_sweep() },
    },
    Scenario {
        name: "fail_process",
        script: "fail_process.sh",
        machine: || Machine { module: false, limit_s: 1200, ..slow_batches() },
    },
    Scenario {
        name: "fail_vmm",
        script: "fail_vmm.sh",
        machine: || Machine { guests: 2, module: false, ..slow_batches() },
    },
    // Private memory; the script starts the guests. What they hold and fill has room beside a batch that is not answered.
    Scenario {
        name: "inject_in_batch",
        script: "inject_in_batch.sh",
        machine: || Machine {
            ram: GuestRam::Anon,
            guests: 2,
            guest_mib: 320,
            module: false,
            autostart: false,
            limit_s: 1200,
            ..Machine::default()
        },
    },
    Scenario {
        name: "fail_snapshot",
        script: "fail_snapshot.sh",
        machine: || Machine { module: false, limit_s: 1200, ..slow_batches() },
    },
    Scenario {
        name: "fail_migrate",
        script: "fail_migrate.sh",
        machine: || Machine { module: false, limit_s: 1500, ..slow_batches() },
    },
    Scenario { name: "fragmentation", script: "fragmentation.sh", machine: Machine::default },
    Scenario { name: "unprivileged_ring", script: "unprivileged_ring.sh", machine: Machine::default },
    Scenario {
        name: "hostile_flood",
        script: "hostile_flood.sh",
        machine: || Machine { limit_s: 1500, ram: GuestRam::Thp, ..one_of_two_is_hostile() },
    },
    Scenario {
        name: "reset_hostile",
        script: "reset_hostile.sh",
        machine: || racing(one_of_two_is_hostile()),
    },
    Scenario { name: "top_views", script: "top_views.sh", machine: Machine::default },
    Scenario {
        name: "private_memory",
        script: "private_memory.sh",
        machine: || Machine { ram: GuestRam::Anon, module: false, limit_s: 1200, ..pushed_out() },
    },
    Scenario { name: "shared_memory", script: "shared_memory.sh", machine: pushed_out },
    // There imr-top has neither PAGEMAP_SCAN nor cachestat(2).
    Scenario {
        name: "private_memory_6_1",
        script: "private_memory.sh",
        machine: || Machine {
            ram: GuestRam::Anon,
            module: false,
            kernels: (KernelLine::V6_1, KernelLine::V6_1),
            ..pushed_out()
        },
    },
    Scenario {
        name: "shared_memory_6_1",
        script: "shared_memory.sh",
        machine: || Machine { kernels: (KernelLine::V6_1, KernelLine::V6_1), ..pushed_out() },
    },
    Scenario {
        name: "pageout",
        script: "pageout.sh",
        machine: || Machine { ram: GuestRam::Anon, module: false, limit_s: 1200, ..pushed_out() },
    },
    Scenario { name: "counts_agree", script: "counts_agree.sh", machine: Machine::default },
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache;

    #[test]
    fn every_scenario_has_a_name_of_its_own_a_script_and_a_possible_machine() {
        let mut names = BTreeSet::new();
        for scenario in SCENARIOS {
            assert!(names.insert(scenario.name), "{} is there twice", scenario.name);
            assert!(
                cache::workspace().join("tests/vm").join(scenario.script).is_file(),
                "{}",
                scenario.script
            );
            assert_eq!((scenario.machine)().config().check(), Ok(()), "{}", scenario.name);
        }
    }

    #[test]
    fn each_script_is_run_once_before_any_is_run_again() {
        let (firsts, variants) = firsts(chosen(None));
        assert_eq!(firsts.len() + variants.len(), SCENARIOS.len());
        assert!(firsts.iter().any(|first| first.name == "boot_and_free"));
        for variant in variants {
            assert!(firsts.iter().any(|first| first.script == variant.script), "{}", variant.name);
        }
    }

    #[test]
    fn no_script_is_left_over() {
        for entry in std::fs::read_dir(cache::workspace().join("tests/vm")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let others = ["lib.sh", "priority.sh", "soak.sh"];
            assert!(
                others.contains(&&*name) || SCENARIOS.iter().any(|scenario| scenario.script == name),
                "{name}"
            );
        }
    }
}
