// SPDX-License-Identifier: GPL-2.0-only
/*
 * The source sweep, for guests whose page reporting is somebody else's: free blocks are allocated,
 * offered, and freed when the host has answered. A batch is out of use at a time, no more.
 *
 * An allocated block may be written to: with init_on_alloc, Debian's default, the allocator does
 * so (post_alloc_hook(), 6.1 and 6.12), and nothing that x86 has keeps it from that. If the host
 * has taken the block that brings it back. So only blocks are allocated that nobody has offered
 * yet. Page reporting's mark (PG_reported) says which have been: it is on the free block and goes
 * as soon as the block, or a part of it, is used. Whoever has page reporting sets it on what he
 * was told of; we set it on what the host took. And the allocator hands out the first of a free
 * list, so the marked ones are moved to its end before, as page reporting does with its own.
 *
 * A sweep begins when there is noticeably more to offer than the last one left, when the host
 * asks, and when another host has come. It ends, and gives everything back, when the guest runs
 * short of memory (imr_pressure.c).
 */
#include <linux/bitmap.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/sched.h>
#include <linux/sizes.h>

#include "imr_compat.h"
#include "imr_guest.h"

/* Between two looks at free memory while a host is there; more where to count it takes long. */
#define IMR_LOOK_AGAIN_MS	500
#define IMR_LOOK_SHARE		16
/* More to offer than this, and than a part of all memory, is worth a sweep. */
#define IMR_NOTICEABLE_PAGES	(SZ_16M >> PAGE_SHIFT)
#define IMR_NOTICEABLE_SHARE	256
/* Blocks looked at with zone->lock held and interrupts off. */
#define IMR_FRONT_LOOKS		256
/* Blocks that come again are kept to the end of the sweep, up to this number. */
#define IMR_STRAYS_MAX		8
/*
 * No reserves, no reclaim, no retry, not a word when there is nothing. Marked as movable, for a
 * block must not make a place of movable memory one of another kind (imr_kinds).
 */
#define IMR_SWEEP_GFP		(__GFP_NORETRY | __GFP_NOWARN | __GFP_NOMEMALLOC | __GFP_THISNODE)

static const struct {
	unsigned int type;
	gfp_t gfp;
} imr_kinds[] = {
	{ MIGRATE_MOVABLE, __GFP_MOVABLE },
	{ MIGRATE_UNMOVABLE, 0 },
	{ MIGRATE_RECLAIMABLE, __GFP_RECLAIMABLE },
};

/**
 * struct imr_run - one sweep
 * @g: the module's state
 * @left: 4 KiB pages still to be offered
 * @asked: it is for a request of the host, and ends with that
 * @end: why to stop; IMR_SWEEP_NONE: go on
 */
struct imr_run {
	struct imr_guest *g;
	u64 left;
	bool asked;
	enum imr_sweep_end end;
};

static unsigned long imr_block(struct page *page)
{
	return page_to_pfn(page) >> IMR_MIN_ORDER;
}

static void imr_free_block(struct imr_guest *g, struct page *page, unsigned int order)
{
	__free_pages(page, order);
	if (!atomic_long_sub_return(1L << order, &g->sweeper.held))
		wake_up_all(&g->batch_wait);
}

/* Marks a block that was just freed. One that is no block of its own any more has none. */
static void imr_mark(struct page *page, unsigned int order)
{
	struct zone *zone = page_zone(page);

	spin_lock_irq(&zone->lock);
	if (PageBuddy(page) && page_private(page) == order)
		__SetPageReported(page);
	spin_unlock_irq(&zone->lock);
}

/*
 * What the host did not take loses the mark that kept it from coming again in this sweep, so that
 * the next one, and whoever has page reporting, offers it. Returns how many pages that are.
 */
static u64 imr_unmark_kept(struct imr_guest *g)
{
	unsigned long block;
	u64 pages = 0;

	for_each_set_bit(block, g->sweeper.swept, g->taken_blocks) {
		struct page *page = pfn_to_online_page(block << IMR_MIN_ORDER);
		struct zone *zone;

		if (!page || imr_is_taken(g, block << IMR_MIN_ORDER))
			continue;
		pages += 1UL << IMR_MIN_ORDER;
		zone = page_zone(page);
		spin_lock_irq(&zone->lock);
		if (PageBuddy(page) && PageReported(page))
			__ClearPageReported(page);
		spin_unlock_irq(&zone->lock);
		cond_resched();
	}
	return pages;
}

