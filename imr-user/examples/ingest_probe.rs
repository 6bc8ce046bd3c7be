//! temporary
use imr_common::host_abi::*;
use imr_user::ingest::{discovery, events::Events, loader::*, vmm::Vmm};
use std::time::{Duration, Instant};
#[tokio::main(flavor = "current_thread")]
async fn main() {
    let secs: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(3);
    let debug = std::env::args().nth(2).is_some();
    let t = Instant::now();
    let mut p = match Probes::load(&LoadOptions { max_guest_bytes: 4 << 30, debug_bpf: debug }) {
        Ok(p) => p,
        Err(e) => {
            println!("ERR {e}");
            let mut s: Option<&dyn std::error::Error> = Some(&e);
            while let Some(x) = s {
                println!("  cause {x}");
                s = x.source();
            }
            std::process::exit(3)
        }
    };
    println!("loaded in {:?}", t.elapsed());
    for s in p.status() {
        println!("{:55} {:?}", s.hook, s.state);
    }
    for i in aya::programs::loaded_programs().flatten() {
        println!(
            "   prog {:?} verified {:?} xlated {:?}",
            i.name_as_str(),
            i.verified_instruction_count(),
            i.size_translated()
        );
    }
    println!("prove {:?}\nresets {:?}", p.can_prove_calls(), p.can_see_resets());
    let mut ev: Events = p.events().unwrap();
    let tables = p.tables().unwrap();
    let mut reg = p.registry().unwrap();
    let mut known = Vec::new();
    let follow =
        |p: &mut Probes,
         reg: &mut imr_user::ingest::registry::Registry,
         known: &mut Vec<(u64, imr_user::ingest::registry::Registration, discovery::VmFacts, Vmm)>| {
            let t = Instant::now();
            let files = discovery::kvm_vm_files(None).unwrap();
            let found = discovery::walk(p, &files).unwrap();
            println!("walk {} files {:?}", files.len(), t.elapsed());
            for f in found {
                if known.iter().any(|k| k.0 == f.kvm) {
                    continue;
                }
                let vmm = Vmm::open(f.pid).unwrap();
                let t = Instant::now();
                let seg = vmm.segments(&f.slots).unwrap();
                println!(
                    "VM pid {} fd {} name {} kvm {:x} gen {} segs {:?}",
                    f.pid,
                    f.fd,
                    vmm.name(),
                    f.kvm,
                    f.generation,
                    t.elapsed()
                );
                for (s, g) in f.slots.iter().zip(&seg) {
                    println!(
                        "  slot {} gfn {:x}+{:x} hva {:x} flags {} -> {:?}",
                        s.id,
                        s.base_gfn,
                        s.npages,
                        s.userspace_addr,
                        s.flags,
                        g.iter()
                            .map(|g| format!(
                                "{} sh {} ps {} off {:x} flags {:?}",
                                g.kind, g.shared, g.page_size, g.file_offset, g.flags
                            ))
                            .collect::<Vec<_>>()
                    );
                }
                for g in seg.iter().flatten() {
                    if g.npages > 1024 {
                        let mut n = 0;
                        let t = Instant::now();
                        vmm.resident_frames(g, |_| n += 1).unwrap();
                        println!("  resident {n} of {} {:?}", g.npages, t.elapsed());
                    }
                }
                let r = reg.register(&f, &tables).unwrap();
                println!("  index {}", r.index());
                known.push((f.kvm, r, f, vmm));
            }
        };
    follow(&mut p, &mut reg, &mut known);
    let end = Instant::now() + Duration::from_secs(secs);
    let mut batch = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(1000));
    let (mut ncalls, mut nresets) = (0, 0);
    while Instant::now() < end {
        tokio::select! {
        r = ev.next_batch(&mut batch) => { r.unwrap(); let mut seen = false; for e in batch.drain(..) { match e.kind {
            EVENT_VM_SEEN => { println!("SEEN kvm {:x} tgid {}", e.kvm, e.tgid); seen = true; }
            EVENT_CALL => { ncalls += 1; if ncalls < 20 { println!("CALL vm {} args {:x?} t {}", e.vm, e.args, e.time_ns); } }
            EVENT_RESET => { nresets += 1; if nresets < 40 { println!("RESET vm {} gen {} tid {}", e.vm, e.args[0], e.tid); } }
            EVENT_SLOTS_CHANGED => { println!("SLOTS vm {} gen {}", e.vm, e.args[0]);
                if let Some(k) = known.iter_mut().find(|k| k.1.index() == e.vm) { let f = discovery::walk(&mut p, &[(k.2.pid, k.2.fd)]).unwrap(); if let Some(f) = f.into_iter().next() { k.1 = reg.update(&k.1, &f, &tables).unwrap(); k.2 = f; } } }
            _ => println!("?? {e:?}") } } if seen { follow(&mut p, &mut reg, &mut known); } }
        _ = tick.tick() => { let t = tables.totals(); println!("{t:?}");
            for k in &known { let r = tables.vm(k.1.index()); let mut out = String::new();
                for (i, s) in k.2.slots.iter().enumerate() { if s.npages < 1024 { continue; } if let Some(b) = k.1.block_base(i) { let n = s.npages / 512; let (mut mapped, mut maps, mut large, mut un) = (0, 0, 0, 0);
                    for j in 0..n { let b = tables.block(b + j); mapped += b.mapped.iter().map(|w| w.count_ones()).sum::<u32>(); maps += b.maps; large += b.maps_large; un += b.unmaps; }
                    let mut res = 0; if let Ok(sg) = k.3.segments(&[*s]) { for g in &sg[0] { let _ = k.3.resident_frames(g, |_| res += 1); } }
                    out += &format!(" slot{} mapped {mapped} resident {res} maps {maps} large {large} unmaps {un};", s.id); } }
                println!("vm{} gone {} faults {} set {} zap {} unm {} long {} hc {} calls {} den {} lim {} rst {} gen {} |{out}", k.1.index(), k.3.has_exited(), r.page_faults, r.sptes_set, r.sptes_zapped, r.unmaps, r.long_unmaps, r.hypercalls, r.calls, r.denied_calls, r.limited_calls, r.reset_generation, r.memslots_generation); } } }
    }
    println!("done calls {ncalls} resets {nresets} undecodable {}", ev.undecodable());
}
