//! The ring soak: guests verify what they write while imr comes and goes by chance, in one machine after the other.
//!
//! In: for how long, a seed. Out: a test for each machine, with the counts that its script (`tests/vm/soak.sh`) prints at
//! the end, and their sums. Must not decide what is done: that is in the script, by the seed.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use super::deadline::Deadline;
use super::tally::Tally;
use super::tries;
use crate::setup::{self, MissingPrerequisite, Need};
use crate::testbed::config::{Config, GuestRam, Mib, Script};
use crate::testbed::files::FileMapping;
use crate::testbed::outcome::Outcome;
use crate::testbed::run_session;
use crate::{build_kmod, build_user, cache};

/// How long guests churn, unless another time is asked for.
pub(super) const DEFAULT_TIME: Duration = Duration::from_secs(180);
/// How long they churn in one machine, at most: the emulator seldom keeps one alive for half an hour.
const IN_ONE_MACHINE: Duration = Duration::from_secs(600);
/// Its name, also in the filter.
const NAME: &str = "soak";
/// The boot of all guests and the end, at most.
const BESIDES: Duration = Duration::from_secs(900);
/// One guest of each kind of memory (`KINDS` in the script).
const GUESTS: u32 = 4;
const GUEST_MIB: u32 = 320;
/// Seeds have so many values.
const SEEDS: u32 = 1 << 31;
/// A line that is worth showing although all went well.
const SHOWN: &str = "== ";
/// What the line with the counts begins with: `name=number` each follow.
const COUNTS: &str = "soak: ";
/// The count that has no sum.
const SEED: &str = "seed";

/// A soak that everything is built for.
pub(super) struct Soak {
    tools: PathBuf,
    machines: Vec<Machine>,
    deadline: Deadline,
    sums: Mutex<Counts>,
}

/// A part of it.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    name: String,
    time: Duration,
    seed: u32,
}

/// Builds what the soak needs. `None`: `filter` leaves it out, or it is skipped, as `tally` says then.
///
/// # Errors
/// When something does not build.
pub(super) fn prepare(
    filter: Option<&str>,
    time: Duration,
    seed: Option<u32>,
    deadline: Deadline,
    tally: &mut Tally,
) -> Result<Option<Soak>> {
    if filter.is_some_and(|filter| !NAME.contains(filter)) {
        return Ok(None);
    }
    let tools = match build() {
        Err(error) if error.is::<MissingPrerequisite>() => {
            tally.skip(NAME, &error);
            return Ok(None);
        }
        other => other?,
    };
    let seed = seed.unwrap_or_else(any_seed);
    println!("soak: seed {seed}, {} s", time.as_secs());
    Ok(Some(Soak { tools, machines: machines(time, seed), deadline, sums: Mutex::default() }))
}

/// Runs the soak unless `filter` leaves it out.
///
/// # Errors
/// When something does not build, or an image cannot be written.
pub(super) fn run(
    filter: Option<&str>,
    time: Duration,
    seed: Option<u32>,
    deadline: Deadline,
) -> Result<Tally> {
    let mut tally = Tally::default();
    if let Some(soak) = prepare(filter, time, seed, deadline, &mut tally)? {
        // Not two at a time: four guests each under the emulator, and what is given a time to end in would not.
        for machine in soak.machines() {
            tally += soak.run(&machine)?;
        }
        soak.show_sums();
    }
    Ok(tally)
}

impl Soak {
    /// Its machines. They share nothing.
    pub(super) fn machines(&self) -> Vec<Machine> {
        self.machines.clone()
    }

    /// Has guests churn in one of them.
    ///
    /// # Errors
    /// When an image cannot be written.
    pub(super) fn run(&self, machine: &Machine) -> Result<Tally> {
        let Machine { name, time, seed } = machine;
        let logs = cache::target_dir().join("vm-logs").join(name);
        let tried = tries::run(name, &logs, 0, |_| {
            let limit = *time + BESIDES;
            self.deadline.keep(limit, |limit| session(*time, limit, *seed, &self.tools, &logs))
        })?;
        let tally = Tally::of(&tried.outcome);
        if tally.failed > 0 {
            println!("    repeat {name} with --seed {seed}");
        }
        if tally.passed == 0 {
            return Ok(tally);
        }
        let mut shown = String::new();
        for line in &tried.outcome.lines {
            if line.text.starts_with(SHOWN) {
                shown.push_str(&format!("    {}\n", line.text));
            } else if let Some(counts) = line.text.strip_prefix(COUNTS) {
                shown.push_str(&format!("    {}\n", line.text));
                add(&mut self.sums.lock().unwrap_or_else(PoisonError::into_inner), counts);
            }
        }
        print!("{shown}");
        Ok(tally)
    }

