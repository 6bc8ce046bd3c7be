/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the files of imr_guest.ko share. The contract with the host is in imr_abi.h and described in
 * imr-common/src/guest_abi.rs.
 */
#ifndef IMR_GUEST_H
#define IMR_GUEST_H

#include <linux/atomic.h>
#include <linux/ktime.h>
#include <linux/lockdep.h>
#include <linux/mutex.h>
#include <linux/page_reporting.h>
#include <linux/scatterlist.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "imr_handshake.h"

/* 2 MiB: the host takes nothing smaller. */
#define IMR_MIN_ORDER		9

/**
 * enum imr_source - where free memory to offer comes from
 * @IMR_SOURCE_REPORTING: page reporting calls imr_report()
 * @IMR_SOURCE_SWEEP: @sweep_work allocates it, offers it and frees it
 */
enum imr_source {
	IMR_SOURCE_REPORTING = 1,
	IMR_SOURCE_SWEEP
};

/**
 * enum imr_source_why - why it is that
 * @IMR_SOURCE_ASKED: the parameter says so
 * @IMR_SOURCE_FREE: page reporting was nobody's
 * @IMR_SOURCE_BUSY: page reporting was somebody else's
 */
enum imr_source_why {
	IMR_SOURCE_ASKED,
	IMR_SOURCE_FREE,
	IMR_SOURCE_BUSY
};

/**
 * enum imr_stat - what is counted, from load to unload
 * @IMR_STAT_OFFERS: batches published
 * @IMR_STAT_RANGES: ranges in them
 * @IMR_STAT_PAGES_OFFERED: 4 KiB pages in them
 * @IMR_STAT_PAGES_RECLAIMED: 4 KiB pages that the host took
 * @IMR_STAT_PAGES_KEPT: 4 KiB pages that the host left as they were
 * @IMR_STAT_PAGES_REFUSED: 4 KiB pages that the host would never take
 * @IMR_STAT_PAGES_UNANSWERED: 4 KiB pages of finished batches without a result that we know
 * @IMR_STAT_RANGES_SMALL: ranges below the order asked for, not offered
 * @IMR_STAT_RANGES_BEYOND: ranges that a flat record has no byte for, not offered
 * @IMR_STAT_DONE: batches that the host finished
 * @IMR_STAT_ABANDONED: batches that the host gave back untouched
 * @IMR_STAT_REVOKED: batches withdrawn before the host took them up
 * @IMR_STAT_REVOKE_LOST: withdrawals that came too late, so the host's answer was waited for
 * @IMR_STAT_RINGS: doorbells
 * @IMR_STAT_HELLOS: HELLOs
 * @IMR_STAT_BYES: BYEs
 * @IMR_STAT_ANSWERED: times the host's heartbeat was seen to have risen
 * @IMR_STAT_ATTACHES: times a host was seen to attach, to come back, or to change its mode
 * @IMR_STAT_HOST_LOST: times an attached host was seen to have gone silent or detached
 * @IMR_STAT_NO_HOST: reports turned down because no host answers
 * @IMR_STAT_HELD: reports turned down because the module was stopping or starting again
 * @IMR_STAT_KICKS: times page reporting was registered anew
 * @IMR_STAT_KICK_BUSY: times that failed because somebody else had registered
 * @IMR_STAT_LEAKED_PAGES: control pages given up because the host did not acknowledge BYE
 * @IMR_STAT_SWEEPS: requests of the host that were served, or begun to be
 * @IMR_STAT_SWEPT_BLOCKS: 2 MiB blocks that were made to be offered again
 * @IMR_STAT_SWEEP_PASSES: passes of page reporting that were run for it
 * @IMR_STAT_COMPACTIONS: requests of the host to compact that were taken up
 * @IMR_STAT_COMPACTED_BLOCKS: blocks of @order of struct imr_guest that were made free for them
 * @IMR_STAT_COMPACT_FAILED: blocks that could not be, as something in them cannot be moved
 * @IMR_STAT_FOR_RESERVE: reports turned down to keep the reserve
 * @IMR_STAT_FOR_DELAY: reports turned down because the delay was not over
 * @IMR_STAT_PRESSED: times memory pressure ended a sweep, or kept one from beginning
 * @IMR_STAT_PRESSED_PAGES: 4 KiB pages that a sweep gave back for that
 * @IMR_STAT_STRAYS: blocks that a sweep was given a second time, and kept to its end
 * @IMR_STAT_WAIT_US_TOTAL: microseconds from publishing a batch to its end, all batches
 * @IMR_STAT_WAIT_US_MAX: the longest of these
 * @IMR_STAT_COUNT: their number
 */
