//! Decides what is done with an offer. Pure: the offer in, [`plan::Plan`] out. What cannot or must not be
//! taken whatever the policy says is judged later, by the guards of `reclaim`.

pub mod plan;

use crate::model::ids::{Gfn, VmId};
use crate::model::snapshot::PolicyName;
use plan::{Plan, PlannedRange, Verdict};

/// What to do with each range (first frame, frames) of offer `seq` of `vm` under `policy`.
#[must_use]
pub fn decide(policy: PolicyName, vm: VmId, seq: u64, ranges: impl IntoIterator<Item = (Gfn, u64)>) -> Plan {
    let verdict = match policy {
        PolicyName::Observe => Verdict::Keep("policy observe".into()),
        PolicyName::Immediate => Verdict::Reclaim,
    };
    let ranges = ranges
        .into_iter()
        .map(|(base_gfn, npages)| PlannedRange { base_gfn, npages, verdict: verdict.clone() })
        .collect();
    Plan { vm, offer_seq: seq, ranges }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn immediate_takes_and_observe_keeps_everything_and_says_why() {
        let ranges = [(Gfn::new(512), 512), (Gfn::new(2048), 1024)];
        for (policy, verdict) in [
            (PolicyName::Immediate, Verdict::Reclaim),
            (PolicyName::Observe, Verdict::Keep("policy observe".into())),
        ] {
            let plan = decide(policy, VmId::new(1), 4, ranges);
            assert_eq!((plan.vm, plan.offer_seq), (VmId::new(1), 4));
            let planned: Vec<_> = plan.ranges.iter().map(|range| (range.base_gfn, range.npages)).collect();
            assert_eq!(planned, ranges);
            assert!(plan.ranges.iter().all(|range| range.verdict == verdict));
        }
    }
}
