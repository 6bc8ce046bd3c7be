/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Guest <-> host: hypercall, control page and record. Generated from
 * imr-common/src/guest_abi.rs by `cargo xtask tidy --bless`; do not edit.
 */
#ifndef IMR_ABI_H
#define IMR_ABI_H

#include <linux/build_bug.h>
#include <linux/compiler.h>
#include <linux/stddef.h>
#include <linux/types.h>

/*
 * Version of everything in this file. Host and guest refuse each other unless
 * it is equal.
 */
#define IMR_ABI_VERSION 5U

/*
 * Hypercall number ("IMR\x01"), in RAX. KVM knows no such number: it traces the
 * call (kvm_hypercall) and returns -KVM_ENOSYS to a caller at CPL 0, -KVM_EPERM
 * to any other (arch/x86/kvm/x86.c, kvm_emulate_hypercall, 4.17 to 6.12).
 */
#define IMR_HYPERCALL_NR 0x494d5201ULL

/*
 * First hypercall argument (RBX): the guest's control page is at the
 * guest-physical address in RCX, its cookie in RDX. Said at load, then every
 * IMR_HELLO_INTERVAL_MS; the host answers by raising its heartbeat.
 */
#define IMR_OP_HELLO 1ULL

/*
 * First hypercall argument (RBX): the offer whose sequence number is in RCX is
 * open; the cookie is in RDX.
 */
#define IMR_OP_DOORBELL 2ULL

/*
 * First hypercall argument (RBX): the guest withdraws its control page; RCX is
 * zero, the cookie in RDX. The host answers by writing zero to attach_id and
 * never writes the page again.
 */
#define IMR_OP_BYE 3ULL

/*
 * What the hypercall returns to a guest kernel (include/uapi/linux/kvm_para.h,
 * -KVM_ENOSYS).
 */
#define IMR_RET_ENOSYS (-1000LL)

/* What the hypercall returns at any other privilege level (-KVM_EPERM). */
#define IMR_RET_EPERM (-1LL)

/* "IMRGUEST", little-endian. */
#define IMR_MAGIC 0x5453455547524d49ULL

/* Bytes of the control page. */
#define IMR_CONTROL_PAGE_SIZE 4096

/* Bytes of each of its halves. */
#define IMR_HALF_SIZE 2048

/* record_kind: a chain of struct imr_list_entry. */
#define IMR_RECORD_LIST 1U

/*
 * record_kind: one byte for each block of guest memory, from address 0 on. In
 * an open offer the byte of the block that a range begins with is the order of
 * the range plus one; all others, those that the range goes on over included,
 * are zero.
 */
#define IMR_RECORD_FLAT 2U

/* The most ranges one offer may have. */
#define IMR_MAX_RANGES 256

/* Bytes of the list record: one page, IMR_MAX_RANGES entries. */
#define IMR_LIST_RECORD_SIZE 4096ULL

/*
 * The most bytes that a flat record may have: 8 TiB of guest memory in blocks
 * of 2 MiB.
 */
#define IMR_FLAT_RECORD_MAX 0x400000ULL

/*
 * The smallest order of its blocks, 2 MiB: what a scan takes grows with the
 * guest's memory and with nothing else.
 */
#define IMR_FLAT_MIN_ORDER 9U

/* next of the last entry of a list. */
#define IMR_LIST_END 0xffffffffU

/*
 * Largest order of an offered range: 4 KiB << 18 is 1 GiB. (The buddy
 * allocator's largest is 10.)
 */
#define IMR_MAX_OFFER_ORDER 18U

/*
 * Free-area orders reported in the control page (the kernel has 11; the rest
 * are zero).
 */
#define IMR_FREE_ORDERS 16

/* Kinds of zone that free blocks are reported for. */
#define IMR_FREE_ZONES 4

/* Entries of zone_free_blocks: IMR_FREE_ORDERS for each of IMR_FREE_ZONES. */
#define IMR_ZONE_FREE_ORDERS 64

/* Kind of zone: the first 16 MiB. */
#define IMR_ZONE_DMA 0

