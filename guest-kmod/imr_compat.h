/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences between kernel versions. No other file may depend on the version; where a
 * difference can be told without asking for it, it is.
 */
#ifndef IMR_COMPAT_H
#define IMR_COMPAT_H

#include <linux/delay.h>
#include <linux/errno.h>
#include <linux/gfp.h>
#include <linux/kernel.h>
#include <linux/mmzone.h>
#include <linux/page_reporting.h>
#include <linux/sched.h>
#include <linux/shrinker.h>
#include <linux/workqueue.h>

#include "imr_abi.h"

/*
 * The largest order that the buddy allocator has. MAX_ORDER was one more than that up to 6.3,
 * the order itself from 6.4, and became MAX_PAGE_ORDER in 6.8. The array of the orders had
 * their number all the time.
 */
#define IMR_TOP_ORDER	((unsigned int)ARRAY_SIZE(((struct zone *)NULL)->free_area) - 1)

/*
 * What the host calls a zone. The small ones are there by the kernel's configuration; what is
 * not named here has no free pages (ZONE_DEVICE) or is used like a normal one (ZONE_HIGHMEM).
 */
static inline unsigned int imr_zone_kind(unsigned int zone)
{
	switch (zone) {
#ifdef CONFIG_ZONE_DMA
	case ZONE_DMA:
		return IMR_ZONE_DMA;
#endif
#ifdef CONFIG_ZONE_DMA32
	case ZONE_DMA32:
		return IMR_ZONE_DMA32;
#endif
	case ZONE_MOVABLE:
		return IMR_ZONE_MOVABLE;
	default:
		return IMR_ZONE_NORMAL;
	}
}

/*
 * What has the page allocator begin with a zone. ZONE_DMA, of 16 MiB, is of no use: it never has
 * more than the threshold of imr_zone_left_alone().
 */
static inline bool imr_zone_gfp(unsigned int zone, gfp_t *gfp)
{
	switch (zone) {
#ifdef CONFIG_ZONE_DMA
	case ZONE_DMA:
		return false;
#endif
#ifdef CONFIG_ZONE_DMA32
	case ZONE_DMA32:
		*gfp = __GFP_DMA32;
		return true;
#endif
	case ZONE_NORMAL:
		*gfp = 0;
		return true;
	case ZONE_MOVABLE:
		*gfp = __GFP_HIGHMEM | __GFP_MOVABLE;
		return true;
	default:
		return false;
	}
}

/*
 * Sleeps without counting as load. usleep_idle_range() of 6.1 and 6.12 is usleep_range_idle() in
 * 7.3; what both call has kept its name.
 */
static inline void imr_sleep_idle(unsigned long min_us, unsigned long max_us)
{
	usleep_range_state(min_us, max_us, TASK_IDLE);
}

/*
 * Where page reporting queues its passes: system_wq (6.1, 6.12), system_freezable_wq (7.3). A pass
 * that runs is not begun a second time only where both come from the same queue (__queue_work()),
 * so the work itself is asked. It knows since page_reporting_register(), unless that queues it
 * without delay, as later kernels can.
 */
static inline struct workqueue_struct *imr_reporting_wq(struct page_reporting_dev_info *prdev)
{
	struct workqueue_struct *wq = READ_ONCE(prdev->work.wq);

	return wq ? wq : system_freezable_wq;
}

/*
 * Moves away what is used of the frames from @start to @end, and allocates all of them as pages of
 * order 0. The third argument is the kind of the pageblocks up to 6.15, flags later. Without
 * CONFIG_CONTIG_ALLOC it is declared nowhere.
 */
#ifdef CONFIG_CONTIG_ALLOC
#define IMR_HAS_CONTIG	true
static inline int imr_alloc_contig(unsigned long start, unsigned long end)
{
#ifdef ACR_FLAGS_NONE
	return alloc_contig_range(start, end, ACR_FLAGS_NONE, GFP_KERNEL | __GFP_NOWARN);
#else
	return alloc_contig_range(start, end, MIGRATE_MOVABLE, GFP_KERNEL | __GFP_NOWARN);
#endif
}
#else
#define IMR_HAS_CONTIG	false
static inline int imr_alloc_contig(unsigned long start, unsigned long end)
{
	return -EOPNOTSUPP;
}
#endif

typedef unsigned long (*imr_shrink_fn)(struct shrinker *shrinker, struct shrink_control *sc);

/*
 * Shrinkers are allocated since 6.7, with a flag for it; before they are the caller's. With no
 * seeks they are called at the first sign of pressure (do_shrink_slab(), 6.1 and 6.12).
 */
#ifdef SHRINKER_ALLOCATED
static inline struct shrinker *imr_shrinker_start(imr_shrink_fn count, imr_shrink_fn scan)
{
	struct shrinker *shrinker = shrinker_alloc(0, "imr");

	if (!shrinker)
		return NULL;
	shrinker->count_objects = count;
	shrinker->scan_objects = scan;
	shrinker->seeks = 0;
	shrinker_register(shrinker);
	return shrinker;
}

static inline void imr_shrinker_end(struct shrinker *shrinker)
{
	shrinker_free(shrinker);
}
#else
static inline struct shrinker *imr_shrinker_start(imr_shrink_fn count, imr_shrink_fn scan)
{
	static struct shrinker shrinker;

	shrinker.count_objects = count;
	shrinker.scan_objects = scan;
	return register_shrinker(&shrinker, "imr") ? NULL : &shrinker;
}

static inline void imr_shrinker_end(struct shrinker *shrinker)
{
	unregister_shrinker(shrinker);
}
#endif

#endif /* IMR_COMPAT_H */
