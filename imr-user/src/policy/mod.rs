//! Decides what is done with an offer. Pure: the offer in, [`plan::Plan`] out. What cannot or must not be
//! taken whatever the policy says is judged later, by the guards of `reclaim`.
//!
//! `observe` and `immediate` need no more than the offer; `pressure` ([`pressure`]) also goes by the host's memory, by
//! what was taken before and by what that cost.

pub mod bucket;
pub mod compact;
pub mod free_since;
pub mod idle;
pub mod plan;
pub mod pressure;
pub mod settings;

use crate::model::ids::{BlockId, Gfn, VmId};
use crate::model::snapshot::PolicyName;
use free_since::Seen;
use plan::{Plan, PlannedRange, Verdict};
use pressure::Taker;

/// What to do with each range (first frame, frames) of offer `seq` of `vm` under `policy`. `taker` is that VM's;
/// `seen` tells what is known of each block, see [`Seen`].
#[must_use]
pub fn decide(
    policy: PolicyName,
    (vm, seq): (VmId, u64),
    ranges: &[(Gfn, u64)],
    taker: &mut Taker,
    now_ns: u64,
    seen: impl Fn(BlockId) -> Seen,
) -> Plan {
    let verdicts = match policy {
        PolicyName::Observe => {
            // What is kept now may be asked for under another policy.
            taker.note_free(now_ns, ranges, seen);
            vec![Verdict::Keep("policy observe".into()); ranges.len()]
        }
        PolicyName::Immediate => vec![Verdict::Reclaim; ranges.len()],
        PolicyName::Pressure => {
            let free = taker.note_free(now_ns, ranges, seen);
            taker.judge(now_ns, ranges, &free)
        }
    };
    let ranges = ranges
        .iter()
        .zip(verdicts)
        .map(|(&(base_gfn, npages), verdict)| PlannedRange { base_gfn, npages, verdict })
        .collect();
    Plan { vm, offer_seq: seq, ranges }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Settings;

    #[test]
    fn immediate_takes_and_observe_keeps_everything_and_says_why() {
        let ranges = [(Gfn::new(512), 512), (Gfn::new(2048), 1024)];
        let calm = "policy pressure: the host is not short of memory";
        for (policy, verdict) in [
            (PolicyName::Immediate, Verdict::Reclaim),
            (PolicyName::Observe, Verdict::Keep("policy observe".into())),
            (PolicyName::Pressure, Verdict::Keep(calm.into())),
        ] {
            let mut taker = Taker::new(Settings::default(), 0);
            let plan = decide(policy, (VmId::new(1), 4), &ranges, &mut taker, 0, |_| Seen::default());
            assert_eq!((plan.vm, plan.offer_seq), (VmId::new(1), 4));
            let planned: Vec<_> = plan.ranges.iter().map(|range| (range.base_gfn, range.npages)).collect();
            assert_eq!(planned, ranges);
            assert!(plan.ranges.iter().all(|range| range.verdict == verdict));
        }
    }
}
