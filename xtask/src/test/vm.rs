//! The vm ring: each scenario in a testbed of its own; those that are to race by themselves, then those on one CPU, and the
//! machines of a soak, two at a time.
//!
//! In: a filter. Out: a line a scenario; of a failed one the last lines and where its logs are.
//! Must not build in between: what is tested is the same from the first scenario to the last.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::deadline::Deadline;
use super::scenarios::{self, Scenario};
use super::soak::{self, Soak};
use super::tally::Tally;
use super::{tries, workers};
use crate::setup::{self, MissingPrerequisite, Need};
use crate::testbed::config::{Config, Script};
use crate::testbed::files::FileMapping;
use crate::testbed::outcome::Outcome;
use crate::testbed::run_session;
use crate::{build_kmod, build_user, cache};

/// Keeps the guest's init from loading the module by itself.
const NO_MODULE: &str = ":\n";

/// What may run beside another.
enum Beside<'a> {
    Soak(soak::Machine),
    Scenario(&'a Scenario),
}

/// Runs the scenarios whose names contain `filter`, and `soak` beside them, until `deadline`: a script's first scenario
/// before any that has it run on another machine.
///
/// # Errors
/// When something does not build, or an image cannot be written.
pub(super) fn run(filter: Option<&str>, soak: Option<&Soak>, deadline: Deadline) -> Result<Tally> {
    let chosen = scenarios::chosen(filter);
    let mut tally = Tally::default();
    let tools = match prepare(&chosen) {
        Ok(tools) => tools,
        Err(error) if error.is::<MissingPrerequisite>() => {
            chosen.iter().for_each(|scenario| tally.skip(scenario.name, &error));
            return Ok(tally);
        }
        Err(error) => return Err(error),
    };
    let lost = Mutex::new((0, 0.0));
    let run = |scenario: &Scenario| -> Result<Tally> {
        let logs = cache::target_dir().join("vm-logs").join(scenario.name);
        let boots_again = scenario.boots_again();
        let machine = (scenario.machine)();
        let limit = Duration::from_secs(machine.limit_s);
        let tried = tries::run(scenario.name, &logs, boots_again, |again| {
            deadline.keep(limit, |limit| run_one(scenario, again, limit, &tools, &logs))
        })?;
        if tried.lost > 0 && machine.host_cpus > 1 {
            println!("    {}: from try 2 on with one CPU in L1", scenario.name);
        }
        let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.0 += tried.lost;
        lost.1 += tried.seconds_lost;
        Ok(Tally::of(&tried.outcome))
    };
    let (firsts, variants) = scenarios::firsts(chosen);
    let mut machines = soak.map(Soak::machines).unwrap_or_default();
    for mut part in [firsts, variants] {
        // The longest first, so that none of them is left to run alone.
        part.sort_by_key(|scenario| Reverse((scenario.machine)().limit_s));
        let (on_one_cpu, on_more): (Vec<_>, Vec<_>) =
            part.into_iter().partition(|scenario| (scenario.machine)().host_cpus == 1);
        for scenario in on_more {
            tally += run(scenario)?;
        }
        let soaked = std::mem::take(&mut machines).into_iter().map(Beside::Soak);
        let beside: Vec<_> = soaked.chain(on_one_cpu.into_iter().map(Beside::Scenario)).collect();
        tally += workers::run(beside, |test| match (test, soak) {
            (Beside::Scenario(scenario), _) => run(scenario),
            (Beside::Soak(machine), Some(soak)) => soak.run(&machine),
            (Beside::Soak(_), None) => Ok(Tally::default()),
        })?;
    }
    if let Some(soak) = soak {
        soak.show_sums();
    }
    let (lost, seconds_lost) = lost.into_inner().unwrap_or_else(PoisonError::into_inner);
    if lost > 0 {
        println!("{lost} tries lost under the emulator, {seconds_lost:.0} s: see above");
    }
    Ok(tally)
}

/// Builds all that the scenarios need and returns the folder of the static tools.
fn prepare(chosen: &[&Scenario]) -> Result<std::path::PathBuf> {
    if chosen.is_empty() {
        return Ok(std::path::PathBuf::new());
    }
    setup::ensure(&[Need::Testbed])?;
    build_user::release_binaries()?;
    for scenario in chosen {
        let line = (scenario.machine)().kernels.1;
        build_kmod::ensure_built(line)?;
        if scenario.is_hostile() {
            build_kmod::ensure_hostile_built(line)?;
        }
        if scenario.looks_at_pages() {
            build_kmod::ensure_pages_built(line)?;
        }
    }
    build_user::static_tools()
}

/// `again`: the emulator has lost it, so L1 has one CPU, with which that hardly ever happens. What is to race by itself does so
/// only as far as L1's kernel interrupts it; all else that the script says has to hold there, too.
fn run_one(scenario: &Scenario, again: bool, limit: Duration, tools: &Path, logs: &Path) -> Result<Outcome> {
    let scripts = cache::workspace().join("tests/vm");
    let mut machine = (scenario.machine)();
    if again {
        machine.host_cpus = 1;
    }
    let mut guest_files = Vec::new();
    if scenario.is_hostile() {
        let module = build_kmod::ensure_hostile_built(machine.kernels.1)?;
        guest_files.push(FileMapping::new(module, "/imr_hostile.ko"));
    }
    if scenario.looks_at_pages() {
        let module = build_kmod::ensure_pages_built(machine.kernels.1)?;
        guest_files.push(FileMapping::new(module, "/imr_pages.ko"));
    }
    let config = Config {
        host_script: Some(Script::File(scripts.join(scenario.script))),
        guest_script: if machine.module { machine.load } else { Some(NO_MODULE) }
            .map(|text| Script::Text(text.to_owned())),
        host_files: vec![
            FileMapping::new(scripts.join("lib.sh"), "/root/lib.sh"),
            FileMapping::new(tools.join("imr-testtool"), "/usr/bin/imr-testtool"),
        ],
        guest_files,
        build: false,
        timeout: Some(limit),
        logs: Some(logs.to_owned()),
        save: Some(logs.join("saved")),
        ..machine.config()
    };
    run_session(&config, &mut |_| {}).with_context(|| format!("scenario {}", scenario.name))
}
