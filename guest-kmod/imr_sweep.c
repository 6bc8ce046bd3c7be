// SPDX-License-Identifier: GPL-2.0-only
/*
 * A sweep: on the host's request, free memory is offered again that was offered before and not
 * taken.
 *
 * Page reporting marks what it has reported (PG_reported) and passes it over until it was in use
 * again, whatever became of it: what a host that only observed, or could not take it then, was
 * told of is not offered a second time, nor is what imr_record_write() left out. A sweep takes
 * the marks away and has page reporting make its passes at once. The offers come by imr_report(),
 * from the one worker there is, with its isolation of the ranges and its threshold
 * (imr_zone_left_alone()), so nothing here touches a page, or holds one.
 *
 * The marks outlive the module, too. So the first host that reclaims, and one that does so after
 * it only observed, has all of them taken away, once, but for what it has taken by then; page
 * reporting comes to them in passes of its own. What has none is still the guest's and makes up
 * the reserve: as much of it is marked in exchange, or it would be offered first.
 *
 * To allocate the blocks, offer and free them, as imr_alloc.c has to where page reporting is
 * somebody else's, costs more: with init_on_alloc, Debian's default, the allocator writes to every
 * page of a block, which brings back what the host has taken.
 */
#include <linux/bitmap.h>
#include <linux/memory_hotplug.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/sched.h>
#include <linux/sizes.h>
#include <linux/timer.h>

#include "imr_compat.h"
#include "imr_guest.h"

/* As much is unmarked at a time: what goes on being offered after the host has taken it back. */
#define IMR_SWEEP_STEP_PAGES	(SZ_1G >> PAGE_SHIFT)
/* Places looked at with zone->lock held and interrupts off. */
#define IMR_SWEEP_LOOKS		256
/*
 * Passes for one step. A pass ends after a sixteenth of a free list and a batch
 * (page_reporting_cycle()); more than this is somebody else's memory.
 */
#define IMR_SWEEP_PASSES	32
/* Between two looks at a pass; one that takes memory takes longer. */
#define IMR_SWEEP_POLL_US	2000
/* Until a registration that is just under way is looked at again. */
#define IMR_SWEEP_AGAIN_MS	100
/* Page reporting's own pause before a pass (PAGE_REPORTING_DELAY). */
#define IMR_SWEEP_PASS_MS	2000

/**
 * struct imr_sweep - one sweep
 * @g: the module's state
 * @request: what it is for
 * @left: 4 KiB pages still wanted
 * @spare: 4 KiB pages without a mark still to be marked for the reserve
 * @step: 4 KiB pages unmarked since the last passes
 * @first: it is for @unmark_due of struct imr_guest, and not for a request
 * @passed: at least one pass was made, without loss
 * @end: why to stop; IMR_SWEEP_NONE: go on
 */
struct imr_sweep {
	struct imr_guest *g;
	struct imr_request request;
	u64 left;
	u64 spare;
	u64 step;
	bool first;
	bool passed;
	enum imr_sweep_end end;
};

static unsigned long imr_block_of(u64 gpa)
{
	return gpa >> (PAGE_SHIFT + IMR_MIN_ORDER);
}

/* All blocks that there are now, by physical address. */
static unsigned long imr_all_blocks(void)
{
	return (imr_end_pfn() >> IMR_MIN_ORDER) + 1;
}

/**
 * imr_take() - remember what the host's answer for a range was
 * @g: the module's state
 * @gpa: the range, bytes
 * @order: its order, IMR_MIN_ORDER at least
 * @taken: the host took it
 *
 * Whether the host still has it is for the mark to say: that is gone as soon as the range, or a
 * part of it, is used.
 *
 * Context: process, @g->lock not held.
 */
void imr_take(struct imr_guest *g, u64 gpa, unsigned int order, bool taken)
{
	unsigned long block = imr_block_of(gpa);
	unsigned long end = block + (1UL << (order - IMR_MIN_ORDER));

	mutex_lock(&g->lock);
	for (; block < end; block++) {
		if (block < g->taken_blocks)
			assign_bit(block, g->taken, taken);
		/* It was offered, so the mark that it gets now is a true one. */
		if (block < g->spared_blocks)
			clear_bit(block, g->spared);
	}
	mutex_unlock(&g->lock);
}

/**
 * imr_forget_taken() - a sweep offers everything again, also what was taken
 * @g: the module's state
 *
 * Context: @g->lock held.
 */