static void imr_free_strays(struct imr_guest *g)
{
	struct page *page, *next;

	list_for_each_entry_safe(page, next, &g->sweeper.strays, lru) {
		unsigned int order = page_private(page);

		list_del(&page->lru);
		set_page_private(page, 0);
		imr_free_block(g, page, order);
	}
	g->sweeper.stray_count = 0;
}

/* Whether nothing says stop. */
static bool imr_run_goes_on(struct imr_run *r)
{
	struct imr_guest *g = r->g;
	struct imr_sweeper *s = &g->sweeper;

	if (r->end != IMR_SWEEP_NONE)
		return false;
	mutex_lock(&g->lock);
	if (g->phase != IMR_UP)
		r->end = IMR_SWEEP_STOPPED;
	else if (imr_is_pressed(g))
		r->end = IMR_SWEEP_PRESSED;
	else if (r->asked && (!imr_request_is(&g->want, &s->want) || !g->want.pages))
		r->end = IMR_SWEEP_CANCELLED;
	else if (!r->left)
		r->end = IMR_SWEEP_ENOUGH;
	mutex_unlock(&g->lock);
	return r->end == IMR_SWEEP_NONE;
}

/* Offers what was allocated, unless memory is short, and frees it. */
static void imr_offer_blocks(struct imr_run *r)
{
	struct imr_guest *g = r->g;
	struct imr_sweeper *s = &g->sweeper;
	int err = -ECANCELED;
	unsigned int i;

	if (!s->count)
		return;
	sg_init_table(s->sgl, s->count);
	for (i = 0; i < s->count; i++)
		sg_set_page(&s->sgl[i], s->page[i], PAGE_SIZE << s->order[i], 0);
	/* Memory may have become short while they were collected. */
	if (imr_is_pressed(g))
		r->end = IMR_SWEEP_PRESSED;
	else
		err = imr_report(&g->prdev, s->sgl, s->count);
	for (i = 0; i < s->count; i++) {
		if (!err)
			bitmap_set(s->swept, imr_block(s->page[i]),
				   1U << (s->order[i] - IMR_MIN_ORDER));
		imr_free_block(g, s->page[i], s->order[i]);
		/* In between it may have been used: then it is offered when it is used again. */
		if (!err)
			imr_mark(s->page[i], s->order[i]);
	}
	s->count = 0;
	imr_count(g, IMR_STAT_SWEEP_PASSES, 1);
	if (err && imr_run_goes_on(r))
		r->end = IMR_SWEEP_HOST;
}

/*
 * Moves marked blocks from the front of a free list to its end: their order is all that changes,
 * and zone->lock is what guards it. Returns how many without a mark come first now, up to @most.
 */
static unsigned int imr_front(struct zone *zone, unsigned int order, unsigned int type,
			      unsigned int most)
{
	struct free_area *area = &zone->free_area[order];
	unsigned long looks, all = READ_ONCE(area->nr_free);
	struct list_head *list = &area->free_list[type];
	unsigned int found = 0;

	for (looks = 0; looks <= all && !found; looks += IMR_FRONT_LOOKS) {
		unsigned int look = 0;
		struct page *page, *next;
		LIST_HEAD(marked);

		spin_lock_irq(&zone->lock);
		list_for_each_entry_safe(page, next, list, buddy_list) {
			if (found == most || look++ == IMR_FRONT_LOOKS)
				break;
			if (PageReported(page))
				list_move_tail(&page->buddy_list, &marked);
			else
				found++;
		}
		list_splice_tail(&marked, list);
		spin_unlock_irq(&zone->lock);
		cond_resched();
	}
	return found;
}

/*
 * Takes one block for the next batch; false when the free list has no more. What lies on a CPU's
 * own list has no mark and comes back first: a block that was offered before is kept aside. So is
 * one that is of another zone after all, and one of memory that was plugged in since the sweep
 * began (imr_sweep_grow()).
 */
