//! `cargo xtask bench reclaim`
#![expect(dead_code, reason = "x")]
mod ask;
mod figures;
mod guest;
mod host;
mod memory;
mod missing;
mod peers;
mod probes;
mod ratio;
mod undo;
mod vmm;
use std::process::ExitCode;
use std::time::Duration;
use anyhow::Result;
use ask::Backing;
fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["--vmm", kind, bytes] = words[..] {
        return vmm::serve(kind, bytes);
    }
    undo::watch_signals()?;
        let q = |s: &figures::Samples| format!("{:.2} [{:.2} {:.2}]", s.median(), s.quartiles().0, s.quartiles().1);
        let show = |backing, m: ratio::Measured, t: std::time::Instant| {
        println!("{backing:?} ratio {} imr {} bare {} claim {} reclaim {} done {} ({:?})", q(&m.times.ratio), q(&m.times.imr_us), q(&m.times.bare_us),
        q(&m.stages.claim_us), q(&m.stages.reclaim_us), q(&m.stages.done_us), t.elapsed());
        };
    let t = std::time::Instant::now();
    let only = std::env::var("ONLY").unwrap_or_default();
    if only.is_empty() || only == "ratio" {
    for backing in [Backing::Shared4k, Backing::Shared2m, Backing::Hugetlb] {
    let t = std::time::Instant::now();
        let m = ratio::punch(backing, if backing == Backing::Shared4k {20} else {80})?;
        show(backing, m, t);
    }
    for backing in [Backing::Private4k, Backing::Private2m] {
        println!("{:?}", ratio::inject(backing, 5)?.is_some());
    }
    }
    if only.is_empty() || only == "probes" {
    let t = std::time::Instant::now();
    let c = probes::cost(std::path::Path::new("/tmp/wt/bench/target/release"), 6)?;
    println!("probes {} cpu {} mapped {} per_s {} ev {} {:?}", q(&c.first_percent), q(&c.first_cpu_percent), q(&c.mapped_percent), q(&c.first_per_s), c.events_per_touch, t.elapsed());
    }
    if only.is_empty() || only == "peers" {
    for b in [Backing::Shared4k, Backing::Shared2m, Backing::Private4k, Backing::Private2m] {
    let t = std::time::Instant::now();
    println!("{:?} {:?}", peers::swap(b, 5)?, t.elapsed());
    }
    println!("{:?} {:?}", peers::ksm("tuned", peers::Pace::TUNED, Backing::Private4k, Duration::from_secs(20))?, t.elapsed());
    println!("{:?} {:?}", peers::ksm("tuned", peers::Pace::TUNED, Backing::Private2m, Duration::from_secs(20))?, t.elapsed());
    println!("{:?} {:?}", peers::ksm("default", peers::Pace::DEFAULT, Backing::Private4k, Duration::from_secs(40))?, t.elapsed());
    println!("{:?} {:?}", peers::ksm("default", peers::Pace::DEFAULT, Backing::Private2m, Duration::from_secs(40))?, t.elapsed());
    }
    Ok(ExitCode::SUCCESS)
}