enum imr_stat {
	IMR_STAT_OFFERS,
	IMR_STAT_RANGES,
	IMR_STAT_PAGES_OFFERED,
	IMR_STAT_PAGES_RECLAIMED,
	IMR_STAT_PAGES_KEPT,
	IMR_STAT_PAGES_REFUSED,
	IMR_STAT_PAGES_UNANSWERED,
	IMR_STAT_RANGES_SMALL,
	IMR_STAT_RANGES_BEYOND,
	IMR_STAT_DONE,
	IMR_STAT_ABANDONED,
	IMR_STAT_REVOKED,
	IMR_STAT_REVOKE_LOST,
	IMR_STAT_RINGS,
	IMR_STAT_HELLOS,
	IMR_STAT_BYES,
	IMR_STAT_ANSWERED,
	IMR_STAT_ATTACHES,
	IMR_STAT_HOST_LOST,
	IMR_STAT_NO_HOST,
	IMR_STAT_HELD,
	IMR_STAT_KICKS,
	IMR_STAT_KICK_BUSY,
	IMR_STAT_LEAKED_PAGES,
	IMR_STAT_SWEEPS,
	IMR_STAT_SWEPT_BLOCKS,
	IMR_STAT_SWEEP_PASSES,
	IMR_STAT_COMPACTIONS,
	IMR_STAT_COMPACTED_BLOCKS,
	IMR_STAT_COMPACT_FAILED,
	IMR_STAT_FOR_RESERVE,
	IMR_STAT_FOR_DELAY,
	IMR_STAT_PRESSED,
	IMR_STAT_PRESSED_PAGES,
	IMR_STAT_STRAYS,
	IMR_STAT_WAIT_US_TOTAL,
	IMR_STAT_WAIT_US_MAX,
	IMR_STAT_COUNT
};

/**
 * enum imr_phase - how far the conversation with the host is
 * @IMR_DOWN: no control page; nothing is said
 * @IMR_UP: HELLO is said, batches may be opened
 * @IMR_STOPPING: no new batch; the open one is being withdrawn or waited for
 * @IMR_GONE: BYE was said; only BYE may be said again
 */
enum imr_phase {
	IMR_DOWN,
	IMR_UP,
	IMR_STOPPING,
	IMR_GONE
};

/**
 * enum imr_sweep_end - what ended the last sweep
 * @IMR_SWEEP_NONE: there was none, or it goes on
 * @IMR_SWEEP_ENOUGH: as much was offered again as the host wanted
 * @IMR_SWEEP_ALL: there was no more to offer again
 * @IMR_SWEEP_HOST: a batch did not get an answer, or no host was there any more
 * @IMR_SWEEP_CANCELLED: the host wanted nothing any more, or made a new request
 * @IMR_SWEEP_STOPPED: unload, sleep or reboot
 * @IMR_SWEEP_NO_REPORTING: page reporting is somebody else's
 * @IMR_SWEEP_PRESSED: the guest was short of memory
 */
enum imr_sweep_end {
	IMR_SWEEP_NONE,
	IMR_SWEEP_ENOUGH,
	IMR_SWEEP_ALL,
	IMR_SWEEP_HOST,
	IMR_SWEEP_CANCELLED,
	IMR_SWEEP_STOPPED,
	IMR_SWEEP_NO_REPORTING,
	IMR_SWEEP_PRESSED
};

