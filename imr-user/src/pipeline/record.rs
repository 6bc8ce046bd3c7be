//! What happened, one line each: the output of `imr run`, as text or JSON.

use std::fmt;

use serde::Serialize;

use crate::model::free_memory::FreeParts;
use crate::model::ids::{Pid, VmId};
use crate::model::pageout::{PageoutCounters, PageoutState};
use crate::model::snapshot::{EventCounters, PolicyName};

/// A record and when and to whom it happened.
#[derive(Debug, Clone, Serialize)]
pub struct Record {
    /// Wall-clock time, milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// The VM, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmRef>,
    /// What happened.
    #[serde(flatten)]
    pub happened: Happened,
}

/// A VM as people know it.
#[derive(Debug, Clone, Serialize)]
pub struct VmRef {
    /// Identity in this process.
    pub id: VmId,
    /// VMM.
    pub pid: Pid,
    /// Name.
    pub name: String,
}

/// What happened.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Happened {
    /// The probes are attached and the VMs that were running are known. Always the first record.
    Ready {
        /// VMs found.
        vms: usize,
        /// Probes attached.
        probes_attached: usize,
        /// Probes that could not be attached.
        probes_failed: usize,
    },
    /// A VM is followed from now on.
    VmAdded {
        /// Guest RAM, bytes.
        ram_bytes: u64,
        /// What would be done with offers: `punch`, or the guard that forbids it.
        backend: String,
    },
    /// A VM has ended.
    VmGone,
    /// Its memslots changed.
    SlotsChanged {
        /// Guest RAM, bytes.
        ram_bytes: u64,
        /// Followed slots.
        slots: usize,
    },
    /// The guest module said HELLO and was accepted.
    Hello {
        /// Control page, guest-physical.
        control_gpa: u64,
        /// `new` or `rolled_back`.
        kind: String,
    },
    /// The guest module is not answered (any more).
    Detached {
        /// Why.
        why: String,
    },
    /// What is done with its offers was changed.
    Policy {
        /// To this.
        policy: PolicyName,
    },
    /// Somebody asked for its memory at once.
    Wanted {
        /// What becomes of it.
        what: String,
    },
    /// The host became short of memory, or is so no more; told only while a VM has policy pressure.
    Pressure {
        /// Short of memory.
        pressed: bool,
        /// The figure that decided.
        why: String,
    },
    /// Policy pressure asks its guest for free memory.
    Asked {
        /// For so much; 0: for no more.
        bytes: u64,
        /// Why it, and why so much.
        why: String,
    },
    /// Its guest's free memory is another than told before, by a 64th of its RAM at least.
    FreeMemory {
        /// Smallest order that it offers.
        order: u32,
        /// What it is good for.
        #[serde(flatten)]
        parts: FreeParts,
    },
    /// Its guest is asked to compact.
    Compact {
        /// For so much.
        bytes: u64,
        /// Why.
        why: String,
    },
    /// Policy pressure leaves it alone, or no longer.
    LeftAlone {
        /// From now on; `false`: no longer.
        alone: bool,
        /// Why, and for how long.
        why: String,
    },
    /// The VM was reset, restored or shut down.
    Reset {
        /// What showed it first: `set_sregs2`, `set_sregs`, `shutdown`, `system_event`, `unknown`.
        cause: String,
    },
    /// An offer was claimed.
    Claim {
        /// Its number.
        seq: u64,
        /// Ranges.
        ranges: usize,
        /// Bytes of them.
        bytes: u64,
        /// An earlier host process had claimed it and died.
        redone: bool,
    },
    /// An offer was finished.
    Done {
        /// Its number.
        seq: u64,
        /// Bytes offered.
        offered_bytes: u64,
        /// Bytes of the ranges reclaimed.
        reclaimed_bytes: u64,
        /// Bytes that came back, as measured.
        freed_bytes: u64,
        /// Ranges reclaimed.
        reclaimed: usize,
        /// Ranges kept.
        kept: usize,
        /// Ranges refused.
        refused: usize,
        /// Why ranges were kept or refused, each reason once.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        why: Vec<String>,
        /// Doorbell to claim, microseconds.
        claim_us: u64,
        /// Claim to the end of the reclaim calls, microseconds.
        reclaim_us: u64,
        /// Doorbell to done, microseconds.
        total_us: u64,
    },
    /// An offer was given back untouched, or given up.
    Abandoned {
        /// Its number.
        seq: u64,
        /// Why.
        why: String,
        /// What had been taken of it by then, bytes. The guest is not told.
        taken_bytes: u64,
    },
    /// Whether idle memory of the VM is swapped out has changed.
    Pageout {
        /// To this.
        #[serde(flatten)]
        state: PageoutState,
    },
    /// Idle memory was called cold or swapped out, or came back; since the last record of this kind.
    PagedOut(PageoutCounters),
    /// Something that the guest said was not acceptable; nothing was done.
    Refused {
        /// Why.
        why: String,
    },
    /// So many records of this VM were not made: its guest gave cause for too many. They are in the counters.
    HeldBack {
        /// Since the last record of this kind.
        records: u64,
    },
    /// Something went wrong on the host; the rest goes on.
    Problem {
        /// What, where and what to do.
        what: String,
    },
    /// Always the last record.
    Summary(Summary),
}

