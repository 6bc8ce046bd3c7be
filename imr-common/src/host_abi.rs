//! eBPF <-> user space: shared arrays, ring-buffer events and the offsets that the loader passes in.
//!
//! Arrays are memory-mapped: the eBPF side writes them with atomic instructions, user space reads them in place.
//! Nothing here is stable between versions: both sides are built and shipped together.

use core::mem::size_of;

/// VMs that can be told apart at one time.
pub const MAX_VMS: u32 = 1024;
/// RAM slots followed for each VM; further ones are seen, shown as untracked and never reclaimed from.
pub const MAX_SLOTS: usize = 32;
/// log2 of the frames in a block: 2 MiB of 4 KiB frames.
pub const BLOCK_ORDER: u32 = 9;
/// Frames in a block.
pub const FRAMES_PER_BLOCK: u64 = 1 << BLOCK_ORDER;
/// "No VM": an event that could not be attributed.
pub const NO_VM: u32 = u32::MAX;
/// Blocks (2 MiB each) that one unmap is followed through; a longer one raises `VmRecord::long_unmaps`.
pub const MAX_UNMAP_BLOCKS: u64 = 512;
/// Hypercalls of ours that one VM may have reported in a second; more are counted in `limited_calls`.
pub const CALLS_PER_SECOND: u64 = 1000;

/// At most one [`EVENT_RESET`] a VM in this time on account of written registers, ns: a guest can have its VMM write them as
/// often as it likes (QEMU's vmport). `VmRecord::reset_generation` is raised each time.
pub const RESET_EVENT_INTERVAL_NS: u64 = 10_000_000;

/// [`BlockRecord::last_map`]: the newest SPTE was a large one. The time loses its lowest bit to it.
pub const LAST_MAP_LARGE: u64 = 1;
/// log2 of the unit of [`BlockRecord::last_young`] and [`BlockRecord::last_age`], ns: 134 ms. They wrap after 18 years
/// of uptime.
pub const COARSE_SHIFT: u32 = 27;
/// Blocks that a word of the map `DIRTY` tells of: bit `b % 64` of word `b / 64` is set by the eBPF side after block `b`
/// of `BLOCKS` has changed, and cleared by user space before it looks.
pub const BLOCKS_PER_DIRTY_WORD: u64 = u64::BITS as u64;

/// What the host's MMU did with one 2 MiB block of guest memory. One element of the map `BLOCKS`.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockRecord {
    /// Bit `f % 64` of word `f / 64`: frame `f` of the block has a shadow-present leaf SPTE.
    pub mapped: [u64; 8],
    /// CLOCK_MONOTONIC of the newest SPTE installed, ns, and [`LAST_MAP_LARGE`] in place of its lowest bit: see
    /// [`last_map`]. Zero: none. Exact for a large one and for the first 4 KiB one in a word of `mapped`; for others it may
    /// be up to a tick of the kernel (10 ms at most) before it.
    pub last_map: u64,
    /// CLOCK_MONOTONIC >> [`COARSE_SHIFT`] when an idleness scan of the host last found a frame of the block accessed.
    /// Zero: never. Only KVM's TDP MMU shows that; with shadow page tables it stays zero, scans or not, and that a block
    /// is idle shows by `last_map` only.
    pub last_young: u32,
    /// CLOCK_MONOTONIC >> [`COARSE_SHIFT`] when an idleness scan last covered a frame of the block. Zero: never.
    pub last_age: u32,
}

/// What [`BlockRecord::last_map`] is for an SPTE installed at `now_ns`; `large`: it maps 2 MiB or more.
#[must_use]
pub const fn last_map(now_ns: u64, large: bool) -> u64 {
    (now_ns & !LAST_MAP_LARGE) | if large { LAST_MAP_LARGE } else { 0 }
}

/// What [`BlockRecord::last_young`] and [`BlockRecord::last_age`] are for a scan at `now_ns`.
#[must_use]
pub const fn coarse(now_ns: u64) -> u32 {
    (now_ns >> COARSE_SHIFT) as u32
}

impl BlockRecord {
    /// When the newest SPTE was installed, ns of CLOCK_MONOTONIC, an even number. Zero: none. How exact: [`Self::last_map`].
    #[must_use]
    pub const fn last_map_ns(&self) -> u64 {
        self.last_map & !LAST_MAP_LARGE
    }

    /// Whether that SPTE was a large one, 2 MiB or more.
    #[must_use]
    pub const fn is_large(&self) -> bool {
        self.last_map & LAST_MAP_LARGE != 0
    }

