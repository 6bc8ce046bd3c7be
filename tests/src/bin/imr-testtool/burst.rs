//! `burst`: a process that takes memory in chunks, all at once, and frees it: how long does each chunk take?
//!
//! In: how much, in what chunks, a file that the times are added to; or such a file alone. Out: for the file, the median
//! and the 99th percentile. A chunk's time is that of its mmap and of the first write to each of its pages.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::time::Instant;

use crate::args::Args;
use crate::guest_stats;
use crate::region::Region;
use crate::{Failure, failed};

const MIB: usize = 1 << 20;
const KIB: usize = 1 << 10;
/// A chunk's size unless another is given: what a program's allocator asks the kernel for.
const CHUNK_KIB: usize = 128;

/// `imr-testtool burst`.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    if let Some(path) = args.option("--report")? {
        args.end()?;
        return report(&path);
    }
    let mib = guest_stats::mib(&mut args)?;
    let chunk = args.parsed::<usize>("--chunk-kib")?.unwrap_or(CHUNK_KIB).max(4).next_multiple_of(4) * KIB;
    let times = args.option("--times")?.ok_or_else(|| Failure::Usage("burst needs --times FILE".into()))?;
    args.end()?;
    let mut taken = Vec::with_capacity(mib * MIB / chunk);
    let mut lines = String::new();
    while taken.len() * chunk < mib * MIB {
        let start = Instant::now();
        let mut region = Region::map(chunk)?;
        region.touch();
        lines += &format!("{}\n", start.elapsed().as_nanos());
        taken.push(region);
    }
    let file = OpenOptions::new().append(true).create(true).open(&times);
    file.and_then(|mut file| file.write_all(lines.as_bytes())).map_err(failed(&times))?;
    println!("chunks={}", taken.len());
    Ok(())
}

fn report(path: &str) -> Result<(), Failure> {
    let text = fs::read_to_string(path).map_err(failed(path))?;
    let times: Result<Vec<u64>, _> = text.lines().map(str::parse).collect();
    let mut times = times.map_err(|error| Failure::Failed(format!("{path}: {error}")))?;
    times.sort_unstable();
    let (Some(p50), Some(p99)) = (percentile(&times, 50), percentile(&times, 99)) else {
        return Err(Failure::Failed(format!("{path}: no times")));
    };
    println!("chunks={} p50_us={:.1} p99_us={:.1}", times.len(), p50 as f64 / 1e3, p99 as f64 / 1e3);
    Ok(())
}

/// Of sorted values: the least that so many percent do not pass.
fn percentile(sorted: &[u64], percent: usize) -> Option<u64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_chunk_is_timed_and_the_times_add_up() {
        let file = std::env::temp_dir().join(format!("imr-burst-{}", std::process::id()));
        let words =
            |line: &str| Args::new(line.split(' ').map(str::to_owned).collect::<Vec<_>>().into_iter());
        let path = file.to_str().unwrap();
        for _ in 0..2 {
            run(words(&format!("--mib 1 --chunk-kib 256 --times {path}"))).unwrap();
        }
        assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), 8);
        run(words(&format!("--report {path}"))).unwrap();
        fs::write(&file, "").unwrap();
        assert!(run(words(&format!("--report {path}"))).is_err());
        fs::remove_file(&file).unwrap();
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 99)), (Some(50), Some(99)));
        assert_eq!((percentile(&[7], 50), percentile(&[], 50)), (Some(7), None));
    }
}