/// Totals of a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// VMs seen.
    pub vms: u64,
    /// Bytes offered.
    pub offered_bytes: u64,
    /// Bytes given back, as measured.
    pub reclaimed_bytes: u64,
    /// Bytes that refaulted.
    pub refaulted_bytes: u64,
    /// Idle bytes that went to swap.
    pub paged_out_bytes: u64,
    /// Offers claimed.
    pub claimed: u64,
    /// Offers finished.
    pub done: u64,
    /// Offers that the guest had withdrawn.
    pub revoked: u64,
    /// Offers given back for another reason.
    pub abandoned: u64,
    /// Calls from anything but the guest kernel.
    pub denied_calls: u64,
    /// Calls over the rate limit of their VM.
    pub limited_calls: u64,
    /// Calls too old to act on.
    pub stale_calls: u64,
    /// HELLOs and offers that made no sense.
    pub malformed: u64,
    /// Records that were not made, as a guest gave cause for too many.
    pub held_back: u64,
    /// Offers after which there was memory where it had been taken, and how much.
    pub left: u64,
    /// See above.
    pub left_bytes: u64,
    /// Reclaim calls that took memory which KVM had mapped, without KVM being told.
    pub unnotified_calls: u64,
    /// Offers of which it could not be measured what came back.
    pub unmeasured: u64,
    /// Doorbell to done: median and 99th percentile of the newest, microseconds.
    pub offer_to_done_p50_us: u64,
    /// See above.
    pub offer_to_done_p99_us: u64,
    /// Events and what was lost of them.
    pub events: EventCounters,
}