    /// Prints what all machines have counted, where there are several.
    pub(super) fn show_sums(&self) {
        if self.machines.len() > 1 {
            let sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
            let sums: Vec<String> = sums.iter().map(|(name, sum)| format!("{name}={sum}")).collect();
            println!("soak: {} machines, in all {}", self.machines.len(), sums.join(" "));
        }
    }
}

/// The machines of a soak that is so long, in all.
fn machines(time: Duration, seed: u32) -> Vec<Machine> {
    let parts = parts(time);
    let one = parts.len() == 1;
    let machines = (0_u32..).zip(parts).map(|(number, time)| Machine {
        name: if one { NAME.to_owned() } else { format!("{NAME}-{}", number + 1) },
        time,
        seed: (seed + number) % SEEDS,
    });
    machines.collect()
}

/// What the machines counted, by name.
type Counts = BTreeMap<String, u64>;

/// How long each machine is churned in.
fn parts(time: Duration) -> Vec<Duration> {
    let mut left = time;
    let mut parts = Vec::new();
    while !left.is_zero() {
        let part = left.min(IN_ONE_MACHINE);
        parts.push(part);
        left -= part;
    }
    parts
}

/// Adds one machine's counts.
fn add(sums: &mut Counts, counts: &str) {
    for (name, value) in counts.split_ascii_whitespace().filter_map(|word| word.split_once('=')) {
        if let (true, Ok(value)) = (name != SEED, value.parse::<u64>()) {
            *sums.entry(name.to_owned()).or_default() += value;
        }
    }
}

fn build() -> Result<PathBuf> {
    setup::ensure(&[Need::Testbed])?;
    build_user::release_binaries()?;
    build_kmod::ensure_built(Config::default().guest_kernel)?;
    build_user::static_tools()
}

fn session(time: Duration, limit: Duration, seed: u32, tools: &Path, logs: &Path) -> Result<Outcome> {
    let config = Config { timeout: Some(limit), ..config(time, seed, tools, logs)? };
    run_session(&config, &mut |_| {}).context(NAME)
}

/// The machine: the script starts the guests, each with other memory.
fn config(time: Duration, seed: u32, tools: &Path, logs: &Path) -> Result<Config> {
    let scripts = cache::workspace().join("tests/vm");
    let path = scripts.join("soak.sh");
    let script = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // So many would be reserved if all guests were of that kind; one is.
    let huge_pages =
        Config { guests: 1, guest_mem: Mib(GUEST_MIB), guest_ram: GuestRam::Hugetlb, ..Config::default() }
            .huge_pages();
    Ok(Config {
        guests: GUESTS,
        guest_mem: Mib(GUEST_MIB),
        // With more the emulator loses L1 or a guest every few minutes.
        host_cpus: 1,
        autostart: false,
        host_append: format!("hugepages={huge_pages}"),
        host_script: Some(Script::Text(format!("LENGTH={}\nSEED={seed}\n{script}", time.as_secs()))),
        host_files: vec![
            FileMapping::new(scripts.join("lib.sh"), "/root/lib.sh"),
            FileMapping::new(tools.join("imr-testtool"), "/usr/bin/imr-testtool"),
        ],
        build: false,
        logs: Some(logs.to_owned()),
        save: Some(logs.join("saved")),
        ..Config::default()
    })
}

/// Another one each time.
fn any_seed() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u32::try_from(now.as_millis() % u128::from(SEEDS)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_soak_is_of_several_machines_whose_counts_are_added() {
        let minutes =
            |time: u64| parts(Duration::from_secs(time * 60)).iter().map(Duration::as_secs).collect();
        let (short, long): (Vec<u64>, Vec<u64>) = (minutes(3), minutes(21));
        assert_eq!((short, long), (vec![180], vec![600, 600, 60]));
        let last = machines(Duration::from_secs(1260), SEEDS - 2).pop().unwrap();
        assert_eq!((&*last.name, last.seed, last.time), ("soak-3", 0, Duration::from_secs(60)));
        assert_eq!(machines(DEFAULT_TIME, 7)[0].name, "soak");
        let mut sums = Counts::new();
        add(&mut sums, "seed=7 rounds=3 wrong=0");
        add(&mut sums, "seed=8 rounds=4 wrong=0");
        assert_eq!(sums, Counts::from([("rounds".to_owned(), 7), ("wrong".to_owned(), 0)]));
    }

    #[test]
    fn the_machine_is_possible_and_the_script_gets_its_time_and_seed() {
        let config = config(DEFAULT_TIME, 7, Path::new("/tools"), Path::new("/logs")).unwrap();
        assert_eq!(config.check(), Ok(()));
        assert_eq!(config.host_append, "hugepages=168");
        let Some(Script::Text(script)) = config.host_script else { panic!("no text") };
        assert!(script.starts_with("LENGTH=180\nSEED=7\n"));
        assert!(script.contains("\nKINDS=\"thp memfd anon hugetlb\"\n"));
    }
}
