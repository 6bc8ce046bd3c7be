//! handshake.pml through SPIN: spin writes a verifier in C, the C compiler builds it, and it goes through all states.
//!
//! In: the bounds and mutants of a run, as macros. Out: how many states, or what went wrong. A run that was cut short
//! is a failure: it proves nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use imr_tests::ring::Verdict;

/// Deeper than any run goes, so that none is cut short.
const DEPTH: &str = "-m1000000";
/// Mebibytes for the states of a run.
const MEMORY: &str = "-DMEMLIM=2000";

/// A run whose every state has to be in order.
struct Run {
    name: &'static str,
    defines: &'static [&'static str],
}

const SAFETY: &[Run] = &[
    Run { name: "two offers, unload, load", defines: &["-DUNLOAD", "-DLOADS=2"] },
    Run { name: "killed once, unload", defines: &["-DCRASHES=1", "-DUNLOAD"] },
    Run { name: "killed twice", defines: &["-DCRASHES=2"] },
    Run { name: "reset, load", defines: &["-DRESETS=1", "-DLOADS=2"] },
    Run { name: "rolled back, unload", defines: &["-DROLLBACKS=1", "-DOFFERS=1", "-DUNLOAD"] },
    Run { name: "rolled back, killed", defines: &["-DROLLBACKS=1", "-DOFFERS=1", "-DCRASHES=1"] },
    Run { name: "kexec, killed, load", defines: &["-DKEXECS=1", "-DCRASHES=1", "-DLOADS=2"] },
];

const LIVENESS: &[Run] = &[
    Run { name: "two offers", defines: &["-DLIVE"] },
    Run { name: "killed twice", defines: &["-DLIVE", "-DCRASHES=2"] },
    Run { name: "reset, load", defines: &["-DLIVE", "-DRESETS=1", "-DLOADS=2"] },
    Run { name: "rolled back", defines: &["-DLIVE", "-DROLLBACKS=1", "-DOFFERS=1"] },
];

const MUTANTS: &[Run] = &[
    Run { name: "no fence of the host", defines: &["-DM_NO_HOST_FENCE"] },
    Run { name: "no fence of the guest", defines: &["-DM_NO_GUEST_FENCE"] },
    Run { name: "only this offer's withdrawal counts", defines: &["-DM_REVOKE_EQUAL"] },
    Run { name: "no look at the reset generation", defines: &["-DM_NO_GENERATION", "-DRESETS=1"] },
    Run { name: "no extra ring before redoing", defines: &["-DM_NO_EXTRA_RING", "-DCRASHES=1"] },
    Run { name: "no doorbell", defines: &["-DM_NO_DOORBELL", "-DRESETS=1"] },
    Run { name: "a claim never grows old", defines: &["-DM_NO_LIFETIME", "-DKEXECS=1"] },
    Run { name: "a reset between look and call", defines: &["-DM_NO_WINDOW", "-DRESETS=1"] },
];

const STUCK: Run = Run { name: "no batch is redone", defines: &["-DLIVE", "-DM_NO_REDO", "-DCRASHES=1"] };

/// What is asked of a run.
#[derive(Clone, Copy)]
enum Ask {
    /// No assertion fails.
    Safety,
    /// Every open batch is closed, given that each process goes on where it can.
    Liveness,
}

/// What a verifier said.
struct Said {
    text: String,
    complete: bool,
    errors: u64,
    states: String,
}

/// The host takes no block of the guest's, and writes no page but the module's.
pub(crate) fn safety() -> Verdict {
    all_hold(SAFETY, Ask::Safety)
}

/// While a host lives, every batch ends.
pub(crate) fn liveness() -> Verdict {
    all_hold(LIVENESS, Ask::Liveness)
}

fn all_hold(runs: &[Run], ask: Ask) -> Verdict {
    if let Some(why) = missing() {
        return Verdict::Skipped(why);
    }
    for run in runs {
        let said = verify(run, ask, &[]);
        assert!(said.complete, "{}: not all states were looked at:\n{}", run.name, said.text);
        assert_eq!(said.errors, 0, "{}:\n{}", run.name, said.text);
        println!("{}: {} states", run.name, said.states);
    }
    Verdict::Passed
}

/// Each loses a block, and the one without redoing leaves a batch open for ever.
pub(crate) fn mutants() -> Verdict {
    if let Some(why) = missing() {
        return Verdict::Skipped(why);
    }
    for run in MUTANTS {
        // What a mutant does to the control page besides is a consequence.
        let said = verify(run, Ask::Safety, &["-DONLY_BLOCKS"]);
        let lost = said.text.contains("assertion violated (vm.isolated[o_block]!=0)");
        assert!(said.errors > 0 && lost, "{} was not found out:\n{}", run.name, said.text);
    }
    let said = verify(&STUCK, Ask::Liveness, &[]);
    let stuck = said.text.contains("acceptance cycle");
    assert!(said.errors > 0 && stuck, "{} was not found out:\n{}", STUCK.name, said.text);
    Verdict::Passed
}

/// What of the tools is not there.
fn missing() -> Option<String> {
    ["spin", "cc"].into_iter().find_map(|program| {
        let found = Command::new(program).arg(if program == "spin" { "-V" } else { "--version" }).output();
        found.is_err().then(|| format!("{program:?} cannot be started; `cargo xtask setup` installs it"))
    })
}

fn verify(run: &Run, ask: Ask, more: &[&str]) -> Said {
    let dir =
        PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("proof").join(run.name.replace([' ', ','], "_"));
    fs::create_dir_all(&dir).expect("a folder below target");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("proof/handshake.pml");
    execute(Command::new("spin").arg("-a").args(run.defines).args(more).arg(model).current_dir(&dir));
    let (build, asked): (&[&str], &[&str]) = match ask {
        Ask::Safety => (&["-DSAFETY"], &["-E"]),
        Ask::Liveness => (&["-DNFAIR=3"], &["-E", "-a", "-f"]),
    };
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-w", "-DCOLLAPSE", MEMORY]).args(build).args(["-o", "pan", "pan.c"]);
    execute(compiler.current_dir(&dir));
    let mut verifier = Command::new(dir.join("pan"));
    let text = execute(verifier.args([DEPTH, "-n"]).args(asked).current_dir(&dir));
    read(text)
}

/// Runs `command` to its end and returns what it said.
fn execute(command: &mut Command) -> String {
    let output = command.output().expect("it was there a moment ago");
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    // The verifier ends with 0 whatever it finds.
    assert!(output.status.success(), "{command:?} ended with {}:\n{said}", output.status);
    said
}

fn read(text: String) -> Said {
    let after = |mark: &str| text.split_once(mark).map(|(_, rest)| rest.trim_start());
    let number = |rest: &str| rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|n| n.parse().ok());
    let errors = after("errors:").and_then(number).expect("the verifier sums up");
    let states = text.lines().find_map(|line| line.split_once(" states, stored"));
    let states = states.map(|(states, _)| states.trim().to_owned()).unwrap_or_default();
    let cut = ["max search depth too small", "out of memory", "Search not completed"];
    let complete = !cut.iter().any(|mark| text.contains(mark)) && !states.is_empty();
    Said { complete, errors, states, text }
}
