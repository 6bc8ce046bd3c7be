// SPDX-License-Identifier: GPL-2.0-only
/*
 * A conversation with the host from its beginning to its end, and page reporting along with it:
 * start, stop, and start page reporting again where it has given up.
 */
#define pr_fmt(fmt) "imr: " fmt

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/random.h>

#include "imr_guest.h"

/* Between two registrations with page reporting, doubled while passes go on being lost. */
#define IMR_KICK_MIN_MS		2000
#define IMR_KICK_MAX_MS		60000

/* How long a batch that the host has claimed may hold up sleep, reboot and kexec. */
#define IMR_SLEEP_WAIT_MS	5000
#define IMR_REBOOT_WAIT_MS	5000
#define IMR_KEXEC_WAIT_MS	30000

/**
 * imr_kick() - have page reporting start again soon, if a pass was lost
 * @g: the module's state
 * @anew: the reason is not one more lost pass, so the back-off starts from the beginning
 *
 * An aborted pass is not repeated before something is freed again (page_reporting_process(),
 * 6.1 and 6.12), and on an idle guest nothing is. Registering again starts one.
 *
 * Context: @g->lock held.
 */
void imr_kick(struct imr_guest *g, bool anew)
{
	u64 gap, due, now = ktime_get_ns();
	unsigned long delay;

	lockdep_assert_held(&g->lock);
	if (g->phase != IMR_UP || !g->pass_lost)
		return;

	if (anew)
		g->kick_gap_ns = 0;
	gap = max(g->kick_gap_ns, imr_ms(IMR_KICK_MIN_MS));
	due = g->kick_ns + gap;
	delay = due > now ? nsecs_to_jiffies(due - now) + 1 : 0;
	if (anew)
		mod_delayed_work(system_freezable_wq, &g->kick_work, delay);
	else if (queue_delayed_work(system_freezable_wq, &g->kick_work, delay))
		g->kick_gap_ns = min(2 * gap, imr_ms(IMR_KICK_MAX_MS));
}

/**
 * imr_kick_work() - register with page reporting again, or have a sweep begin
 * @work: kick_work of struct imr_guest
 */
void imr_kick_work(struct work_struct *work)
{
	struct imr_guest *g = container_of(to_delayed_work(work), struct imr_guest, kick_work);
	int err;

	mutex_lock(&g->lock);
	if (g->phase != IMR_UP || g->batch_open || g->sweeping) {
		/*
		 * Unregistering would wait for the batch, and for that there may be no limit.
		 * imr_batch_close() kicks again, and so does the end of a sweep.
		 */
		mutex_unlock(&g->lock);
		return;
	}
	if (g->source == IMR_SOURCE_SWEEP) {
		g->pass_lost = false;
		g->kick_ns = ktime_get_ns();
		g->sweeper.again = true;
		imr_count(g, IMR_STAT_KICKS, 1);
		mod_delayed_work(system_freezable_wq, &g->sweep_work, 0);
		mutex_unlock(&g->lock);
		return;
	}
	g->hold = true;
	mutex_unlock(&g->lock);

	if (g->registered)
		page_reporting_unregister(&g->prdev);
	err = page_reporting_register(&g->prdev);
	WRITE_ONCE(g->registered, !err);

	mutex_lock(&g->lock);
	g->hold = false;
	g->pass_lost = err;
	g->kick_ns = ktime_get_ns();
	if (err) {
		pr_warn_once("page reporting went to somebody else (error %d), virtio-balloon perhaps; nothing is offered until it is free again\n",
			     err);
		imr_count(g, IMR_STAT_KICK_BUSY, 1);
		imr_kick(g, false);
	} else {
		imr_count(g, IMR_STAT_KICKS, 1);
	}
	mutex_unlock(&g->lock);
}

static u64 imr_cookie(void)
{
	u64 cookie;

	do {
		cookie = get_random_u64();
	} while (!cookie);
	return cookie;
}

/**
 * imr_start() - begin a conversation: a fresh control page, page reporting, HELLO
 * @g: the module's state, in phase IMR_DOWN
 *
 * Page reporting comes before HELLO, so that a host never hears of a guest that cannot offer.
 *
 * Return: 0; -EBUSY when page reporting is somebody else's; -ENOMEM.
 */
