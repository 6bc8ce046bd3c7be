// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module's view of the host: the hypercalls HELLO, doorbell and BYE, the statistics that
 * HELLO carries, and whether anybody answers. Nothing here touches a page that was offered.
 */
#define pr_fmt(fmt) "imr: " fmt

#include <linux/io.h>
#include <linux/kvm_para.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/vmstat.h>

#include "imr_compat.h"
#include "imr_guest.h"

/*
 * How often the answer to a HELLO is looked for, and for how long: a call that old is void on
 * the host.
 */
#define IMR_LOOK_MS		50
#define IMR_LOOK_FOR_MS		(2 * IMR_CALL_LIFETIME_MS)
/* Time for the host to acknowledge BYE. */
#define IMR_BYE_MS		1000
/* A host that answered no longer ago than this may still write the control page. */
#define IMR_BYE_LATELY_MS	10000

static long imr_call(struct imr_guest *g, u64 op, u64 arg)
{
	u64 cookie;

	lockdep_assert_held(&g->lock);
	cookie = imr_page_call(g->page);
	return kvm_hypercall3(IMR_HYPERCALL_NR, op, arg, cookie);
}

/**
 * imr_zone_left_alone() - whether page reporting offers nothing of a zone, for it has too little
 * @g: the module's state
 * @zone: the zone
 *
 * The rule of page_reporting_process_zone() (6.1 and 6.12): the low watermark and a batch. It is a
 * threshold, looked at once in a pass; of a zone above it all is offered.
 *
 * Return: true when nothing of it is offered now.
 */
bool imr_zone_left_alone(struct imr_guest *g, struct zone *zone)
{
	return zone_page_state(zone, NR_FREE_PAGES) <=
	       low_wmark_pages(zone) + (PAGE_REPORTING_CAPACITY << g->order);
}

/*
 * Accounts @reserve_pages as kept, in @kept of @large pages in blocks that could be offered, by
 * kind of zone, the largest first. @free is all of free memory: what is in smaller blocks or kept
 * anyhow was not offered either, and counts.
 */
static void imr_keep_reserve(struct imr_guest *g, u64 free, const u64 *large, u64 *kept)
{
	u64 room[IMR_FREE_ZONES], left = min(g->reserve_pages, free), unoffered = free, most;
	unsigned int kind, largest;

	for (kind = 0; kind < IMR_FREE_ZONES; kind++) {
		/* Counted at different moments. */
		room[kind] = large[kind] - min(kept[kind], large[kind]);
		unoffered -= min(room[kind], unoffered);
	}
	left -= min(left, unoffered);
	while (left) {
		largest = 0;
		for (kind = 1; kind < IMR_FREE_ZONES; kind++) {
			if (room[kind] > room[largest])
				largest = kind;
		}
		most = min(left, room[largest]);
		if (!most)
			break;
		kept[largest] += most;
		room[largest] -= most;
		left -= most;
	}
}

/*
 * Free memory as the buddy allocator sees it, without zone->lock: the counts may be a little
 * out, and are only shown. (for_each_populated_zone() would be shorter, but
 * first_online_pgdat() is not exported.)
 */
static void imr_publish_memory(struct imr_guest *g)
{
	struct imr_guest_half *half = &g->page->guest;
	u64 blocks[IMR_ZONE_FREE_ORDERS] = {};
	u64 kept[IMR_FREE_ZONES] = {}, large[IMR_FREE_ZONES] = {};
	u64 free = 0, reserve = 0, all;
	unsigned int order, kind;
	int node, i;

	BUILD_BUG_ON(IMR_TOP_ORDER >= IMR_FREE_ORDERS);

	for_each_online_node(node) {
		for (i = 0; i < MAX_NR_ZONES; i++) {
			struct zone *zone = &NODE_DATA(node)->node_zones[i];
			unsigned long zone_free, found;
			bool alone;

			if (!populated_zone(zone))
				continue;
			zone_free = zone_page_state(zone, NR_FREE_PAGES);
			free += zone_free;
			alone = imr_zone_left_alone(g, zone);
			if (alone)
				reserve += zone_free;
			kind = imr_zone_kind(i);
			for (order = 0; order <= IMR_TOP_ORDER; order++) {
				found = READ_ONCE(zone->free_area[order].nr_free);
				blocks[kind * IMR_FREE_ORDERS + order] += found;
				if (order < g->order)
					continue;
				large[kind] += (u64)found << order;
				if (alone)
					kept[kind] += (u64)found << order;
			}
		}
	}
	WRITE_ONCE(half->total_pages, totalram_pages());
	WRITE_ONCE(half->free_pages, free);
	/* What is in zones that are left alone counts for the reserve. */
	WRITE_ONCE(half->reserve_pages, max(reserve, min(g->reserve_pages, free)));
	imr_keep_reserve(g, free, large, kept);
	for (order = 0; order <= IMR_TOP_ORDER; order++) {
		all = 0;
		for (kind = 0; kind < IMR_FREE_ZONES; kind++) {
			i = kind * IMR_FREE_ORDERS + order;
			all += blocks[i];
			WRITE_ONCE(half->zone_free_blocks[i], min_t(u64, blocks[i], U32_MAX));
		}
		WRITE_ONCE(half->free_blocks[order], all);
	}
	for (kind = 0; kind < IMR_FREE_ZONES; kind++)
		WRITE_ONCE(half->zone_kept_pages[kind], kept[kind]);
	WRITE_ONCE(half->compacted_blocks, atomic64_read(&g->stats[IMR_STAT_COMPACTED_BLOCKS]));
}

