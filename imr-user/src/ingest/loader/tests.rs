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
    let status = probes.status();
    for probe in &status {
        if let ProbeState::StoodIn { by, .. } = &probe.state {
            let attached = |other: &ProbeStatus| other.hook == *by && other.state == ProbeState::Attached;
            assert!(status.iter().any(attached), "{by} stands in for {} and is not there", probe.hook);
        }
    }
    let tables = probes.tables().unwrap();
    assert_eq!(tables.vm(0).page_faults, 0);
    assert_eq!(tables.block(0), BlockRecord::default());
    assert_eq!(tables.block(u64::MAX), BlockRecord::default());
    tables.take_changed(0..u64::MAX, |index, record| panic!("block {index} of nobody changed: {record:?}"));
    assert!(probes.tables().is_err(), "the tables are given out once");

    // Finds the VMs of other programs, if there are any, and no VM where there is none.
    let files = discovery::kvm_vm_files(None).unwrap();
    let found = discovery::walk(&mut probes, &files).unwrap();
    assert!(found.vms.len() <= files.len());
    assert!(discovery::walk(&mut probes, &[]).unwrap().vms.is_empty());
}

#[test]
fn stand_ins_are_hooks_of_the_list() {
    let names: Vec<String> = HOOKS.iter().map(Hook::name).collect();
    for hook in HOOKS {
        if let Some(by) = hook.role.stand_in() {
            assert!(names.iter().any(|name| name == by), "{}: no hook {by}", hook.name());
        }
    }
}