/* Kind of zone: below 4 GiB. */
#define IMR_ZONE_DMA32 1

/* Kind of zone: above, what may be used for anything. */
#define IMR_ZONE_NORMAL 2

/* Kind of zone: what can be moved away, such as memory to be unplugged. */
#define IMR_ZONE_MOVABLE 3

/* mode: the host watches and takes nothing. */
#define IMR_MODE_OBSERVING 1U

/* mode: the host reclaims what is offered. */
#define IMR_MODE_RECLAIMING 2U

/* results[i]: not answered yet. */
#define IMR_RESULT_NONE 0

/* results[i]: the memory is with the host; it reads as zero from now on. */
#define IMR_RESULT_RECLAIMED 1

/*
 * results[i]: valid, left as it was, or with the host in part where a call
 * failed half-way: that part reads as zero.
 */
#define IMR_RESULT_KEPT 2

/*
 * results[i]: the range is not one the host would ever take (outside RAM,
 * unaligned, overlapping).
 */
#define IMR_RESULT_REFUSED 3

/*
 * Milliseconds between two HELLOs of a guest whose last one was not answered.
 */
#define IMR_HELLO_INTERVAL_MS 10000ULL

/*
 * Milliseconds between two HELLOs of a guest whose host answers; they carry the
 * memory statistics.
 */
#define IMR_HELLO_ATTACHED_MS 2000ULL

/* Milliseconds without an answer after which a host counts as gone. */
#define IMR_HOST_STALE_MS 5000ULL

/* Milliseconds between two doorbells for one offer. */
#define IMR_RING_INTERVAL_MS 100ULL

/* Milliseconds after which a call counts for nothing on the host. */
#define IMR_CALL_LIFETIME_MS 200ULL

/*
 * Milliseconds from a doorbell after which the host neither goes on with what
 * it claimed on it nor answers it; the guest's next calls begin anew. A guest
 * that hands its memory to another kernel without a reset has said nothing for
 * so long before.
 */
#define IMR_CLAIM_LIFETIME_MS 5000ULL

/**
 * struct imr_guest_half - The half that only the guest writes.
 * @magic: IMR_MAGIC while the page is in use, zero before HELLO and after
 *   BYE.
 * @abi_version: IMR_ABI_VERSION.
 * @record_kind: IMR_RECORD_LIST or IMR_RECORD_FLAT.
 * @cookie: Random, never zero, drawn at each load of the module.
 * @own_gpa: Guest-physical address of this page, bytes.
 * @record_gpa: Guest-physical address of the record, bytes, page-aligned,
 *   physically contiguous.
 * @record_size: Size of the record, bytes: IMR_LIST_RECORD_SIZE of a list; of
 *   a flat record the number of its blocks, 1 to IMR_FLAT_RECORD_MAX.
 * @heartbeat: Raised by one before every hypercall.
 * @offer_seq: Sequence number of the newest offer, from 1; zero before the
 *   first.
 * @offer_count: Ranges of that offer, 1 to IMR_MAX_RANGES.
 * @offer_head: Where to begin: the index of the list's first entry; of a flat
 *   record the number of the first block that the offer has any part of.
 * @revoke_seq: Newest sequence number that the guest has withdrawn.
 * @total_pages: Memory of the guest, 4 KiB pages.
 * @free_pages: Free pages of it, all zones, 4 KiB pages, without what is
 *   offered just now.
 * @reserve_pages: Free pages that the module keeps unoffered, 4 KiB pages.
 * @free_blocks: Free blocks per buddy order, all zones: free_blocks[o] blocks
 *   of 4 KiB << o.
 * @zone_free_blocks: Free blocks per kind of zone and buddy order, all nodes:
 *   zone_free_blocks[z * 16 + o] blocks of 4 KiB << o in zones of kind z,
 *   IMR_ZONE_DMA to IMR_ZONE_MOVABLE; at most 2^32 - 1.
 * @flat_order: Order of a block of the flat record: byte b is for the guest
 *   memory of 4 KiB << flat_order at b times that. From IMR_FLAT_MIN_ORDER to
 *   IMR_MAX_OFFER_ORDER; zero with a list.
 * @offer_last: Where to end: of a flat record the number of the last block
 *   that the offer has any part of, which begins in RAM; zero with a list.
 * @offer_order: Smallest order of a range that is offered: free memory in
 *   smaller blocks is stranded until they grow together.
 * @compacts: 1: the guest serves requests to compact; 0: it does not.
 * @zone_kept_pages: Free pages in blocks of offer_order and above that are
 *   not offered, because their zones have too little free memory or the guest
 *   keeps a reserve, per kind of zone, 4 KiB pages.
 * @compacted_blocks: Blocks of offer_order that were made free by moving what
 *   was used of them, since the module was loaded.
 * @reserved: Zero.
 */
