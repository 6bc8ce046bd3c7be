//! `fill`: take memory, write the pattern, hold it until a file exists, verify, free.
//!
//! In: how much, and the files to make and to wait for. Out: one line; fails on a wrong byte.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::args::Args;
use crate::guest_stats;
use crate::pattern::{self, Wrong};
use crate::region::{BLOCK, Region};
use crate::{Failure, failed};

/// The one generation that is written.
const GENERATION: u64 = 1;
const MIB: usize = 1 << 20;

/// `imr-testtool fill`.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let mib = guest_stats::mib(&mut args)?;
    let ready = args.option("--ready")?;
    let until = args.option("--until")?;
    args.end()?;
    let mut region = Region::map((mib * MIB).next_multiple_of(BLOCK))?;
    let address = region.address();
    pattern::fill(region.words_mut(), address, GENERATION);
    if let Some(path) = ready {
        fs::write(&path, b"").map_err(failed(&path))?;
    }
    if let Some(path) = until {
        while !Path::new(&path).exists() {
            thread::sleep(Duration::from_millis(5));
        }
    }
    if let Some(wrong) = pattern::check(region.words(), address, GENERATION) {
        return Err(wrong_word(wrong, "held"));
    }
    println!("mib={mib} bytes={} wrong=0", region.words().len() * 8);
    Ok(())
}

/// The failure that names a wrong word.
pub(crate) fn wrong_word(wrong: Wrong, when: &str) -> Failure {
    let Wrong { address, expected, found } = wrong;
    Failure::Failed(format!(
        "wrong memory ({when}): address {address:#x}, expected {expected:#018x}, found {found:#018x}"
    ))
}