    /// CLOCK_MONOTONIC when a scan last found the block accessed, ns, rounded down to 134 ms. Zero: never.
    #[must_use]
    pub const fn last_young_ns(&self) -> u64 {
        (self.last_young as u64) << COARSE_SHIFT
    }

    /// CLOCK_MONOTONIC when a scan last covered the block, ns, rounded down to 134 ms. Zero: never.
    #[must_use]
    pub const fn last_age_ns(&self) -> u64 {
        (self.last_age as u64) << COARSE_SHIFT
    }

    /// Frames that have an SPTE: 0-512.
    #[must_use]
    pub fn mapped_frames(&self) -> u16 {
        self.mapped.iter().map(|word| word.count_ones() as u16).sum()
    }
}

/// Whose a VM is, and its counters. One element of the map `VMS`, indexed like [`VmSlots`]. What each fault needs comes
/// first, in one cache line.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy)]
pub struct VmRecord {
    /// Kernel address of `struct kvm`, written by user space. Zero: not registered.
    pub kvm: u64,
    /// Its process, where it is the only registered VM of it, written by user space. Zero otherwise.
    pub tgid: u32,
    /// Index of this record, written by user space.
    pub index: u32,
    /// `kvm->memslots[0]->generation` last seen by the fault probe.
    pub memslots_generation: u64,
    /// `kvm_page_fault` events, MMIO included.
    pub page_faults: u64,
    /// SPTEs installed (`kvm_mmu_set_spte`), in followed slots or not.
    pub sptes_set: u64,
    /// Leaf SPTEs zapped (`kvm_tdp_mmu_spte_changed`, present to not present).
    pub sptes_zapped: u64,
    /// mmu-notifier invalidations that hit a followed slot.
    pub unmaps: u64,
    /// Of these, longer than [`MAX_UNMAP_BLOCKS`]: the table needs a new baseline.
    pub long_unmaps: u64,
    /// Hypercalls of any number.
    pub hypercalls: u64,
    /// Hypercalls with our number that the guest kernel was proven to make.
    pub calls: u64,
    /// Hypercalls with our number from any other privilege level.
    pub denied_calls: u64,
    /// Proven calls not reported because of [`CALLS_PER_SECOND`].
    pub limited_calls: u64,
    /// Raised whenever the VM is reset, restored or shut down: what was said before counts for nothing.
    pub reset_generation: u64,
    /// Start of the current rate-limit second, ns of CLOCK_MONOTONIC.
    pub window_start_ns: u64,
    /// Calls reported in it.
    pub window_calls: u64,
    /// CLOCK_MONOTONIC of the newest end of an mmu-notifier invalidation that hit a followed slot, ns.
    pub last_unmap_ns: u64,
    /// CLOCK_MONOTONIC of the newest [`EVENT_RESET`] on account of written registers, ns.
    pub reset_told_ns: u64,
    /// Zero.
    pub reserved: [u64; 7],
}

/// Counters that belong to no VM, one set a CPU: the beginning of [`CpuRecord`].
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default)]
pub struct Totals {
    /// Every `kvm_page_fault`.
    pub page_faults: u64,
    /// Of these, from a VM that is not registered (yet).
    pub page_faults_unattributed: u64,
    /// Every `kvm_hypercall`.
    pub hypercalls: u64,
    /// Every `kvm_mmu_set_spte`.
    pub sptes_set: u64,
    /// Of these, whose VM is not known.
    pub sptes_set_unattributed: u64,
    /// Every leaf SPTE going from present to not present in the TDP MMU.
    pub sptes_zapped: u64,
    /// Of these, whose VM is not known.
    pub sptes_zapped_unattributed: u64,
    /// Every mmu-notifier invalidation seen.
    pub unmaps: u64,
    /// Of these, matched by address to more than one VM, and therefore to none.
    pub unmaps_ambiguous: u64,
    /// Every idleness scan of the host (`kvm_age_hva`), whoever's memory.
    pub ages: u64,
    /// Ring-buffer events dropped because the buffer was full.
    pub events_lost: u64,
    /// Calls whose privilege could not be proven because no return value was seen.
    pub calls_unproven: u64,
    /// Map updates that failed (a table was full).
    pub table_full: u64,
    /// Proven calls of a VM that is not registered (yet); the guest repeats them.
    pub calls_unattributed: u64,
}

