// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attacks with what is offered: ranges that are no RAM of the guest, lists that are none, records
 * that change while they are read, and the pages of the handshake themselves.
 */
#define pr_fmt(fmt) "imr_hostile: " fmt

#include <linux/bits.h>
#include <linux/delay.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/ktime.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "hostile.h"

/* Two of the many addresses where nothing is to be had. */
#define HOSTILE_APIC	0xfee00000ULL
#define HOSTILE_LAST	0xfffffffffffff000ULL

/**
 * hostile_honest() - an offer as a true module makes it: it is taken, and nothing else is
 * @h: the attack
 */
void hostile_honest(struct hostile *h)
{
	enum hostile_end end;

	hostile_expect(h, hostile_hello(h), "HELLO is answered");
	end = hostile_offer_one(h, h->bait, HOSTILE_BAIT_ORDER);
	hostile_expect(h, end == HOSTILE_DONE, "the offer is done (%d)", end);
	hostile_expect(h, h->results[IMR_RESULT_RECLAIMED] == 1, "the range is reclaimed");
	hostile_expect(h, hostile_zero(h->block, HOSTILE_BAIT_SIZE), "what was reclaimed reads as zero");
}

/**
 * hostile_ranges() - MMIO, ROM, holes, huge, wrapped, overlapping and unaligned ranges
 * @h: the attack
 *
 * Nothing below 1 MiB: without a display its window is RAM, and what QEMU calls the shadow of the
 * BIOS is RAM to KVM, which lets the guest write it (slots without KVM_MEM_READONLY).
 */
void hostile_ranges(struct hostile *h)
{
	u64 end_of_ram = (u64)hostile_ram_mib << 20;
	const struct {
		const char *what;
		u64 gpa;
		u32 order;
	} cases[] = {
		{ "local APIC", HOSTILE_APIC, 0 },
		{ "I/O APIC", 0xfec00000, 0 },
		{ "PCI hole", 0xe0000000, 9 },
		{ "BIOS flash", 0xfffc0000, 6 },
		{ "last page below 4 GiB", 0xfffff000, 0 },
		{ "just behind RAM", end_of_ram, 0 },
		{ "across the end of RAM", end_of_ram - (4 << 20), 11 },
		{ "all of RAM and more", 0, 18 },
		{ "1 GiB of nothing", 1ULL << 40, 18 },
		{ "last page of all", HOSTILE_LAST, 0 },
		{ "wraps around", HOSTILE_LAST, HOSTILE_BAIT_ORDER },
		{ "ends where addresses end", 0ULL - (1ULL << 30), 18 },
		{ "the bait with bit 63", BIT_ULL(63) | h->bait, HOSTILE_BAIT_ORDER },
		{ "the bait with bit 52", BIT_ULL(52) | h->bait, HOSTILE_BAIT_ORDER },
	};
	struct imr_host_half *host = &h->page->host;
	enum hostile_end end;
	unsigned int i;

	hostile_expect(h, hostile_hello(h), "HELLO is answered");
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		end = hostile_offer_one(h, cases[i].gpa, cases[i].order);
		hostile_expect(h, end == HOSTILE_DONE && host->results[0] == IMR_RESULT_REFUSED,
			       "%s is refused (%d, result %u)", cases[i].what, end, host->results[0]);
	}

	/* All of them around a good one: it is taken as if they were not there. */
	for (i = 0; i < IMR_MAX_RANGES; i++) {
		h->record[i].gpa = cases[i % ARRAY_SIZE(cases)].gpa;
		h->record[i].order = cases[i % ARRAY_SIZE(cases)].order;
		h->record[i].next = i + 1 < IMR_MAX_RANGES ? i + 1 : IMR_LIST_END;
	}
	h->record[100].gpa = h->bait;
	h->record[100].order = HOSTILE_BAIT_ORDER;
	end = hostile_offer(h, IMR_MAX_RANGES, 0, 20000);
	hostile_expect(h, end == HOSTILE_DONE, "256 ranges are answered (%d)", end);
	for (i = 0; end == HOSTILE_DONE && i < IMR_MAX_RANGES; i++)
		hostile_expect(h, host->results[i] == (i == 100 ? IMR_RESULT_RECLAIMED : IMR_RESULT_REFUSED),
			       "range %u of 256: result %u", i, host->results[i]);
	hostile_expect(h, hostile_zero(h->block, HOSTILE_BAIT_SIZE), "the good one is taken");

	/* The same twice, and a part of it. */
	hostile_fill(h->block, HOSTILE_BAIT_SIZE);
	h->record[0] = (struct imr_list_entry){ h->bait, HOSTILE_BAIT_ORDER, 1 };
	h->record[1] = (struct imr_list_entry){ h->bait, HOSTILE_BAIT_ORDER, 2 };
	h->record[2] = (struct imr_list_entry){ h->bait + 4096, 0, IMR_LIST_END };
	end = hostile_offer(h, 3, 0, 10000);
	hostile_expect(h, end == HOSTILE_DONE && host->results[0] == IMR_RESULT_RECLAIMED &&
		       host->results[1] == IMR_RESULT_REFUSED && host->results[2] == IMR_RESULT_REFUSED,
		       "of overlapping ranges the first is taken (%d, results %u %u %u)", end,
		       host->results[0], host->results[1], host->results[2]);

	/* Not aligned to its size, up to the last page before the canary. */
	hostile_fill(h->block, HOSTILE_BAIT_SIZE);
	end = hostile_offer_one(h, h->bait + HOSTILE_BAIT_SIZE / 2 - 4096, HOSTILE_BAIT_ORDER - 1);
	hostile_expect(h, end == HOSTILE_DONE, "a range not aligned to its size is answered (%d)", end);
	hostile_expect(h, hostile_each_page_whole(h->block, HOSTILE_BAIT_SIZE), "whole pages are taken");
	hostile_expect(h, ((u64 *)h->canary)[-1], "the page before the canary was not offered");
}