int imr_start(struct imr_guest *g)
{
	struct imr_control_page *page;
	struct imr_record record;
	long said;
	int err;

	page = (struct imr_control_page *)get_zeroed_page(GFP_KERNEL);
	if (!page)
		return -ENOMEM;
	err = imr_record_alloc(g, &record);
	if (err)
		goto err_free_page;
	page->guest.offer_order = g->order;
	page->guest.compacts = g->compacts;
	imr_page_fill(page, virt_to_phys(page), imr_cookie(), &record);

	mutex_lock(&g->lock);
	g->page = page;
	g->record = record;
	g->pass_lost = false;
	g->want_due = false;
	g->unmark_due = g->source == IMR_SOURCE_REPORTING;
	g->host_fresh = false;
	g->host_beat = 0;
	g->host_attach = 0;
	g->host_mode = 0;
	g->answered_ns = 0;
	g->hello_ns = 0;
	g->hello_beat = 0;
	g->call_ns = 0;
	g->kick_ns = ktime_get_ns();
	g->kick_gap_ns = 0;
	WRITE_ONCE(g->phase, IMR_UP);
	mutex_unlock(&g->lock);

	if (g->source == IMR_SOURCE_REPORTING) {
		err = page_reporting_register(&g->prdev);
		if (err)
			goto err_down;
		WRITE_ONCE(g->registered, true);
	}

	mutex_lock(&g->lock);
	said = imr_hello(g);
	mutex_unlock(&g->lock);
	if (said != IMR_RET_ENOSYS)
		pr_warn("HELLO returned %ld where KVM returns %d; this may be a hypervisor through which no host hears of us\n",
			said, (int)IMR_RET_ENOSYS);
	queue_delayed_work(system_freezable_wq, &g->hello_work, 1);
	if (g->source == IMR_SOURCE_SWEEP)
		queue_delayed_work(system_freezable_wq, &g->sweep_work, 0);
	return 0;

err_down:
	mutex_lock(&g->lock);
	WRITE_ONCE(g->phase, IMR_DOWN);
	g->page = NULL;
	mutex_unlock(&g->lock);
	imr_record_free(&record);
err_free_page:
	free_page((unsigned long)page);
	return err;
}

/*
 * Waits until no batch is open; true if there is none. The phase keeps new ones from being
 * opened.
 */
static bool imr_wait_batch(struct imr_guest *g, enum imr_why why)
{
	static const unsigned int limit_ms[] = {
		[IMR_WHY_SLEEP]		= IMR_SLEEP_WAIT_MS,
		[IMR_WHY_REBOOT]	= IMR_REBOOT_WAIT_MS,
		[IMR_WHY_KEXEC]		= IMR_KEXEC_WAIT_MS,
	};

	if (why == IMR_WHY_UNLOAD) {
		wait_event_idle(g->batch_wait, !READ_ONCE(g->batch_open));
		return true;
	}
	return wait_event_idle_timeout(g->batch_wait, !READ_ONCE(g->batch_open),
				       msecs_to_jiffies(limit_ms[why]));
}

static void imr_free_pages(struct imr_guest *g, bool acknowledged)
{
	struct imr_record record;
	void *page;

	mutex_lock(&g->lock);
	page = g->page;
	record = g->record;
	g->page = NULL;
	WRITE_ONCE(g->phase, IMR_DOWN);
	mutex_unlock(&g->lock);

	imr_record_free(&record);
	if (acknowledged) {
		free_page((unsigned long)page);
		return;
	}
	pr_warn("the host did not acknowledge BYE and may still write the control page: its 4 KiB are given up\n");
	imr_count(g, IMR_STAT_LEAKED_PAGES, 1);
}

/**
 * imr_stop() - end the conversation
 * @g: the module's state
 * @why: how long the host may keep a batch that it has claimed
 *
 * No new batch, the open one withdrawn or finished, page reporting off, BYE.
 *
 * imr_start() and imr_stop() never run at the same time: load and unload exclude each other,
 * unload takes the notifiers away first, and the callers of the notifiers hold
 * system_transition_mutex.
 *
 * Return: 0; -EBUSY, with everything as it was, only for IMR_WHY_SLEEP.
 */
int imr_stop(struct imr_guest *g, enum imr_why why)
{
	bool closed, acknowledged;

	mutex_lock(&g->lock);
	if (g->phase != IMR_UP) {
		mutex_unlock(&g->lock);
		return 0;
	}
	/* Makes imr_wait() withdraw the batch at once. */
	WRITE_ONCE(g->phase, IMR_STOPPING);
	mutex_unlock(&g->lock);

	closed = imr_wait_batch(g, why);
	if (!closed && why == IMR_WHY_SLEEP) {
		pr_warn("the host holds an offer and does not answer; not going to sleep\n");
		mutex_lock(&g->lock);
		WRITE_ONCE(g->phase, IMR_UP);
		imr_kick(g, true);
		mutex_unlock(&g->lock);
		/* It may have found the phase and ended itself. */
		queue_delayed_work(system_freezable_wq, &g->hello_work, 0);
		return -EBUSY;
	}

	cancel_delayed_work_sync(&g->kick_work);
	cancel_delayed_work_sync(&g->hello_work);
	cancel_delayed_work_sync(&g->compact_work);
	/* With a batch that does not end it waits for that, and then finds the phase. */
	if (closed)
		cancel_delayed_work_sync(&g->sweep_work);
	if (!closed)
		pr_warn("the host holds an offer and does not answer; its memory stays out of use\n");
	else if (g->registered)
		page_reporting_unregister(&g->prdev);
	if (closed)
		WRITE_ONCE(g->registered, false);

	acknowledged = imr_bye(g);
	/*
	 * The next kernel's memory must not be taken on a call of ours, and no reset tells the
	 * host: let the last doorbell grow too old to be acted upon. imr_ring() is silent by now.
	 */
	if (!closed && why == IMR_WHY_KEXEC)
		wait_event_idle_timeout(g->batch_wait, !READ_ONCE(g->batch_open),
					msecs_to_jiffies(IMR_CLAIM_LIFETIME_MS));
	/*
	 * The reporting worker of an unfinished batch goes on looking at the page, until the
	 * power goes.
	 */
	if (closed)
		imr_free_pages(g, acknowledged);
	return 0;
}
