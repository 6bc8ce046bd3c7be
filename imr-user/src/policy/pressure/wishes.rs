//! Who is asked for how much, and in which order, while the host is short of memory.
//!
//! Input: what is missing, and the VMs that can give. Output: [`Wish`]es, the first asked first; their VMs' states know of
//! them afterwards.

use std::cmp::Reverse;

use super::take::most_at_once;
use super::vm::{VmFigures, VmState};
use crate::model::ids::{BLOCK_SIZE, VmId};
use crate::model::regret::FreeHeld;
use crate::policy::settings::{Percent, Settings, mib};

/// A VM that can be asked: a guest module is attached, and no guard forbids to take its memory.
#[derive(Debug)]
pub struct Candidate<'a> {
    /// Which.
    pub vm: VmId,
    /// Its memory.
    pub figures: VmFigures,
    /// What of it the guest offered before and the host kept.
    pub free_held: FreeHeld,
    /// What is known of it.
    pub state: &'a mut VmState,
}

/// A guest is to be asked for free memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Whose.
    pub vm: VmId,
    /// How much, bytes; whole blocks.
    pub bytes: u64,
    /// Why this VM, and why so much: one clause.
    pub why: String,
}

/// Shares out `missing_bytes`, best candidate first: its memory is longest free, then in the longest runs, then taking it
/// was least regretted; those that gave nothing when they were asked come after all others. None is asked for what it
/// should keep, nor for more than its rate lets be taken at once.
pub fn wishes(
    now_ns: u64,
    settings: &Settings,
    missing_bytes: u64,
    mut candidates: Vec<Candidate<'_>>,
) -> Vec<Wish> {
    candidates.retain(|candidate| !candidate.state.is_left_alone());
    // By doubling, so that a second or a block does not outrank all the rest.
    candidates.sort_by_key(|candidate| {
        let free = candidate.free_held;
        (
            candidate.state.gives_nothing(now_ns),
            Reverse((free.longest_free_ms / 1000 + 1).ilog2()),
            Reverse((free.longest_run_bytes / BLOCK_SIZE + 1).ilog2()),
            candidate.state.regret(),
            candidate.vm,
        )
    });
    // What is on its way, or asked for here.
    let mut coming: u64 = candidates.iter().map(|candidate| candidate.state.coming(now_ns)).sum();
    let at_once = most_at_once(settings);
    let mut wishes = Vec::new();
    for candidate in candidates {
        if !candidate.state.may_be_asked(now_ns) {
            continue;
        }
        // A new request ends the one before: what is still to come of that is shared out again.
        let of_others = coming - candidate.state.coming(now_ns);
        let floor = settings.floor.of(candidate.figures.ram_bytes);
        let can_give = whole_blocks(candidate.figures.free_and_held().saturating_sub(floor));
        if can_give == 0 {
            candidate.state.give_up_asking();
            coming = of_others;
            continue;
        }
        let most = whole_blocks(candidate.state.most(at_once)).min(can_give);
        let bytes = missing_bytes.saturating_sub(of_others).next_multiple_of(BLOCK_SIZE).min(most);
        if bytes == 0 {
            // Others give enough.
            continue;
        }
        coming = of_others.saturating_add(bytes);
        let regret = candidate.state.regret();
        let why = reason(missing_bytes, bytes, can_give, candidate.free_held, regret);
        candidate.state.asked(now_ns, bytes);
        wishes.push(Wish { vm: candidate.vm, bytes, why });
    }
    wishes
}

fn whole_blocks(bytes: u64) -> u64 {
    bytes / BLOCK_SIZE * BLOCK_SIZE
}

fn reason(missing: u64, bytes: u64, can_give: u64, free: FreeHeld, regret: Percent) -> String {
    let (missing, bytes, can_give) = (mib(missing), mib(bytes), mib(can_give));
    let known = match free.bytes {
        0 => "none of it was offered before".to_owned(),
        _ => format!(
            "offered up to {} s ago, in runs up to {}",
            free.longest_free_ms / 1000,
            mib(free.longest_run_bytes)
        ),
    };
    format!(
        "asked for {bytes} of the {missing} missing: {can_give} free over its floor, {known}, regret {regret}"
    )
}
