//! The immutable picture of one moment: what the view shows and `--json` prints.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::block::BlockState;
use super::blocks::BlockMap;
use super::decision::Decision;
use super::free_memory::FreeMemory;
use super::ids::{BlockId, Gfn, Hva, Pid, VmId};
use super::latency::StageSummaries;
use super::life::LifeStep;
use super::pageout::Pageout;
use super::regret::{HostPressure, VmPressure};
use super::sums::CrossTable;

/// Version of the JSON form of [`Snapshot`]; raised when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 2;

/// Everything known at one moment.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Snapshot {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Number of the snapshot, from 1.
    pub sequence: u64,
    /// Wall-clock time, milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// Time since the pipeline began.
    #[serde(serialize_with = "as_ms", rename = "uptime_ms")]
    #[schemars(with = "u64")]
    pub uptime: Duration,
    /// What is done with the offers of VMs that nothing else was said of.
    pub policy: PolicyName,
    /// The host.
    pub host: HostSnapshot,
    /// The VMs, in order of discovery.
    pub vms: Vec<VmSnapshot>,
    /// The newest decisions, oldest first, at most a few hundred.
    pub decisions: Vec<Decision>,
}

/// What is done with offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyName {
    /// Watch, answer "kept", take nothing.
    Observe,
    /// Take every offered range that no guard forbids, at once.
    Immediate,
    /// Take and ask for free memory while the host is short of it, and only so much and so fast; otherwise nothing.
    Pressure,
}

impl PolicyName {
    /// All.
    pub const ALL: [Self; 3] = [Self::Observe, Self::Immediate, Self::Pressure];

    /// The one that is written like this.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.name() == name)
    }

    /// As it is written on command lines and screens.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Observe => "observe",
            Self::Immediate => "immediate",
            Self::Pressure => "pressure",
        }
    }
}

/// The host line.
#[derive(Debug, Clone, Default, Serialize, JsonSchema)]
pub struct HostSnapshot {
    /// `uname -r`.
    pub kernel: String,
    /// Host name.
    pub name: String,
    /// MemTotal, bytes.
    pub mem_total: u64,
    /// MemAvailable, bytes.
    pub mem_available: u64,
    /// SwapTotal, bytes.
    pub swap_total: u64,
    /// SwapTotal - SwapFree, bytes.
    pub swap_used: u64,
    /// /proc/pressure/memory, `some avg10`, percent; `None` where the kernel has no PSI.
    pub pressure_some_avg10: Option<f32>,
    /// Whether the host is short of memory, as policy pressure judges it; `None` where no VM has that policy.
    pub pressure: Option<HostPressure>,
    /// Events lost, undecodable or not attributable, by what happened.
    pub counters: EventCounters,
    /// Each probe of the eBPF object and how it fares.
    pub probes: Vec<ProbeStatus>,
    /// How the VMMs' page tables are read.
    pub baseline: BaselineStatus,
    /// Memory that this program keeps of blocks, the shared table included, bytes.
    pub model_bytes: u64,
}

/// How the VMMs' page tables are compared with what events said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, JsonSchema)]
pub struct BaselineStatus {
    /// Times that every block of every VM was read.
    pub rounds: u64,
    /// How long the newest of them took, milliseconds.
    pub round_ms: u64,
    /// CPU time that reading has taken since the start, as percent of one core.
    pub cpu_percent: f32,
}

/// Frames of which events had said something else than the VMM's page tables. All since the start of this process;
/// the first look at a block does not count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct DriftCounters {
    /// Had memory that no event had told of: the VMM itself touched them, or an event was lost.
    pub unseen_frames: u64,
    /// Had no memory though events had told of a mapping and not of its end.
    pub stale_frames: u64,
}