/**
 * struct imr_survey - free memory, 4 KiB pages
 * @free: all of it
 * @marked: what is marked as offered, without what is marked to spare it
 * @unmarked: blocks of the order asked for or larger that are not
 * @offerable: blocks of the order asked for or larger without a mark, as far as their zones have
 *	more than they keep
 * @blocks: number of free blocks of that size, marked or not
 */
struct imr_survey {
	u64 free;
	u64 marked;
	u64 unmarked;
	u64 offerable;
	u64 blocks;
};

/**
 * struct imr_paced - what the reporting worker knows of reserve and delay; its own
 * @due_ns: when the delayed pass is due; 0: none is
 * @passed_ns: when a batch was last let through; 0: never
 * @spare_ns: when @spare was counted; 0: never
 * @spare: 4 KiB pages that were free and not offered then, less what was let through since
 */
struct imr_paced {
	u64 due_ns;
	u64 passed_ns;
	u64 spare_ns;
	u64 spare;
};

/**
 * struct imr_request - what a host asks for
 * @attach: its attach_id when that was taken up; 0: nothing was
 * @seq: the number of the request
 * @pages: 4 KiB pages that it asks for by now; 0: none any more
 */
struct imr_request {
	u64 attach;
	u64 seq;
	u64 pages;
};

/* Whether they are one request, of which less may be left by now. */
static inline bool imr_request_is(const struct imr_request *a, const struct imr_request *b)
{
	return a->attach == b->attach && a->seq == b->seq;
}

/**
 * struct imr_sweeper - the source sweep; @sweep_work's own, but for what says otherwise
 * @swept: a bit for each 2 MiB block, as of @taken: offered in this sweep
 * @page: the blocks of the next batch
 * @order: their orders
 * @count: their number
 * @sgl: the same for imr_report()
 * @strays: blocks that came again after they were offered; page_private() is the order
 * @stray_count: their number
 * @held: 4 KiB pages in both; atomic, @batch_wait is woken when it becomes 0
 * @pressed_ns: when the guest was last short of memory: give everything back; 0: it is not. Set by
 *	anybody
 * @settled: 4 KiB pages that could have been offered, and were not, when the last sweep ended, or
 *	at any time since
 * @grown_ns: since when there is more; 0: there is not
 * @grown: how many 4 KiB pages more, at least, all the time since
 * @look_ns: how long the last count of free memory took
 * @blocks: free blocks at the last look; U64_MAX: look again
 * @attach: the host that the last sweep was for
 * @mode: its mode
 * @want: the host's request that was served last
 * @again: the last sweep did not come to its end; under @lock
 */
struct imr_sweeper {
	unsigned long *swept;
	struct page *page[PAGE_REPORTING_CAPACITY];
	unsigned int order[PAGE_REPORTING_CAPACITY];
	unsigned int count;
	struct scatterlist sgl[PAGE_REPORTING_CAPACITY];
	struct list_head strays;
	unsigned int stray_count;
	atomic_long_t held;
	u64 pressed_ns;
	u64 settled;
	u64 grown_ns;
	u64 grown;
	u64 look_ns;
	u64 blocks;
	u64 attach;
	u32 mode;
	struct imr_request want;
	bool again;
};

