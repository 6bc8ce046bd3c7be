// SPDX-License-Identifier: GPL-2.0-only
/*
 * The record: what a batch of free ranges looks like to the host, and what its answers add up to.
 *
 * Two kinds, by parameter: a list, which is one page and is written anew for each batch, and a
 * flat record, a byte for each block of memory, in which the bytes of a batch are set while it is
 * open. The ranges themselves are kept in @batch, so nothing is read back from what the host can
 * write, too.
 */
#define pr_fmt(fmt) "imr: " fmt

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/nodemask.h>
#include <linux/scatterlist.h>
#include <linux/sort.h>

#include "imr_guest.h"

/**
 * imr_end_pfn() - the end of all memory
 *
 * Return: the first page frame number behind every zone that has memory now.
 */
unsigned long imr_end_pfn(void)
{
	unsigned long end = 0;
	int node, i;

	for_each_online_node(node) {
		for (i = 0; i < MAX_NR_ZONES; i++) {
			struct zone *zone = &NODE_DATA(node)->node_zones[i];

			if (populated_zone(zone))
				end = max(end, zone_end_pfn(zone));
		}
	}
	return end;
}

/* False, with the reason told, when there can be none. */
static bool imr_flat_alloc(struct imr_guest *g, struct imr_record *record)
{
	unsigned long size = DIV_ROUND_UP(imr_end_pfn(), 1UL << g->order);

	if (size > IMR_FLAT_RECORD_MAX) {
		pr_warn("record=flat: a byte for each of %lu blocks of order %u is more than the host reads; using the list\n",
			size, g->order);
		return false;
	}
	record->at = alloc_pages_exact(size, GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN |
				       __GFP_RETRY_MAYFAIL);
	if (!record->at) {
		pr_warn("record=flat: no %lu bytes in one piece; using the list\n", size);
		return false;
	}
	record->kind = IMR_RECORD_FLAT;
	record->size = size;
	return true;
}

/**
 * imr_record_alloc() - memory for the record, all zero
 * @g: the module's state; @flat is a wish: where it cannot be, the record is a list
 * @record: is filled in
 *
 * Return: 0 or -ENOMEM.
 */
int imr_record_alloc(struct imr_guest *g, struct imr_record *record)
{
	BUILD_BUG_ON(IMR_LIST_RECORD_SIZE > PAGE_SIZE);
	BUILD_BUG_ON(IMR_MIN_ORDER < IMR_FLAT_MIN_ORDER);

	record->order = g->order;
	if (!g->flat || !imr_flat_alloc(g, record)) {
		record->at = (void *)get_zeroed_page(GFP_KERNEL);
		if (!record->at)
			return -ENOMEM;
		record->kind = IMR_RECORD_LIST;
		record->size = IMR_LIST_RECORD_SIZE;
	}
	record->gpa = virt_to_phys(record->at);
	return 0;
}

/**
 * imr_record_free() - undo imr_record_alloc()
 * @record: a record that no batch uses; the host only reads it
 */
void imr_record_free(struct imr_record *record)
{
	free_pages_exact(record->at, record->size);
}

/*
 * Whether the record has a place for @range. Memory that was plugged in behind the end of all
 * there was has none in a flat one.
 */
static bool imr_record_holds(struct imr_guest *g, const struct imr_range *range)
{
	if (g->record.kind != IMR_RECORD_FLAT || imr_flat_last(&g->record, range) < g->record.size)
		return true;
	pr_warn_once("memory at %#llx came after the flat record was made and is not offered; load the module again\n",
		     range->gpa);
	imr_count(g, IMR_STAT_RANGES_BEYOND, 1);
	return false;
}

static int imr_largest_first(const void *a, const void *b)
{
	const struct imr_range *one = a, *other = b;

	if (one->order != other->order)
		return one->order < other->order ? 1 : -1;
	return one->gpa < other->gpa ? -1 : one->gpa > other->gpa;
}

/* Page reporting gives the smallest first, and mostly all are of one size. */
static bool imr_is_largest_first(const struct imr_range *range, unsigned int count)
{
	unsigned int i;

	for (i = 1; i < count; i++) {
		if (range[i].order > range[i - 1].order)
			return false;
	}
	return true;
}

static int imr_by_address(const void *a, const void *b)
{
	const struct imr_range *one = a, *other = b;

	return one->gpa < other->gpa ? -1 : one->gpa > other->gpa;
}

/**
 * imr_record_write() - describe the isolated ranges of @sgl in the record
 * @g: the module's state; its batch is open, so record and @batch are the caller's
 * @sgl: ranges from page reporting, each PAGE_SIZE << order long and aligned to that
 * @nents: their number
 *
 * Ranges below the order asked for are left out. They come where page reporting's own order,
 * which stays from an earlier user or is set by the administrator since 6.4, is smaller than
 * ours; the host takes nothing below 2 MiB. Page reporting marks them with the others, or it
 * would come back to them in each pass; the next load takes the marks away (imr_sweep.c).
 *
 * Return: the number of ranges in @batch, and in the record.
 */
unsigned int imr_record_write(struct imr_guest *g, struct scatterlist *sgl, unsigned int nents)
{
	struct scatterlist *sg;
	unsigned int i, n = 0;
	u64 pages = 0;

	BUILD_BUG_ON(PAGE_REPORTING_CAPACITY > IMR_MAX_RANGES);

	for_each_sg(sgl, sg, nents, i) {
		struct imr_range *range = &g->batch[n];

		range->gpa = page_to_phys(sg_page(sg));
		range->order = get_order(sg->length);
		if (range->order < g->order) {
			imr_count(g, IMR_STAT_RANGES_SMALL, 1);
			continue;
		}
		if (!imr_record_holds(g, range))
			continue;
		pages += 1ULL << range->order;
		/* Page reporting never gives more. */
		if (++n == ARRAY_SIZE(g->batch))
			break;
	}
	if (!n)
		return 0;
	/*
	 * A flat record is by address, and so are the host's answers. Of a list the host begins
	 * with what is worth most.
	 */
	if (g->record.kind == IMR_RECORD_FLAT)
		sort(g->batch, n, sizeof(g->batch[0]), imr_by_address, NULL);
	else if (!imr_is_largest_first(g->batch, n))
		sort(g->batch, n, sizeof(g->batch[0]), imr_largest_first, NULL);
	imr_describe(g->page, &g->record, g->batch, n);
	imr_count(g, IMR_STAT_RANGES, n);
	imr_count(g, IMR_STAT_PAGES_OFFERED, pages);
	return n;
}

/**
 * imr_record_settle() - count and remember what the host did with each range of a finished batch
 * @g: the module's state; done_seq of its batch was read with acquire semantics
 * @count: what imr_record_write() returned
 */
void imr_record_settle(struct imr_guest *g, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
		const struct imr_range *range = &g->batch[i];
		u8 result = imr_result(g->page, i);
		enum imr_stat stat;

		switch (result) {
		case IMR_RESULT_RECLAIMED:
			stat = IMR_STAT_PAGES_RECLAIMED;
			break;
		case IMR_RESULT_KEPT:
			stat = IMR_STAT_PAGES_KEPT;
			break;
		case IMR_RESULT_REFUSED:
			stat = IMR_STAT_PAGES_REFUSED;
			break;
		default:
			stat = IMR_STAT_PAGES_UNANSWERED;
			break;
		}
		imr_count(g, stat, 1ULL << range->order);
		imr_take(g, range->gpa, range->order, result == IMR_RESULT_RECLAIMED);
	}
}