/// What the eBPF programs keep for a CPU. The only element of the per-CPU map `CPUS`.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy, Default)]
pub struct CpuRecord {
    /// Counters.
    pub totals: Totals,
    /// Index of the VM of the newest event on this CPU: most likely that of the next one too.
    pub newest_vm: u32,
    /// Zero.
    pub pad: u32,
    /// `jiffies64` at the newest event that looked at it.
    pub jiffies: u64,
    /// CLOCK_MONOTONIC at the first such event of that jiffy, ns.
    pub jiffy_ns: u64,
}

/// A followed RAM slot.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Slot {
    /// First guest frame number.
    pub base_gfn: u64,
    /// Length, 4 KiB frames.
    pub npages: u64,
    /// Where the VMM has it mapped, bytes.
    pub userspace_addr: u64,
    /// Index in `BLOCKS` of the block that holds `base_gfn`.
    pub block_base: u64,
}

/// The followed slots of one VM, in order of `base_gfn`. One element of the map `SLOTS`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct VmSlots {
    /// Slots in use; zero: the VM is not registered.
    pub count: u32,
    /// Zero.
    pub pad: u32,
    /// The slots.
    pub slots: [Slot; MAX_SLOTS],
}

/// [`Event::kind`]: a proven hypercall with our number. `args` = op, a1, a2, reset generation, fingerprint of what the
/// calling process has locked, pinned and open (0: not known).
pub const EVENT_CALL: u32 = 1;
/// [`Event::kind`]: activity of a VM that is not registered. No args; `kvm` and `tgid` name it.
pub const EVENT_VM_SEEN: u32 = 2;
/// [`Event::kind`]: the memslots of a registered VM changed. `args` = new generation.
pub const EVENT_SLOTS_CHANGED: u32 = 3;
/// [`Event::kind`]: a registered VM was reset, restored or shut down. `args` = new reset generation, `RESET_*`. Not of
/// each: [`RESET_EVENT_INTERVAL_NS`].
pub const EVENT_RESET: u32 = 4;

/// What showed a reset: the ioctl KVM_SET_SREGS2 on a vCPU.
pub const RESET_SET_SREGS2: u64 = 1;
/// What showed a reset: the ioctl KVM_SET_SREGS on a vCPU, seen as its function.
pub const RESET_SET_SREGS: u64 = 2;
/// What showed a reset: KVM_EXIT_SHUTDOWN, a triple fault.
pub const RESET_SHUTDOWN: u64 = 3;
/// What showed a reset: KVM_EXIT_SYSTEM_EVENT, asked for by the guest.
pub const RESET_SYSTEM_EVENT: u64 = 4;

/// What goes through the ring buffer.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Event {
    /// `EVENT_*`.
    pub kind: u32,
    /// Index of the VM, or [`NO_VM`].
    pub vm: u32,
    /// CLOCK_MONOTONIC, ns (`bpf_ktime_get_ns`).
    pub time_ns: u64,
    /// Kernel address of `struct kvm`.
    pub kvm: u64,
    /// Process.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
    /// By kind.
    pub args: [u64; 5],
}

/// One memslot as the slot walk finds it (every address space, every size, read-only ones included).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct SlotFact {
    /// Kernel address of `struct kvm`.
    pub kvm: u64,
    /// `kvm_memslots.generation` when the walk of this VM began.
    pub generation: u64,
    /// First guest frame number.
    pub base_gfn: u64,
    /// Length, 4 KiB frames.
    pub npages: u64,
    /// Where the VMM has it mapped, bytes.
    pub userspace_addr: u64,
    /// `kvm_memory_slot.flags` (KVM_MEM_*).
    pub flags: u32,
    /// `kvm_memory_slot.id`; [`SLOT_WALK_END`] closes the walk of a VM and carries no slot.
    pub id: i32,
    /// Process whose file it is.
    pub tgid: u32,
    /// File descriptor of `anon_inode:kvm-vm` in it.
    pub fd: u32,
}

/// [`SlotFact::id`] of the record that ends the walk of one VM; its `generation` is read again at the end.
pub const SLOT_WALK_END: i32 = -1;

/// Byte offset that the running kernel's BTF does not have: the code that needs it does nothing.
pub const NO_OFFSET: u32 = u32::MAX;

