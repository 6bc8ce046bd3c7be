// SPDX-License-Identifier: GPL-2.0-only
/*
 * Attacks with the calls and the control page: forged pages, pages that change after HELLO, names
 * of another VM, a page of a kernel that is gone, and calls without end.
 */
#define pr_fmt(fmt) "imr_hostile: " fmt

#include <linux/delay.h>
#include <linux/io.h>
#include <linux/jiffies.h>
#include <linux/kernel.h>
#include <linux/sched.h>
#include <linux/string.h>

#include "hostile.h"

/* How long a call that must not be answered is waited for: it is void by then. */
#define HOSTILE_LOOK_MS	(IMR_CALL_LIFETIME_MS + 50)

/* The host half before a call; too large for the stack. */
static struct imr_host_half hostile_before;

/**
 * hostile_unheard() - a HELLO that must not be answered
 * @h: the attack; its page is a good one again afterwards
 * @what: what is wrong with it
 * @gpa: the page it names
 * @cookie: the cookie it names
 */
void hostile_unheard(struct hostile *h, const char *what, u64 gpa, u64 cookie)
{
	hostile_before = h->page->host;
	hostile_call(h, IMR_OP_HELLO, gpa, cookie);
	msleep(HOSTILE_LOOK_MS);
	hostile_expect(h, !memcmp(&hostile_before, &h->page->host, sizeof(hostile_before)),
		       "%s is not answered", what);
	hostile_page_init(h);
}

/**
 * hostile_pages() - HELLOs for pages that are none, and for records that cannot be
 * @h: the attack
 *
 * 20 of them.
 */
void hostile_pages(struct hostile *h)
{
	struct imr_guest_half *guest = &h->page->guest;
	u64 gpa = virt_to_phys(h->page);
	u64 cookie = guest->cookie;

	hostile_unheard(h, "a page in the local APIC", 0xfee00000, cookie);
	hostile_unheard(h, "a page in the I/O APIC", 0xfec00000, cookie);
	hostile_unheard(h, "a page in the PCI hole", 0xe0000000, cookie);
	hostile_unheard(h, "a page in the flash", 0xfffff000, cookie);
	hostile_unheard(h, "a page behind RAM", (u64)hostile_ram_mib << 20, cookie);
	hostile_unheard(h, "the last page of all", 0xfffffffffffff000ULL, cookie);
	hostile_unheard(h, "an unaligned page", gpa + 8, cookie);
	hostile_unheard(h, "a page elsewhere", h->bait, cookie);
	hostile_unheard(h, "another cookie", gpa, cookie + 1);
	guest->cookie = 0;
	hostile_unheard(h, "no cookie", gpa, 0);
	guest->cookie = cookie;
	guest->magic++;
	hostile_unheard(h, "another magic", gpa, cookie);
	guest->abi_version++;
	hostile_unheard(h, "another version", gpa, cookie);
	guest->own_gpa += 4096;
	hostile_unheard(h, "a page that says it is elsewhere", gpa, cookie);
	guest->record_kind = 7;
	hostile_unheard(h, "another kind of record", gpa, cookie);
	guest->record_size = ~0ULL;
	hostile_unheard(h, "a huge record", gpa, cookie);
	guest->record_gpa++;
	hostile_unheard(h, "an unaligned record", gpa, cookie);
	guest->record_gpa = gpa;
	hostile_unheard(h, "the page as its own record", gpa, cookie);
	guest->record_gpa = 0xfee00000;
	hostile_unheard(h, "a record in the local APIC", gpa, cookie);
	guest->record_gpa = 0xfffff000;
	hostile_unheard(h, "a record in the flash", gpa, cookie);
	guest->record_gpa = 0xfffffffffffff000ULL;
	hostile_unheard(h, "a record that wraps", gpa, cookie);
	hostile_expect(h, hostile_hello(h), "a good HELLO is answered after them");
}