struct imr_guest_half {
	__u64 magic;
	__u32 abi_version;
	__u32 record_kind;
	__u64 cookie;
	__u64 own_gpa;
	__u64 record_gpa;
	__u64 record_size;
	__u64 heartbeat;
	__u64 offer_seq;
	__u32 offer_count;
	__u32 offer_head;
	__u64 revoke_seq;
	__u64 total_pages;
	__u64 free_pages;
	__u64 reserve_pages;
	__u64 free_blocks[IMR_FREE_ORDERS];
	__u32 zone_free_blocks[IMR_ZONE_FREE_ORDERS];
	__u32 flat_order;
	__u32 offer_last;
	__u32 offer_order;
	__u32 compacts;
	__u64 zone_kept_pages[IMR_FREE_ZONES];
	__u64 compacted_blocks;
	__u64 reserved[188];
};

static_assert(offsetof(struct imr_guest_half, magic) == 0);
static_assert(offsetof(struct imr_guest_half, abi_version) == 8);
static_assert(offsetof(struct imr_guest_half, record_kind) == 12);
static_assert(offsetof(struct imr_guest_half, cookie) == 16);
static_assert(offsetof(struct imr_guest_half, own_gpa) == 24);
static_assert(offsetof(struct imr_guest_half, record_gpa) == 32);
static_assert(offsetof(struct imr_guest_half, record_size) == 40);
static_assert(offsetof(struct imr_guest_half, heartbeat) == 48);
static_assert(offsetof(struct imr_guest_half, offer_seq) == 56);
static_assert(offsetof(struct imr_guest_half, offer_count) == 64);
static_assert(offsetof(struct imr_guest_half, offer_head) == 68);
static_assert(offsetof(struct imr_guest_half, revoke_seq) == 72);
static_assert(offsetof(struct imr_guest_half, total_pages) == 80);
static_assert(offsetof(struct imr_guest_half, free_pages) == 88);
static_assert(offsetof(struct imr_guest_half, reserve_pages) == 96);
static_assert(offsetof(struct imr_guest_half, free_blocks) == 104);
static_assert(offsetof(struct imr_guest_half, zone_free_blocks) == 232);
static_assert(offsetof(struct imr_guest_half, flat_order) == 488);
static_assert(offsetof(struct imr_guest_half, offer_last) == 492);
static_assert(offsetof(struct imr_guest_half, offer_order) == 496);
static_assert(offsetof(struct imr_guest_half, compacts) == 500);
static_assert(offsetof(struct imr_guest_half, zone_kept_pages) == 504);
static_assert(offsetof(struct imr_guest_half, compacted_blocks) == 536);
static_assert(offsetof(struct imr_guest_half, reserved) == 544);
static_assert(sizeof(struct imr_guest_half) == 2048);

