//! The vm ring: each scenario in a testbed of its own, one after the other.
//!
//! In: a filter. Out: a line a scenario; of a failed one the last lines and where its logs are.
//! Must not build in between: what is tested is the same from the first scenario to the last.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::scenarios::{SCENARIOS, Scenario};
use super::tally::Tally;
use crate::setup::{self, MissingPrerequisite, Need};
use crate::testbed::config::{Config, Script};
use crate::testbed::files::FileMapping;
use crate::testbed::outcome::{Outcome, Problem};
use crate::testbed::run_session;
use crate::{build_kmod, build_user, cache};

/// The longest that a scenario may take, the boot of L1 included; most need a quarter of it.
const TIMEOUT: Duration = Duration::from_secs(240);
/// How much of a failed scenario's output is shown.
const LAST_LINES: usize = 60;
/// The status of a host script whose guest did not come up (EX_TEMPFAIL): nothing was tested yet.
const NOT_BOOTED: i32 = 75;
/// In imr's record of a reset that the guest's CPU brought about.
const SHUTDOWN: &str = r#""event":"reset","cause":"shutdown""#;
/// Keeps the guest's init from loading the module: that is left to the host script.
const NO_MODULE: &str = ":\n";

/// Runs the scenarios whose names contain `filter`.
///
/// # Errors
/// When something does not build, or an image cannot be written.
pub(super) fn run(filter: Option<&str>) -> Result<Tally> {
    let chosen: Vec<&Scenario> = SCENARIOS
        .iter()
        .filter(|scenario| filter.is_none_or(|filter| scenario.name.contains(filter)))
        .collect();
    let mut tally = Tally::default();
    if chosen.is_empty() {
        return Ok(tally);
    }
    let tools = match prepare(&chosen) {
        Ok(tools) => tools,
        Err(error) if error.is::<MissingPrerequisite>() => {
            for scenario in &chosen {
                println!("test {} ... skipped: {error:#}", scenario.name);
                tally.skipped += 1;
            }
            return Ok(tally);
        }
        Err(error) => return Err(error),
    };
    let (mut second_tries, mut seconds_lost) = (0, 0.0);
    for scenario in chosen {
        let logs = cache::target_dir().join("vm-logs").join(scenario.name);
        let mut outcome = run_one(scenario, &tools, &logs)?;
        let mut again = if outcome.retries > 0 { ", L1 hung at boot and was booted again" } else { "" };
        if let Some((what, tag)) = once_more(scenario, &outcome) {
            println!("test {} ... {what}; once more", scenario.name);
            show_failure(&outcome, &logs);
            again = tag;
            seconds_lost += outcome.elapsed.as_secs_f64();
            second_tries += 1;
            // What the first try left is evidence.
            let kept = logs.with_extension("first-try");
            fs::remove_dir_all(&kept).ok();
            fs::rename(&logs, &kept).with_context(|| format!("cannot keep {}", logs.display()))?;
            outcome = run_one(scenario, &tools, &logs)?;
        }
        let seconds = outcome.elapsed.as_secs_f64();
        if let Some(Problem::Interrupted(signal)) = outcome.problem {
            anyhow::bail!("interrupted by signal {signal} during {}", scenario.name);
        }
        if outcome.success() {
            tally.passed += 1;
            println!("test {} ... ok ({seconds:.1} s{again})", scenario.name);
        } else {
            tally.failed += 1;
            println!("test {} ... FAILED ({seconds:.1} s{again})", scenario.name);
            show_failure(&outcome, &logs);
        }
    }
    if second_tries > 0 {
        println!("{second_tries} scenario(s) at the second try, {seconds_lost:.0} s lost: see above");
    }
    Ok(tally)
}

/// Why a failed scenario is run once more, if so: what failed was a machine under the emulator, before anything was
/// tested or with nobody having asked for it. Once only, said aloud, and with the first try's logs kept.
///
/// Under TCG both L1 and its guests triple-fault now and then: a CPU that re-enters a guest finds the top of its page
/// tables not present, while those tables are whole in the guest's memory.
fn once_more(scenario: &Scenario, outcome: &Outcome) -> Option<(&'static str, &'static str)> {
    if outcome.success() {
        return None;
    }
    if outcome.problem.is_none() && outcome.status == NOT_BOOTED {
        return Some(("a guest hung at boot", ", at the second try: a guest hung at boot"));
    }
    if matches!(outcome.problem, Some(Problem::QemuEnded(_) | Problem::HostPanicked)) {
        return Some(("L1 died", ", at the second try: L1 died at the first"));
    }
    // A scenario resets guests by QMP; a guest that shuts its CPU down has triple-faulted.
    let shutdown = outcome.lines.iter().any(|line| line.text.contains(SHUTDOWN));
    let reset = outcome.guest_resets > 0 && !scenario.resets_guests();
    (reset || shutdown)
        .then_some(("a guest reset itself", ", at the second try: a guest reset itself at the first"))
}

