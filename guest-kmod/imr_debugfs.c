// SPDX-License-Identifier: GPL-2.0-only
/*
 * /sys/kernel/debug/imr/stats: one "name value" a line, decimal but for attach_id (hexadecimal).
 *
 * The counters are those of enum imr_stat, in its order, since the module was loaded. After
 * them comes the state just now:
 *
 *	attach_id	identity of the session that last answered; 0: none
 *	mode		1 it only observes, 2 it reclaims
 *	host_fresh	1 when it answers, so batches are offered
 *	want_pages	4 KiB pages that the host would like to have
 *	answered_ms	milliseconds since an answer was last seen; -1: never
 *	compact_pages	4 KiB pages of small free blocks that it would like made part of large ones
 *	want_seq	number of the host's newest request that was taken up
 *	sweeping	1 while it is being served
 *	sweep_stopped_by what ended the last one: 0 nothing yet, 1 enough was offered, 2 there was
 *			no more, 3 no answer, 4 the host wanted no more or something else,
 *			5 unload, sleep or reboot, 6 page reporting is somebody else's,
 *			7 the guest was short of memory
 *	open_seq	the offer that is open; 0: none
 *	offer_seq	the newest offer
 *	held_pages	4 KiB pages that a sweep has allocated
 *	source		1 page reporting, 2 sweeps
 *	source_why	0 the parameter says so, 1 page reporting was nobody's, 2 it was taken
 *	registered	1 while page reporting calls us
 *	order		smallest order that is offered
 *	record_kind	1 the record is a list, 2 it is flat
 *	record_bytes	its size
 *	total_pages	memory as last published, 4 KiB pages
 *	free_pages	free memory as last published
 *	reserve_pages	free memory that is not offered: that of zones that page reporting passes
 *			over, or reserve_mib if that is more; as last published
 */
#include <linux/debugfs.h>
#include <linux/seq_file.h>

#include "imr_guest.h"

static struct dentry *imr_debugfs_dir;

static const char * const imr_stat_names[] = {
	[IMR_STAT_OFFERS]		= "offers",
	[IMR_STAT_RANGES]		= "ranges",
	[IMR_STAT_PAGES_OFFERED]	= "pages_offered",
	[IMR_STAT_PAGES_RECLAIMED]	= "pages_reclaimed",
	[IMR_STAT_PAGES_KEPT]		= "pages_kept",
	[IMR_STAT_PAGES_REFUSED]	= "pages_refused",
	[IMR_STAT_PAGES_UNANSWERED]	= "pages_unanswered",
	[IMR_STAT_RANGES_SMALL]		= "ranges_small",
	[IMR_STAT_RANGES_BEYOND]	= "ranges_beyond",
	[IMR_STAT_DONE]			= "done",
	[IMR_STAT_ABANDONED]		= "abandoned",
	[IMR_STAT_REVOKED]		= "revoked",
	[IMR_STAT_REVOKE_LOST]		= "revoke_lost",
	[IMR_STAT_RINGS]		= "rings",
	[IMR_STAT_HELLOS]		= "hellos",
	[IMR_STAT_BYES]			= "byes",
	[IMR_STAT_ANSWERED]		= "answered",
	[IMR_STAT_ATTACHES]		= "attaches",
	[IMR_STAT_HOST_LOST]		= "host_lost",
	[IMR_STAT_NO_HOST]		= "no_host",
	[IMR_STAT_HELD]			= "held",
	[IMR_STAT_KICKS]		= "kicks",
	[IMR_STAT_KICK_BUSY]		= "kick_busy",
	[IMR_STAT_LEAKED_PAGES]		= "leaked_pages",
	[IMR_STAT_SWEEPS]		= "sweeps",
	[IMR_STAT_SWEPT_BLOCKS]		= "swept_blocks",
	[IMR_STAT_SWEEP_PASSES]		= "sweep_passes",
	[IMR_STAT_COMPACTIONS]		= "compactions",
	[IMR_STAT_COMPACTED_BLOCKS]	= "compacted_blocks",
	[IMR_STAT_COMPACT_FAILED]	= "compact_failed",
	[IMR_STAT_FOR_RESERVE]		= "for_reserve",
	[IMR_STAT_FOR_DELAY]		= "for_delay",
	[IMR_STAT_PRESSED]		= "pressed",
	[IMR_STAT_PRESSED_PAGES]	= "pressed_pages",
	[IMR_STAT_STRAYS]		= "strays",
	[IMR_STAT_WAIT_US_TOTAL]	= "wait_us_total",
	[IMR_STAT_WAIT_US_MAX]		= "wait_us_max",
};

