//! The tables shared with user space, and those that live between two hooks of one kernel call.
//!
//! `VMS`, `SLOTS`, `KVMS`, `TGIDS`, `LIMIT` and `WALK` are filled by user space; `BLOCKS`, `DIRTY` and `VMS` are
//! memory-mapped there. Layouts are in `imr_common::host_abi`.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use imr_common::host_abi::{BlockRecord, CpuRecord, MAX_VMS, SlotFact, VmRecord, VmSlots};

/// Hypercalls, life cycle, slot changes: rare and must not be missed. Bytes.
const EVENTS_BYTES: u32 = 1 << 20;
/// Threads that can be between two hooks of one call at a time (vCPUs of a host).
const MAX_THREADS: u32 = 16 * 1024;

/// Blocks of all registered VMs; the loader sets the size.
#[map]
pub static BLOCKS: Array<BlockRecord> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Which of them changed since user space looked, a bit a block; the loader sets the size.
#[map]
pub static DIRTY: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Whose the registered VMs are, and their counters.
#[map]
pub static VMS: Array<VmRecord> = Array::with_max_entries(MAX_VMS, BPF_F_MMAPABLE);

/// Followed slots of the registered VMs.
#[map]
pub static SLOTS: Array<VmSlots> = Array::with_max_entries(MAX_VMS, 0);

/// `struct kvm *` to VM index.
#[map]
pub static KVMS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_VMS, 0);

/// Process to VM index; `NO_VM` when the process has several VMs.
#[map]
pub static TGIDS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_VMS, 0);

/// One past the highest VM index in use: where a search over all VMs ends.
#[map]
pub static LIMIT: Array<u32> = Array::with_max_entries(1, 0);

/// Counters of no VM in particular, and what a CPU remembers.
#[map]
pub static CPUS: PerCpuArray<CpuRecord> = PerCpuArray::with_max_entries(1, 0);

/// Events for user space.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// `struct kvm *` of an unregistered VM to the time of its newest `EVENT_VM_SEEN`, ns.
#[map]
pub static SEEN: LruHashMap<u64, u64> = LruHashMap::with_max_entries(4 * MAX_VMS, 0);

/// A hypercall with our number, between its beginning and the proof of who made it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pending {
    /// The vCPU; zero where only the tracepoint has been seen.
    pub vcpu: u64,
    /// RBX, RCX, RDX of the guest.
    pub op: u64,
    pub a1: u64,
    pub a2: u64,
    /// 1 once the tracepoint has filled in the arguments.
    pub armed: u64,
}

/// Thread to its hypercall under way.
#[map]
pub static PENDING: LruHashMap<u32, Pending> = LruHashMap::with_max_entries(MAX_THREADS, 0);

/// Thread to the VM index whose mmu-notifier invalidation it is running.
#[map]
pub static NOTIFYING: LruHashMap<u32, u32> = LruHashMap::with_max_entries(MAX_THREADS, 0);

/// Thread to the VM index whose memory it looks at for idleness, since the beginning of its newest such look.
#[map]
pub static AGING: LruHashMap<u32, u32> = LruHashMap::with_max_entries(MAX_THREADS, 0);

/// `tgid << 32 | fd` of the kvm-vm files whose slots are to be walked.
#[map]
pub static WALK: HashMap<u64, u32> = HashMap::with_max_entries(MAX_VMS, 0);

/// Where the slot walk is. In a map and not on the stack: see [`crate::probes`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct WalkState {
    pub fact: SlotFact,
    /// `struct kvm_memslots *`.
    pub memslots: u64,
    pub bucket: u64,
    /// Next `struct hlist_node` of the bucket, zero at its end.
    pub node: u64,
    /// Offset of the active set's node in `struct kvm_memory_slot`.
    pub node_offset: u64,
    /// Slots written.
    pub written: u64,
    /// 1 when something could not be read or written.
    pub failed: u64,
}

/// The walk's state; user space runs one walk at a time.
#[map]
pub static WALK_STATE: Array<WalkState> = Array::with_max_entries(1, 0);

/// A search for the VM that has a host virtual range. In a map for the same reason.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Search {
    pub start: u64,
    pub end: u64,
    /// The last VM that matched.
    pub found: u32,
    /// VMs that matched.
    pub matches: u32,
}

/// This CPU's search; its users run with preemption off and do not interrupt each other.
#[map]
pub static SEARCH: PerCpuArray<Search> = PerCpuArray::with_max_entries(1, 0);
