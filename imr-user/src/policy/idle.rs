//! Which idle blocks of a guest without the module are swapped out, in which order, and when not. Pure.
//!
//! Input: what is known of each block, with the time. Output: runs of blocks for two steps. A block that has become idle
//! is first called cold, which costs a walk of its page tables and lets the kernel take it first when memory is short;
//! only what stays idle goes out. What the guest has offered is never in a plan: that is the handshake's.

pub mod pace;
#[cfg(test)]
mod tests;

use crate::model::block::{BlockState, GuestClaim, HostFact, IDLE_NS};
use crate::model::ids::FRAME_SIZE;
use crate::model::snapshot::{GuestStatus, PolicyName};
use crate::model::vm::BlockReading;

const SECOND_NS: u64 = 1_000_000_000;
const MIB: u64 = 1 << 20;

/// How it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// A block that is idle for so long is called cold, ns.
    pub cold_after_ns: u64,
    /// One that is idle for so long, and was called cold, goes out, ns.
    pub out_after_ns: u64,
    /// A scan older than this says nothing of the present, ns: nobody scans any more, and what is touched through an SPTE
    /// that exists already shows nowhere.
    pub fresh_ns: u64,
    /// Resident bytes of one VM that may be advised to go out in a second.
    pub rate: u64,
    /// Resident bytes of one VM that may be called cold in one go.
    pub cold_most: u64,
    /// Percent of the host's swap that stay free.
    pub swap_reserve: u64,
    /// What comes back within this time is regretted, ns.
    pub regret_ns: u64,
    /// Percent of what went out that may come back within that time; more, and the VM is left alone.
    pub regret_most: u64,
    /// Fewer bytes than this prove nothing.
    pub proof_bytes: u64,
    /// For how long it is left alone, ns.
    pub rest_ns: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cold_after_ns: IDLE_NS,
            out_after_ns: 3 * IDLE_NS,
            fresh_ns: 30 * SECOND_NS,
            // A tenth of what a disk takes, and of the page faults that it costs to have all of it back.
            rate: 64 * MIB,
            cold_most: 1024 * MIB,
            swap_reserve: 10,
            regret_ns: 120 * SECOND_NS,
            regret_most: 12,
            proof_bytes: 16 * MIB,
            rest_ns: 300 * SECOND_NS,
        }
    }
}

/// Why nothing goes out now, though nothing forbids it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Pause {
    /// It has a better way.
    #[error("the guest's module is attached: it offers what is free, which costs no swap")]
    ModuleAttached,
    /// The operator wants to look only.
    #[error("policy observe takes nothing")]
    PolicyObserve,
    /// The operator wants to know what would be.
    #[error("a dry run takes nothing; it would go to swap")]
    DryRun,
    /// There is memory enough.
    #[error("policy pressure: the host is not short of memory")]
    NoPressure,
    /// The MMU of this host does not show what a scan finds.
    #[error(
        "nobody can tell what the guest does not touch: KVM shows that with nested paging and the TDP MMU only \
         (module parameters npt or ept, and tdp_mmu)"
    )]
    NoAccessBits,
    /// Nobody scans.
    #[error(
        "nobody looks what the guest does not touch: no idleness scan has covered its memory lately; they are made \
         by the host's own reclaim when memory is short, and by DAMON"
    )]
    NoScan,
    /// Too much of it came back.
    #[error("much of what went out was touched again soon; the VM is left alone for a while")]
    Regret,
    /// It stays.
    #[error(
        "hardly anything that was advised to go out did: other processes map it too, or memory.swap.max of the VMM's \
         cgroup is used up; it is tried again after a while"
    )]
    NothingGoesOut,
    /// The kernel did not do it.
    #[error("the kernel has refused it; it is tried again after a while")]
    Refused,
}

impl Pause {
    /// Name that does not change between versions: for logs, JSON and counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ModuleAttached => "module-attached",
            Self::PolicyObserve => "policy-observe",
            Self::DryRun => "dry-run",
            Self::NoPressure => "no-pressure",
            Self::NoAccessBits | Self::NoScan => "no-idle-information",
            Self::Regret => "regret",
            Self::NothingGoesOut => "nothing-goes-out",
            Self::Refused => "refused",
        }
    }
}

