//! The guest module's counters, and how much memory is there to play with.
//!
//! In: debugfs and procfs of the guest. Out: numbers.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use crate::args::Args;
use crate::{Failure, failed};

const STATS: &str = "/sys/kernel/debug/imr/stats";
const MEMINFO: &str = "/proc/meminfo";
/// Part of MemAvailable that `--mib auto` takes, percent.
const AUTO_PERCENT: u64 = 70;

/// `imr-testtool stat NAME`.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let name = args.word("the counter's name")?;
    args.end()?;
    println!("{}", read(&name)?);
    Ok(())
}

/// One of the module's counters, as it is printed there.
pub(crate) fn read(name: &str) -> Result<String, Failure> {
    let text = fs::read_to_string(STATS).map_err(failed(format!("{STATS} (is imr_guest loaded?)")))?;
    find(&text, name).ok_or_else(|| Failure::Failed(format!("{STATS} has no {name}")))
}

/// One of the module's counters as a number.
pub(crate) fn number(name: &str) -> Result<u64, Failure> {
    let text = read(name)?;
    text.parse().map_err(|_| Failure::Failed(format!("{STATS}: {name} is {text:?}")))
}

/// Waits until the counter is above `before`; false after `limit`.
pub(crate) fn wait_above(name: &str, before: u64, limit: Duration) -> Result<bool, Failure> {
    let start = Instant::now();
    while number(name)? <= before {
        if start.elapsed() >= limit {
            return Ok(false);
        }
        // debugfs tells of no change; a millisecond is far below what an offer takes.
        thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

/// Reads `--mib N|auto`.
pub(crate) fn mib(args: &mut Args) -> Result<usize, Failure> {
    let text = args.option("--mib")?.ok_or_else(|| Failure::Usage("--mib is missing".into()))?;
    if text != "auto" {
        return text
            .parse()
            .map_err(|_| Failure::Usage(format!("--mib: {text:?} is neither a number nor auto")));
    }
    let meminfo = fs::read_to_string(MEMINFO).map_err(failed(MEMINFO))?;
    let available = find(&meminfo, "MemAvailable:").and_then(|kib| kib.parse::<u64>().ok());
    let kib = available.ok_or_else(|| Failure::Failed(format!("{MEMINFO} has no MemAvailable")))?;
    usize::try_from(kib * AUTO_PERCENT / 100 / 1024).map_err(|error| Failure::Failed(error.to_string()))
}

/// The second word of the line that begins with the word `name`.
fn find(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next().unwrap_or_default().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_whole_first_word() {
        let text = "pages_offered 12\npages 3\nMemAvailable:     2048 kB\n";
        assert_eq!(find(text, "pages").as_deref(), Some("3"));
        assert_eq!(find(text, "MemAvailable:").as_deref(), Some("2048"));
        assert_eq!(find(text, "page"), None);
    }
}
