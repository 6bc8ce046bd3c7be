//! When a guest is asked to compact: its stranded free memory has passed a limit, it would do it, and it was not asked lately.
//!
//! Input: the settings, the guest's free memory, the time. Output: how much to ask for, and why. One whose last request
//! brought nothing is asked half as often each time.

use super::settings::{CompactSettings, mib, ns};
use crate::model::free_memory::FreeMemory;

/// Times by which the pause may grow.
const MOST_PATIENCE: u32 = 16;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactWish {
    /// How much is to be made part of large blocks, bytes.
    pub bytes: u64,
    /// Why.
    pub why: String,
}

/// What is remembered of one VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CompactState {
    last: Option<Asked>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asked {
    at_ns: u64,
    patience: u32,
    compacted_blocks: u64,
}

impl CompactState {
    /// Looks at what the guest has just said of its free memory. `now_ns`: CLOCK_MONOTONIC.
    pub fn wish(
        &mut self,
        now_ns: u64,
        settings: &CompactSettings,
        ram_bytes: u64,
        free: &FreeMemory,
    ) -> Option<CompactWish> {
        let limit = settings.over?.of(ram_bytes);
        let stranded = free.all.stranded_bytes;
        if !free.compacts || stranded <= limit {
            return None;
        }
        let patience = match self.last {
            None => 1,
            Some(Asked { at_ns, patience, .. })
                if now_ns.saturating_sub(at_ns) < ns(settings.every).saturating_mul(u64::from(patience)) =>
            {
                return None;
            }
            Some(asked) if asked.compacted_blocks == free.compacted_blocks => {
                (asked.patience * 2).min(MOST_PATIENCE)
            }
            Some(_) => 1,
        };
        self.last = Some(Asked { at_ns: now_ns, patience, compacted_blocks: free.compacted_blocks });
        let why = format!(
            "{} of free memory are stranded in small blocks, over {}: asked to compact",
            mib(stranded),
            mib(limit)
        );
        Some(CompactWish { bytes: stranded - limit, why })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::free_memory::FreeParts;
    use crate::policy::settings::{Amount, Percent};

    const SECOND: u64 = 1_000_000_000;
    const RAM: u64 = 1 << 30;

    fn settings() -> CompactSettings {
        CompactSettings {
            over: Some(Amount::Share(Percent::hundredths(1000))),
            every: Duration::from_secs(10),
        }
    }

    fn stranded(mib: u64, compacted_blocks: u64) -> FreeMemory {
        let all = FreeParts { stranded_bytes: mib << 20, free_bytes: mib << 20, ..FreeParts::default() };
        FreeMemory { order: 9, all, compacts: true, compacted_blocks, ..FreeMemory::default() }
    }

    #[test]
    fn a_guest_over_the_limit_is_asked_for_what_is_over_it() {
        let mut state = CompactState::default();
        assert_eq!(state.wish(0, &settings(), RAM, &stranded(102, 0)), None);
        let wish = state.wish(0, &settings(), RAM, &stranded(202, 0)).unwrap();
        assert_eq!(wish.bytes, (202 << 20) - RAM / 10);
        assert!(wish.why.starts_with("202 MiB of free memory are stranded"), "{}", wish.why);
        assert_eq!(
            CompactState::default().wish(0, &CompactSettings::default(), RAM, &stranded(999, 0)),
            None
        );
        let refuses = FreeMemory { compacts: false, ..stranded(202, 0) };
        assert_eq!(CompactState::default().wish(0, &settings(), RAM, &refuses), None);
    }

    #[test]
    fn it_is_asked_again_after_a_while_and_less_often_where_that_brings_nothing() {
        let mut state = CompactState::default();
        let mut asked = |blocks: u64| {
            let at = |second: &u64| {
                state.wish(second * SECOND, &settings(), RAM, &stranded(500, blocks * second)).is_some()
            };
            (0..200).filter(at).collect::<Vec<u64>>()
        };
        assert_eq!(asked(0), [0, 10, 30, 70, 150], "it brings nothing");
        let mut state = CompactState::default();
        let at =
            |second: &u64| state.wish(second * SECOND, &settings(), RAM, &stranded(500, *second)).is_some();
        assert_eq!((0..45).filter(at).collect::<Vec<u64>>(), [0, 10, 20, 30, 40]);
    }
}