/// Offsets and argument positions of the running kernel, from BTF; the global `KERNEL` of the eBPF object.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct KernelLayout {
    /// `kvm_vcpu.kvm`.
    pub vcpu_kvm: u32,
    /// `kvm_vcpu.arch.regs[0]` (RAX).
    pub vcpu_rax: u32,
    /// `kvm.memslots[0]`.
    pub kvm_memslots: u32,
    /// `kvm.mmu_notifier`.
    pub kvm_mmu_notifier: u32,
    /// `kvm_memslots.generation`.
    pub memslots_generation: u32,
    /// `kvm_memslots.id_hash`.
    pub memslots_id_hash: u32,
    /// `kvm_memslots.node_idx`.
    pub memslots_node_idx: u32,
    /// `kvm_memory_slot.id_node[0]`.
    pub slot_id_node: u32,
    /// `kvm_memory_slot.base_gfn`.
    pub slot_base_gfn: u32,
    /// `kvm_memory_slot.npages`.
    pub slot_npages: u32,
    /// `kvm_memory_slot.userspace_addr`.
    pub slot_userspace_addr: u32,
    /// `kvm_memory_slot.flags`.
    pub slot_flags: u32,
    /// `kvm_memory_slot.id`.
    pub slot_id: u32,
    /// `mmu_notifier_range.start`.
    pub range_start: u32,
    /// `mmu_notifier_range.end`.
    pub range_end: u32,
    /// `file.private_data`.
    pub file_private_data: u32,
    /// `task_struct.tgid`.
    pub task_tgid: u32,
    /// `task_struct.mm`.
    pub task_mm: u32,
    /// `task_struct.files`.
    pub task_files: u32,
    /// `mm_struct.locked_vm`.
    pub mm_locked_vm: u32,
    /// `mm_struct.pinned_vm`.
    pub mm_pinned_vm: u32,
    /// `files_struct.fdt`.
    pub files_fdt: u32,
    /// `fdtable.max_fds`.
    pub fdt_max_fds: u32,
    /// `fdtable.open_fds`.
    pub fdt_open_fds: u32,
    /// Position of the vCPU in `kvm_page_fault`.
    pub arg_fault_vcpu: u32,
    /// Position of the fault address in `kvm_page_fault`.
    pub arg_fault_address: u32,
    /// Position of the vCPU in `kvm_entry`.
    pub arg_entry_vcpu: u32,
    /// Buckets of `kvm_memslots.id_hash`.
    pub memslots_buckets: u32,
    /// 1: a kretprobe proves hypercalls; 0: the next `kvm_entry` does.
    pub proof_by_return: u32,
    /// 1: the notifier kprobe names the VM; 0: `kvm_unmap_hva_range` is matched by address.
    pub notifier_kprobe: u32,
    /// Zero.
    pub reserved: u32,
}

impl KernelLayout {
    /// Nothing is known: what the eBPF object is built with.
    pub const UNKNOWN: Self = Self {
        vcpu_kvm: NO_OFFSET,
        vcpu_rax: NO_OFFSET,
        kvm_memslots: NO_OFFSET,
        kvm_mmu_notifier: NO_OFFSET,
        memslots_generation: NO_OFFSET,
        memslots_id_hash: NO_OFFSET,
        memslots_node_idx: NO_OFFSET,
        slot_id_node: NO_OFFSET,
        slot_base_gfn: NO_OFFSET,
        slot_npages: NO_OFFSET,
        slot_userspace_addr: NO_OFFSET,
        slot_flags: NO_OFFSET,
        slot_id: NO_OFFSET,
        range_start: NO_OFFSET,
        range_end: NO_OFFSET,
        file_private_data: NO_OFFSET,
        task_tgid: NO_OFFSET,
        task_mm: NO_OFFSET,
        task_files: NO_OFFSET,
        mm_locked_vm: NO_OFFSET,
        mm_pinned_vm: NO_OFFSET,
        files_fdt: NO_OFFSET,
        fdt_max_fds: NO_OFFSET,
        fdt_open_fds: NO_OFFSET,
        arg_fault_vcpu: NO_OFFSET,
        arg_fault_address: NO_OFFSET,
        arg_entry_vcpu: NO_OFFSET,
        memslots_buckets: 0,
        proof_by_return: 0,
        notifier_kprobe: 0,
        reserved: 0,
    };
}

const _: () = {
    assert!(size_of::<BlockRecord>() == 80);
    assert!(size_of::<VmRecord>() == 192);
    assert!(size_of::<Event>() == 72);
    assert!(size_of::<Totals>() == 14 * 8);
    assert!(size_of::<CpuRecord>() == 17 * 8);
    assert!(size_of::<SlotFact>() == 56);
    assert!(size_of::<VmSlots>() == 8 + MAX_SLOTS * 32);
    assert!(size_of::<KernelLayout>() == 31 * 4);
};