void imr_forget_taken(struct imr_guest *g)
{
	lockdep_assert_held(&g->lock);
	if (g->taken)
		bitmap_zero(g->taken, g->taken_blocks);
}

/**
 * imr_is_taken() - whether the host's last answer for a block was that it took it
 * @g: the module's state
 * @pfn: a page of the block
 *
 * Context: @sweep_work.
 * Return: false also where there is no bit to remember it.
 */
bool imr_is_taken(struct imr_guest *g, unsigned long pfn)
{
	unsigned long block = pfn >> IMR_MIN_ORDER;

	return block < g->taken_blocks && test_bit(block, g->taken);
}

/**
 * imr_is_spared() - whether a block's mark is there to keep it from being offered
 * @g: the module's state
 * @pfn: a page of the block, which has a mark
 *
 * Return: false: it was offered.
 */
bool imr_is_spared(struct imr_guest *g, unsigned long pfn)
{
	unsigned long block = pfn >> IMR_MIN_ORDER;

	return block < g->spared_blocks && test_bit(block, g->spared);
}

/**
 * imr_sweep_init() - make room to remember what the host took, and what is spared
 * @g: the module's state, with its reserve
 *
 * Where there is no room for it, a sweep also offers again what the host has taken, which costs an
 * offer and finds nothing.
 */
void imr_sweep_init(struct imr_guest *g)
{
	unsigned long blocks = imr_all_blocks();

	g->taken = bitmap_zalloc(blocks, GFP_KERNEL | __GFP_NOWARN);
	g->taken_blocks = g->taken ? blocks : 0;
	if (g->reserve_pages)
		g->spared = bitmap_zalloc(blocks, GFP_KERNEL | __GFP_NOWARN);
	g->spared_blocks = g->spared ? blocks : 0;
}

/**
 * imr_sweep_grow() - make room for memory that was plugged in since
 * @g: the module's state
 *
 * Without room all goes on as before, and the next call tries again: the source sweep does not
 * offer that memory until then.
 *
 * Context: @sweep_work, @g->lock not held; no sweep is going on. Sleeps.
 */
void imr_sweep_grow(struct imr_guest *g)
{
	unsigned long blocks = imr_all_blocks(), *taken, *swept = NULL;

	if (!g->taken || blocks <= g->taken_blocks)
		return;
	taken = bitmap_zalloc(blocks, GFP_KERNEL | __GFP_NOWARN);
	if (g->sweeper.swept)
		swept = bitmap_zalloc(blocks, GFP_KERNEL | __GFP_NOWARN);
	if (taken && (swept || !g->sweeper.swept)) {
		mutex_lock(&g->lock);
		bitmap_copy(taken, g->taken, g->taken_blocks);
		swap(g->taken, taken);
		/* Nothing of it is needed between two sweeps. */
		swap(g->sweeper.swept, swept);
		g->taken_blocks = blocks;
		mutex_unlock(&g->lock);
	}
	bitmap_free(taken);
	bitmap_free(swept);
}

/**
 * imr_sweep_exit() - undo imr_sweep_init()
 * @g: the module's state, with no batch open any more
 */
void imr_sweep_exit(struct imr_guest *g)
{
	g->taken_blocks = 0;
	bitmap_free(g->taken);
	g->taken = NULL;
	g->spared_blocks = 0;
	bitmap_free(g->spared);
	g->spared = NULL;
}

/* What says stop. */
static enum imr_sweep_end imr_sweep_look(struct imr_sweep *s)
{
	struct imr_guest *g = s->g;

	lockdep_assert_held(&g->lock);
	if (g->phase != IMR_UP)
		return IMR_SWEEP_STOPPED;
	imr_look(g);
	if (s->first)
		return imr_unmark_is_due(g) ? IMR_SWEEP_NONE : IMR_SWEEP_HOST;
	if (!g->host_fresh || g->pass_lost)
		return IMR_SWEEP_HOST;
	if (!imr_request_is(&g->want, &s->request) || !g->want.pages)
		return IMR_SWEEP_CANCELLED;
	return IMR_SWEEP_NONE;
}

/* Whether nothing does. */
static bool imr_sweep_goes_on(struct imr_sweep *s)
{
	if (s->end != IMR_SWEEP_NONE)
		return false;
	mutex_lock(&s->g->lock);
	s->end = imr_sweep_look(s);
	mutex_unlock(&s->g->lock);
	return s->end == IMR_SWEEP_NONE;
}