const MIB: u64 = 1 << 20;

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.unix_ms / 1000 % 86_400;
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{hour:02}:{minute:02}:{second:02}.{:03} ", self.unix_ms % 1000)?;
        if let Some(vm) = &self.vm {
            write!(f, "{} (pid {}) ", vm.name, vm.pid)?;
        }
        self.happened.fmt(f)
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { vms, probes_attached, probes_failed } => {
                write!(f, "ready: {vms} VMs, {probes_attached} probes attached, {probes_failed} not")
            }
            Self::VmAdded { ram_bytes, backend } => {
                write!(f, "followed: {} MiB of RAM, {backend}", ram_bytes / MIB)
            }
            Self::VmGone => f.write_str("has ended"),
            Self::SlotsChanged { ram_bytes, slots } => {
                write!(f, "slots changed: {} MiB of RAM in {slots} slots", ram_bytes / MIB)
            }
            Self::Hello { control_gpa, kind } => {
                write!(f, "guest module attached ({kind}), control page at {control_gpa:#x}")
            }
            Self::Detached { why } => write!(f, "guest module detached: {why}"),
            Self::Policy { policy } => write!(f, "policy {} from the next offer on", policy.name()),
            Self::Wanted { what } => f.write_str(what),
            Self::Pressure { pressed: true, why } => write!(f, "the host is short of memory: {why}"),
            Self::Pressure { pressed: false, why } => {
                write!(f, "the host is not short of memory any more: {why}")
            }
            Self::Asked { why, .. } | Self::LeftAlone { why, .. } | Self::Compact { why, .. } => {
                f.write_str(why)
            }
            Self::FreeMemory { parts, .. } => write!(
                f,
                "{} MiB are free: {} MiB reclaimable now, {} MiB kept by the guest, {} MiB stranded by fragmentation",
                parts.free_bytes / MIB,
                parts.reclaimable_bytes / MIB,
                parts.kept_bytes / MIB,
                parts.stranded_bytes / MIB
            ),
            Self::Reset { cause } => {
                write!(f, "was reset, restored or shut down ({cause}): earlier offers count for nothing")
            }
            Self::Claim { seq, ranges, bytes, redone } => {
                let again = if *redone { ", begun by an earlier imr" } else { "" };
                write!(f, "offer {seq} claimed: {ranges} ranges, {} MiB{again}", bytes / MIB)
            }
            Self::Done { seq, reclaimed_bytes, freed_bytes, kept, refused, why, total_us, .. } => {
                write!(
                    f,
                    "offer {seq} done in {total_us} us: {} MiB reclaimed, {} MiB came back",
                    reclaimed_bytes / MIB,
                    freed_bytes / MIB
                )?;
                if kept + refused > 0 {
                    write!(f, ", {kept} ranges kept, {refused} refused ({})", why.join("; "))?;
                }
                Ok(())
            }
            Self::Abandoned { seq, why, taken_bytes: 0 } => {
                write!(f, "offer {seq} given back untouched: {why}")
            }
            Self::Abandoned { seq, why, taken_bytes } => {
                write!(f, "offer {seq} given up, {} MiB of it taken: {why}", taken_bytes / MIB)
            }
            Self::Pageout { state } => match state {
                PageoutState::Off => f.write_str("idle memory is not swapped out"),
                PageoutState::Ready => f.write_str("idle memory goes to swap"),
                PageoutState::Waiting { reason, why } => write!(f, "idle memory stays ({reason}): {why}"),
                PageoutState::Forbidden { guard, why } => write!(f, "idle memory stays ({guard}): {why}"),
            },
            Self::PagedOut(told) => write!(
                f,
                "idle memory: {} MiB called cold, {} of {} MiB swapped out, {} MiB touched again",
                told.cold_bytes / MIB,
                told.out_bytes / MIB,
                told.asked_bytes / MIB,
                told.back_bytes / MIB
            ),
            Self::Refused { why } => write!(f, "refused: {why}"),
            Self::HeldBack { records } => {
                write!(f, "{records} records held back: the guest gives cause for more than a few a second")
            }
            Self::Problem { what } => write!(f, "problem: {what}"),
            Self::Summary(summary) => summary.fmt(f),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "summary: {} VMs; {} MiB offered, {} MiB reclaimed, {} MiB refaulted, {} MiB of idle memory \
             swapped out; {} offers done, {} revoked, \
             {} abandoned; offer to done p50 {} us, p99 {} us; denied {}, limited {}, stale {}, malformed {}, \
             records held back {}; \
             left behind {} ({} KiB), KVM not told {}, not measured {}; events lost {}, \
             undecodable {}, unattributed {}, unproven {}, ambiguous {}, table full {}",
            self.vms,
            self.offered_bytes / MIB,
            self.reclaimed_bytes / MIB,
            self.refaulted_bytes / MIB,
            self.paged_out_bytes / MIB,
            self.done,
            self.revoked,
            self.abandoned,
            self.offer_to_done_p50_us,
            self.offer_to_done_p99_us,
            self.denied_calls,
            self.limited_calls,
            self.stale_calls,
            self.malformed,
            self.held_back,
            self.left,
            self.left_bytes >> 10,
            self.unnotified_calls,
            self.unmeasured,
            self.events.lost,
            self.events.undecodable,
            self.events.unattributed,
            self.events.unproven,
            self.events.ambiguous,
            self.events.table_full,
        )
    }
}
