//! Ring "privileged": the real programs on this machine's own kernel, as root.
//!
//! In: the folder of imr and imr-top in `IMR_BIN_DIR` (`cargo xtask test privileged` sets it). Out: a test each.
//! Must not need a guest: those are in the vm ring. Must not depend on what this kernel has: a machine without
//! kprobes or without KVM is told so, not failed.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; without libtest the lint does not see that"
)]

mod ctl;
mod guards;
mod inject;
mod psi;

macro_rules! root_or_skip {
    () => {
        if !rustix::process::geteuid().is_root() {
            return Verdict::Skipped("this needs root".to_owned());
        }
    };
}

mod pageout;
mod residency;
mod screen;

use std::env;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use imr_tests::ring::{Test, Verdict};
use serde_json::Value;

const BIN_DIR: &str = "IMR_BIN_DIR";
const NOBODY: u32 = 65534;
/// Loading the eBPF object takes a second or two; anything longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    if let Some(ended) = inject::role().or_else(pageout::child) {
        return ended;
    }
    imr_tests::ring::main(&[
        Test { name: "privileged::doctor_tells_and_does_not_fail", run: doctor },
        Test { name: "privileged::doctor_json_has_every_column", run: doctor_json },
        Test { name: "privileged::top_in_batch_mode_ends_by_itself", run: top_batch },
        Test { name: "privileged::top_json_is_one_snapshot_a_line", run: top_json },
        Test { name: "privileged::screen_survives_every_size_and_key", run: screen::every_size_and_key },
        Test { name: "privileged::vms_is_a_snapshot", run: vms },
        Test { name: "privileged::run_begins_and_ends_as_promised", run: run_records },
        Test { name: "privileged::run_ends_on_a_signal", run: run_signal },
        Test { name: "privileged::ctl_asks_and_answers", run: ctl::asks_and_answers },
        Test { name: "privileged::ctl_turns_other_users_away", run: ctl::other_users_are_turned_away },
        Test { name: "privileged::ctl_one_socket_one_imr", run: ctl::one_socket_one_imr },
        Test { name: "privileged::nobody_is_told_what_is_missing", run: nobody },
        Test { name: "privileged::wrong_usage_is_2", run: usage },
        Test { name: "privileged::psi_trigger_wakes", run: psi::trigger_wakes },
        Test { name: "privileged::residency_memfd_pages_of_others", run: residency::memfd_pages_of_others },
        Test { name: "privileged::residency_mapping_that_changed", run: residency::mapping_that_changed },
        Test { name: "privileged::residency_hugetlb", run: residency::hugetlb },
        Test { name: "privileged::residency_memfd_in_huge_pages", run: residency::memfd_in_huge_pages },
        Test { name: "privileged::residency_merged_pages", run: residency::merged_pages },
        Test { name: "privileged::residency_swapped_anonymous", run: residency::swapped_anonymous },
        Test { name: "privileged::residency_swapped_file", run: residency::swapped_file },
        Test { name: "privileged::guards_kinds_of_mappings", run: guards::kinds_of_mappings },
        Test { name: "privileged::guards_locked_memory", run: guards::locked_memory },
        Test { name: "privileged::guards_userfaultfd_registered", run: guards::userfaultfd_registered },
        Test { name: "privileged::guards_no_free_memory", run: guards::slots_that_are_no_free_memory },
        Test { name: "privileged::guards_vfio_in_use", run: guards::vfio_in_use },
        Test { name: "privileged::guards_private_guest_memory", run: guards::private_guest_memory },
        Test { name: "privileged::guards_process_ids_used_again", run: guards::process_ids_used_again },
        Test { name: "privileged::inject_takes_only_what_is_named", run: inject::takes_only_what_is_named },
        Test { name: "privileged::inject_goes_unnoticed", run: inject::goes_unnoticed },
        Test { name: "privileged::inject_says_why_it_cannot", run: inject::says_why_it_cannot },
        Test { name: "privileged::inject_stopped_vmm_stays_stopped", run: inject::stopped_stays_stopped },
        Test { name: "privileged::inject_death_at_random_moments", run: inject::death::at_random_moments },
        Test { name: "privileged::inject_death_at_every_step", run: inject::death::at_every_step },
        Test { name: "privileged::pageout_private", run: pageout::private },
        Test { name: "privileged::pageout_shared", run: pageout::shared },
        Test { name: "privileged::pageout_nothing_goes_out", run: pageout::nothing_goes_out },
        Test { name: "privileged::pageout_locked_and_holes", run: pageout::locked_and_holes },
    ])
}

