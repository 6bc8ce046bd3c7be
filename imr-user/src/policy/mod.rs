//! Decides what is done with an offer. Pure: the offer and what is known of its ranges in, [`plan::Plan`]
//! out.

pub mod plan;

use crate::model::ids::{Gfn, VmId};
use crate::model::snapshot::PolicyName;
use plan::{Plan, PlannedRange, Verdict};

/// An offer and what is known of it when the policy is asked.
#[derive(Debug, Clone)]
pub struct OfferView {
    /// The VM.
    pub vm: VmId,
    /// Sequence number.
    pub seq: u64,
    /// Why nothing may be taken from this VM at all, if so.
    pub forbidden: Option<String>,
    /// The ranges.
    pub ranges: Vec<RangeView>,
}

/// One range of it.
#[derive(Debug, Clone)]
pub struct RangeView {
    /// First frame.
    pub base_gfn: Gfn,
    /// Length, frames.
    pub npages: u64,
    /// Why this range cannot be taken, if so.
    pub objection: Option<Objection>,
}

/// Why a range cannot be taken.
#[derive(Debug, Clone)]
pub enum Objection {
    /// The guest did nothing wrong: the host cannot take such memory.
    CannotTake(String),
    /// No guest should have offered it.
    Invalid(String),
}

/// What to do with each range of `offer` under `policy`.
#[must_use]
pub fn decide(policy: PolicyName, offer: &OfferView) -> Plan {
    let verdict = |range: &RangeView| match (&range.objection, &offer.forbidden, policy) {
        (Some(Objection::Invalid(why)), _, _) => Verdict::Refuse(why.clone()),
        (_, Some(why), _) | (Some(Objection::CannotTake(why)), _, _) => Verdict::Keep(why.clone()),
        (None, None, PolicyName::Observe) => Verdict::Keep("policy observe".into()),
        (None, None, PolicyName::Immediate) => Verdict::Reclaim,
    };
    let ranges = offer
        .ranges
        .iter()
        .map(|range| PlannedRange {
            base_gfn: range.base_gfn,
            npages: range.npages,
            verdict: verdict(range),
        })
        .collect();
    Plan { vm: offer.vm, offer_seq: offer.seq, ranges }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(forbidden: Option<&str>, objections: Vec<Option<Objection>>) -> OfferView {
        let ranges = objections
            .into_iter()
            .map(|objection| RangeView { base_gfn: Gfn::new(512), npages: 512, objection })
            .collect();
        OfferView { vm: VmId::new(1), seq: 4, forbidden: forbidden.map(Into::into), ranges }
    }

    fn verdicts(policy: PolicyName, offer: &OfferView) -> Vec<Verdict> {
        decide(policy, offer).ranges.into_iter().map(|range| range.verdict).collect()
    }

    #[test]
    fn immediate_takes_what_nothing_forbids() {
        let offer = offer(
            None,
            vec![
                None,
                Some(Objection::Invalid("outside RAM".into())),
                Some(Objection::CannotTake("locked".into())),
            ],
        );
        assert_eq!(
            verdicts(PolicyName::Immediate, &offer),
            [Verdict::Reclaim, Verdict::Refuse("outside RAM".into()), Verdict::Keep("locked".into())]
        );
    }

    #[test]
    fn observe_and_guards_take_nothing_and_say_why() {
        let free = offer(None, vec![None]);
        assert_eq!(verdicts(PolicyName::Observe, &free), [Verdict::Keep("policy observe".into())]);
        let guarded = offer(Some("vfio"), vec![None, Some(Objection::Invalid("unaligned".into()))]);
        assert_eq!(
            verdicts(PolicyName::Immediate, &guarded),
            [Verdict::Keep("vfio".into()), Verdict::Refuse("unaligned".into())]
        );
    }
}
