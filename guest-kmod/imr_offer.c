// SPDX-License-Identifier: GPL-2.0-only
/*
 * One offer, from page reporting's call to its end: open the batch, publish it, ring, wait,
 * withdraw.
 *
 * The ranges are out of the allocator while imr_report() runs (mm/page_reporting.c,
 * page_reporting_cycle(), 6.1 and 6.12) and go back when it returns. So it must not return
 * before the host has finished or given back the batch, or the withdrawal has won: the host
 * would take memory that is in use again.
 */
#define pr_fmt(fmt) "imr: " fmt

#include <linux/module.h>

#include "imr_compat.h"
#include "imr_guest.h"

/*
 * Between two looks at the answer: the host cannot interrupt us, and mostly answers well below
 * 1 ms.
 */
#define IMR_POLL_MIN_US		20
#define IMR_POLL_MAX_US		1000
/* The same for a batch that the host holds past its time. */
#define IMR_POLL_OVERDUE_US	20000
/* A batch that was claimed and is not answered for this long is told of. */
#define IMR_OVERDUE_MS		5000

/* Whether there is anybody to offer a batch to. If not, the pass is lost. */
static int imr_may_offer(struct imr_guest *g)
{
	lockdep_assert_held(&g->lock);
	if (g->phase != IMR_UP || g->hold) {
		imr_count(g, IMR_STAT_HELD, 1);
		g->pass_lost = true;
		return -EAGAIN;
	}
	imr_look(g);
	if (!g->host_fresh) {
		imr_count(g, IMR_STAT_NO_HOST, 1);
		g->pass_lost = true;
		return -ENOTCONN;
	}
	return 0;
}

/* To keep a reserve, free memory is counted: not where nobody is there. */
static int imr_batch_check(struct imr_guest *g, struct scatterlist *sgl, unsigned int nents)
{
	int err;

	mutex_lock(&g->lock);
	err = imr_may_offer(g);
	mutex_unlock(&g->lock);
	return err ? err : imr_hold_back(g, sgl, nents);
}

/* Only one batch can be open: the source, page reporting or a sweep, has one worker. */
static int imr_batch_open(struct imr_guest *g)
{
	int err;

	mutex_lock(&g->lock);
	err = imr_may_offer(g);
	if (!err)
		WRITE_ONCE(g->batch_open, true);
	mutex_unlock(&g->lock);
	return err;
}

static void imr_batch_close(struct imr_guest *g, int err)
{
	mutex_lock(&g->lock);
	WRITE_ONCE(g->batch_open, false);
	if (err)
		g->pass_lost = true;
	else
		g->kick_gap_ns = 0;
	/* For this pass, or for an earlier one that the open batch kept from being repeated. */
	imr_kick(g, false);
	mutex_unlock(&g->lock);
	wake_up_all(&g->batch_wait);
}

/*
 * Returns 0 when the host has finished the batch, -EAGAIN when it gave it back, -ETIMEDOUT when
 * we withdrew it. Rings until then, for a lost event must only delay the batch.
 */
static int imr_wait(struct imr_guest *g, u64 seq)
{
	u64 now = ktime_get_ns(), start = now, ring = now + imr_ms(IMR_RING_INTERVAL_MS);
	unsigned int poll = IMR_POLL_MIN_US, poll_max = IMR_POLL_MAX_US;
	bool lost = false, told = false, pinned = false;
	enum imr_fate fate;

	for (;;) {
		now = ktime_get_ns();
		/* Read without the lock: to see either late costs one more look. */
		fate = imr_offer_look(g->page, seq, !lost && (now - start >= g->timeout_ns ||
							      READ_ONCE(g->phase) != IMR_UP ||
							      imr_is_pressed(g)));
		if (fate == IMR_REVOKED) {
			imr_count(g, IMR_STAT_REVOKED, 1);
			return -ETIMEDOUT;
		}
		if (fate == IMR_HELD) {
			imr_count(g, IMR_STAT_REVOKE_LOST, 1);
			lost = true;
			continue;
		}
		if (fate != IMR_PENDING)
			break;

		if (lost && !told && now - start >= imr_ms(IMR_OVERDUE_MS)) {
			/* "Module is in use" is a better answer to rmmod than to hang. */
			pinned = try_module_get(THIS_MODULE);
			pr_warn("the host has held offer %llu for %u s; its memory stays out of use until the host answers\n",
				seq, (unsigned int)(IMR_OVERDUE_MS / MSEC_PER_SEC));
			told = true;
			poll_max = IMR_POLL_OVERDUE_US;
		}
		if (now >= ring) {
			imr_ring(g, seq);
			ring = now + imr_ms(IMR_RING_INTERVAL_MS);
		}
		/* Idle: this sleep says nothing of the load, and may last. */
		imr_sleep_idle(poll, poll + poll / 2);
		poll = min(poll * 2, poll_max);
	}

	if (told)
		pr_info("the host has %s offer %llu after %llu ms\n",
			fate == IMR_DONE ? "finished" : "given back", seq,
			(ktime_get_ns() - start) / NSEC_PER_MSEC);
	/* Unregistering waits for this worker, so the code outlives the reference. */
	if (pinned)
		module_put(THIS_MODULE);
	if (fate == IMR_DONE) {
		imr_count(g, IMR_STAT_DONE, 1);
		return 0;
	}
	imr_count(g, IMR_STAT_ABANDONED, 1);
	return -EAGAIN;
}

static void imr_count_wait(struct imr_guest *g, u64 ns)
{
	u64 us = ns / NSEC_PER_USEC;

	imr_count(g, IMR_STAT_WAIT_US_TOTAL, us);
	/* The one writer is the source's worker. */
	if (us > atomic64_read(&g->stats[IMR_STAT_WAIT_US_MAX]))
		atomic64_set(&g->stats[IMR_STAT_WAIT_US_MAX], us);
}

/**
 * imr_report() - page reporting's callback: offer a batch of isolated free ranges to the host
 * @prdev: prdev of struct imr_guest
 * @sgl: the ranges
 * @nents: their number, PAGE_REPORTING_CAPACITY at most
 *
 * A sweep calls it, too, with ranges that it has allocated.
 *
 * Context: the source's worker; sleeps until the batch is ours again.
 * Return: 0 when the host has answered for every range, else a negative errno: the ranges
 *	go back unmarked and page reporting ends its pass.
 */
int imr_report(struct page_reporting_dev_info *prdev, struct scatterlist *sgl, unsigned int nents)
{
	struct imr_guest *g = container_of(prdev, struct imr_guest, prdev);
	unsigned int count;
	u64 seq, start;
	int err = 0;

	if (g->source == IMR_SOURCE_REPORTING)
		err = imr_batch_check(g, sgl, nents);
	if (!err)
		err = imr_batch_open(g);
	if (err)
		return err;
	count = imr_record_write(g, sgl, nents);
	if (count) {
		start = ktime_get_ns();
		seq = imr_publish(g->page, count);
		imr_count(g, IMR_STAT_OFFERS, 1);
		imr_ring(g, seq);
		err = imr_wait(g, seq);
		imr_count_wait(g, ktime_get_ns() - start);
		if (!err)
			imr_record_settle(g, count);
		imr_undescribe(&g->record, g->batch, count);
	}
	imr_batch_close(g, err);
	return err;
}