/**
 * hostile_lists() - records that are no list: each is given back as a whole
 * @h: the attack
 */
void hostile_lists(struct hostile *h)
{
	const struct {
		const char *what;
		u32 count;
		u32 head;
		struct imr_list_entry entry;
	} cases[] = {
		{ "no range", 0, 0, { h->bait, 0, IMR_LIST_END } },
		{ "257 ranges", 257, 0, { h->bait, 0, IMR_LIST_END } },
		{ "4 G ranges", ~0U, 0, { h->bait, 0, IMR_LIST_END } },
		{ "head outside", 1, 256, { h->bait, 0, IMR_LIST_END } },
		{ "head far outside", 1, 0x7fffffff, { h->bait, 0, IMR_LIST_END } },
		{ "head is the end", 1, IMR_LIST_END, { h->bait, 0, IMR_LIST_END } },
		{ "too short", 2, 0, { h->bait, 0, IMR_LIST_END } },
		{ "too long", 1, 0, { h->bait, 0, 1 } },
		{ "cycle", 2, 0, { h->bait, 0, 0 } },
		{ "next outside", 2, 0, { h->bait, 0, 256 } },
		{ "order 19", 1, 0, { h->bait, 19, IMR_LIST_END } },
		{ "order 52", 1, 0, { 0, 52, IMR_LIST_END } },
		{ "order 64", 1, 0, { h->bait, 64, IMR_LIST_END } },
		{ "order 4 G", 1, 0, { h->bait, ~0U, IMR_LIST_END } },
		{ "not page-aligned", 1, 0, { h->bait + 1, 0, IMR_LIST_END } },
		{ "last byte of all", 1, 0, { ~0ULL, 9, IMR_LIST_END } },
	};
	enum hostile_end end;
	unsigned int i;

	hostile_expect(h, hostile_hello(h), "HELLO is answered");
	for (i = 0; i < ARRAY_SIZE(cases); i++) {
		h->record[0] = cases[i].entry;
		end = hostile_offer(h, cases[i].count, cases[i].head, 10000);
		hostile_expect(h, end == HOSTILE_ABANDONED, "%s is given back (%d)", cases[i].what, end);
	}
	hostile_expect(h, hostile_holds(h->block, HOSTILE_BAIT_SIZE), "the bait is as it was written");
}

/**
 * hostile_rewrite() - record, count, head and revoke_seq change for as long as the host works
 * @h: the attack
 *
 * Whatever the host puts together from halves of what is written here lies in the bait, or in
 * nothing that it may take.
 */