/// Events, and what was lost of them. All since the start of this process.
#[derive(Debug, Clone, Copy, Default, Serialize, JsonSchema)]
pub struct EventCounters {
    /// `kvm_page_fault` events on the host.
    pub page_faults: u64,
    /// `kvm_hypercall` events on the host.
    pub hypercalls: u64,
    /// `kvm_mmu_set_spte` events on the host.
    pub sptes_set: u64,
    /// Leaf SPTEs zapped by the TDP MMU.
    pub sptes_zapped: u64,
    /// mmu-notifier invalidations.
    pub unmaps: u64,
    /// Ring-buffer events dropped.
    pub lost: u64,
    /// Events of an unknown kind or length.
    pub undecodable: u64,
    /// Events that belong to no known VM.
    pub unattributed: u64,
    /// Calls that nothing has proven to come from a guest's kernel; it calls again.
    pub unproven: u64,
    /// Unmaps matched by address to more than one VM.
    pub ambiguous: u64,
    /// eBPF tables that were full when an entry was to be added.
    pub table_full: u64,
}

/// One probe.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct ProbeStatus {
    /// Kind and kernel function or tracepoint, such as `raw_tp kvm_page_fault`.
    pub hook: String,
    /// Attached, or why not and what stands in for it.
    pub state: ProbeState,
}

/// Whether a probe is attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state", content = "why")]
pub enum ProbeState {
    /// It is.
    Attached,
    /// It is not needed, because of what is said here.
    NotNeeded(String),
    /// It could not be attached, because of `reason`; `by` does its work.
    StoodIn {
        /// Why it could not be attached.
        reason: String,
        /// The hook that is attached in its place.
        by: String,
    },
    /// It could not be attached, because of what is said here, and nothing does its work.
    Failed(String),
}

/// One VM.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct VmSnapshot {
    /// Identity within this process.
    pub id: VmId,
    /// VMM process.
    pub pid: Pid,
    /// QEMU's `-name`, else the process' comm.
    pub name: String,
    /// What is done with its offers.
    pub policy: PolicyName,
    /// Bytes of guest RAM in all RAM slots.
    pub ram_bytes: u64,
    /// Bytes of it with host memory of their own behind them.
    pub resident_bytes: u64,
    /// Bytes of it in the host's swap.
    pub swapped_bytes: u64,
    /// Bytes of it that share KSM pages.
    pub merged_bytes: u64,
    /// Resident bytes of blocks in state idle.
    pub idle_bytes: u64,
    /// Resident bytes of blocks that the guest says are free.
    pub free_held_bytes: u64,
    /// Bytes that the guest says are free (its own statistics; 0 without the module).
    pub guest_free_bytes: u64,
    /// What that free memory is good for; null without the module, and where its word makes no sense.
    pub free_memory: Option<FreeMemory>,
    /// Times that the guest was asked to compact, since the start.
    pub compact_requests: u64,
    /// Bytes offered since the start.
    pub offered_bytes: u64,
    /// Bytes reclaimed since the start, measured by what came back.
    pub reclaimed_bytes: u64,
    /// Bytes of blocks now in state reclaimed.
    pub reclaimed_now_bytes: u64,
    /// Bytes that were touched again after they were reclaimed.
    pub refaulted_bytes: u64,
    /// Bytes of those that came back soon after they were reclaimed (`regret_within` of the configuration).
    pub soon_refaulted_bytes: u64,
    /// What policy pressure makes of it.
    pub pressure: VmPressure,
    /// Page faults (EPT/NPT violations or shadow page faults) a second.
    pub faults_per_s: f64,
    /// Page faults since the VM was registered.
    pub page_faults: u64,
    /// Blocks by guest claim and host fact.
    pub cross: CrossTable,
    /// What the guest module is doing.
    pub guest: GuestStatus,
    /// Offers and how they ended.
    pub offers: OfferCounters,
    /// Whether what was taken came back.
    pub returns: ReturnCounters,
    /// How long each stage of an offer takes.
    pub latency: StageSummaries,
    /// Whether its memory can be taken, or what forbids it.
    pub reclaim: ReclaimStatus,
    /// Whether and how its idle memory is swapped out.
    pub pageout: Pageout,
    /// Where events and page tables disagreed.
    pub drift: DriftCounters,
    /// Its slots.
    pub slots: Vec<SlotSnapshot>,
}

/// What the guest module is doing, as far as the host has seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum GuestStatus {
    /// No HELLO from this VM (yet).
    NoModule,
    /// The handshake is up.
    Attached {
        /// Guest-physical address of the control page.
        control_gpa: u64,
        /// Cookie of this load of the module.
        cookie: u64,
    },
    /// Said BYE, was reset, or its page no longer held what it should.
    Detached {
        /// Why.
        why: String,
    },
}