/// Builds all that the scenarios need and returns the folder of the static tools.
fn prepare(chosen: &[&Scenario]) -> Result<std::path::PathBuf> {
    setup::ensure(&[Need::Testbed])?;
    build_user::release_binaries()?;
    for scenario in chosen {
        let line = (scenario.machine)().kernels.1;
        build_kmod::ensure_built(line)?;
        if scenario.is_hostile() {
            build_kmod::ensure_hostile_built(line)?;
        }
    }
    build_user::static_tools()
}

fn run_one(scenario: &Scenario, tools: &Path, logs: &Path) -> Result<Outcome> {
    if logs.exists() {
        fs::remove_dir_all(logs).with_context(|| format!("cannot remove {}", logs.display()))?;
    }
    let scripts = cache::workspace().join("tests/vm");
    let machine = (scenario.machine)();
    let hostile = scenario.is_hostile().then(|| build_kmod::ensure_hostile_built(machine.kernels.1));
    let config = Config {
        host_script: Some(Script::File(scripts.join(scenario.script))),
        guest_script: (!machine.module).then(|| Script::Text(NO_MODULE.to_owned())),
        host_files: vec![
            FileMapping::new(scripts.join("lib.sh"), "/root/lib.sh"),
            FileMapping::new(tools.join("imr-testtool"), "/usr/bin/imr-testtool"),
        ],
        guest_files: hostile
            .transpose()?
            .map(|module| FileMapping::new(module, "/imr_hostile.ko"))
            .into_iter()
            .collect(),
        build: false,
        timeout: Some(TIMEOUT),
        logs: Some(logs.to_owned()),
        save: Some(logs.join("saved")),
        ..machine.config()
    };
    run_session(&config, &mut |_| {}).with_context(|| format!("scenario {}", scenario.name))
}

fn show_failure(outcome: &Outcome, logs: &Path) {
    let from = outcome.lines.len().saturating_sub(LAST_LINES);
    for line in &outcome.lines[from..] {
        println!("    {:8.3} {line}", line.at.as_secs_f64());
    }
    if let Some(problem) = &outcome.problem {
        println!("    {problem}");
        for line in outcome.last_words().lines() {
            println!("    {line}");
        }
    }
    println!("    all of it: {}", logs.display());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testbed::relay::{Line, Source};

    #[test]
    fn only_what_the_guest_did_by_itself_is_tried_again() {
        let scenario = |name: &str| SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap();
        let outcome = |status, guest_resets| Outcome { status, guest_resets, ..Outcome::default() };
        assert!(once_more(scenario("two_vms"), &outcome(1, 1)).is_some());
        assert!(once_more(scenario("two_vms"), &outcome(NOT_BOOTED, 0)).is_some());
        assert!(once_more(scenario("two_vms"), &outcome(1, 0)).is_none(), "it failed by itself");
        assert!(once_more(scenario("two_vms"), &outcome(0, 1)).is_none(), "it did not fail");
        assert!(once_more(scenario("reset_in_batch"), &outcome(1, 1)).is_none(), "it was reset on purpose");
        let dead = |problem| Outcome { problem: Some(problem), ..Outcome::default() };
        assert!(once_more(scenario("two_vms"), &dead(Problem::HostPanicked)).is_some());
        assert!(once_more(scenario("two_vms"), &dead(Problem::GuestPanicked(1))).is_none());
        let mut shut_down = outcome(1, 2);
        let text = r#"{"unix_ms":1,"vm":{"id":1},"event":"reset","cause":"shutdown"}"#.to_owned();
        shut_down.lines.push(Line { source: Source::Host, at: Duration::ZERO, text });
        assert!(once_more(scenario("reset_in_batch"), &shut_down).is_some());
    }
}