/**
 * struct imr_host_half - The half that only the host writes.
 * @attach_id: Identity of the session that answers, never zero; zero: nobody.
 *   Each session of a host with a VM has one of its own, so that a guest that
 *   was migrated or rolled back finds another even where the same process
 *   answers.
 * @heartbeat: Raised by one at every answered call.
 * @mode: IMR_MODE_OBSERVING or IMR_MODE_RECLAIMING.
 * @pad: Zero.
 * @claim_seq: Newest offer that the host has taken up.
 * @done_seq: Newest offer that the host has finished; results are valid.
 * @abandon_seq: Newest offer that the host has given back untouched.
 * @want_pages: 4 KiB pages of free memory that request want_seq asks to be
 *   offered again; zero: none, and a request that is being served ends. Written
 *   before want_seq.
 * @want_seq: Number of the host's newest request; zero: none. A guest that
 *   sees a pair of attach_id and want_seq for the first time serves it, once:
 *   ranges that are free and were offered before, but not taken by this host,
 *   are offered again, in ordinary offers and lowest address first, until they
 *   add up to want_pages or there are no more. A batch that gets no answer, or
 *   a new request, ends it before. The guest looks when it sees an answered
 *   call, so within IMR_HELLO_ATTACHED_MS. The host leaves both fields as they
 *   are when a request has been served.
 * @compact_pages: 4 KiB pages of free memory in blocks smaller than
 *   offer_order that request compact_seq asks to be made part of larger ones;
 *   zero: none, and a request that is being served ends. Written before
 *   compact_seq.
 * @compact_seq: Number of the host's newest request to compact; zero: none. A
 *   guest that has compacts serves each pair of attach_id and compact_seq once:
 *   it moves what is used in blocks that are free in part to other places,
 *   until the blocks that are free then add up to compact_pages, there are no
 *   more, or it has taken long enough.
 * @results: Answer for range i of offer done_seq, in the order of the list,
 *   or of the blocks of a flat record.
 * @reserved: Zero.
 */
struct imr_host_half {
	__u64 attach_id;
	__u64 heartbeat;
	__u32 mode;
	__u32 pad;
	__u64 claim_seq;
	__u64 done_seq;
	__u64 abandon_seq;
	__u64 want_pages;
	__u64 want_seq;
	__u64 compact_pages;
	__u64 compact_seq;
	__u8 results[IMR_MAX_RANGES];
	__u64 reserved[214];
};

static_assert(offsetof(struct imr_host_half, attach_id) == 0);
static_assert(offsetof(struct imr_host_half, heartbeat) == 8);
static_assert(offsetof(struct imr_host_half, mode) == 16);
static_assert(offsetof(struct imr_host_half, pad) == 20);
static_assert(offsetof(struct imr_host_half, claim_seq) == 24);
static_assert(offsetof(struct imr_host_half, done_seq) == 32);
static_assert(offsetof(struct imr_host_half, abandon_seq) == 40);
static_assert(offsetof(struct imr_host_half, want_pages) == 48);
static_assert(offsetof(struct imr_host_half, want_seq) == 56);
static_assert(offsetof(struct imr_host_half, compact_pages) == 64);
static_assert(offsetof(struct imr_host_half, compact_seq) == 72);
static_assert(offsetof(struct imr_host_half, results) == 80);
static_assert(offsetof(struct imr_host_half, reserved) == 336);
static_assert(sizeof(struct imr_host_half) == 2048);

/**
 * struct imr_control_page - The control page.
 * @guest: Written by the guest only.
 * @host: Written by the host only.
 */
struct imr_control_page {
	struct imr_guest_half guest;
	struct imr_host_half host;
} __aligned(4096);

static_assert(offsetof(struct imr_control_page, guest) == 0);
static_assert(offsetof(struct imr_control_page, host) == 2048);
static_assert(sizeof(struct imr_control_page) == 4096);

/**
 * struct imr_list_entry - One entry of the list record.
 * @gpa: Guest-physical address of the range, bytes, aligned to its size.
 * @order: Its size is 4 KiB << order; at most IMR_MAX_OFFER_ORDER.
 * @next: Index of the next entry in the record, or IMR_LIST_END.
 */
struct imr_list_entry {
	__u64 gpa;
	__u32 order;
	__u32 next;
};

static_assert(offsetof(struct imr_list_entry, gpa) == 0);
static_assert(offsetof(struct imr_list_entry, order) == 8);
static_assert(offsetof(struct imr_list_entry, next) == 12);
static_assert(sizeof(struct imr_list_entry) == 16);

#endif /* IMR_ABI_H */
