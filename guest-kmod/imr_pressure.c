// SPDX-License-Identifier: GPL-2.0-only
/*
 * A guest that runs short of memory gets back what a sweep has allocated: by a shrinker, and once
 * more before the OOM killer is called. Page reporting has no need of it: its batches are as
 * large, but the kernel's own.
 *
 * Whoever needs the memory waits a little for the batch. A host that has not begun with it loses
 * it at once; one that has finishes first.
 */
#include <linux/mm.h>
#include <linux/notifier.h>
#include <linux/oom.h>
#include <linux/shrinker.h>

#include "imr_compat.h"
#include "imr_guest.h"

#define IMR_SHRINK_WAIT_MS	50
#define IMR_OOM_WAIT_MS		1000
/* For so long after it was short of memory the guest is left alone. */
#define IMR_CALM_MS		10000

/* Whom shrinker and OOM notifier speak to; constant while they are registered. */
static struct imr_guest *imr_pressed_guest;
static struct shrinker *imr_shrinker;

/* Ends the sweep; returns how many pages are free within @wait_ms for it. */
static unsigned long imr_give_back(unsigned long wait_ms)
{
	struct imr_guest *g = imr_pressed_guest;
	struct imr_sweeper *s = &g->sweeper;
	long held = atomic_long_read(&s->held), left;

	WRITE_ONCE(s->pressed_ns, ktime_get_ns());
	imr_count(g, IMR_STAT_PRESSED, 1);
	if (held <= 0)
		return 0;
	wait_event_idle_timeout(g->batch_wait, !atomic_long_read(&s->held),
				msecs_to_jiffies(wait_ms));
	left = atomic_long_read(&s->held);
	if (left >= held)
		return 0;
	imr_count(g, IMR_STAT_PRESSED_PAGES, held - left);
	return held - left;
}

static unsigned long imr_shrink_count(struct shrinker *shrinker, struct shrink_control *sc)
{
	struct imr_guest *g = imr_pressed_guest;

	/* Nobody waits a second time for a batch that the host holds on to. */
	return imr_is_pressed(g) ? 0 : atomic_long_read(&g->sweeper.held);
}

static unsigned long imr_shrink_scan(struct shrinker *shrinker, struct shrink_control *sc)
{
	unsigned long freed = imr_give_back(IMR_SHRINK_WAIT_MS);

	return freed ? freed : SHRINK_STOP;
}

static int imr_oom_notify(struct notifier_block *nb, unsigned long unused, void *freed)
{
	*(unsigned long *)freed += imr_give_back(IMR_OOM_WAIT_MS);
	return NOTIFY_OK;
}

static struct notifier_block imr_oom_notifier = {
	.notifier_call = imr_oom_notify,
};

/**
 * imr_is_calm() - whether the guest was not short of memory for long enough to sweep again
 * @g: the module's state
 *
 * Then imr_is_pressed() is over, unless memory becomes short just now.
 *
 * Context: @sweep_work.
 * Return: whether it is calm.
 */
bool imr_is_calm(struct imr_guest *g)
{
	u64 said = READ_ONCE(g->sweeper.pressed_ns);

	if (!said)
		return true;
	/* Another CPU's clock may be a little ahead of ours. */
	if ((s64)(ktime_get_ns() - said) < (s64)imr_ms(IMR_CALM_MS))
		return false;
	return cmpxchg(&g->sweeper.pressed_ns, said, 0) == said;
}

/**
 * imr_pressure_init() - have sweeps end when memory is short
 * @g: the module's state, after imr_alloc_init() and before imr_start()
 *
 * Return: 0 or -ENOMEM.
 */
int imr_pressure_init(struct imr_guest *g)
{
	imr_pressed_guest = g;
	imr_shrinker = imr_shrinker_start(imr_shrink_count, imr_shrink_scan);
	if (!imr_shrinker)
		return -ENOMEM;
	/* It cannot fail (blocking_notifier_chain_register()). */
	register_oom_notifier(&imr_oom_notifier);
	return 0;
}

/**
 * imr_pressure_exit() - undo imr_pressure_init(); nothing where it was not done
 */
void imr_pressure_exit(void)
{
	if (!imr_shrinker)
		return;
	unregister_oom_notifier(&imr_oom_notifier);
	imr_shrinker_end(imr_shrinker);
	imr_shrinker = NULL;
}
