mod host;
mod load;
fn main() {
    let tables = imr_user::ingest::tables::Tables::in_memory(load::BLOCKS).unwrap();
    let load = load::Load::start(tables.clone());
    let mut vms = host::guests();
    for rate in [0, 100_000, 1_000_000, 1_000_000, 1_000_000u64] {
        load.set(rate);
        std::thread::sleep(std::time::Duration::from_secs(1));
        let m0 = load.made();
        let mut keep = None;
        for s in 1..6 {
            std::thread::sleep(std::time::Duration::from_secs(1));
            let t = std::time::Instant::now();
            let c0 = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            let snap = host::sample(&mut vms, &tables, s, std::time::Duration::from_secs(s));
            let c1 = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            println!(
                "rate {rate} made/s {} sample {:?} cpu {} us",
                (load.made() - m0) / s,
                t.elapsed(),
                (c1.tv_sec - c0.tv_sec) * 1_000_000 + (c1.tv_nsec - c0.tv_nsec) / 1000
            );
            keep = Some(snap);
        }
        drop(keep);
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    for l in status.lines().filter(|l| l.starts_with("Rss") || l.starts_with("VmRSS")) {
        println!("{l}");
    }
}
