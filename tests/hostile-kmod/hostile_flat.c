// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attacks with the flat record: records that cannot be, bytes that are no order, windows that are
 * none, and bytes that change while they are scanned.
 */
#define pr_fmt(fmt) "imr_hostile: " fmt

#include <linux/delay.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "hostile.h"

/* The record has a page: more blocks of the bait's size than any guest of the tests has. */
#define HOSTILE_BLOCKS	4096U

/* The number of the bait's block; the canary's is the next. */
static u32 hostile_block(struct hostile *h)
{
	return h->bait / HOSTILE_BAIT_SIZE;
}

/* The last block of RAM. */
static u32 hostile_last_block(void)
{
	return ((u64)hostile_ram_mib << 20) / HOSTILE_BAIT_SIZE - 1;
}

static void hostile_flat_init(struct hostile *h)
{
	struct imr_guest_half *half = &h->page->guest;

	hostile_page_init(h);
	half->record_kind = IMR_RECORD_FLAT;
	half->record_size = HOSTILE_BLOCKS;
	half->flat_order = HOSTILE_BAIT_ORDER;
	memset(h->record, 0, HOSTILE_BLOCKS);
}

/* HELLOs with records that cannot be. 8 of them. */
static void hostile_flat_pages(struct hostile *h)
{
	struct imr_guest_half *half = &h->page->guest;
	const u64 gpa = half->own_gpa, cookie = half->cookie;
	const struct {
		const char *what;
		u64 at;
		u64 size;
		u32 order;
	} cases[] = {
		{ "a flat record without a block", half->record_gpa, 0, 9 },
		{ "one with too many", half->record_gpa, IMR_FLAT_RECORD_MAX + 1, 9 },
		{ "one with as many as there are numbers", half->record_gpa, ~0ULL, 9 },
		{ "one with blocks of 2 GiB", half->record_gpa, HOSTILE_BLOCKS, 19 },
		{ "one with blocks of 1 MiB", half->record_gpa, HOSTILE_BLOCKS, 8 },
		{ "one with blocks of nothing", half->record_gpa, HOSTILE_BLOCKS, ~0U },
		{ "one across the end of RAM", ((u64)hostile_ram_mib << 20) - 4096, 8192, 9 },
		{ "one over the control page", gpa - 4096, 8192, 9 },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		hostile_flat_init(h);
		half->record_gpa = cases[i].at;
		half->record_size = cases[i].size;
		half->flat_order = cases[i].order;
		hostile_unheard(h, cases[i].what, gpa, cookie);
	}
}

/* Offers that are none: each is given back as a whole. 21 of them. */
static void hostile_flat_offers(struct hostile *h)
{
	const u32 at = hostile_block(h), last = hostile_last_block();
	const struct {
		const char *what;
		u32 count;
		u32 first;
		u32 last;
		u8 bait;
		u8 canary;
	} cases[] = {
		{ "no range", 0, 0, last, 10, 0 },
		{ "257 ranges", 257, 0, last, 10, 0 },
		{ "4 G ranges", ~0U, 0, last, 10, 0 },
		{ "an end before the beginning", 1, at + 1, at, 10, 0 },
		{ "an end behind RAM", 1, 0, last + 1, 10, 0 },
		{ "an end far behind RAM", 1, 0, HOSTILE_BLOCKS - 1, 10, 0 },
		{ "an end behind the record", 1, 0, HOSTILE_BLOCKS, 10, 0 },
		{ "an end far behind it", 1, 0, ~0U, 10, 0 },
		{ "both behind it", 1, ~0U, ~0U, 10, 0 },
		{ "nothing", 1, 0, last, 0, 0 },
		{ "a range less", 2, 0, last, 10, 0 },
		{ "a range more", 1, 0, last, 10, 10 },
		{ "a range that begins before", 1, at + 1, last, 10, 0 },
		{ "a range that goes on behind", 1, 0, at, 11, 0 },
		{ "a range in another", 2, 0, last, 11, 10 },
		{ "a range where none of its size begins", 1, 0, last, 0, 11 },
		{ "order 0", 1, 0, last, 1, 0 },
		{ "order 8", 1, 0, last, 9, 0 },
		{ "order 19", 1, 0, last, 20, 0 },
		{ "order 254", 1, 0, last, 255, 0 },
	};
	struct imr_guest_half *half = &h->page->guest;
	u8 *bytes = (u8 *)h->record;
	enum hostile_end end;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		bytes[at] = cases[i].bait;
		bytes[at + 1] = cases[i].canary;
		half->offer_last = cases[i].last;
		end = hostile_offer(h, cases[i].count, cases[i].first, 10000);
		hostile_expect(h, end == HOSTILE_ABANDONED, "%s is given back (%d)", cases[i].what, end);
	}
	memset(bytes, 0xff, HOSTILE_BLOCKS);
	half->offer_last = last;
	end = hostile_offer(h, IMR_MAX_RANGES, 0, 10000);
	hostile_expect(h, end == HOSTILE_ABANDONED, "a record full of it is given back (%d)", end);
}