/*
 * Waits until no pass is being made. Not by flush_delayed_work(): the host may hold a batch
 * without limit, and to wait for that is no hung task.
 */
static void imr_sweep_wait(struct imr_guest *g)
{
	struct delayed_work *pass = &g->prdev.work;
	unsigned int busy;

	for (;;) {
		busy = work_busy(&pass->work);
		/* With its timer running it is pending, and due later. */
		if (!(busy & WORK_BUSY_RUNNING) &&
		    (!(busy & WORK_BUSY_PENDING) || timer_pending(&pass->timer)))
			return;
		imr_sleep_idle(IMR_SWEEP_POLL_US, 2 * IMR_SWEEP_POLL_US);
	}
}

/* Has page reporting make its passes without its pause of 2 s, until the step was offered. */
static void imr_sweep_offer(struct imr_sweep *s)
{
	struct imr_guest *g = s->g;
	s64 until = atomic64_read(&g->stats[IMR_STAT_PAGES_OFFERED]) + s->step;
	unsigned int passes = 0;

	do {
		/* A pass that nobody asked for is as good as any (page_reporting_process()). */
		mod_delayed_work(imr_reporting_wq(&g->prdev), &g->prdev.work, 0);
		imr_sweep_wait(g);
		if (!imr_sweep_goes_on(s))
			break;
		s->passed = true;
		imr_count(g, IMR_STAT_SWEEP_PASSES, 1);
		/* One that has left something over is due again. */
	} while (delayed_work_pending(&g->prdev.work) && ++passes < IMR_SWEEP_PASSES &&
		 atomic64_read(&g->stats[IMR_STAT_PAGES_OFFERED]) < until);
	s->step = 0;
}

/* Marks a free block that has no mark, if the reserve is to have more. Under its zone->lock. */
static void imr_spare(struct imr_sweep *s, struct page *page, unsigned long order)
{
	unsigned long block = page_to_pfn(page) >> IMR_MIN_ORDER;
	unsigned long end = block + (1UL << (order - IMR_MIN_ORDER));

	if (!s->spare || end > s->g->spared_blocks)
		return;
	for (; block < end; block++)
		set_bit(block, s->g->spared);
	__SetPageReported(page);
	s->spare -= min_t(u64, s->spare, 1ULL << order);
}

/*
 * Takes marks away from @pfn on, until it is enough for a step or the lock was held for long
 * enough. The mark, like all of a free page's state, belongs to the owner of zone->lock.
 * Returns where to go on.
 */
static unsigned long imr_unmark(struct imr_sweep *s, struct zone *zone, unsigned long pfn,
				unsigned long end)
{
	unsigned long stride = 1UL << s->g->order;
	u64 enough = min_t(u64, s->left, IMR_SWEEP_STEP_PAGES - s->step);
	u64 found = 0;

	end = min(end, pfn + IMR_SWEEP_LOOKS * stride);
	spin_lock_irq(&zone->lock);
	for (; pfn < end && found < enough; pfn += stride) {
		struct page *page = pfn_to_online_page(pfn);
		unsigned long order;

		if (!page || page_zone(page) != zone || !PageBuddy(page))
			continue;
		/* What buddy_order() reads, which modules do not have. */
		order = page_private(page);
		if (order < s->g->order)
			continue;
		if (!PageReported(page)) {
			imr_spare(s, page, order);
			continue;
		}
		if (imr_is_taken(s->g, pfn))
			continue;
		/* Of an earlier time that this was made; in use it would not have the mark. */
		if (imr_is_spared(s->g, pfn) && (!s->first || s->spare)) {
			s->spare -= min_t(u64, s->spare, 1ULL << order);
			continue;
		}
		__ClearPageReported(page);
		found += 1ULL << order;
	}
	spin_unlock_irq(&zone->lock);

	imr_count(s->g, IMR_STAT_SWEPT_BLOCKS, found >> IMR_MIN_ORDER);
	s->left -= min(found, s->left);
	s->step += found;
	return pfn;
}

static void imr_sweep_zone(struct imr_sweep *s, struct zone *zone)
{
	unsigned long end = zone_end_pfn(zone);
	unsigned long pfn = ALIGN(zone->zone_start_pfn, 1UL << s->g->order);

	while (pfn < end && s->left && imr_sweep_goes_on(s)) {
		if (!s->first && imr_zone_left_alone(s->g, zone))
			break;
		pfn = imr_unmark(s, zone, pfn, end);
		if (s->first)
			s->step = 0;
		else if (s->step >= IMR_SWEEP_STEP_PAGES)
			imr_sweep_offer(s);
		cond_resched();
	}
}