static bool imr_take_block(struct imr_run *r, struct zone *zone, unsigned int order, gfp_t gfp)
{
	struct imr_guest *g = r->g;
	struct imr_sweeper *s = &g->sweeper;
	struct page *page;

	if (imr_zone_left_alone(g, zone))
		return false;
	page = alloc_pages_node(zone_to_nid(zone), IMR_SWEEP_GFP | gfp, order);
	if (!page)
		return false;
	atomic_long_add(1L << order, &s->held);
	if (page_zone(page) != zone || imr_block(page) >= g->taken_blocks ||
	    test_bit(imr_block(page), s->swept)) {
		set_page_private(page, order);
		list_add(&page->lru, &s->strays);
		imr_count(g, IMR_STAT_STRAYS, 1);
		return ++s->stray_count < IMR_STRAYS_MAX;
	}
	s->page[s->count] = page;
	s->order[s->count] = order;
	s->count++;
	r->left -= min_t(u64, r->left, 1ULL << order);
	imr_count(g, IMR_STAT_SWEPT_BLOCKS, 1ULL << (order - IMR_MIN_ORDER));
	return true;
}

static void imr_run_list(struct imr_run *r, struct zone *zone, unsigned int order,
			 unsigned int type, gfp_t gfp)
{
	struct imr_sweeper *s = &r->g->sweeper;
	unsigned int n;

	while (imr_run_goes_on(r)) {
		n = imr_front(zone, order, type, PAGE_REPORTING_CAPACITY - s->count);
		if (!n)
			return;
		while (n-- && r->left && !imr_is_pressed(r->g)) {
			if (!imr_take_block(r, zone, order, gfp))
				return;
		}
		if (s->count == PAGE_REPORTING_CAPACITY)
			imr_offer_blocks(r);
	}
}

static void imr_run_zone(struct imr_run *r, struct zone *zone, unsigned int order)
{
	gfp_t from, gfp;
	unsigned int i;

	if (!imr_zone_gfp(zone_idx(zone), &from))
		return;
	for (i = 0; i < ARRAY_SIZE(imr_kinds); i++) {
		gfp = from | imr_kinds[i].gfp;
		/* There is nothing but movable memory in ZONE_MOVABLE. */
		if ((from & __GFP_MOVABLE) && imr_kinds[i].type != MIGRATE_MOVABLE)
			continue;
		imr_run_list(r, zone, order, imr_kinds[i].type, gfp);
	}
}

static void imr_run_all(struct imr_run *r)
{
	unsigned int order;
	int node, i;

	for (order = IMR_TOP_ORDER; order >= r->g->order; order--) {
		for_each_online_node(node) {
			for (i = 0; i < MAX_NR_ZONES; i++) {
				struct zone *zone = &NODE_DATA(node)->node_zones[i];

				if (populated_zone(zone))
					imr_run_zone(r, zone, order);
			}
		}
	}
	imr_offer_blocks(r);
	if (r->end == IMR_SWEEP_NONE)
		r->end = r->left ? IMR_SWEEP_ALL : IMR_SWEEP_ENOUGH;
}

/* Offers @pages, and leaves @left that could be offered, too. */
static void imr_run(struct imr_guest *g, u64 pages, u64 left, bool asked)
{
	struct imr_run r = { .g = g, .left = pages, .asked = asked };
	struct imr_sweeper *s = &g->sweeper;
	struct imr_survey survey;

	mutex_lock(&g->lock);
	g->sweeping = true;
	g->sweep_end = IMR_SWEEP_NONE;
	mutex_unlock(&g->lock);
	imr_count(g, IMR_STAT_SWEEPS, 1);
	bitmap_zero(s->swept, g->taken_blocks);

	imr_run_all(&r);
	left += imr_unmark_kept(g);
	imr_free_strays(g);

	imr_survey(g, &survey);
	s->settled = imr_offerable(g, &survey);
	s->blocks = survey.blocks;
	s->grown_ns = 0;
	/* What is more than was left has come meanwhile: it is still to be offered. */
	if (r.end == IMR_SWEEP_ENOUGH && s->settled > left) {
		s->settled = left;
		s->blocks = U64_MAX;
	}

	mutex_lock(&g->lock);
	g->sweeping = false;
	g->sweep_end = r.end;
	s->again |= r.end == IMR_SWEEP_PRESSED;
	/* For a batch that was lost: imr_kick_work() does nothing while @sweeping. */
	imr_kick(g, false);
	mutex_unlock(&g->lock);
}