/**
 * imr_hello() - tell the host where the control page is, with fresh statistics
 * @g: the module's state
 *
 * Context: @g->lock held.
 * Return: what the hypercall returned; -KVM_ENOSYS from a stock KVM, whether or not
 *	anybody listens.
 */
long imr_hello(struct imr_guest *g)
{
	lockdep_assert_held(&g->lock);
	if (g->phase != IMR_UP && g->phase != IMR_STOPPING)
		return IMR_RET_ENOSYS;
	imr_publish_memory(g);
	imr_count(g, IMR_STAT_HELLOS, 1);
	g->hello_beat = g->host_beat;
	g->hello_ns = ktime_get_ns();
	g->call_ns = g->hello_ns;
	return imr_call(g, IMR_OP_HELLO, virt_to_phys(g->page));
}

/**
 * imr_ring() - the doorbell: offer @seq is open right now
 * @g: the module's state
 * @seq: the offer's sequence number
 *
 * A host that seems gone is told about the page first, at most once a second: one that was
 * started again knows nothing of us and could do nothing with a doorbell.
 *
 * Context: process, @g->lock not held. After BYE it does nothing.
 */
void imr_ring(struct imr_guest *g, u64 seq)
{
	mutex_lock(&g->lock);
	if (g->phase == IMR_UP || g->phase == IMR_STOPPING) {
		imr_look(g);
		if (!g->host_fresh && ktime_get_ns() - g->hello_ns >= NSEC_PER_SEC)
			imr_hello(g);
		imr_count(g, IMR_STAT_RINGS, 1);
		g->call_ns = ktime_get_ns();
		imr_call(g, IMR_OP_DOORBELL, seq);
	}
	mutex_unlock(&g->lock);
}

/*
 * Takes up the host's newest request, or what is left of it. Returns whether it is a new one and
 * asks for anything.
 */
static bool imr_request_look(struct imr_request *known, u64 attach, const u64 *seq,
			     const u64 *pages)
{
	struct imr_request now = { .attach = attach };
	bool same;

	/* The host writes it after the pages. */
	now.seq = virt_load_acquire(seq);
	now.pages = READ_ONCE(*pages);
	if (!now.seq)
		return false;
	same = imr_request_is(&now, known);
	*known = now;
	return !same && now.pages;
}

/**
 * imr_unmark_is_due() - whether a host is there for which page reporting's old marks are in the way
 * @g: the module's state
 *
 * Context: @g->lock held.
 * Return: whether @unmark_due is to be seen to now.
 */
bool imr_unmark_is_due(struct imr_guest *g)
{
	lockdep_assert_held(&g->lock);
	return g->unmark_due && g->host_fresh && g->host_mode == IMR_MODE_RECLAIMING;
}

static void imr_look_for_requests(struct imr_guest *g, u64 attach)
{
	struct imr_host_half *half = &g->page->host;

	if (imr_request_look(&g->want, attach, &half->want_seq, &half->want_pages)) {
		g->want_due = true;
		mod_delayed_work(system_freezable_wq, &g->sweep_work, 0);
	} else if (imr_unmark_is_due(g)) {
		queue_delayed_work(system_freezable_wq, &g->sweep_work, 0);
	}
	if (!g->compacts)
		return;
	if (imr_request_look(&g->compact, attach, &half->compact_seq, &half->compact_pages))
		mod_delayed_work(system_freezable_wq, &g->compact_work, 0);
}

/**
 * imr_look() - see whether the host has answered, and whether it is still there
 * @g: the module's state
 *
 * The host writes its half only in answer to a call, so its heartbeat is the only sign of life.
 * A host that attaches, comes back or changes its mode has page reporting start again where a
 * pass was lost.
 *
 * Context: @g->lock held, @g->page there. Sets @g->host_fresh.
 */
