// SPDX-License-Identifier: GPL-2.0-only
/*
 * imr_hostile.ko: one attack on the host at each load, which returns when it is over. The last
 * line of the kernel log says what came of it. Loading never fails for that: busybox's insmod
 * would try again. Test code: it ends badly for the guest that loads it where the host is not
 * what it should be.
 */
#define pr_fmt(fmt) "imr_hostile: " fmt

#include <linux/delay.h>
#include <linux/io.h>
#include <linux/ktime.h>
#include <linux/kvm_para.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/string.h>

#include "hostile.h"

static char *attack = "honest";
module_param(attack, charp, 0);
MODULE_PARM_DESC(attack, "which one");
unsigned long hostile_count = 100;
module_param_named(count, hostile_count, ulong, 0);
MODULE_PARM_DESC(count, "how often, for those that repeat something");
unsigned long hostile_most_s = 600;
module_param_named(most_s, hostile_most_s, ulong, 0);
MODULE_PARM_DESC(most_s, "when a flood ends though it has made fewer calls, s");
unsigned long hostile_gpa;
module_param_named(gpa, hostile_gpa, ulong, 0);
MODULE_PARM_DESC(gpa, "a control page of somebody else");
unsigned long hostile_cookie;
module_param_named(cookie, hostile_cookie, ulong, 0);
MODULE_PARM_DESC(cookie, "its cookie");
unsigned long hostile_ram_mib = 320;
module_param_named(ram_mib, hostile_ram_mib, ulong, 0);
MODULE_PARM_DESC(ram_mib, "where RAM ends, MiB");

static const struct {
	const char *name;
	void (*run)(struct hostile *h);
} hostile_attacks[] = {
	{ "honest", hostile_honest },
	{ "ranges", hostile_ranges },
	{ "lists", hostile_lists },
	{ "rewrite", hostile_rewrite },
	{ "flat", hostile_flat },
	{ "flat_rewrite", hostile_flat_rewrite },
	{ "self", hostile_self },
	{ "pages", hostile_pages },
	{ "control", hostile_control },
	{ "foreign", hostile_foreign },
	{ "flood", hostile_flood },
	{ "stale", hostile_stale },
	{ "revive", hostile_revive },
};

/**
 * hostile_call() - a hypercall, whatever it says
 * @h: the attack
 * @op: RBX
 * @arg: RCX
 * @cookie: RDX
 *
 * Return: what KVM returned.
 */
long hostile_call(struct hostile *h, u64 op, u64 arg, u64 cookie)
{
	h->calls++;
	WRITE_ONCE(h->page->guest.heartbeat, h->page->guest.heartbeat + 1);
	/* The host reads the page when it hears of the call. */
	virt_mb();
	return kvm_hypercall3(IMR_HYPERCALL_NR, op, arg, cookie);
}

/**
 * hostile_page_init() - make the guest half one that a true module could have
 * @h: the attack
 *
 * The sequence numbers stay as they are.
 */
void hostile_page_init(struct hostile *h)
{
	struct imr_guest_half *half = &h->page->guest;

	half->magic = IMR_MAGIC;
	half->abi_version = IMR_ABI_VERSION;
	half->record_kind = IMR_RECORD_LIST;
	if (!half->cookie)
		half->cookie = get_random_u64() | 1;
	half->own_gpa = virt_to_phys(h->page);
	half->record_gpa = virt_to_phys(h->record);
	half->record_size = IMR_LIST_RECORD_SIZE;
	half->flat_order = 0;
	half->offer_last = 0;
	half->total_pages = totalram_pages();
}

/**
 * hostile_hello() - a good HELLO, until it is answered
 * @h: the attack
 *
 * Return: whether it was, within some seconds.
 */
bool hostile_hello(struct hostile *h)
{
	struct imr_control_page *page = h->page;
	u64 beat = READ_ONCE(page->host.heartbeat);
	unsigned int turn, look;

	for (turn = 0; turn < 20; turn++) {
		hostile_call(h, IMR_OP_HELLO, virt_to_phys(page), page->guest.cookie);
		for (look = 0; look < 100; look++) {
			usleep_range(2000, 4000);
			if (READ_ONCE(page->host.heartbeat) != beat && READ_ONCE(page->host.attach_id))
				return true;
		}
	}
	return false;
}

/**
 * hostile_offer() - rings for what is in the record
 * @h: the attack
 * @count: offer_count
 * @head: offer_head
 * @limit_ms: how long to wait for an answer
 *
 * Return: what became of it.
 */
enum hostile_end hostile_offer(struct hostile *h, u32 count, u32 head, unsigned int limit_ms)
{
	struct imr_guest_half *guest = &h->page->guest;
	struct imr_host_half *host = &h->page->host;
	unsigned int waited, i;
	u64 seq;

