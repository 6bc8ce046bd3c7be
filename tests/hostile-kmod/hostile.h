/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A guest kernel that lies to the host: what the attacks share. It knows the contract of
 * imr_abi.h and nothing of the true module.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include "imr_abi.h"

/* Half of a block of 4 MiB is offered, the other half never: a page too many would show there. */
#define HOSTILE_BAIT_ORDER	9
#define HOSTILE_BAIT_SIZE	(4096ULL << HOSTILE_BAIT_ORDER)
#define HOSTILE_BLOCK_ORDER	(HOSTILE_BAIT_ORDER + 1)

/* What became of an offer. */
enum hostile_end {
	HOSTILE_DONE,
	HOSTILE_ABANDONED,
	HOSTILE_SILENT,
};

/**
 * struct hostile - One attack.
 * @page: Control page.
 * @record: Record, a page.
 * @block: 4 MiB: the bait, then the canary.
 * @bait: Guest-physical address of the bait.
 * @canary: Where the canary is.
 * @calls: Hypercalls made.
 * @done: Offers that were finished.
 * @abandoned: Offers that were given back.
 * @silent: Offers without an answer.
 * @results: Answers to ranges, by IMR_RESULT_*.
 * @failures: Expectations that did not hold.
 * @keep: The memory stays as it is when the attack has ended.
 */
struct hostile {
	struct imr_control_page *page;
	struct imr_list_entry *record;
	void *block;
	u64 bait;
	void *canary;
	u64 calls;
	u64 done;
	u64 abandoned;
	u64 silent;
	u64 results[IMR_RESULT_REFUSED + 1];
	unsigned int failures;
	bool keep;
};

/* Counts an expectation that did not hold, and says which. */
#define hostile_expect(h, holds, fmt, ...)						\
	do {										\
		if (!(holds)) {								\
			(h)->failures++;						\
			pr_err("not so: " fmt "\n", ##__VA_ARGS__);			\
		}									\
	} while (0)

extern unsigned long hostile_count;
extern unsigned long hostile_most_s;
extern unsigned long hostile_gpa;
extern unsigned long hostile_cookie;
extern unsigned long hostile_ram_mib;

long hostile_call(struct hostile *h, u64 op, u64 arg, u64 cookie);
void hostile_page_init(struct hostile *h);
bool hostile_hello(struct hostile *h);
enum hostile_end hostile_offer(struct hostile *h, u32 count, u32 head, unsigned int limit_ms);
enum hostile_end hostile_offer_one(struct hostile *h, u64 gpa, u32 order);
void hostile_fill(void *at, u64 size);
bool hostile_holds(const void *at, u64 size);
bool hostile_zero(const void *at, u64 size);
bool hostile_each_page_whole(const void *at, u64 size);

void hostile_honest(struct hostile *h);
void hostile_ranges(struct hostile *h);
void hostile_lists(struct hostile *h);
void hostile_rewrite(struct hostile *h);
void hostile_self(struct hostile *h);

void hostile_flat(struct hostile *h);
void hostile_flat_rewrite(struct hostile *h);

void hostile_unheard(struct hostile *h, const char *what, u64 gpa, u64 cookie);
void hostile_pages(struct hostile *h);
void hostile_control(struct hostile *h);
void hostile_foreign(struct hostile *h);
void hostile_flood(struct hostile *h);
void hostile_stale(struct hostile *h);
void hostile_revive(struct hostile *h);

#endif /* HOSTILE_H */