/// Offers of one VM. All since the start of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct OfferCounters {
    /// HELLOs answered.
    pub hellos: u64,
    /// Doorbells that came with the right proof.
    pub doorbells: u64,
    /// Offers claimed.
    pub claimed: u64,
    /// Offers finished.
    pub done: u64,
    /// Offers given back untouched because the guest had withdrawn them.
    pub revoked: u64,
    /// Offers given back untouched for any other reason.
    pub abandoned: u64,
    /// Ranges reclaimed.
    pub ranges_reclaimed: u64,
    /// Ranges valid but left as they were.
    pub ranges_kept: u64,
    /// Ranges that no guest should have offered.
    pub ranges_refused: u64,
    /// Calls from anything but the guest kernel.
    pub denied_calls: u64,
    /// Calls over the rate limit.
    pub limited_calls: u64,
    /// Calls too old to act on.
    pub stale_calls: u64,
    /// HELLOs and offers that did not make sense (bad page, bad list).
    pub malformed: u64,
    /// HELLOs whose statistics of free memory did not make sense, and were left out.
    pub bad_statistics: u64,
    /// Resets and restores of the VM.
    pub resets: u64,
}

/// What came back of the memory that was taken, by offer, measured from outside. All since the start of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct ReturnCounters {
    /// As much came back as was taken, or more.
    pub full: u64,
    /// Less, and nothing is left where it was taken: part had not been resident, or other memory of the VM was taken up
    /// meanwhile.
    pub partial: u64,
    /// Nothing came back, and nothing was known to be resident.
    pub not_resident: u64,
    /// Less came back than was resident, and there is memory where it was taken: still, or again.
    pub left: u64,
    /// How much was left in these.
    pub left_bytes: u64,
    /// Reclaim calls that took memory which KVM had mapped, without KVM being told (mmu notifier).
    pub unnotified_calls: u64,
    /// It could not be measured.
    pub unmeasured: u64,
}

/// Whether this VM's memory can be reclaimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum ReclaimStatus {
    /// By this backend.
    Ready {
        /// `punch`, `inject`, `punch+inject` where mappings need different ones, or `dry-run (...)` of these.
        backend: String,
    },
    /// Not at all, by this guard.
    Forbidden {
        /// Name of the guard, such as `private-mapping`.
        guard: String,
        /// What it found, for people.
        why: String,
    },
}

/// A memslot.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct SlotSnapshot {
    /// Slot id of KVM.
    pub id: i32,
    /// First frame.
    pub base_gfn: Gfn,
    /// Length, frames.
    pub npages: u64,
    /// Where the VMM has it mapped.
    pub userspace_addr: Hva,
    /// What backs it, such as `memfd`, `tmpfs`, `hugetlbfs 2 MiB`, `anonymous`, `file /x`.
    pub backing: String,
    /// Read-only slot (ROM).
    pub readonly: bool,
    /// Whether its memory can be taken, or what forbids it.
    pub reclaim: ReclaimStatus,
    /// Its blocks in order, the first being [`SlotSnapshot::first_block`]; empty for slots not followed.
    #[serde(skip)]
    pub blocks: BlockMap,
}

/// All that is known of one block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct BlockDetail {
    /// The VM.
    pub vm: VmId,
    /// The block.
    pub block: BlockId,
    /// Id of the slot.
    pub slot: i32,
    /// Frames of guest memory in it, 1 to 512.
    pub frames: u16,
    /// Both axes.
    pub state: BlockState,
    /// Its newest states, the newest first.
    pub life: Vec<LifeStep>,
}

impl ReclaimStatus {
    /// The backend, or the guard.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Ready { backend } => backend,
            Self::Forbidden { guard, .. } => guard,
        }
    }

    /// For people: the backend, or the guard with its reason.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::Ready { backend } => backend.clone(),
            Self::Forbidden { guard, why } => format!("none ({guard}: {why})"),
        }
    }
}

impl SlotSnapshot {
    /// The block that holds the first frame.
    #[must_use]
    pub fn first_block(&self) -> BlockId {
        self.base_gfn.block()
    }
}

fn as_ms<S: serde::Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
}