/// Where a program is; the error says why the ring cannot run here.
fn program(name: &str) -> Result<PathBuf, String> {
    let Some(dir) = env::var_os(BIN_DIR) else {
        return Err(format!("{BIN_DIR} is not set; run `cargo xtask test privileged`"));
    };
    if !rustix::process::geteuid().is_root() {
        return Err("this needs root".to_owned());
    }
    Ok(Path::new(&dir).join(name))
}

macro_rules! program_or_skip {
    ($name:literal) => {
        match program($name) {
            Ok(path) => path,
            Err(why) => return Verdict::Skipped(why),
        }
    };
}

/// Runs it to its end, which has to come in time, and looks for the traces of a crash.
fn finish(command: &mut Command) -> Output {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    // What these programs say fits into a pipe, so nobody has to read meanwhile.
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > LIMIT {
            child.kill().unwrap();
            panic!("{command:?} did not end within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    let said = stderr(&output);
    assert!(!said.contains("panicked") && !said.contains("backtrace"), "{command:?}: {said}");
    output
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json_lines(output: &Output) -> Vec<Value> {
    stdout(output).lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// Exit 3 is for a host on which IMR cannot work at all; its programs then have to say so, in words.
fn cannot_work_here(output: &Output) -> Option<Verdict> {
    (output.status.code() == Some(3)).then(|| {
        let said = stderr(output);
        assert!(said.contains(": "), "exit 3 without a reason: {said:?}");
        Verdict::Skipped(format!("a prerequisite is missing on this machine: {}", said.trim()))
    })
}

fn doctor() -> Verdict {
    let output = finish(Command::new(program_or_skip!("imr")).arg("doctor"));
    let said = stdout(&output);
    assert!(matches!(output.status.code(), Some(0 | 3)), "{} {said} {}", output.status, stderr(&output));
    assert!(said.lines().count() > 5, "{said}");
    for word in ["kvm", "kprobes", "paging"] {
        assert!(said.contains(word), "nothing is said of {word}: {said}");
    }
    Verdict::Passed
}

fn doctor_json() -> Verdict {
    let output = finish(Command::new(program_or_skip!("imr")).args(["doctor", "--json"]));
    let objects = json_lines(&output);
    assert_eq!(objects.len(), 1);
    let features = objects[0]["features"].as_array().unwrap();
    assert!(features.len() > 5);
    for feature in features {
        for column in ["name", "state", "found"] {
            assert!(feature.get(column).is_some_and(Value::is_string), "no {column} in {feature}");
        }
        let is_there = feature["state"] == "present";
        assert!(
            is_there || feature["lost"].is_string(),
            "not there, and what is lost is not said: {feature}"
        );
    }
    let missing = features.iter().filter(|feature| feature["state"] == "missing").count();
    assert_eq!(output.status.code(), Some(if missing == 0 { 0 } else { 3 }));
    Verdict::Passed
}

fn top_batch() -> Verdict {
    let output = finish(Command::new(program_or_skip!("imr-top")).args(["-b", "-n", "2", "-d", "0.2"]));
    if let Some(skip) = cannot_work_here(&output) {
        return skip;
    }
    assert!(output.status.success(), "{} {}", output.status, stderr(&output));
    let said = stdout(&output);
    assert!(!said.contains('\u{1b}'), "batch mode writes escape sequences");
    assert!(said.lines().count() >= 2, "{said}");
    Verdict::Passed
}

fn top_json() -> Verdict {
    let output =
        finish(Command::new(program_or_skip!("imr-top")).args(["-b", "-n", "2", "-d", "0.2", "--json"]));
    if let Some(skip) = cannot_work_here(&output) {
        return skip;
    }
    let objects = json_lines(&output);
    assert_eq!(objects.len(), 2, "{}", stderr(&output));
    let schema = serde_json::from_str(include_str!("../../docs/imr-top.schema.json")).unwrap();
    let schema = jsonschema::draft202012::new(&schema).unwrap();
    for object in &objects {
        let wrong: Vec<String> = schema.iter_errors(object).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "not as docs/imr-top.schema.json says: {wrong:?}");
    }
    assert!(objects[0]["sequence"].as_u64() < objects[1]["sequence"].as_u64());
    Verdict::Passed
}

fn vms() -> Verdict {
    let output = finish(Command::new(program_or_skip!("imr")).args(["vms", "--json"]));
    if let Some(skip) = cannot_work_here(&output) {
        return skip;
    }
    assert!(output.status.success(), "{} {}", output.status, stderr(&output));
    let objects = json_lines(&output);
    assert_eq!(objects.len(), 1);
    assert!(objects[0]["vms"].is_array());
    assert!(objects[0]["host"]["mem_total"].as_u64() > Some(0));
    Verdict::Passed
}

fn run_records() -> Verdict {
    let output = finish(Command::new(program_or_skip!("imr")).args(["run", "--json", "--duration", "1s"]));
    if let Some(skip) = cannot_work_here(&output) {
        return skip;
    }
    assert!(output.status.success(), "{} {}", output.status, stderr(&output));
    let records = json_lines(&output);
    let event = |record: &Value| record["event"].as_str().unwrap_or_default().to_owned();
    assert!(records.iter().any(|record| event(record) == "ready"), "{}", stdout(&output));
    assert_eq!(records.iter().filter(|record| event(record) == "summary").count(), 1);
    let last = records.last().unwrap();
    assert_eq!(event(last), "summary");
    for field in ["offered_bytes", "reclaimed_bytes", "denied_calls", "limited_calls", "stale_calls"] {
        assert!(last[field].is_u64(), "no {field} in {last}");
    }
    assert_eq!(last["events"]["lost"], 0);
    Verdict::Passed
}

fn run_signal() -> Verdict {
    let imr = program_or_skip!("imr");
    // Long enough that it cannot end by itself within the limit.
    let mut command = Command::new(imr);
    let mut child = command
        .args(["run", "--json", "--duration", "1h"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0];
    let read = std::io::Read::read(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    if read == 1 {
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    if let Some(skip) = cannot_work_here(&output) {
        return skip;
    }
    assert!(output.status.success(), "{} {}", output.status, stderr(&output));
    assert!(stdout(&output).contains("\"event\":\"summary\""), "{}", stdout(&output));
    Verdict::Passed
}

fn nobody() -> Verdict {
    let imr = program_or_skip!("imr");
    // The target folder need not be readable for everybody.
    let dir = env::temp_dir().join(format!("imr-nobody-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.join("imr");
    fs::copy(&imr, &copy).unwrap();
    let output = finish(
        Command::new(&copy)
            .args(["run", "--duration", "1s"])
            .env("HOME", "/nonexistent")
            .env_remove("XDG_CONFIG_HOME")
            .uid(NOBODY)
            .gid(NOBODY)
            .current_dir("/"),
    );
    fs::remove_dir_all(&dir).unwrap();
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("root") || said.contains("CAP_"), "it does not say what is missing: {said}");
    Verdict::Passed
}

fn usage() -> Verdict {
    for (name, arguments) in
        [("imr", &["run", "--no-such-flag"][..]), ("imr", &[][..]), ("imr-top", &["-d", "never"][..])]
    {
        let path = match program(name) {
            Ok(path) => path,
            Err(why) => return Verdict::Skipped(why),
        };
        let output = finish(Command::new(path).args(arguments));
        assert_eq!(output.status.code(), Some(2), "{name} {arguments:?}: {}", stderr(&output));
        assert!(!stderr(&output).is_empty());
    }
    Verdict::Passed
}
