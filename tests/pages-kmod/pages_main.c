// SPDX-License-Identifier: GPL-2.0-only
/*
 * imr_pages.ko: what free pages hold when the kernel allocates them. Loaded, it takes blocks that
 * it does not ask to be zeroed, sees that each word is zero (init_on_alloc=1 or init_on_free=1
 * promise that), and writes to all of them; unloaded, it verifies and frees them. Each says in a
 * line of the kernel's log what it found. Loading does not fail for a wrong word: busybox's insmod
 * would try again.
 */
#define pr_fmt(fmt) "imr_pages: " fmt

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/sizes.h>

#define PAGES_ORDER	9
#define PAGES_WORDS	((PAGE_SIZE << PAGES_ORDER) / sizeof(u64))

static unsigned int mib = 64;
module_param(mib, uint, 0);
MODULE_PARM_DESC(mib, "how much memory is taken at most, MiB");

static LIST_HEAD(pages_taken);

/* Differs from word to word, and from block to block. */
static u64 pages_word(struct page *block, unsigned long i)
{
	return (((u64)page_to_pfn(block) << 32) + i + 1) * 0x9e3779b97f4a7c15ULL;
}

/* How many words of a block are not zero; all of them are written. */
static u64 pages_use(struct page *block)
{
	u64 *words = page_address(block);
	u64 wrong = 0;
	unsigned long i;

	for (i = 0; i < PAGES_WORDS; i++) {
		if (READ_ONCE(words[i])) {
			if (!wrong)
				pr_err("word %lu of the block at %#llx is %#llx, not 0\n", i,
				       (u64)page_to_phys(block), words[i]);
			wrong++;
		}
		WRITE_ONCE(words[i], pages_word(block, i));
	}
	return wrong;
}

/* How many words of a block are not as they were written. */
static u64 pages_verify(struct page *block)
{
	u64 *words = page_address(block);
	u64 wrong = 0;
	unsigned long i;

	for (i = 0; i < PAGES_WORDS; i++) {
		if (READ_ONCE(words[i]) == pages_word(block, i))
			continue;
		if (!wrong)
			pr_err("word %lu of the block at %#llx is %#llx, not %#llx\n", i,
			       (u64)page_to_phys(block), words[i], pages_word(block, i));
		wrong++;
	}
	return wrong;
}

static int __init pages_init(void)
{
	unsigned long blocks = 0, high = 0;
	struct page *block;
	u64 wrong = 0;

	while (blocks < mib / 2) {
		/* No reclaim: what is used stays where it is. */
		block = alloc_pages(GFP_NOWAIT | __GFP_NOWARN, PAGES_ORDER);
		if (!block)
			break;
		list_add_tail(&block->lru, &pages_taken);
		wrong += pages_use(block);
		blocks++;
		high += page_to_phys(block) >= SZ_4G;
		cond_resched();
	}
	/* A line that a script reads. */
	pr_info("taken blocks=%lu above_4g=%lu wrong=%llu\n", blocks, high, wrong);
	return 0;
}
module_init(pages_init);

static void __exit pages_exit(void)
{
	struct page *block, *next;
	unsigned long blocks = 0;
	u64 wrong = 0;

	list_for_each_entry_safe(block, next, &pages_taken, lru) {
		wrong += pages_verify(block);
		blocks++;
		list_del(&block->lru);
		__free_pages(block, PAGES_ORDER);
		cond_resched();
	}
	pr_info("freed blocks=%lu wrong=%llu\n", blocks, wrong);
}
module_exit(pages_exit);

MODULE_DESCRIPTION("What free pages hold when a guest's kernel allocates them, for the tests of IMR");
MODULE_LICENSE("GPL");