static void imr_sweep_zones(struct imr_sweep *s)
{
	int node, i;

	for_each_online_node(node) {
		for (i = 0; i < MAX_NR_ZONES; i++) {
			struct zone *zone = &NODE_DATA(node)->node_zones[i];

			if (populated_zone(zone))
				imr_sweep_zone(s, zone);
		}
	}
}

static void imr_sweep_all(struct imr_sweep *s)
{
	imr_sweep_zones(s);
	/* Also when nothing had a mark: there may be what page reporting has not come to yet. */
	if (imr_sweep_goes_on(s))
		imr_sweep_offer(s);
	if (s->end == IMR_SWEEP_NONE)
		s->end = s->left ? IMR_SWEEP_ALL : IMR_SWEEP_ENOUGH;
}

/*
 * Takes away all marks but those of what the host has taken, and sees to it that a pass comes.
 * That is not waited for, so reserve and delay hold for it, and no kick has to be kept away.
 */
static void imr_sweep_first(struct imr_guest *g)
{
	struct imr_sweep s = { .g = g, .left = U64_MAX, .first = true };
	struct imr_survey survey;
	u64 small;

	if (g->spared) {
		imr_survey(g, &survey);
		/* What is in smaller blocks is of the reserve, too. */
		small = survey.free - min(survey.free, survey.marked + survey.unmarked);
		s.spare = g->reserve_pages - min(g->reserve_pages, small);
	}
	imr_sweep_zones(&s);

	mutex_lock(&g->lock);
	if (s.end == IMR_SWEEP_NONE && g->phase == IMR_UP && imr_unmark_is_due(g)) {
		g->unmark_due = false;
		/* @kick_work's new registration has a pass made, too. One that is due stays so. */
		if (s.left != U64_MAX && !g->hold && READ_ONCE(g->registered))
			queue_delayed_work(imr_reporting_wq(&g->prdev), &g->prdev.work,
					   msecs_to_jiffies(IMR_SWEEP_PASS_MS));
	}
	mutex_unlock(&g->lock);
}

/**
 * imr_sweep_work() - see to @unmark_due, then serve the host's newest request
 * @work: sweep_work of struct imr_guest
 *
 * Context: process; sleeps for as long as its batches take. @g->sweeping keeps @kick_work from
 *	taking the registration away meanwhile, and imr_stop() waits for us before it does.
 */
void imr_sweep_work(struct work_struct *work)
{
	struct imr_guest *g = container_of(to_delayed_work(work), struct imr_guest, sweep_work);
	struct imr_sweep s = { .g = g };
	bool lost, first;

	imr_sweep_grow(g);
	mutex_lock(&g->lock);
	first = g->phase == IMR_UP && imr_unmark_is_due(g);
	mutex_unlock(&g->lock);
	if (first)
		imr_sweep_first(g);

	mutex_lock(&g->lock);
	if (g->phase != IMR_UP || !g->want.pages || !g->want_due) {
		mutex_unlock(&g->lock);
		return;
	}
	if (g->hold) {
		queue_delayed_work(system_freezable_wq, &g->sweep_work,
				   msecs_to_jiffies(IMR_SWEEP_AGAIN_MS));
		mutex_unlock(&g->lock);
		return;
	}
	g->want_due = false;
	imr_count(g, IMR_STAT_SWEEPS, 1);
	if (!READ_ONCE(g->registered)) {
		g->sweep_end = IMR_SWEEP_NO_REPORTING;
		mutex_unlock(&g->lock);
		return;
	}
	g->sweeping = true;
	g->sweep_end = IMR_SWEEP_NONE;
	s.request = g->want;
	s.left = g->want.pages;
	/* Ours make up for a pass that was lost before, and tell when one of them is. */
	lost = g->pass_lost;
	g->pass_lost = false;
	mutex_unlock(&g->lock);

	imr_sweep_all(&s);

	mutex_lock(&g->lock);
	g->sweeping = false;
	g->sweep_end = s.end;
	if (!s.passed)
		g->pass_lost |= lost;
	imr_kick(g, false);
	mutex_unlock(&g->lock);
}