/* The record changes its shape after HELLO. 3 times. */
static void hostile_flat_shapes(struct hostile *h)
{
	struct imr_guest_half *half = &h->page->guest;
	unsigned int how;

	for (how = 0; how < 3; how++) {
		hostile_flat_init(h);
		hostile_expect(h, hostile_hello(h), "HELLO is answered");
		((u8 *)h->record)[hostile_block(h)] = HOSTILE_BAIT_ORDER + 1;
		half->offer_last = hostile_last_block();
		if (how == 0)
			half->record_size--;
		else if (how == 1)
			half->flat_order++;
		else
			half->record_kind = IMR_RECORD_LIST;
		hostile_expect(h, hostile_offer(h, 1, 0, 10000) == HOSTILE_ABANDONED,
			       "with a shape of its own, %u, an offer is given back", how);
	}
}

/**
 * hostile_flat() - flat records that are none, offers that are none, and good ones
 * @h: the attack
 */
void hostile_flat(struct hostile *h)
{
	struct imr_guest_half *half = &h->page->guest;
	struct imr_host_half *host = &h->page->host;
	enum hostile_end end;

	hostile_flat_pages(h);
	hostile_flat_init(h);
	hostile_expect(h, hostile_hello(h), "a good HELLO is answered after them");
	hostile_flat_offers(h);
	hostile_flat_shapes(h);
	hostile_expect(h, hostile_holds(h->block, HOSTILE_BAIT_SIZE), "the bait is as it was written");

	hostile_flat_init(h);
	hostile_expect(h, hostile_hello(h), "HELLO is answered");
	((u8 *)h->record)[hostile_block(h)] = HOSTILE_BAIT_ORDER + 1;
	half->offer_last = hostile_last_block();
	end = hostile_offer(h, 1, 0, 10000);
	hostile_expect(h, end == HOSTILE_DONE && host->results[0] == IMR_RESULT_RECLAIMED,
		       "an honest offer is taken (%d, result %u)", end, host->results[0]);
	hostile_expect(h, hostile_zero(h->block, HOSTILE_BAIT_SIZE), "what was reclaimed reads as zero");
}

/* One round of changes, until the host has answered. */
static void hostile_flat_round(struct hostile *h, unsigned long round, u64 seq)
{
	static const u8 baits[] = { 10, 0, 10, 255, 10, 1, 10, 20, 10 };
	static const u8 canaries[] = { 0, 0, 9, 0, 0, 255, 0 };
	struct imr_guest_half *half = &h->page->guest;
	struct imr_host_half *host = &h->page->host;
	u64 until = ktime_get_ns() + 5 * NSEC_PER_SEC, ring = 0;
	u8 *bytes = (u8 *)h->record;
	const u32 at = hostile_block(h);
	unsigned long turn;

	for (turn = 0; READ_ONCE(host->done_seq) != seq && READ_ONCE(host->abandon_seq) != seq; turn++) {
		if (turn % 256 == 0) {
			if (ktime_get_ns() > until)
				break;
			if (ktime_get_ns() >= ring) {
				hostile_call(h, IMR_OP_DOORBELL, seq, half->cookie);
				ring = ktime_get_ns() + IMR_RING_INTERVAL_MS * NSEC_PER_MSEC;
			}
			cond_resched();
		}
		WRITE_ONCE(bytes[at], baits[turn % ARRAY_SIZE(baits)]);
		if (round % 2)
			WRITE_ONCE(bytes[at + 1], canaries[turn % ARRAY_SIZE(canaries)]);
		if (round % 4 == 3)
			WRITE_ONCE(half->offer_last, turn % 5 ? at : ~0U);
		if (round % 8 == 5)
			WRITE_ONCE(half->flat_order, turn % 3 ? HOSTILE_BAIT_ORDER : turn % 32);
		if (round % 8 == 7)
			WRITE_ONCE(half->record_size, turn % 7 ? HOSTILE_BLOCKS : ~0ULL);
		/* Some of the time none of it changes: else every round would end as nonsense. */
		if (turn % 64 == 0)
			ndelay(200);
	}
}

/**
 * hostile_flat_rewrite() - bytes, window and shape change for as long as the host works
 * @h: the attack
 *
 * Whatever the host puts together from halves of what is written here is the bait, or nothing
 * that it may take.
 */
void hostile_flat_rewrite(struct hostile *h)
{
	struct imr_guest_half *half = &h->page->guest;
	struct imr_host_half *host = &h->page->host;
	unsigned long round;
	u64 seq;

	hostile_flat_init(h);
	hostile_expect(h, hostile_hello(h), "HELLO is answered");
	for (round = 0; round < hostile_count; round++) {
		half->record_size = HOSTILE_BLOCKS;
		half->flat_order = HOSTILE_BAIT_ORDER;
		half->offer_head = 0;
		half->offer_last = hostile_block(h) + 1;
		half->offer_count = 1;
		((u8 *)h->record)[hostile_block(h) + 1] = 0;
		seq = half->offer_seq + 1;
		virt_store_release(&half->offer_seq, seq);
		hostile_flat_round(h, round, seq);
		if (READ_ONCE(host->done_seq) == seq)
			h->done++;
		else if (READ_ONCE(host->abandon_seq) == seq)
			h->abandoned++;
		else
			h->silent++;
		hostile_expect(h, hostile_holds(h->canary, HOSTILE_BAIT_SIZE),
			       "round %lu: the canary is as it was written", round);
	}
	hostile_expect(h, !h->silent, "each round is answered, %llu were not", h->silent);
	hostile_expect(h, hostile_each_page_whole(h->block, HOSTILE_BAIT_SIZE), "whole pages are taken");
}
