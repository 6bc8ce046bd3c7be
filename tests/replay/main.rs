//! Ring "replay": sessions of raw events, as the ring buffer delivers them, through the pure layers.
//!
//! In: `replay/sessions/*.jsonl`, one step a line. Out: a test a session; the expectations are in the session.
//! The same session gives the same result every time and everywhere: nothing here reads a clock.

#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking; without libtest the lint does not see that"
)]

mod session;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use imr_tests::ring::{Test, Verdict};

use session::Session;

fn main() -> ExitCode {
    imr_tests::ring::main(&[
        Test { name: "replay::one_offer", run: || replay("one_offer") },
        Test { name: "replay::reset_and_refault", run: || replay("reset_and_refault") },
        Test { name: "replay::strangers_and_late_events", run: || replay("strangers_and_late_events") },
        Test { name: "replay::slots_move", run: || replay("slots_move") },
        Test { name: "replay::swapped_merged_idle", run: || replay("swapped_merged_idle") },
        Test { name: "replay::huge_before_imr", run: || replay("huge_before_imr") },
        Test { name: "replay::every_session_is_run", run: every_session_is_run },
        Test { name: "replay::twice_is_the_same", run: twice_is_the_same },
        Test { name: "replay::a_broken_session_is_named", run: a_broken_session_is_named },
    ])
}

fn sessions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("replay/sessions")
}

fn read(name: &str) -> String {
    let path = sessions().join(name).with_extension("jsonl");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn replay(name: &str) -> Verdict {
    let mut session = Session::default();
    let expectations = session.play(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(expectations > 0, "{name} expects nothing");
    Verdict::Passed
}

fn twice_is_the_same() -> Verdict {
    let picture = || {
        let mut session = Session::default();
        session.play(&read("reset_and_refault")).unwrap();
        session.picture().to_string()
    };
    assert_eq!(picture(), picture());
    Verdict::Passed
}

fn every_session_is_run() -> Verdict {
    let this = include_str!("main.rs");
    for entry in std::fs::read_dir(sessions()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        assert!(this.contains(&format!("replay(\"{name}\")")), "{name} is run by no test");
    }
    Verdict::Passed
}

const VM: &str = r#"{"step":"vm","id":1,"index":0,"kvm":4096,"pid":10,"name":"a"}"#;

fn too_large(slot: &str) -> String {
    format!("{VM}\n{{\"step\":\"slots\",\"id\":1,\"slots\":[{{\"id\":0,{slot},\"hva\":0}}]}}")
}

fn a_broken_session_is_named() -> Verdict {
    for (text, named) in [
        ("{\"step\":\"event\",\"kind\":1}", "line 1"),
        ("\n{\"step\":\"leap\"}", "line 2"),
        ("{\"step\":\"expect\",\"path\":\"vms.0.name\",\"value\":\"a\"}", "vms.0.name"),
        (&too_large("\"base_gfn\":0,\"npages\":18446744073709551615"), "no slot has 18446744073709551615"),
        (&too_large("\"base_gfn\":18446744073709551615,\"npages\":1"), "no slot has 1 frames"),
        (&format!("{VM}\n{{\"step\":\"baseline_begin\",\"id\":1,\"blocks\":1}}"), "has 0 blocks"),
    ] {
        let told = Session::default().play(text).unwrap_err();
        assert!(told.contains(named), "{told}");
    }
    Verdict::Passed
}
