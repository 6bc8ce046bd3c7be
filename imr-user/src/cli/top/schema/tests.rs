//! The committed schema is the one that the types make, and samples are what it says.

use std::path::PathBuf;

use super::*;
use crate::model::block::{GuestClaim, HostFact};
use crate::model::latency::LatencySummary;
use crate::model::pageout::PageoutState;
use crate::model::snapshot::{GuestStatus, PolicyName, ProbeState, ProbeStatus};
use crate::view::testing::{block, forbidden_vm, snapshot, two, vm};

/// Set, the committed file is written instead of compared.
const BLESS: &str = "IMR_BLESS";

fn committed() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/imr-top.schema.json")
}

#[test]
fn the_committed_schema_is_up_to_date() {
    let text = text().unwrap();
    if std::env::var_os(BLESS).is_some() {
        std::fs::write(committed(), &text).unwrap();
    }
    let there = std::fs::read_to_string(committed()).unwrap_or_default();
    assert!(
        there == text,
        "docs/imr-top.schema.json is not what the types make: raise SCHEMA_VERSION if a field changed its meaning or \
         went, then run {BLESS}=1 cargo test -p imr-user schema"
    );
}

/// One of everything that a sample can say.
fn full() -> Snapshot {
    let mut full = snapshot(vec![vm(1, "a"), forbidden_vm(2, "b"), vm(3, "c")]);
    full.policy = PolicyName::Observe;
    full.vms[2].guest = GuestStatus::Detached { why: "BYE".to_owned() };
    full.vms[2].policy = PolicyName::Observe;
    full.vms[2].drift.unseen_frames = 3;
    full.vms[2].slots[0].readonly = true;
    let why = || "why".to_owned();
    full.vms[0].pageout.state = PageoutState::Ready;
    full.vms[1].pageout.state =
        PageoutState::Waiting { reason: "no-idle-information".to_owned(), why: why() };
    full.vms[2].pageout.state = PageoutState::Forbidden { guard: "no-swap".to_owned(), why: why() };
    full.vms[0].pageout.counters.out_bytes = 1;
    let summary = LatencySummary { count: 1, p50_us: 2, p99_us: 3, max_us: u64::MAX };
    let stages = &mut full.vms[2].latency;
    for stage in [&mut stages.offer, &mut stages.claim, &mut stages.reclaim, &mut stages.notifier] {
        *stage = summary;
    }
    for vm in &mut full.vms {
        for claim in GuestClaim::ALL {
            for fact in HostFact::ALL {
                vm.cross.enter(block(claim, fact, 512), 512);
            }
        }
    }
    full.host.pressure_some_avg10 = None;
    full.host.probes.extend(
        [
            ProbeState::Attached,
            ProbeState::NotNeeded("why".to_owned()),
            ProbeState::StoodIn { reason: "no kprobes".to_owned(), by: "another".to_owned() },
            ProbeState::Failed("why".to_owned()),
        ]
        .map(|state| ProbeStatus { hook: "hook".to_owned(), state }),
    );
    for (decision, kind) in full.decisions.iter_mut().zip([
        crate::model::decision::DecisionKind::Kept,
        crate::model::decision::DecisionKind::Refused,
        crate::model::decision::DecisionKind::Operator,
    ]) {
        decision.kind = kind;
        decision.guard = Some("policy-observe".to_owned());
    }
    full
}

#[test]
fn samples_are_what_the_schema_says() {
    let schema: serde_json::Value = serde_json::from_str(&text().unwrap()).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let mut first = snapshot(Vec::new());
    first.sequence = 0;
    for sample in [first, two(), full()] {
        let value = serde_json::to_value(&sample).unwrap();
        let wrong: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let there = serde_json::to_value(crate::model::snapshot::SCHEMA_VERSION).unwrap();
        assert_eq!(value["schema_version"], there);
    }
}

#[test]
fn the_schema_is_strict_enough_to_notice() {
    let schema: serde_json::Value = serde_json::from_str(&text().unwrap()).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let good = serde_json::to_value(full()).unwrap();
    let wrong = |pointer: &str, value: serde_json::Value| {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        !validator.is_valid(&bad)
    };
    assert!(wrong("/vms/0/resident_bytes", "many".into()));
    assert!(wrong("/vms/0/cross/0/fact", "lost".into()));
    assert!(wrong("/vms/0/guest/state", "asleep".into()));
    assert!(wrong("/host/probes/0/state", 3.into()));
    assert!(wrong("/vms/0/pageout/state", "perhaps".into()));
    assert!(wrong("/vms/0/pageout/out_bytes", "all".into()));
    assert!(wrong("/policy", "greedy".into()));
    assert!(wrong("/uptime_ms", serde_json::Value::Null));
    let mut bad = good.clone();
    bad["vms"][0].as_object_mut().unwrap().remove("name");
    assert!(!validator.is_valid(&bad));
}