/// Whether idle blocks of a VM with this guest may go out under this policy. `pressed`: the host is short of memory, as
/// policy pressure judges it.
///
/// # Errors
/// Why not.
pub fn may_go_out(policy: PolicyName, pressed: bool, guest: &GuestStatus) -> Result<(), Pause> {
    match (policy, guest) {
        (_, GuestStatus::Attached { .. }) => Err(Pause::ModuleAttached),
        (PolicyName::Observe, _) => Err(Pause::PolicyObserve),
        (PolicyName::Pressure, _) if !pressed => Err(Pause::NoPressure),
        (PolicyName::Immediate | PolicyName::Pressure, _) => Ok(()),
    }
}

/// A block that may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleBlock {
    /// Position of its slot.
    pub slot: usize,
    /// Its number in the slot.
    pub index: usize,
    /// What it has in memory.
    pub bytes: u64,
    /// For how long it is known not to have been touched.
    pub idle_ns: u64,
    /// It was called cold, and not touched since.
    pub cooled: bool,
}

/// Whether a scan has looked at the block so lately that what it says counts.
#[must_use]
pub fn is_scanned(reading: &BlockReading, now_ns: u64, settings: &Settings) -> bool {
    reading.last_age_ns > 0 && now_ns.saturating_sub(reading.last_age_ns) <= settings.fresh_ns
}

/// The block as one that may go out; `None` where it is not idle by a scan of late, or the guest has offered it.
#[must_use]
pub fn idle_block(
    (slot, index): (usize, usize),
    state: BlockState,
    reading: &BlockReading,
    cooled: bool,
    now_ns: u64,
    settings: &Settings,
) -> Option<IdleBlock> {
    let is_idle = state.fact == HostFact::Idle && reading.is_idle();
    let is_its_own = state.claim != GuestClaim::Free;
    let bytes = u64::from(state.resident_frames) * FRAME_SIZE;
    let touched_ns = reading.last_map_ns.max(reading.last_young_ns);
    let idle_ns = reading.last_age_ns.saturating_sub(touched_ns);
    (is_idle && is_its_own && bytes > 0 && is_scanned(reading, now_ns, settings)).then_some(IdleBlock {
        slot,
        index,
        bytes,
        idle_ns,
        cooled,
    })
}

/// Consecutive blocks of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Position of the slot.
    pub slot: usize,
    /// The first, by its number in the slot.
    pub first: usize,
    /// How many, at least 1.
    pub count: usize,
    /// What they have in memory.
    pub bytes: u64,
}

/// What to do with idle blocks, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdlePlan {
    /// To be called cold.
    pub cold: Vec<Run>,
    /// To go out: what is idle longest first (times within a factor of two count as the same), then the largest run.
    pub out: Vec<Run>,
}

/// Of `blocks`, which are in order of slot and index: what to call cold, and what to have go out, at most `room` bytes.
#[must_use]
pub fn plan(blocks: &[IdleBlock], room: u64, settings: &Settings) -> IdlePlan {
    let of = |wanted: &dyn Fn(&IdleBlock) -> bool, room| {
        let wanted: Vec<IdleBlock> = blocks.iter().copied().filter(wanted).collect();
        in_order(&wanted, room, settings)
    };
    IdlePlan {
        cold: of(&|block| !block.cooled && block.idle_ns >= settings.cold_after_ns, settings.cold_most),
        out: of(&|block| block.cooled && block.idle_ns >= settings.out_after_ns, room),
    }
}

fn in_order(blocks: &[IdleBlock], room: u64, settings: &Settings) -> Vec<Run> {
    let class = |block: &IdleBlock| (block.idle_ns / settings.cold_after_ns.max(1)).max(1).ilog2();
    let mut runs: Vec<&[IdleBlock]> = blocks
        .chunk_by(|one, next| {
            (one.slot, one.index + 1) == (next.slot, next.index) && class(one) == class(next)
        })
        .collect();
    // Stable: among equals the lowest address first.
    runs.sort_by_key(|run| std::cmp::Reverse((run.first().map_or(0, class), run.len())));
    let mut left = room;
    let mut planned = Vec::new();
    for run in runs {
        let mut bytes = 0;
        let taken = run.iter().take_while(|block| {
            let fits = bytes + block.bytes <= left;
            bytes += if fits { block.bytes } else { 0 };
            fits
        });
        let count = taken.count();
        if let Some(first) = run.first().filter(|_| count > 0) {
            planned.push(Run { slot: first.slot, first: first.index, count, bytes });
        }
        left -= bytes;
        if count < run.len() {
            break;
        }
    }
    planned
}

/// How much more may go into a swap of `total` bytes of which `free` are free: a part of it stays free for others.
#[must_use]
pub fn swap_room(total: u64, free: u64, settings: &Settings) -> u64 {
    free.saturating_sub(total / 100 * settings.swap_reserve)
}
