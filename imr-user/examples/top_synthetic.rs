//! Feeds synthetic snapshots to imr-top's runner.
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use imr_user::cli::top::{Environment, TopArgs, run_top};
use imr_user::model::block::{BlockState, GuestClaim, HostFact};
use imr_user::model::ids::*;
use imr_user::model::latency::LatencySummary;
use imr_user::model::snapshot::*;

fn snap(n: u64, vms: usize) -> Snapshot {
    let vm = |id: u32| {
        let blocks: Vec<BlockState> = (0..1024u64)
            .map(|b| {
                let phase = (b * 7 + n * 16 + u64::from(id) * 100) % 1024;
                let (claim, fact, f) = match phase {
                    0..300 => (GuestClaim::Unknown, HostFact::Resident, 512),
                    300..380 => (GuestClaim::Unknown, HostFact::Resident, 30),
                    380..450 => (GuestClaim::Free, HostFact::Resident, 512),
                    450..700 => (GuestClaim::Free, HostFact::Reclaimed, 0),
                    700..760 => (GuestClaim::InUse, HostFact::Refaulted, 300),
                    _ => (GuestClaim::Unknown, HostFact::Untouched, 0),
                };
                BlockState { claim, fact, resident_frames: f }
            })
            .collect();
        VmSnapshot {
            id: VmId::new(id), pid: Pid::new(3000 + id), name: format!("guest-{id}"),
            ram_bytes: 2 << 30, resident_bytes: 900 << 20, guest_free_bytes: 1 << 30, offered_bytes: n << 26,
            reclaimed_bytes: n << 26, reclaimed_now_bytes: 500 << 20, refaulted_bytes: n << 22,
            faults_per_s: 1234.0 * n as f64, page_faults: n * 1000,
            guest: GuestStatus::Attached { control_gpa: 0x1234000, cookie: 7 },
            offers: OfferCounters::default(),
            offer_to_done: LatencySummary { count: n, p50_us: 400, p99_us: 4000, max_us: 9000 },
            reclaim: ReclaimStatus::Ready { backend: "punch".into() },
            slots: vec![SlotSnapshot {
                id: 0, base_gfn: Gfn::new(0), npages: 1024 * 512, userspace_addr: Hva::new(0),
                backing: "memfd".into(), readonly: false, blocks: Arc::from(blocks),
            }],
        }
    };
    Snapshot {
        schema_version: 1, sequence: n, unix_ms: 1_700_000_000_000 + n * 1000, uptime: Duration::from_millis(n * 1000),
        policy: PolicyName::Immediate,
        host: HostSnapshot { kernel: "6.12".into(), name: "host".into(), mem_total: 24 << 30, mem_available: 9 << 30, pressure_some_avg10: Some(0.5), ..Default::default() },
        vms: (1..=vms as u32).map(vm).collect(), decisions: vec![],
    }
}

fn main() {
    let mode = std::env::var("SYN").unwrap_or_default();
    let config = match TopArgs::parse().validate(&Environment::of_process()) {
        Ok(c) => c,
        Err(e) => { eprintln!("{e}"); std::process::exit(2) }
    };
    let delay = config.delay;
    let (tx, rx) = tokio::sync::watch::channel(Arc::new(snap(0, 0)));
    std::thread::spawn(move || {
        for n in 1.. {
            if mode == "panic" && n == 3 { panic!("synthetic panic in the pipeline"); }
            if mode == "die" && n == 3 { return; }
            if mode == "stall" && n == 3 { std::thread::sleep(Duration::from_secs(3600)); }
            if tx.send(Arc::new(snap(n, if mode == "none" { 0 } else { 4 }))).is_err() { return; }
            std::thread::sleep(delay);
        }
    });
    let exit = run_top(&config, rx);
    match exit { Ok(e) => { eprintln!("exit: {e:?}"); std::process::exit(e.code().into()) } Err(e) => { eprintln!("error: {e:#}"); std::process::exit(1) } }
}