/* What the guest may do to its page between HELLO and doorbell. */
static void hostile_spoil(struct hostile *h, unsigned int how)
{
	struct imr_guest_half *guest = &h->page->guest;
	struct imr_host_half *host = &h->page->host;

	switch (how) {
	case 0: host->attach_id ^= 1; break;
	case 1: host->attach_id = 0; break;
	case 2: host->heartbeat--; break;
	case 3: host->mode = 99; break;
	case 4: host->claim_seq = guest->offer_seq + 1; break;
	case 5: host->want_pages = ~0ULL; break;
	case 6: host->want_seq += 5; break;
	case 7: memset(host, 0xff, sizeof(*host)); break;
	case 8: memset(host, 0, sizeof(*host)); break;
	case 9: guest->magic = 0; break;
	case 10: guest->abi_version = ~0U; break;
	case 11: guest->own_gpa = h->bait; break;
	case 12: guest->record_gpa = 0xfee00000; break;
	case 13: guest->record_gpa = h->bait + HOSTILE_BAIT_SIZE; break;
	case 14: guest->record_size = 1ULL << 40; break;
	case 15: guest->record_kind = 0; break;
	case 16: guest->revoke_seq = guest->offer_seq + 1; break;
	case 17: guest->revoke_seq = ~0ULL; break;
	case 18: memset(guest, 0xff, sizeof(*guest)); break;
	}
}

#define HOSTILE_SPOILS 19

/**
 * hostile_control() - both halves of the page change after HELLO: no such offer is taken
 * @h: the attack
 */
void hostile_control(struct hostile *h)
{
	struct imr_guest_half *guest = &h->page->guest;
	u64 cookie = guest->cookie, seq = 0;
	unsigned int how;

	for (how = 0; how < HOSTILE_SPOILS; how++) {
		hostile_page_init(h);
		guest->cookie = cookie;
		guest->offer_seq = seq;
		guest->revoke_seq = 0;
		hostile_expect(h, hostile_hello(h), "way %u: HELLO is answered", how);
		h->record[0] = (struct imr_list_entry){ h->bait, HOSTILE_BAIT_ORDER, IMR_LIST_END };
		guest->offer_count = 1;
		guest->offer_head = 0;
		hostile_spoil(h, how);
		if (how < HOSTILE_SPOILS - 1)
			guest->offer_seq = seq + 1;
		hostile_call(h, IMR_OP_DOORBELL, seq + 1, cookie);
		msleep(HOSTILE_LOOK_MS);
		hostile_expect(h, hostile_holds(h->block, HOSTILE_BAIT_SIZE), "way %u: the bait is untouched", how);
		seq += 2;
	}
	hostile_page_init(h);
	guest->cookie = cookie;
	guest->offer_seq = seq;
	guest->revoke_seq = 0;
	hostile_expect(h, hostile_hello(h), "a good HELLO is answered after them");
}

/**
 * hostile_foreign() - names the control page and the cookie of another VM's module
 * @h: the attack
 */
void hostile_foreign(struct hostile *h)
{
	struct imr_guest_half *guest = &h->page->guest;
	u64 seq;

	hostile_unheard(h, "the other VM's page", hostile_gpa, hostile_cookie);
	hostile_unheard(h, "the own page with the other VM's cookie", virt_to_phys(h->page), hostile_cookie);
	for (seq = 1; seq <= 40; seq++)
		hostile_call(h, IMR_OP_DOORBELL, seq, hostile_cookie);
	hostile_call(h, IMR_OP_BYE, 0, hostile_cookie);
	/* With its cookie in a page of our own we are heard: as ourselves. */
	guest->cookie = hostile_cookie;
	hostile_expect(h, hostile_hello(h), "HELLO is answered, whatever the cookie");
	hostile_expect(h, hostile_offer_one(h, h->bait, HOSTILE_BAIT_ORDER) == HOSTILE_DONE, "an offer is done");
	hostile_expect(h, hostile_zero(h->block, HOSTILE_BAIT_SIZE), "out of our own memory");
	for (seq = 1; seq <= 40; seq++)
		hostile_call(h, IMR_OP_DOORBELL, seq, hostile_cookie);
}

/**
 * hostile_flood() - hypercalls as fast as they come, of every kind
 * @h: the attack
 *
 * Some name as much memory as an offer can, all of it again and again; each HELLO is another
 * module's. There are hostile_count of them, or as many as can be made in hostile_most_s.
 */
