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

	if (g->flat && imr_flat_alloc(g, record))
		return 0;
	record->at = (void *)get_zeroed_page(GFP_KERNEL);
	if (!record->at)
		return -ENOMEM;
	record->kind = IMR_RECORD_LIST;
	record->size = IMR_LIST_RECORD_SIZE;
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

static u64 imr_flat_block(struct imr_guest *g, u64 gpa)
{
	return gpa >> (PAGE_SHIFT + g->order);
}

/* The number of the last block of @range. */
static u64 imr_flat_last(struct imr_guest *g, const struct imr_range *range)
{
	return imr_flat_block(g, range->gpa) + (1ULL << (range->order - g->order)) - 1;
}

/*
 * Whether the record has a place for @range. Memory that was plugged in behind the end of all
 * there was has none in a flat one.
 */
static bool imr_record_holds(struct imr_guest *g, const struct imr_range *range)
{
	if (g->record.kind != IMR_RECORD_FLAT || imr_flat_last(g, range) < g->record.size)
		return true;
	pr_warn_once("memory at %#llx came after the flat record was made and is not offered; load the module again\n",
		     range->gpa);
	imr_count(g, IMR_STAT_RANGES_BEYOND, 1);
	return false;
}

static void imr_list_write(struct imr_guest *g, unsigned int count)
{
	struct imr_list_entry *entry = g->record.at;
	unsigned int i;

	for (i = 0; i < count; i++) {
		WRITE_ONCE(entry[i].gpa, g->batch[i].gpa);
		WRITE_ONCE(entry[i].order, g->batch[i].order);
		WRITE_ONCE(entry[i].next, i + 1 < count ? i + 1 : IMR_LIST_END);
	}
	WRITE_ONCE(g->page->guest.offer_head, 0);
}

static int imr_by_address(const void *a, const void *b)
{
	const struct imr_range *one = a, *other = b;

	return one->gpa < other->gpa ? -1 : one->gpa > other->gpa;
}

static void imr_flat_write(struct imr_guest *g, unsigned int count)
{
	u8 *bytes = g->record.at;
	unsigned int i;

	/* The order of the host's answers. */
	sort(g->batch, count, sizeof(g->batch[0]), imr_by_address, NULL);
	for (i = 0; i < count; i++)
		WRITE_ONCE(bytes[imr_flat_block(g, g->batch[i].gpa)], g->batch[i].order + 1);
	WRITE_ONCE(g->page->guest.offer_head, imr_flat_block(g, g->batch[0].gpa));
	WRITE_ONCE(g->page->guest.offer_last, imr_flat_last(g, &g->batch[count - 1]));
}

/**
 * imr_record_write() - describe the isolated ranges of @sgl in the record
 * @g: the module's state; its batch is open, so record and @batch are the caller's
 * @sgl: ranges from page reporting, each PAGE_SIZE << order long and aligned to that
 * @nents: their number
 *
 * Ranges below the order asked for are left out. They come where page reporting's own order,
 * which stays from an earlier user or is set by the administrator since 6.4, is smaller than
 * ours; the host takes nothing below 2 MiB.
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
	if (g->record.kind == IMR_RECORD_FLAT)
		imr_flat_write(g, n);
	else
		imr_list_write(g, n);
	imr_count(g, IMR_STAT_RANGES, n);
	imr_count(g, IMR_STAT_PAGES_OFFERED, pages);
	return n;
}

/**
 * imr_record_clear() - take the ranges of a batch that has ended out of the record
 * @g: the module's state
 * @count: what imr_record_write() returned
 *
 * A list is written anew for each batch, a flat record is not.
 */
void imr_record_clear(struct imr_guest *g, unsigned int count)
{
	u8 *bytes = g->record.at;
	unsigned int i;

	if (g->record.kind != IMR_RECORD_FLAT)
		return;
	for (i = 0; i < count; i++)
		WRITE_ONCE(bytes[imr_flat_block(g, g->batch[i].gpa)], 0);
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
		u8 result = READ_ONCE(g->page->host.results[i]);
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
