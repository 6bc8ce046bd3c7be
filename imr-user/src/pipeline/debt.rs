//! What one VM's offers cost beside the calls that they make: each range is judged, each block that an offer names is looked
//! up, whether or not any of it is taken. A guest that names more than there is time for is not heard until that is paid.
//!
//! Input: times, sizes of offers. Output: whether the next one is heard. The guest rings again.

use crate::guest::record::OfferedRange;
use crate::model::ids::FRAMES_PER_BLOCK;

/// For a range, and for a block, ns: 100 000 a second. The offers of a module that calls as often as it may
/// ([`CALLS_PER_SECOND`](imr_common::host_abi::CALLS_PER_SECOND)), 32 ranges of 2 blocks, come to 96 000.
const UNIT_NS: u64 = 10_000;
/// So much may be owed, ns.
const ALLOWED_NS: u64 = 500_000_000;

/// One VM's.
#[derive(Debug, Default)]
pub(super) struct Debt {
    /// When all will be paid, ns of CLOCK_MONOTONIC.
    paid_ns: u64,
}

impl Debt {
    /// Whether so much is owed that another offer has to wait.
    pub(super) fn is_over(&self, now_ns: u64) -> bool {
        self.paid_ns > now_ns.saturating_add(ALLOWED_NS)
    }

    /// An offer was taken up.
    pub(super) fn add(&mut self, now_ns: u64, ranges: &[OfferedRange]) {
        let units: u64 = ranges.iter().map(|range| 1 + range.npages.div_ceil(FRAMES_PER_BLOCK)).sum();
        self.paid_ns = self.paid_ns.max(now_ns).saturating_add(units.saturating_mul(UNIT_NS));
    }
}

#[cfg(test)]
mod tests {
    use imr_common::guest_abi::{MAX_OFFER_ORDER, MAX_RANGES};
    use imr_common::host_abi::CALLS_PER_SECOND;

    use super::*;
    use crate::model::ids::Gfn;

    const SECOND_NS: u64 = 1_000_000_000;

    fn offer(ranges: usize, order: u32) -> Vec<OfferedRange> {
        vec![OfferedRange { base_gfn: Gfn::new(0), npages: 1 << order }; ranges]
    }

    #[test]
    fn a_module_that_calls_as_often_as_it_may_is_always_heard() {
        let mut debt = Debt::default();
        for call in 0..10 * CALLS_PER_SECOND {
            let now_ns = call * SECOND_NS / CALLS_PER_SECOND;
            assert!(!debt.is_over(now_ns), "call {call}");
            debt.add(now_ns, &offer(32, 10));
        }
    }

    #[test]
    fn one_that_names_all_there_is_is_heard_less_than_once_a_second() {
        let mut debt = Debt::default();
        let heard = (0..10_000_u64).filter(|ms| {
            let now_ns = ms * 1_000_000;
            let heard = !debt.is_over(now_ns);
            if heard {
                debt.add(now_ns, &offer(MAX_RANGES, MAX_OFFER_ORDER));
            }
            heard
        });
        let heard = heard.count();
        assert!((5..10).contains(&heard), "{heard}");
    }
}
