//! On the running kernel, where this process may: what can be attached is, and what cannot says why.

use super::*;
use crate::ingest::discovery;

#[test]
fn every_hook_is_attached_or_says_why_not() {
    let mut probes = match Probes::load(&LoadOptions { max_guest_bytes: 1 << 30, debug_bpf: false }) {
        Ok(probes) => probes,
        Err(error) if error.is_missing_prerequisite() => return eprintln!("skipped: {error}"),
        Err(error) => panic!("{error}"),
    };
    for probe in probes.status() {
        match probe.state {
            ProbeState::Attached => {}
            ProbeState::Failed(why)
            | ProbeState::NotNeeded(why)
            | ProbeState::StoodIn { reason: why, .. } => {
                assert!(!why.is_empty() && !why.contains("verifier"), "{}: {why}", probe.hook);
            }
        }
    }
    let tables = probes.tables().unwrap();
    assert_eq!(tables.vm(0).page_faults, 0);
    assert_eq!(tables.block(u64::MAX).maps, 0);
    assert!(probes.tables().is_err(), "the tables are given out once");

    // Finds the VMs of other programs, if there are any, and no VM where there is none.
    let files = discovery::kvm_vm_files(None).unwrap();
    let found = discovery::walk(&mut probes, &files).unwrap();
    assert!(found.len() <= files.len());
    assert!(discovery::walk(&mut probes, &[]).unwrap().is_empty());
}
