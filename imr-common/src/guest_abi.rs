//! Guest <-> host: the hypercall, the control page and the two records.
//!
//! The control page is one 4 KiB page of guest memory. Its first half is written by the guest only, its
//! second half by the host only, so no field has two writers. All integers are little-endian. The C header
//! of the guest module is generated from this file; a change of layout needs a new [`ABI_VERSION`].

use core::mem::{offset_of, size_of};

/// Version of everything in this file. Host and guest refuse each other unless it is equal.
pub const ABI_VERSION: u32 = 5;

/// Hypercall number ("IMR\x01"), in RAX. KVM knows no such number: it traces the call (`kvm_hypercall`) and
/// returns `-KVM_ENOSYS` to a caller at CPL 0, `-KVM_EPERM` to any other
/// (arch/x86/kvm/x86.c, `kvm_emulate_hypercall`, 4.17 to 6.12).
pub const HYPERCALL_NR: u64 = 0x494d_5201;

/// First hypercall argument (RBX): the guest's control page is at the guest-physical address in RCX, its
/// cookie in RDX. Said at load, then every [`HELLO_INTERVAL_MS`]; the host answers by raising its heartbeat.
pub const OP_HELLO: u64 = 1;
/// First hypercall argument (RBX): the offer whose sequence number is in RCX is open; the cookie is in RDX.
pub const OP_DOORBELL: u64 = 2;
/// First hypercall argument (RBX): the guest withdraws its control page; RCX is zero, the cookie in RDX.
/// The host answers by writing zero to `attach_id` and never writes the page again.
pub const OP_BYE: u64 = 3;

/// What the hypercall returns to a guest kernel (include/uapi/linux/kvm_para.h, `-KVM_ENOSYS`).
pub const RET_ENOSYS: i64 = -1000;
/// What the hypercall returns at any other privilege level (`-KVM_EPERM`).
pub const RET_EPERM: i64 = -1;

/// "IMRGUEST", little-endian.
pub const MAGIC: u64 = u64::from_le_bytes(*b"IMRGUEST");

/// Bytes of the control page.
pub const CONTROL_PAGE_SIZE: usize = 4096;
/// Bytes of each of its halves.
pub const HALF_SIZE: usize = CONTROL_PAGE_SIZE / 2;

/// `record_kind`: a chain of [`ListEntry`].
pub const RECORD_LIST: u32 = 1;
/// `record_kind`: one byte for each block of guest memory, from address 0 on. In an open offer the byte of the block
/// that a range begins with is the order of the range plus one; all others, those that the range goes on over
/// included, are zero.
pub const RECORD_FLAT: u32 = 2;

/// The most ranges one offer may have.
pub const MAX_RANGES: usize = 256;
/// Bytes of the list record: one page, [`MAX_RANGES`] entries.
pub const LIST_RECORD_SIZE: u64 = (MAX_RANGES * size_of::<ListEntry>()) as u64;
/// The most bytes that a flat record may have: 8 TiB of guest memory in blocks of 2 MiB.
pub const FLAT_RECORD_MAX: u64 = 4 << 20;
/// The smallest order of its blocks, 2 MiB: what a scan takes grows with the guest's memory and with nothing else.
pub const FLAT_MIN_ORDER: u32 = 9;
/// `next` of the last entry of a list.
pub const LIST_END: u32 = u32::MAX;
/// Largest order of an offered range: 4 KiB << 18 is 1 GiB. (The buddy allocator's largest is 10.)
pub const MAX_OFFER_ORDER: u32 = 18;
/// Free-area orders reported in the control page (the kernel has 11; the rest are zero).
pub const FREE_ORDERS: usize = 16;
/// Kinds of zone that free blocks are reported for.
pub const FREE_ZONES: usize = 4;
/// Entries of `zone_free_blocks`: [`FREE_ORDERS`] for each of [`FREE_ZONES`].
pub const ZONE_FREE_ORDERS: usize = FREE_ZONES * FREE_ORDERS;
/// Kind of zone: the first 16 MiB.
pub const ZONE_DMA: usize = 0;
/// Kind of zone: below 4 GiB.
pub const ZONE_DMA32: usize = 1;
/// Kind of zone: above, what may be used for anything.
pub const ZONE_NORMAL: usize = 2;
/// Kind of zone: what can be moved away, such as memory to be unplugged.
pub const ZONE_MOVABLE: usize = 3;