void hostile_flood(struct hostile *h)
{
	struct imr_guest_half *guest = &h->page->guest;
	u64 gpa = virt_to_phys(h->page);
	unsigned long i, end;

	hostile_expect(h, hostile_hello(h), "HELLO is answered");
	h->record[0] = (struct imr_list_entry){ 0xfee00000, 9, IMR_LIST_END };
	for (i = 1; i < IMR_MAX_RANGES; i++)
		h->record[i] = (struct imr_list_entry){ 0, IMR_MAX_OFFER_ORDER,
							i + 1 < IMR_MAX_RANGES ? i + 1 : IMR_LIST_END };
	end = jiffies + hostile_most_s * HZ;
	for (i = 0; i < hostile_count && time_before(jiffies, end); i++) {
		switch (i % 8) {
		case 0:
			guest->cookie ^= 2;
			hostile_call(h, IMR_OP_HELLO, gpa, guest->cookie);
			break;
		case 1:
			hostile_call(h, IMR_OP_HELLO, 0xfee00000, guest->cookie);
			break;
		case 2:
			hostile_call(h, IMR_OP_BYE, 0, guest->cookie + 1);
			break;
		case 3:
			hostile_call(h, i, ~0ULL, i);
			break;
		default:
			/* An offer each, and each has to be read, judged and answered. */
			guest->offer_head = i % 8 == 7;
			guest->offer_count = i % 8 == 7 ? IMR_MAX_RANGES - 1 : 1;
			WRITE_ONCE(guest->offer_seq, i);
			hostile_call(h, IMR_OP_DOORBELL, i, guest->cookie);
		}
		if (i % 64 == 0)
			cond_resched();
	}
	/* The window of the rate limit, and what the largest offers cost. */
	guest->offer_head = 0;
	msleep(2000);
	hostile_expect(h, hostile_hello(h), "a good HELLO is answered after them");
	hostile_expect(h, hostile_holds(h->block, HOSTILE_BAIT_SIZE), "the bait is as it was written");
}

/**
 * hostile_stale() - leaves a page with an open offer behind, that was never rung for
 * @h: the attack
 */
void hostile_stale(struct hostile *h)
{
	struct imr_guest_half *guest = &h->page->guest;

	hostile_expect(h, hostile_hello(h), "HELLO is answered");
	hostile_expect(h, hostile_offer_one(h, h->bait, HOSTILE_BAIT_ORDER) == HOSTILE_DONE, "an offer is done");
	guest->offer_seq++;
	h->keep = true;
}

/**
 * hostile_revive() - after a reset: rings for the offer in a page of the boot before
 * @h: the attack
 */
void hostile_revive(struct hostile *h)
{
	struct imr_control_page *old = phys_to_virt(hostile_gpa);
	struct imr_guest_half *guest = &h->page->guest;
	bool intact;
	u64 turn;

	intact = old->guest.magic == IMR_MAGIC && old->guest.cookie == hostile_cookie &&
		 old->guest.own_gpa == hostile_gpa;
	hostile_before = old->host;
	pr_info("the old page is %s\n", intact ? "there" : "overwritten");
	for (turn = 0; turn < 5; turn++) {
		hostile_call(h, IMR_OP_DOORBELL, 2, hostile_cookie);
		msleep(HOSTILE_LOOK_MS);
	}
	hostile_call(h, IMR_OP_BYE, 0, hostile_cookie);
	msleep(HOSTILE_LOOK_MS);
	if (intact)
		hostile_expect(h, !memcmp(&hostile_before, &old->host, sizeof(hostile_before)),
			       "nobody writes the old page");
	else
		hostile_unheard(h, "a page that is not there any more", hostile_gpa, hostile_cookie);
	/* A copy of it, elsewhere. */
	guest->cookie = hostile_cookie;
	guest->own_gpa = hostile_gpa;
	hostile_unheard(h, "a copy of the old page", virt_to_phys(h->page), hostile_cookie);
	guest->cookie = hostile_cookie + 2;
	hostile_expect(h, hostile_hello(h), "a page of this boot is answered");
}
