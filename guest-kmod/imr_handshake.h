/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The guest's steps of the handshake: everything that it reads and writes of the control page and
 * the record while a host may use them, but for the statistics.
 *
 * It knows no page reporting, lock, clock or hypercall, so that a stress test can run the same
 * file in user space, against the host's real side (tests/stress). It may include only what has
 * a counterpart in tests/stress/shim.
 */
#ifndef IMR_HANDSHAKE_H
#define IMR_HANDSHAKE_H

#include <linux/types.h>

#include "imr_abi.h"

/**
 * struct imr_range - a free range that is offered
 * @gpa: where it begins, bytes, aligned to its size
 * @order: its size is PAGE_SIZE << order
 */
struct imr_range {
	u64 gpa;
	unsigned int order;
};

/**
 * struct imr_record - the memory in which offers are described, physically contiguous
 * @at: where it is
 * @gpa: the same, guest-physical
 * @size: its size, bytes
 * @kind: IMR_RECORD_LIST or IMR_RECORD_FLAT
 * @order: of a block of a flat record; no range is smaller
 */
struct imr_record {
	void *at;
	u64 gpa;
	u64 size;
	u32 kind;
	u32 order;
};

/**
 * struct imr_host_word - what the host says of itself
 * @beat: its heartbeat
 * @attach: its attach_id
 * @mode: its mode
 */
struct imr_host_word {
	u64 beat;
	u64 attach;
	u32 mode;
};

/**
 * enum imr_fate - what has become of an offer
 * @IMR_PENDING: nothing yet
 * @IMR_DONE: ours again; the host has finished it, and its results are valid
 * @IMR_ABANDONED: ours again; the host has given it back
 * @IMR_REVOKED: ours again; withdrawn before the host took it up
 * @IMR_HELD: the host's; it was to be withdrawn, but the host has taken it up and will finish or
 *	abandon it
 */
enum imr_fate {
	IMR_PENDING,
	IMR_DONE,
	IMR_ABANDONED,
	IMR_REVOKED,
	IMR_HELD
};

void imr_page_fill(struct imr_control_page *page, u64 gpa, u64 cookie,
		   const struct imr_record *record);
void imr_page_retire(struct imr_control_page *page);
u64 imr_page_call(struct imr_control_page *page);

void imr_host_read(const struct imr_control_page *page, struct imr_host_word *word);
bool imr_host_left(const struct imr_control_page *page);

u64 imr_flat_last(const struct imr_record *record, const struct imr_range *range);
void imr_describe(struct imr_control_page *page, const struct imr_record *record,
		  const struct imr_range *batch, unsigned int count);
void imr_undescribe(const struct imr_record *record, const struct imr_range *batch,
		    unsigned int count);

u64 imr_publish(struct imr_control_page *page, unsigned int count);
enum imr_fate imr_offer_look(struct imr_control_page *page, u64 seq, bool withdraw);
u8 imr_result(const struct imr_control_page *page, unsigned int index);

#endif /* IMR_HANDSHAKE_H */