static_assert(ARRAY_SIZE(imr_stat_names) == IMR_STAT_COUNT);

static void imr_state_show(struct seq_file *m, struct imr_guest *g)
{
	struct imr_guest_half *guest = &g->page->guest;
	s64 answered = -1;

	imr_look(g);
	if (g->answered_ns)
		answered = (ktime_get_ns() - g->answered_ns) / NSEC_PER_MSEC;
	seq_printf(m, "attach_id %llx\n", READ_ONCE(g->page->host.attach_id));
	seq_printf(m, "mode %u\n", READ_ONCE(g->page->host.mode));
	seq_printf(m, "host_fresh %d\n", g->host_fresh);
	seq_printf(m, "want_pages %llu\n", READ_ONCE(g->page->host.want_pages));
	seq_printf(m, "compact_pages %llu\n", READ_ONCE(g->page->host.compact_pages));
	seq_printf(m, "want_seq %llu\n", g->want.seq);
	seq_printf(m, "sweeping %d\n", g->sweeping);
	seq_printf(m, "sweep_stopped_by %d\n", g->sweep_end);
	seq_printf(m, "answered_ms %lld\n", answered);
	seq_printf(m, "open_seq %llu\n", g->batch_open ? READ_ONCE(guest->offer_seq) : 0);
	seq_printf(m, "offer_seq %llu\n", READ_ONCE(guest->offer_seq));
	seq_printf(m, "held_pages %ld\n", atomic_long_read(&g->sweeper.held));
	seq_printf(m, "source %d\n", g->source);
	seq_printf(m, "source_why %d\n", g->source_why);
	seq_printf(m, "registered %d\n", READ_ONCE(g->registered));
	seq_printf(m, "order %u\n", g->order);
	seq_printf(m, "record_kind %u\n", g->record.kind);
	seq_printf(m, "record_bytes %llu\n", g->record.size);
	seq_printf(m, "total_pages %llu\n", guest->total_pages);
	seq_printf(m, "free_pages %llu\n", guest->free_pages);
	seq_printf(m, "reserve_pages %llu\n", guest->reserve_pages);
}

static int imr_stats_show(struct seq_file *m, void *unused)
{
	struct imr_guest *g = m->private;
	unsigned int i;

	for (i = 0; i < IMR_STAT_COUNT; i++)
		seq_printf(m, "%s %lld\n", imr_stat_names[i], (s64)atomic64_read(&g->stats[i]));
	mutex_lock(&g->lock);
	if (g->page)
		imr_state_show(m, g);
	mutex_unlock(&g->lock);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(imr_stats);

/**
 * imr_debugfs_init() - make the statistics readable
 * @g: the module's state, which outlives imr_debugfs_exit()
 *
 * Without debugfs the module works the same, so a failure is none of ours.
 */
void imr_debugfs_init(struct imr_guest *g)
{
	imr_debugfs_dir = debugfs_create_dir("imr", NULL);
	debugfs_create_file("stats", 0400, imr_debugfs_dir, g, &imr_stats_fops);
}

/**
 * imr_debugfs_exit() - take the statistics away; waits for readers
 */
void imr_debugfs_exit(void)
{
	debugfs_remove_recursive(imr_debugfs_dir);
}