void hostile_rewrite(struct hostile *h)
{
	const u64 gpas[] = { h->bait, HOSTILE_APIC, h->bait, HOSTILE_LAST, h->bait, h->bait + 1, h->bait };
	const u32 orders[] = { 4, 0, ~0U, 4, HOSTILE_BAIT_ORDER };
	const u32 nexts[] = { IMR_LIST_END, IMR_LIST_END, 0, IMR_LIST_END, 256, 1 };
	struct imr_guest_half *guest = &h->page->guest;
	struct imr_host_half *host = &h->page->host;
	unsigned long round, turn;
	u64 seq, until, ring;

	hostile_expect(h, hostile_hello(h), "HELLO is answered");
	for (round = 0; round < hostile_count; round++) {
		seq = guest->offer_seq + 1;
		h->record[0] = (struct imr_list_entry){ h->bait, 4, IMR_LIST_END };
		h->record[1] = (struct imr_list_entry){ h->bait + 65536, 4, IMR_LIST_END };
		guest->offer_count = 1;
		guest->offer_head = 0;
		virt_store_release(&guest->offer_seq, seq);
		ring = 0;
		until = ktime_get_ns() + 5 * NSEC_PER_SEC;
		for (turn = 0; ; turn++) {
			if (READ_ONCE(host->done_seq) == seq || READ_ONCE(host->abandon_seq) == seq)
				break;
			if (turn % 256 == 0) {
				if (ktime_get_ns() > until)
					break;
				if (ktime_get_ns() >= ring) {
					hostile_call(h, IMR_OP_DOORBELL, seq, guest->cookie);
					ring = ktime_get_ns() + IMR_RING_INTERVAL_MS * NSEC_PER_MSEC;
				}
				cond_resched();
			}
			WRITE_ONCE(h->record[0].gpa, gpas[turn % ARRAY_SIZE(gpas)]);
			WRITE_ONCE(h->record[0].order, orders[turn % ARRAY_SIZE(orders)]);
			WRITE_ONCE(h->record[0].next, nexts[turn % ARRAY_SIZE(nexts)]);
			if (round % 2)
				WRITE_ONCE(guest->offer_count, turn % 3 ? 1 : 2);
			if (round % 4 == 3)
				WRITE_ONCE(guest->revoke_seq, turn % 5 ? 0 : seq);
			if (round % 8 == 7)
				WRITE_ONCE(guest->offer_head, turn % 7 ? 0 : 300);
			/* Some of the time none of it changes: else every round would end as nonsense. */
			if (turn % 64 == 0)
				ndelay(200);
		}
		if (READ_ONCE(host->done_seq) == seq)
			h->done++;
		else if (READ_ONCE(host->abandon_seq) == seq)
			h->abandoned++;
		else
			h->silent++;
		hostile_expect(h, hostile_holds(h->canary, HOSTILE_BAIT_SIZE),
			       "round %lu: the canary is as it was written", round);
	}
	WRITE_ONCE(guest->revoke_seq, 0);
	hostile_expect(h, !h->silent, "each round is answered, %llu were not", h->silent);
	hostile_expect(h, hostile_each_page_whole(h->block, HOSTILE_BAIT_SIZE), "whole pages are taken");
}

/**
 * hostile_self() - offers the record, then the control page itself
 * @h: the attack
 *
 * It is the guest's memory, so the host may take it. What it must not do is to fall over it.
 */
void hostile_self(struct hostile *h)
{
	hostile_expect(h, hostile_hello(h), "HELLO is answered");
	hostile_offer_one(h, virt_to_phys(h->record), 0);
	hostile_page_init(h);
	h->record[0] = (struct imr_list_entry){ virt_to_phys(h->page), 0, IMR_LIST_END };
	/* Where it is taken, the guest half is empty by the end, and so is the offer's number. */
	hostile_offer(h, 1, 0, 1000);
	hostile_page_init(h);
	hostile_expect(h, hostile_hello(h), "HELLO is answered again");
	h->page->guest.offer_seq += 100;
	hostile_expect(h, hostile_offer_one(h, h->bait, HOSTILE_BAIT_ORDER) == HOSTILE_DONE,
		       "and an offer is done again");
}
