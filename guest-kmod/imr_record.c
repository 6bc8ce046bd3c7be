// SPDX-License-Identifier: GPL-2.0-only
/*
 * The list record: what a batch of free ranges looks like to the host, and what its answers add
 * up to.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>

#include "imr_guest.h"

/**
 * imr_record_write() - describe the isolated ranges of @sgl in the record
 * @g: the module's state; its batch is open, so the record is the caller's
 * @sgl: ranges from page reporting, each PAGE_SIZE << order long and aligned to that
 * @nents: their number
 *
 * Ranges below the order asked for are left out. They come where page reporting's own order,
 * which stays from an earlier user or is set by the administrator since 6.4, is smaller than
 * ours; the host takes nothing below 2 MiB.
 *
 * Return: the number of entries written.
 */
unsigned int imr_record_write(struct imr_guest *g, struct scatterlist *sgl, unsigned int nents)
{
	struct imr_list_entry *entry = g->record;
	struct scatterlist *sg;
	unsigned int i, n = 0;
	u64 pages = 0;

	BUILD_BUG_ON(PAGE_REPORTING_CAPACITY > IMR_MAX_RANGES);
	BUILD_BUG_ON(IMR_LIST_RECORD_SIZE > PAGE_SIZE);

	for_each_sg(sgl, sg, nents, i) {
		unsigned int order = get_order(sg->length);

		if (order < g->order) {
			imr_count(g, IMR_STAT_RANGES_SMALL, 1);
			continue;
		}
		WRITE_ONCE(entry[n].gpa, page_to_phys(sg_page(sg)));
		WRITE_ONCE(entry[n].order, order);
		WRITE_ONCE(entry[n].next, n + 1);
		pages += 1ULL << order;
		n++;
	}
	if (!n)
		return 0;
	WRITE_ONCE(entry[n - 1].next, IMR_LIST_END);
	imr_count(g, IMR_STAT_RANGES, n);
	imr_count(g, IMR_STAT_PAGES_OFFERED, pages);
	return n;
}

/**
 * imr_record_settle() - count and remember what the host did with each range of a finished batch
 * @g: the module's state; done_seq of its batch was read with acquire semantics
 * @count: entries of the record
 */
void imr_record_settle(struct imr_guest *g, unsigned int count)
{
	unsigned int i;

	for (i = 0; i < count; i++) {
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
		imr_count(g, stat, 1ULL << g->record[i].order);
		imr_take(g, g->record[i].gpa, g->record[i].order, result == IMR_RESULT_RECLAIMED);
	}
}
