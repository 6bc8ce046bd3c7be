//! `cargo xtask demo`: the whole of IMR for a newcomer, on a terminal or as a text.
//!
//! In: whether there is a terminal. Out: imr-top at work on a guest that fills and frees memory in waves; or the same
//! as a text that ends with one JSON line, and 0 only when memory came back and the guest's check passed.
//! Must not need anything but `cargo xtask`: it builds and sets up what is missing.

mod on_machine;

use std::io::{IsTerminal as _, Write as _, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::test::tries;
use crate::testbed::config::{Config, Script, Terminal};
use crate::testbed::files::FileMapping;
use crate::testbed::outcome::Outcome;
use crate::testbed::relay::Source;
use crate::testbed::run_session;
use crate::{build_user, cache};

const STORY: &str = include_str!("story.sh");
const LIVE: &str = include_str!("live.sh");
const WAVES: &str = include_str!("waves.sh");
/// Begins the line of the story that holds its numbers.
const RESULT: &str = "RESULT ";
/// From the first boot to the end; a minute and a half where the machine has nothing else to do.
const TIMEOUT: Duration = Duration::from_secs(600);
const KIB_PER_MIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const FAILED: u8 = 1;

/// Arguments of `cargo xtask demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Tell the story as text and end with one JSON line, even on a terminal
    #[arg(long)]
    headless: bool,
}

/// What the demo has shown; the last line of its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Summary {
    offered_mib: u64,
    reclaimed_mib: u64,
    resident_before_mib: u64,
    resident_after_mib: u64,
    offer_to_done_p50_us: u64,
    lost_events: u64,
    guest_check: String,
}

/// Runs `cargo xtask demo`.
///
/// # Errors
/// When something is missing or does not build.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let started = Instant::now();
    let live = !args.headless && stdin().is_terminal() && stdout().is_terminal();
    let on_machine = on_machine::possible();
    let place = if on_machine { "on this machine" } else { "in a KVM host that runs in QEMU" };
    eprintln!("demo: building imr, the guest's module and its tools; then a guest boots {place}");
    let tools = build_user::static_tools()?;
    let config = config(live, &tools);
    let mut result = None;
    let status = if on_machine {
        on_machine::run(&config, live, &mut |line| show("", line, &mut result))?
    } else {
        let mut tried = 1;
        loop {
            let outcome = in_testbed(&config, &mut result)?;
            match tries::lost(0, &outcome) {
                Some(what) if tried < tries::TRIES => {
                    eprintln!("demo: {what}; once more. retries: {tried}");
                    tried += 1;
                }
                _ => break i32::from(outcome.exit_code()),
            }
        }
    };
    let took = started.elapsed().as_secs_f64();
    if live {
        return Ok(ExitCode::from(u8::try_from(status).unwrap_or(FAILED)));
    }
    let Some(result) = result else { bail!("the demo did not come to its end ({took:.0} s)") };
    let summary = parse(&result).with_context(|| format!("the demo's numbers: {result:?}"))?;
    let verdict = judge(&summary);
    match &verdict {
        Ok(()) => eprintln!("demo: the memory came back and the guest's check passed ({took:.0} s)"),
        Err(why) => eprintln!("demo: FAILED: {why}"),
    }
    println!("{}", serde_json::to_string(&summary)?);
    let good = verdict.is_ok() && status == 0;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(FAILED) })
}

/// Runs the host script of `config` in the testbed's L1.
fn in_testbed(config: &Config, result: &mut Option<String>) -> Result<Outcome> {
    let outcome = run_session(config, &mut |line| match line.source {
        Source::Testbed => eprintln!("{line}"),
        Source::Host | Source::Guest(_) => show(&format!("{}|", line.source), &line.text, result),
    })?;
    if !outcome.success() {
        if let Some(problem) = &outcome.problem {
            eprintln!("demo: {problem}");
        }
        eprint!("{}", outcome.last_words());
    }
    Ok(outcome)
}