/**
 * struct imr_guest - the module's whole state
 * @prdev: our registration with page reporting; passed to register and unregister only by
 *	the owner of @registered
 * @registered: @prdev is registered; owned by @kick_work, which leaves it alone while
 *	@sweeping, and by imr_start() and imr_stop() while that is not queued
 * @hello_work: says HELLO and looks for the answer; ends itself unless @phase is IMR_UP
 * @kick_work: registers with page reporting again, because it retries nothing by itself
 * @sweep_work: has page reporting offer again what was offered before; with @source sweep it
 *	looks for free memory and offers it
 * @compact_work: makes whole blocks of free memory on the host's request
 * @taken: a bit for each 2 MiB block of memory, by physical address: the host's last answer for
 *	it was that it took it. Atomic bits; NULL when there was no memory for it. Only
 *	@sweep_work changes the pointer, under @lock, which all others need to look at it
 * @taken_blocks: bits in @taken; the same
 * @spared: a bit for each 2 MiB block that was free and not offered before @unmark_due was seen to,
 *	and was marked then, so that the reserve is of these and not of what a host may have;
 *	counts only while the mark is there. Atomic bits; NULL without a reserve
 * @spared_blocks: bits in @spared; both constant after load
 * @batch_wait: woken when @batch_open becomes false
 * @stats: counters, see enum imr_stat; atomic
 * @order: smallest order offered; constant after load
 * @flat: the record is to be flat where it can be; constant after load
 * @compacts: requests to compact are served; constant after load
 * @timeout_ns: time until a batch is withdrawn; constant after load
 * @source: where free memory to offer comes from; constant after load
 * @source_why: why it is that; constant after load
 * @reserve_pages: 4 KiB pages of free memory that are not offered; constant after load
 * @delay_ns: for how long memory has to be free; constant after load
 * @paced: reserve and delay of page reporting
 * @sweeper: the source sweep
 * @lock: guards everything below. Never held while sleeping for the host
 * @phase: see enum imr_phase; also read without @lock, to end a wait early
 * @page: the control page, NULL in IMR_DOWN. Its guest half is written under @lock;
 *	imr_stop() is the only one to take it away, after nobody else can use it
 * @record: the record; written only by the owner of the open batch, lives as long as @page
 * @batch: the ranges of the open batch, in the order of the host's answers; its owner's
 * @batch_open: a batch is between imr_batch_open() and imr_batch_close()
 * @hold: no batch may be opened, because @kick_work is about to wait for the reporting worker
 * @pass_lost: a pass of page reporting ended early since the last kick
 * @sweeping: @sweep_work uses @prdev, so @kick_work may not
 * @sweep_end: what ended the last sweep
 * @want: the host's newest request for free memory that was taken up
 * @want_due: @sweep_work has not begun with it
 * @unmark_due: something may carry page reporting's mark that no host was offered that reclaims:
 *	from before imr_start(), or because the last one only observed
 * @compact: the newest request to compact
 * @host_fresh: imr_look()'s last verdict, to see it change
 * @host_beat: the host's heartbeat when last seen
 * @host_attach: the host's attach_id when last seen
 * @host_mode: the host's mode when last seen
 * @answered_ns: when @host_beat was last seen to rise; 0: never on this page
 * @hello_ns: when HELLO was last said; 0: never on this page, or the next is due at once
 * @hello_beat: @host_beat at that time
 * @call_ns: when HELLO or a doorbell was last said; 0: never on this page
 * @kick_ns: when page reporting was last registered
 * @kick_gap_ns: the least time between @kick_ns and the next kick
 */
struct imr_guest {
	struct page_reporting_dev_info prdev;
	bool registered;
	struct delayed_work hello_work;
	struct delayed_work kick_work;
	struct delayed_work sweep_work;
	struct delayed_work compact_work;
	unsigned long *taken;
	unsigned long taken_blocks;
	unsigned long *spared;
	unsigned long spared_blocks;
	wait_queue_head_t batch_wait;
	atomic64_t stats[IMR_STAT_COUNT];
	unsigned int order;
	bool flat;
	bool compacts;
	u64 timeout_ns;
	enum imr_source source;
	enum imr_source_why source_why;
	u64 reserve_pages;
	u64 delay_ns;
	struct imr_paced paced;
	struct imr_sweeper sweeper;

	struct mutex lock;	/* everything below */
	enum imr_phase phase;
	struct imr_control_page *page;
	struct imr_record record;
	struct imr_range batch[PAGE_REPORTING_CAPACITY];
	bool batch_open;
	bool hold;
	bool pass_lost;
	bool sweeping;
	enum imr_sweep_end sweep_end;
	struct imr_request want;
	bool want_due;
	bool unmark_due;
	struct imr_request compact;
	bool host_fresh;
	u64 host_beat;
	u64 host_attach;
	u32 host_mode;
	u64 answered_ns;
	u64 hello_ns;
	u64 hello_beat;
	u64 call_ns;
	u64 kick_ns;
	u64 kick_gap_ns;
};

