//! Recorded input: a session of the replay ring, as its reader takes it.
//!
//! In: the text. Holds: a session that cannot be played ends with the number of the line that is to blame, and as many
//! lines as it has; played twice it gives the same picture; the sums equal a recount of the blocks.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../replay/session.rs"]
mod session;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(data);
    let mut first = session::Session::default();
    let played = first.play(&text);
    if let Err(why) = &played {
        let line = why.strip_prefix("line ").and_then(|rest| rest.split_once(':')).map(|(number, _)| number);
        let line: usize = line.and_then(|number| number.parse().ok()).expect("the line is named");
        assert!((1..=text.lines().count()).contains(&line), "{why}");
    }
    let mut second = session::Session::default();
    assert_eq!(second.play(&text), played);
    let picture = first.picture();
    assert_eq!(second.picture(), picture);
    for vm in picture["vms"].as_array().expect("a list of VMs") {
        check_sums(vm);
    }
});

fn check_sums(vm: &serde_json::Value) {
    let blocks = vm["blocks"].as_array().expect("a list of blocks");
    let mut frames = 0;
    for block in blocks {
        let count = block.as_str().and_then(|block| block.rsplit('/').next()).expect("claim/fact/frames");
        frames += count.parse::<u64>().expect("a number of frames");
    }
    assert_eq!(vm["resident_bytes"].as_u64(), Some(frames * 4096), "{vm}");
}