/// Shows a line of the story, or keeps its numbers: they come as JSON at the end.
fn show(source: &str, line: &str, result: &mut Option<String>) {
    match line.strip_prefix(RESULT) {
        Some(numbers) => *result = Some(numbers.to_owned()),
        // Nobody may be reading; the result is what counts.
        None => drop(writeln!(stdout(), "{source}{line}")),
    }
}

fn config(live: bool, tools: &Path) -> Config {
    let library = cache::workspace().join("tests/vm/lib.sh");
    Config {
        host_script: Some(Script::Text(if live { LIVE } else { STORY }.to_owned())),
        guest_script: live.then(|| Script::Text(WAVES.to_owned())),
        host_files: vec![
            FileMapping::new(library, "/root/lib.sh"),
            FileMapping::new(tools.join("imr-testtool"), "/usr/bin/imr-testtool"),
        ],
        terminal: if live { Terminal::Users } else { Terminal::None },
        timeout: (!live).then_some(TIMEOUT),
        ..Config::default()
    }
}

/// Reads `name=value` words.
fn parse(text: &str) -> Result<Summary> {
    let word = |name: &str| {
        let found = text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.with_context(|| format!("no {name}"))
    };
    let number = |name: &str| word(name)?.parse::<u64>().with_context(|| format!("{name} is no number"));
    Ok(Summary {
        offered_mib: number("offered")? / MIB,
        reclaimed_mib: number("reclaimed")? / MIB,
        resident_before_mib: number("before_kib")? / KIB_PER_MIB,
        resident_after_mib: number("after_kib")? / KIB_PER_MIB,
        offer_to_done_p50_us: number("p50_us")?,
        lost_events: number("lost")?,
        guest_check: word("check")?.to_owned(),
    })
}

/// Whether the demo has shown what it is to show.
fn judge(summary: &Summary) -> Result<(), String> {
    // The program takes 70 % of what is free; half of the guest coming back is no accident.
    let fell = summary.resident_before_mib.saturating_sub(summary.resident_after_mib);
    if fell < summary.resident_before_mib / 2 || summary.reclaimed_mib == 0 {
        return Err(format!("of {} MiB only {fell} MiB came back", summary.resident_before_mib));
    }
    if summary.guest_check != "ok" {
        return Err("the guest found wrong memory, or could not check it".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = "offered=1073741824 reclaimed=838860800 before_kib=417792 after_kib=135168 fell_kib=282624 p50_us=5105 lost=0 check=ok";

    #[test]
    fn the_json_line_has_its_keys_in_order() {
        let json = serde_json::to_string(&parse(WORDS).unwrap()).unwrap();
        assert_eq!(
            json,
            "{\"offered_mib\":1024,\"reclaimed_mib\":800,\"resident_before_mib\":408,\"resident_after_mib\":132,\
             \"offer_to_done_p50_us\":5105,\"lost_events\":0,\"guest_check\":\"ok\"}"
        );
        assert!(parse("offered=1").unwrap_err().to_string().contains("reclaimed"));
    }

    #[test]
    fn only_memory_that_came_back_and_a_good_check_pass() {
        let good = parse(WORDS).unwrap();
        assert_eq!(judge(&good), Ok(()));
        assert!(judge(&Summary { guest_check: "wrong".into(), ..good.clone() }).is_err());
        assert!(judge(&Summary { resident_after_mib: 300, ..good.clone() }).is_err());
        assert!(judge(&Summary { reclaimed_mib: 0, ..good }).is_err());
    }

    #[test]
    fn only_a_terminal_gets_the_live_view() {
        let live = config(true, Path::new("/t"));
        assert_eq!((live.terminal, live.timeout), (Terminal::Users, None));
        assert!(live.guest_script.is_some());
        let told = config(false, Path::new("/t"));
        assert_eq!(told.terminal, Terminal::None);
        assert!(matches!(told.host_script, Some(Script::Text(text)) if text.contains(RESULT)));
    }
}