/**
 * enum imr_why - what ends the conversation
 * @IMR_WHY_UNLOAD: the module goes; waits for a claimed batch as long as it takes
 * @IMR_WHY_SLEEP: suspend or hibernation; gives up, and goes on as before, when a claimed
 *	batch does not end
 * @IMR_WHY_REBOOT: reboot, halt or power-off; a claimed batch that does not end is left
 *	out of the allocator
 * @IMR_WHY_KEXEC: the same, with more patience: the next kernel gets this one's memory
 *	without a reset
 */
enum imr_why {
	IMR_WHY_UNLOAD,
	IMR_WHY_SLEEP,
	IMR_WHY_REBOOT,
	IMR_WHY_KEXEC
};

static inline void imr_count(struct imr_guest *g, enum imr_stat stat, u64 n)
{
	atomic64_add(n, &g->stats[stat]);
}

/* Whether a sweep has to give everything back, for the guest is short of memory. */
static inline bool imr_is_pressed(const struct imr_guest *g)
{
	return READ_ONCE(g->sweeper.pressed_ns);
}

static inline u64 imr_ms(u64 ms)
{
	return ms * NSEC_PER_MSEC;
}

/* imr_session.c */
int imr_start(struct imr_guest *g);
int imr_stop(struct imr_guest *g, enum imr_why why);
void imr_kick(struct imr_guest *g, bool anew);
void imr_kick_work(struct work_struct *work);

/* imr_host.c */
long imr_hello(struct imr_guest *g);
void imr_ring(struct imr_guest *g, u64 seq);
void imr_look(struct imr_guest *g);
bool imr_unmark_is_due(struct imr_guest *g);
bool imr_zone_left_alone(struct imr_guest *g, struct zone *zone);
void imr_hello_work(struct work_struct *work);
bool imr_bye(struct imr_guest *g);

/* imr_offer.c */
int imr_report(struct page_reporting_dev_info *prdev, struct scatterlist *sgl, unsigned int nents);

/* imr_record.c */
unsigned long imr_end_pfn(void);
int imr_record_alloc(struct imr_guest *g, struct imr_record *record);
void imr_record_free(struct imr_record *record);
unsigned int imr_record_write(struct imr_guest *g, struct scatterlist *sgl, unsigned int nents);
void imr_record_settle(struct imr_guest *g, unsigned int count);

/* imr_sweep.c */
void imr_sweep_init(struct imr_guest *g);
void imr_sweep_exit(struct imr_guest *g);
void imr_sweep_grow(struct imr_guest *g);
void imr_sweep_work(struct work_struct *work);
void imr_take(struct imr_guest *g, u64 gpa, unsigned int order, bool taken);
void imr_forget_taken(struct imr_guest *g);
bool imr_is_taken(struct imr_guest *g, unsigned long pfn);
bool imr_is_spared(struct imr_guest *g, unsigned long pfn);

/* imr_alloc.c */
int imr_alloc_init(struct imr_guest *g);
void imr_alloc_exit(struct imr_guest *g);
void imr_alloc_work(struct work_struct *work);

/* imr_pressure.c */
int imr_pressure_init(struct imr_guest *g);
void imr_pressure_exit(void);
bool imr_is_calm(struct imr_guest *g);

/* imr_priority.c */
void imr_survey(struct imr_guest *g, struct imr_survey *s);
u64 imr_offerable(struct imr_guest *g, const struct imr_survey *s);
int imr_hold_back(struct imr_guest *g, struct scatterlist *sgl, unsigned int nents);

/* imr_compact.c */
void imr_compact_work(struct work_struct *work);

/* imr_debugfs.c */
void imr_debugfs_init(struct imr_guest *g);
void imr_debugfs_exit(void);

#endif /* IMR_GUEST_H */
