// SPDX-License-Identifier: GPL-2.0-only
/*
 * Compaction: on the host's request, what is used in blocks that are free in part is moved away,
 * so that whole blocks become free, and page reporting offers them.
 *
 * Each block is chosen here and emptied by alloc_contig_range(), as virtio-mem does, and freed at
 * once. To allocate blocks with direct compaction would be the obvious way, and is none: the
 * allocator hands out the large blocks that there are before it compacts, and with init_on_alloc,
 * Debian's default, it writes to all of them, also those that the host has taken.
 */
#include <linux/gfp.h>
#include <linux/jiffies.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/sched.h>

#include "imr_compat.h"
#include "imr_guest.h"

/* A request is served for no longer than this; what is left is for the next one. */
#define IMR_COMPACT_MS		5000
/* Blocks that could not be emptied, until it is given up: they hold what cannot be moved. */
#define IMR_COMPACT_FAILURES	256

/**
 * struct imr_compaction - one request being served
 * @g: the module's state
 * @request: the request
 * @left: 4 KiB pages still to be gained
 * @failures: blocks that could not be emptied
 * @until: when to stop, jiffies
 */
struct imr_compaction {
	struct imr_guest *g;
	struct imr_request request;
	u64 left;
	unsigned int failures;
	unsigned long until;
};

static bool imr_compact_goes_on(struct imr_compaction *c)
{
	struct imr_guest *g = c->g;
	bool wanted;

	if (!c->left || c->failures >= IMR_COMPACT_FAILURES || time_after(jiffies, c->until))
		return false;
	mutex_lock(&g->lock);
	wanted = g->phase == IMR_UP && g->host_fresh && imr_request_is(&g->compact, &c->request) &&
		 g->compact.pages;
	mutex_unlock(&g->lock);
	return wanted;
}

/*
 * Free pages of the block at @pfn that are in smaller blocks; 0: it is not all in @zone, or free
 * as a whole. Without zone->lock, as compaction's own scanners look first: a wrong number costs
 * an attempt, or a block that is passed over.
 */
static unsigned long imr_stranded_in(struct imr_guest *g, struct zone *zone, unsigned long pfn)
{
	unsigned long end = pfn + (1UL << g->order), found = 0;
	struct page *last = pfn_to_online_page(end - 1);

	if (!last || page_zone(last) != zone)
		return 0;
	while (pfn < end) {
		struct page *page = pfn_to_online_page(pfn);
		unsigned long order;

		if (!page || page_zone(page) != zone)
			return 0;
		if (!PageBuddy(page)) {
			pfn++;
			continue;
		}
		/* What buddy_order_unsafe() reads, which modules do not have. */
		order = READ_ONCE(page_private(page));
		if (order >= g->order)
			return 0;
		found += 1UL << order;
		pfn += 1UL << order;
	}
	return found;
}

/* Empties the block at @pfn and frees all of it. */
static void imr_compact_block(struct imr_compaction *c, unsigned long pfn)
{
	unsigned long pages = 1UL << c->g->order;

	if (imr_alloc_contig(pfn, pfn + pages)) {
		c->failures++;
		imr_count(c->g, IMR_STAT_COMPACT_FAILED, 1);
		return;
	}
	free_contig_range(pfn, pages);
	imr_count(c->g, IMR_STAT_COMPACTED_BLOCKS, 1);
	c->left -= min_t(u64, c->left, pages);
}

/* Blocks of @zone that have @least free pages or more. */
static void imr_compact_zone(struct imr_compaction *c, struct zone *zone, unsigned long least)
{
	unsigned long end = zone_end_pfn(zone);
	unsigned long pages = 1UL << c->g->order;
	unsigned long pfn;

	for (pfn = ALIGN(zone->zone_start_pfn, pages); pfn + pages <= end; pfn += pages) {
		/* Nothing of it would be offered, and to move needs free memory. */
		if (imr_zone_left_alone(c->g, zone) || !imr_compact_goes_on(c))
			return;
		if (imr_stranded_in(c->g, zone, pfn) >= least)
			imr_compact_block(c, pfn);
		cond_resched();
	}
}

/**
 * imr_compact_work() - serve the host's newest request to compact
 * @work: compact_work of struct imr_guest
 *
 * Context: process; sleeps while pages are moved. imr_stop() waits for it, one block at most.
 */
void imr_compact_work(struct work_struct *work)
{
	struct imr_guest *g = container_of(to_delayed_work(work), struct imr_guest, compact_work);
	struct imr_compaction c = { .g = g };
	int node, i, eighths;

	mutex_lock(&g->lock);
	c.request = g->compact;
	c.left = g->compact.pages;
	mutex_unlock(&g->lock);
	c.until = jiffies + msecs_to_jiffies(IMR_COMPACT_MS);
	imr_count(g, IMR_STAT_COMPACTIONS, 1);

	/* First those of which the least has to be moved. */
	for (eighths = 6; eighths > 0; eighths -= 2) {
		for_each_online_node(node) {
			for (i = 0; i < MAX_NR_ZONES; i++) {
				struct zone *zone = &NODE_DATA(node)->node_zones[i];

				if (populated_zone(zone))
					imr_compact_zone(&c, zone, (eighths << g->order) / 8);
			}
		}
	}
}