/// `mode`: the host watches and takes nothing.
pub const MODE_OBSERVING: u32 = 1;
/// `mode`: the host reclaims what is offered.
pub const MODE_RECLAIMING: u32 = 2;

/// `results[i]`: not answered yet.
pub const RESULT_NONE: u8 = 0;
/// `results[i]`: the memory is with the host; it reads as zero from now on.
pub const RESULT_RECLAIMED: u8 = 1;
/// `results[i]`: valid, left as it was, or with the host in part where a call failed half-way: that part reads as zero.
pub const RESULT_KEPT: u8 = 2;
/// `results[i]`: the range is not one the host would ever take (outside RAM, unaligned, overlapping).
pub const RESULT_REFUSED: u8 = 3;

/// Milliseconds between two HELLOs of a guest whose last one was not answered.
pub const HELLO_INTERVAL_MS: u64 = 10_000;
/// Milliseconds between two HELLOs of a guest whose host answers; they carry the memory statistics.
pub const HELLO_ATTACHED_MS: u64 = 2_000;
/// Milliseconds without an answer after which a host counts as gone.
pub const HOST_STALE_MS: u64 = 5_000;
/// Milliseconds between two doorbells for one offer.
pub const RING_INTERVAL_MS: u64 = 100;
/// Milliseconds after which a call counts for nothing on the host.
pub const CALL_LIFETIME_MS: u64 = 200;
/// Milliseconds from a doorbell after which the host neither goes on with what it claimed on it nor answers it; the
/// guest's next calls begin anew. A guest that hands its memory to another kernel without a reset has said nothing
/// for so long before.
pub const CLAIM_LIFETIME_MS: u64 = 5_000;

/// The half that only the guest writes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GuestHalf {
    /// [`MAGIC`] while the page is in use, zero before HELLO and after BYE.
    pub magic: u64,
    /// [`ABI_VERSION`].
    pub abi_version: u32,
    /// [`RECORD_LIST`] or [`RECORD_FLAT`].
    pub record_kind: u32,
    /// Random, never zero, drawn at each load of the module.
    pub cookie: u64,
    /// Guest-physical address of this page, bytes.
    pub own_gpa: u64,
    /// Guest-physical address of the record, bytes, page-aligned, physically contiguous.
    pub record_gpa: u64,
    /// Size of the record, bytes: [`LIST_RECORD_SIZE`] of a list; of a flat record the number of its blocks, 1 to
    /// [`FLAT_RECORD_MAX`].
    pub record_size: u64,
    /// Raised by one before every hypercall.
    pub heartbeat: u64,
    /// Sequence number of the newest offer, from 1; zero before the first.
    pub offer_seq: u64,
    /// Ranges of that offer, 1 to [`MAX_RANGES`].
    pub offer_count: u32,
    /// Where to begin: the index of the list's first entry; of a flat record the number of the first block that the
    /// offer has any part of.
    pub offer_head: u32,
    /// Newest sequence number that the guest has withdrawn.
    pub revoke_seq: u64,
    /// Memory of the guest, 4 KiB pages.
    pub total_pages: u64,
    /// Free pages of it, all zones, 4 KiB pages, without what is offered just now.
    pub free_pages: u64,
    /// Free pages that the module keeps unoffered, 4 KiB pages.
    pub reserve_pages: u64,
    /// Free blocks per buddy order, all zones: `free_blocks[o]` blocks of `4 KiB << o`.
    pub free_blocks: [u64; FREE_ORDERS],
    /// Free blocks per kind of zone and buddy order, all nodes: `zone_free_blocks[z * 16 + o]` blocks of `4 KiB << o`
    /// in zones of kind `z`, [`ZONE_DMA`] to [`ZONE_MOVABLE`]; at most 2^32 - 1.
    pub zone_free_blocks: [u32; ZONE_FREE_ORDERS],
    /// Order of a block of the flat record: byte `b` is for the guest memory of `4 KiB << flat_order` at `b` times that.
    /// From [`FLAT_MIN_ORDER`] to [`MAX_OFFER_ORDER`]; zero with a list.
    pub flat_order: u32,
    /// Where to end: of a flat record the number of the last block that the offer has any part of, which begins in RAM;
    /// zero with a list.
    pub offer_last: u32,
    /// Smallest order of a range that is offered: free memory in smaller blocks is stranded until they grow together.
    pub offer_order: u32,
    /// 1: the guest serves requests to compact; 0: it does not.
    pub compacts: u32,
    /// Free pages in blocks of `offer_order` and above that are not offered, because their zones have too little free
    /// memory or the guest keeps a reserve, per kind of zone, 4 KiB pages.
    pub zone_kept_pages: [u64; FREE_ZONES],
    /// Blocks of `offer_order` that were made free by moving what was used of them, since the module was loaded.
    pub compacted_blocks: u64,
    /// Zero.
    pub reserved: [u64; 188],
}