/* How much is to be offered, 4 KiB pages: with @any all that may be, else what has come. */
static u64 imr_look_for_free(struct imr_guest *g, u64 now, bool any)
{
	struct imr_sweeper *s = &g->sweeper;
	struct imr_survey survey;
	u64 offerable, more, least;

	imr_survey(g, &survey);
	s->look_ns = ktime_get_ns() - now;
	s->blocks = survey.blocks;
	offerable = imr_offerable(g, &survey);
	s->settled = min(s->settled, offerable);
	if (any)
		return offerable;

	/* Only what has come: what the host kept is there, too, and to offer it again costs. */
	more = offerable - s->settled;
	least = max_t(u64, IMR_NOTICEABLE_PAGES, totalram_pages() / IMR_NOTICEABLE_SHARE);
	if (more < least) {
		s->grown_ns = 0;
		return 0;
	}
	if (!s->grown_ns) {
		s->grown_ns = now;
		s->grown = more;
	}
	s->grown = min(s->grown, more);
	return now - s->grown_ns >= g->delay_ns ? s->grown : 0;
}

/* Free blocks as the allocator counts them; much cheaper than a survey. */
static u64 imr_free_blocks(struct imr_guest *g)
{
	unsigned int order;
	u64 blocks = 0;
	int node, i;

	for_each_online_node(node) {
		for (i = 0; i < MAX_NR_ZONES; i++) {
			struct zone *zone = &NODE_DATA(node)->node_zones[i];

			if (!populated_zone(zone))
				continue;
			for (order = g->order; order <= IMR_TOP_ORDER; order++)
				blocks += READ_ONCE(zone->free_area[order].nr_free);
		}
	}
	return blocks;
}

/**
 * imr_alloc_work() - look for free memory, and offer it when it is time to
 * @work: sweep_work of struct imr_guest
 *
 * Looks again and again while a host is there. Without one it ends, with @pass_lost for
 * imr_kick() to begin again.
 */
void imr_alloc_work(struct work_struct *work)
{
	struct imr_guest *g = container_of(to_delayed_work(work), struct imr_guest, sweep_work);
	u64 now = ktime_get_ns(), pages = 0, want = 0, left, next;
	struct imr_sweeper *s = &g->sweeper;
	bool any, calm;

	mutex_lock(&g->lock);
	if (g->phase != IMR_UP) {
		mutex_unlock(&g->lock);
		return;
	}
	imr_look(g);
	if (!g->host_fresh) {
		g->pass_lost = true;
		mutex_unlock(&g->lock);
		return;
	}
	any = s->again || g->host_attach != s->attach || g->host_mode != s->mode;
	if (!imr_request_is(&g->want, &s->want))
		want = g->want.pages;
	calm = imr_is_calm(g);
	if (calm) {
		s->again = false;
		s->attach = g->host_attach;
		s->mode = g->host_mode;
		s->want = g->want;
	}
	mutex_unlock(&g->lock);

	imr_sweep_grow(g);
	if (calm && (any || want || s->grown_ns || imr_free_blocks(g) != s->blocks))
		pages = imr_look_for_free(g, now, any || want);
	left = any || want ? pages : s->settled;
	if (want && !any)
		pages = min(pages, want);
	if (any || want)
		left -= pages;
	if (pages)
		imr_run(g, pages, left, want && !any);

	next = max(imr_ms(IMR_LOOK_AGAIN_MS), IMR_LOOK_SHARE * s->look_ns);
	mutex_lock(&g->lock);
	if (g->phase == IMR_UP)
		queue_delayed_work(system_freezable_wq, &g->sweep_work, nsecs_to_jiffies(next));
	mutex_unlock(&g->lock);
}

/**
 * imr_alloc_init() - make ready to sweep
 * @g: the module's state, after imr_sweep_init() and before imr_start()
 *
 * Return: 0 or -ENOMEM.
 */
int imr_alloc_init(struct imr_guest *g)
{
	struct imr_sweeper *s = &g->sweeper;

	INIT_LIST_HEAD(&s->strays);
	s->blocks = U64_MAX;
	/* What was taken has to be known, or it would be offered again and again. */
	if (!g->taken)
		return -ENOMEM;
	s->swept = bitmap_zalloc(g->taken_blocks, GFP_KERNEL);
	if (!s->swept)
		return -ENOMEM;
	/*
	 * The allocator looks at the marks, and takes them off, only since the first
	 * registration (page_reporting_enabled; 6.1 and 6.12). If it is taken there was one.
	 */
	if (!page_reporting_register(&g->prdev))
		page_reporting_unregister(&g->prdev);
	return 0;
}

/**
 * imr_alloc_exit() - undo imr_alloc_init(); nothing where it was not done
 * @g: the module's state, after imr_stop()
 */
void imr_alloc_exit(struct imr_guest *g)
{
	bitmap_free(g->sweeper.swept);
	g->sweeper.swept = NULL;
}
