// SPDX-License-Identifier: GPL-2.0-only
/*
 * Describes one offer with the guest module's own code, between breakpoints, so that whoever traces
 * this program can count instructions.
 *
 * In: list|flat, MiB of guest memory, ranges. Out: the record's size, then four breakpoints: around
 * the writing of the record, and around its clearing.
 */
#include "kernel.h"
#include "imr_record.c"
#include "imr_handshake.c"

struct node bench_node;

/* Of the sweep, which is the same for both records. */
void imr_take(struct imr_guest *g, u64 gpa, unsigned int order, bool taken)
{
	(void)g, (void)gpa, (void)order, (void)taken;
}

#define BREAKPOINT() __asm__ volatile("int3" ::: "memory")

int main(int argc, char **argv)
{
	static struct scatterlist sgl[PAGE_REPORTING_CAPACITY];
	static struct imr_guest g = { .order = IMR_MIN_ORDER };
	unsigned int count = argc == 4 ? strtoul(argv[3], NULL, 10) : 0, n, i;
	u64 mib = argc == 4 ? strtoull(argv[2], NULL, 10) : 0, chance = 1;

	if (!count || count > PAGE_REPORTING_CAPACITY || mib / 2 < count)
		return 2;
	g.flat = !strcmp(argv[1], "flat");
	bench_node.node_zones[0].end_pfn = mib << (20 - PAGE_SHIFT);
	g.page = (void *)get_zeroed_page(0);
	if (!g.page || imr_record_alloc(&g, &g.record))
		return 3;
	if (g.record.kind != (g.flat ? IMR_RECORD_FLAT : IMR_RECORD_LIST))
		return 4;
	/* Spread over all of memory, in an order that is nobody's, as free lists are. */
	for (i = 0; i < count; i++)
		sgl[i] = (struct scatterlist){ .gpa = mib / 2 * i / count << 21, .length = 2 << 20 };
	for (i = count - 1; i; i--) {
		struct scatterlist other = sgl[i];

		chance = chance * 6364136223846793005ULL + 1442695040888963407ULL;
		n = (chance >> 33) % (i + 1);
		sgl[i] = sgl[n];
		sgl[n] = other;
	}
	printf("%llu\n", g.record.size);
	fflush(stdout);

	BREAKPOINT();
	n = imr_record_write(&g, sgl, count);
	BREAKPOINT();
	/* Both ends of what was described, so that it was sorted. */
	if (g.flat && (g.page->guest.offer_head || g.page->guest.offer_last != mib / 2 * (count - 1) / count))
		return 6;
	BREAKPOINT();
	imr_undescribe(&g.record, g.batch, n);
	BREAKPOINT();
	return n == count ? 0 : 5;
}