/// The half that only the host writes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct HostHalf {
    /// Identity of the session that answers, never zero; zero: nobody. Each session of a host with a VM has one of its
    /// own, so that a guest that was migrated or rolled back finds another even where the same process answers.
    pub attach_id: u64,
    /// Raised by one at every answered call.
    pub heartbeat: u64,
    /// [`MODE_OBSERVING`] or [`MODE_RECLAIMING`].
    pub mode: u32,
    /// Zero.
    pub pad: u32,
    /// Newest offer that the host has taken up.
    pub claim_seq: u64,
    /// Newest offer that the host has finished; `results` are valid.
    pub done_seq: u64,
    /// Newest offer that the host has given back untouched.
    pub abandon_seq: u64,
    /// 4 KiB pages of free memory that request `want_seq` asks to be offered again; zero: none, and a request
    /// that is being served ends. Written before `want_seq`.
    pub want_pages: u64,
    /// Number of the host's newest request; zero: none. A guest that sees a pair of `attach_id` and `want_seq`
    /// for the first time serves it, once: ranges that are free and were offered before, but not taken by this
    /// host, are offered again, in ordinary offers and lowest address first, until they add up to `want_pages`
    /// or there are no more. A batch that gets no answer, or a new request, ends it before. The guest
    /// looks when it sees an answered call, so within [`HELLO_ATTACHED_MS`]. The host leaves both fields as they
    /// are when a request has been served.
    pub want_seq: u64,
    /// 4 KiB pages of free memory in blocks smaller than `offer_order` that request `compact_seq` asks to be made part
    /// of larger ones; zero: none, and a request that is being served ends. Written before `compact_seq`.
    pub compact_pages: u64,
    /// Number of the host's newest request to compact; zero: none. A guest that has `compacts` serves each pair of
    /// `attach_id` and `compact_seq` once: it moves what is used in blocks that are free in part to other places, until
    /// the blocks that are free then add up to `compact_pages`, there are no more, or it has taken long enough.
    pub compact_seq: u64,
    /// Answer for range `i` of offer `done_seq`, in the order of the list, or of the blocks of a flat record.
    pub results: [u8; MAX_RANGES],
    /// Zero.
    pub reserved: [u64; 214],
}

/// The control page.
#[repr(C, align(4096))]
#[derive(Debug, Clone, Copy)]
pub struct ControlPage {
    /// Written by the guest only.
    pub guest: GuestHalf,
    /// Written by the host only.
    pub host: HostHalf,
}

/// One entry of the list record.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListEntry {
    /// Guest-physical address of the range, bytes, aligned to its size.
    pub gpa: u64,
    /// Its size is `4 KiB << order`; at most [`MAX_OFFER_ORDER`].
    pub order: u32,
    /// Index of the next entry in the record, or [`LIST_END`].
    pub next: u32,
}

const _: () = {
    assert!(size_of::<GuestHalf>() == HALF_SIZE);
    assert!(size_of::<HostHalf>() == HALF_SIZE);
    assert!(size_of::<ControlPage>() == CONTROL_PAGE_SIZE);
    assert!(offset_of!(ControlPage, host) == HALF_SIZE);
    assert!(size_of::<ListEntry>() == 16);
    assert!(offset_of!(GuestHalf, offer_seq) == 56);
    assert!(offset_of!(GuestHalf, revoke_seq) == 72);
    assert!(offset_of!(GuestHalf, free_blocks) == 104);
    assert!(offset_of!(GuestHalf, zone_free_blocks) == 232);
    assert!(offset_of!(GuestHalf, flat_order) == 488);
    assert!(offset_of!(GuestHalf, zone_kept_pages) == 504);
    assert!(MAX_OFFER_ORDER < u8::MAX as u32);
    assert!(offset_of!(HostHalf, claim_seq) == 24);
    assert!(offset_of!(HostHalf, want_seq) == 56);
    assert!(offset_of!(HostHalf, compact_seq) == 72);
    assert!(offset_of!(HostHalf, results) == 80);
};
