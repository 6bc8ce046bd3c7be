// SPDX-License-Identifier: GPL-2.0-only
/*
 * Release priority: how much of the free memory may be offered, and when.
 *
 * The reserve is free memory that was not offered, so the host has it and a burst does not fault.
 * What was offered carries page reporting's mark. Blocks without it are allocated first: those
 * with it go to the end of their free list (__putback_isolated_page(), 6.1 and 6.12; imr_front()
 * for a sweep).
 */
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/sched.h>

#include "imr_compat.h"
#include "imr_guest.h"

/* Page reporting's own pause between a free and its pass (PAGE_REPORTING_DELAY). */
#define IMR_REPORTING_DELAY_MS	2000
/* Two batches that are no further apart are of one pass. */
#define IMR_SAME_PASS_MS	1000
/* For how long a count of free memory is good. */
#define IMR_SPARE_MS		100
/* Places looked at between two offers to let others run. */
#define IMR_SURVEY_LOOKS	4096

static void imr_survey_zone(struct imr_guest *g, struct zone *zone, struct imr_survey *s)
{
	unsigned long stride = 1UL << g->order, end = zone_end_pfn(zone), pfn, looks = 0;
	u64 free = zone_page_state(zone, NR_FREE_PAGES), unmarked = 0, keeps;

	for (pfn = ALIGN(zone->zone_start_pfn, stride); pfn < end; pfn += stride) {
		struct page *page = pfn_to_online_page(pfn);
		unsigned long order;

		if (++looks % IMR_SURVEY_LOOKS == 0)
			cond_resched();
		if (!page || page_zone(page) != zone || !PageBuddy(page))
			continue;
		/* Without zone->lock it may be anything by now. */
		order = READ_ONCE(page_private(page));
		if (order < g->order || order > IMR_TOP_ORDER)
			continue;
		if (PageReported(page) && !imr_is_spared(g, pfn))
			s->marked += 1UL << order;
		else
			unmarked += 1UL << order;
		s->blocks++;
		pfn += (1UL << order) - stride;
	}
	s->free += free;
	s->unmarked += unmarked;
	keeps = low_wmark_pages(zone) + (PAGE_REPORTING_CAPACITY << g->order);
	s->offerable += min(unmarked, free > keeps ? free - keeps : 0);
}

/**
 * imr_survey() - count free memory, without a lock: the numbers may be a little out
 * @g: the module's state
 * @s: the result
 *
 * Context: process; one look for each block of @g->order that the guest has.
 */
void imr_survey(struct imr_guest *g, struct imr_survey *s)
{
	int node, i;

	memset(s, 0, sizeof(*s));
	for_each_online_node(node) {
		for (i = 0; i < MAX_NR_ZONES; i++) {
			struct zone *zone = &NODE_DATA(node)->node_zones[i];

			if (populated_zone(zone))
				imr_survey_zone(g, zone, s);
		}
	}
}

/**
 * imr_offerable() - how much may be offered
 * @g: the module's state
 * @s: free memory
 *
 * Return: 4 KiB pages; what is left then without a mark is no less than the reserve.
 */
u64 imr_offerable(struct imr_guest *g, const struct imr_survey *s)
{
	u64 unoffered = s->free > s->marked ? s->free - s->marked : 0;
	u64 room = unoffered > g->reserve_pages ? unoffered - g->reserve_pages : 0;

	return min(s->offerable, room);
}

/*
 * Whether a pass of page reporting comes before its time. Then it is made again when it is due;
 * what is freed until then goes along with it.
 */
static bool imr_too_soon(struct imr_guest *g, u64 now)
{
	struct imr_paced *p = &g->paced;
	u64 least = imr_ms(IMR_REPORTING_DELAY_MS);

	/* The host's request does not wait. */
	if (g->delay_ns <= least || READ_ONCE(g->sweeping))
		return false;
	if (!p->passed_ns || now - p->passed_ns >= imr_ms(IMR_SAME_PASS_MS)) {
		if (!p->due_ns)
			p->due_ns = now + g->delay_ns - least;
		if (now < p->due_ns) {
			/* page_reporting_process() leaves a pass alone that is queued already. */
			mod_delayed_work(imr_reporting_wq(&g->prdev), &g->prdev.work,
					 nsecs_to_jiffies(p->due_ns - now) + 1);
			return true;
		}
	}
	p->due_ns = 0;
	p->passed_ns = now;
	return false;
}

/* Whether the reserve is there without the ranges, which are out of the allocator. */
static bool imr_can_spare(struct imr_guest *g, struct scatterlist *sgl, unsigned int nents, u64 now)
{
	struct imr_paced *p = &g->paced;
	struct imr_survey survey;
	struct scatterlist *sg;
	unsigned int i;
	u64 pages = 0;

	for_each_sg(sgl, sg, nents, i)
		pages += sg->length >> PAGE_SHIFT;
	if (!p->spare_ns || now - p->spare_ns >= imr_ms(IMR_SPARE_MS)) {
		imr_survey(g, &survey);
		p->spare = pages + survey.free - min(survey.free, survey.marked);
		p->spare_ns = now;
	}
	if (p->spare < pages + g->reserve_pages)
		return false;
	p->spare -= pages;
	return true;
}

/**
 * imr_hold_back() - whether reserve or delay are against a batch of page reporting
 * @g: the module's state
 * @sgl: the ranges
 * @nents: their number
 *
 * Context: page reporting's worker.
 * Return: 0; or a negative errno that ends its pass, with the ranges unmarked. What is held back
 *	for the reserve comes again with the next free, for there is no more to offer before.
 */
int imr_hold_back(struct imr_guest *g, struct scatterlist *sgl, unsigned int nents)
{
	u64 now = ktime_get_ns();

	if (imr_too_soon(g, now)) {
		imr_count(g, IMR_STAT_FOR_DELAY, 1);
		return -EAGAIN;
	}
	if (g->reserve_pages && !imr_can_spare(g, sgl, nents, now)) {
		imr_count(g, IMR_STAT_FOR_RESERVE, 1);
		return -ENOSPC;
	}
	return 0;
}