	seq = guest->offer_seq + 1;
	guest->offer_count = count;
	guest->offer_head = head;
	virt_store_release(&guest->offer_seq, seq);
	for (waited = 0; waited < limit_ms; waited += 2) {
		if (waited % IMR_RING_INTERVAL_MS == 0)
			hostile_call(h, IMR_OP_DOORBELL, seq, guest->cookie);
		usleep_range(2000, 3000);
		if (virt_load_acquire(&host->done_seq) == seq) {
			h->done++;
			for (i = 0; i < count && i < IMR_MAX_RANGES; i++)
				if (host->results[i] <= IMR_RESULT_REFUSED)
					h->results[host->results[i]]++;
			return HOSTILE_DONE;
		}
		if (READ_ONCE(host->abandon_seq) == seq) {
			h->abandoned++;
			return HOSTILE_ABANDONED;
		}
	}
	h->silent++;
	return HOSTILE_SILENT;
}

/**
 * hostile_offer_one() - offers one range
 * @h: the attack
 * @gpa: where
 * @order: how large
 *
 * Return: what became of it.
 */
enum hostile_end hostile_offer_one(struct hostile *h, u64 gpa, u32 order)
{
	h->record[0] = (struct imr_list_entry){ .gpa = gpa, .order = order, .next = IMR_LIST_END };
	return hostile_offer(h, 1, 0, 10000);
}

static u64 hostile_word(u64 index)
{
	return (index + 1) * 0x9e3779b97f4a7c15ULL;
}

/* Writes the pattern. */
void hostile_fill(void *at, u64 size)
{
	u64 i, *words = at;

	for (i = 0; i < size / 8; i++)
		words[i] = hostile_word(i);
}

/* Whether the pattern is there. */
bool hostile_holds(const void *at, u64 size)
{
	const u64 *words = at;
	u64 i;

	for (i = 0; i < size / 8; i++)
		if (READ_ONCE(words[i]) != hostile_word(i))
			return false;
	return true;
}

/* Whether it reads as zero. */
bool hostile_zero(const void *at, u64 size)
{
	return !memchr_inv(at, 0, size);
}

/* Whether each page has either its part of the pattern or nothing. */
bool hostile_each_page_whole(const void *at, u64 size)
{
	const u64 *words = at;
	u64 page, i, first;

	for (page = 0; page < size / 8; page += 512) {
		first = words[page] ? 1 : 0;
		for (i = page; i < page + 512; i++)
			if (words[i] != first * hostile_word(i))
				return false;
	}
	return true;
}

static int hostile_alloc(struct hostile *h)
{
	h->page = (void *)get_zeroed_page(GFP_KERNEL);
	h->record = (void *)get_zeroed_page(GFP_KERNEL);
	h->block = (void *)__get_free_pages(GFP_KERNEL, HOSTILE_BLOCK_ORDER);
	if (!h->page || !h->record || !h->block)
		return -ENOMEM;
	h->bait = virt_to_phys(h->block);
	h->canary = h->block + HOSTILE_BAIT_SIZE;
	hostile_fill(h->block, HOSTILE_BAIT_SIZE);
	hostile_fill(h->canary, HOSTILE_BAIT_SIZE);
	hostile_page_init(h);
	return 0;
}

static void hostile_free(struct hostile *h)
{
	if (h->keep)
		return;
	free_page((unsigned long)h->page);
	free_page((unsigned long)h->record);
	free_pages((unsigned long)h->block, HOSTILE_BLOCK_ORDER);
}

/* The page is not written any more when this has returned: all calls are void by then. */
static void hostile_bye(struct hostile *h)
{
	h->page->guest.magic = 0;
	hostile_call(h, IMR_OP_BYE, 0, h->page->guest.cookie);
	msleep(2 * IMR_CALL_LIFETIME_MS);
}

static int __init hostile_init(void)
{
	struct hostile h = {};
	unsigned int i;
	u64 began;
	int ret;

	for (i = 0; i < ARRAY_SIZE(hostile_attacks); i++)
		if (!strcmp(attack, hostile_attacks[i].name))
			break;
	if (i == ARRAY_SIZE(hostile_attacks))
		return -EINVAL;
	ret = hostile_alloc(&h);
	if (ret)
		goto out_free;

	began = ktime_get_ns();
	hostile_attacks[i].run(&h);
	began = ktime_get_ns() - began;
	if (!h.keep)
		hostile_bye(&h);
	hostile_expect(&h, hostile_holds(h.canary, HOSTILE_BAIT_SIZE), "the canary is as it was written");
	/* A line that a script reads. */
	pr_info("attack=%s verdict=%s calls=%llu ms=%llu done=%llu abandoned=%llu silent=%llu reclaimed=%llu kept=%llu refused=%llu gpa=%#llx cookie=%#llx\n",
		attack, h.failures ? "FAILED" : "ok", h.calls, began / NSEC_PER_MSEC, h.done,
		h.abandoned, h.silent, h.results[IMR_RESULT_RECLAIMED], h.results[IMR_RESULT_KEPT],
		h.results[IMR_RESULT_REFUSED], (u64)virt_to_phys(h.page), h.page->guest.cookie);
out_free:
	hostile_free(&h);
	return ret;
}
module_init(hostile_init);

static void __exit hostile_exit(void)
{
}
module_exit(hostile_exit);

MODULE_DESCRIPTION("Attacks of a guest kernel on the host side of IMR, for its tests");
MODULE_LICENSE("GPL");