void imr_look(struct imr_guest *g)
{
	struct imr_host_word host;
	bool fresh;
	u64 now;

	lockdep_assert_held(&g->lock);
	imr_host_read(g->page, &host);
	now = ktime_get_ns();

	if (host.beat != g->host_beat) {
		g->host_beat = host.beat;
		g->answered_ns = now;
		imr_count(g, IMR_STAT_ANSWERED, 1);
	}
	fresh = host.attach && g->answered_ns && now - g->answered_ns < imr_ms(IMR_HOST_STALE_MS);

	if (fresh && (!g->host_fresh || host.attach != g->host_attach ||
		      host.mode != g->host_mode)) {
		pr_info("host %016llx is attached and %s\n", host.attach,
			host.mode == IMR_MODE_RECLAIMING ? "reclaims" : "only observes");
		imr_count(g, IMR_STAT_ATTACHES, 1);
		/* This host may be another than the one who took it. */
		if (!g->host_fresh || host.attach != g->host_attach)
			imr_forget_taken(g);
		g->host_attach = host.attach;
		g->host_mode = host.mode;
		/* What it is told of carries marks, and it takes none of it. */
		if (host.mode != IMR_MODE_RECLAIMING && g->source == IMR_SOURCE_REPORTING)
			g->unmark_due = true;
		imr_kick(g, true);
	} else if (!fresh && g->host_fresh) {
		pr_info("host %016llx %s\n", g->host_attach,
			host.attach ? "does not answer any more" : "has detached");
		imr_count(g, IMR_STAT_HOST_LOST, 1);
		/* Detached is also what a rolled-back VM sees; the next HELLO is due at once. */
		if (!host.attach)
			g->hello_ns = 0;
	}
	g->host_fresh = fresh;
	if (fresh && g->phase == IMR_UP)
		imr_look_for_requests(g, host.attach);
}

/**
 * imr_hello_work() - say HELLO when it is time to, and look for the answer
 * @work: hello_work of struct imr_guest
 */
void imr_hello_work(struct work_struct *work)
{
	struct imr_guest *g = container_of(to_delayed_work(work), struct imr_guest, hello_work);
	u64 now, since, every, next;

	mutex_lock(&g->lock);
	if (g->phase != IMR_UP)
		goto out_unlock;

	imr_look(g);
	every = imr_ms(g->host_fresh ? IMR_HELLO_ATTACHED_MS : IMR_HELLO_INTERVAL_MS);
	now = ktime_get_ns();
	if (!g->hello_ns || now - g->hello_ns >= every) {
		imr_hello(g);
		now = g->hello_ns;
	}
	since = now - g->hello_ns;
	next = every - since;
	if (g->host_beat == g->hello_beat && since < imr_ms(IMR_LOOK_FOR_MS))
		next = imr_ms(IMR_LOOK_MS);
	queue_delayed_work(system_freezable_wq, &g->hello_work, nsecs_to_jiffies(next) + 1);
out_unlock:
	mutex_unlock(&g->lock);
}

/*
 * Whether a host that has not detached answered so lately that it may have the control page
 * open.
 */
static bool imr_host_may_write(struct imr_guest *g)
{
	lockdep_assert_held(&g->lock);
	imr_look(g);
	return READ_ONCE(g->page->host.attach_id) && g->answered_ns &&
	       ktime_get_ns() - g->answered_ns < imr_ms(IMR_BYE_LATELY_MS);
}

/* One BYE, then up to @wait_ms for attach_id to become zero. */
static bool imr_bye_once(struct imr_guest *g, u64 wait_ms)
{
	u64 until = ktime_get_ns() + imr_ms(wait_ms);

	mutex_lock(&g->lock);
	imr_count(g, IMR_STAT_BYES, 1);
	imr_call(g, IMR_OP_BYE, 0);
	mutex_unlock(&g->lock);

	do {
		imr_sleep_idle(500, 1000);
		if (imr_host_left(g->page))
			return true;
	} while (ktime_get_ns() < until);
	return false;
}

/**
 * imr_bye() - withdraw the control page
 * @g: the module's state
 *
 * Context: process, @g->lock not held, phase IMR_STOPPING; moves it to IMR_GONE. Sleeps a
 *	second at most.
 * Return: true when the host will not write the page again, because it said so, or because
 *	it has not answered for long and no call is young enough to be answered.
 */
bool imr_bye(struct imr_guest *g)
{
	u64 until, now;
	bool may_write;

	mutex_lock(&g->lock);
	may_write = imr_host_may_write(g);
	WRITE_ONCE(g->phase, IMR_GONE);
	imr_page_retire(g->page);
	mutex_unlock(&g->lock);

	if (!may_write) {
		imr_bye_once(g, 0);
		/* The last HELLO may be on its way to a host that has only just come. */
		until = g->call_ns + imr_ms(IMR_CALL_LIFETIME_MS);
		for (now = ktime_get_ns(); now < until; now = ktime_get_ns())
			imr_sleep_idle(10000, 20000);
		mutex_lock(&g->lock);
		may_write = imr_host_may_write(g);
		mutex_unlock(&g->lock);
		if (!may_write)
			return true;
	}

	until = ktime_get_ns() + imr_ms(IMR_BYE_MS);
	do {
		if (imr_bye_once(g, IMR_RING_INTERVAL_MS))
			return true;
	} while (ktime_get_ns() < until);
	return false;
}
