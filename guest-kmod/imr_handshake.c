// SPDX-License-Identifier: GPL-2.0-only
/*
 * The guest's steps of the handshake, see imr_handshake.h. When each is taken is its callers'
 * matter; what may never be taken before what is decided here.
 *
 * Barriers towards the host are the virt_ ones: the host is SMP even where this kernel is not.
 */
#include <linux/compiler.h>
#include <asm/barrier.h>

#include "imr_handshake.h"

/**
 * imr_page_fill() - make a page of zeros a control page
 * @page: the page; no host knows it yet
 * @gpa: where it is, guest-physical
 * @cookie: random, not zero
 * @record: what offers will be described in
 */
void imr_page_fill(struct imr_control_page *page, u64 gpa, u64 cookie,
		   const struct imr_record *record)
{
	struct imr_guest_half *half = &page->guest;

	half->abi_version = IMR_ABI_VERSION;
	half->record_kind = record->kind;
	half->cookie = cookie;
	half->own_gpa = gpa;
	half->record_gpa = record->gpa;
	half->record_size = record->size;
	half->flat_order = record->kind == IMR_RECORD_FLAT ? record->order : 0;
	/* The page is valid from here on, so this comes last. */
	virt_store_release(&half->magic, IMR_MAGIC);
}

/**
 * imr_page_retire() - the control page is none any more; BYE has to follow
 * @page: the control page
 */
void imr_page_retire(struct imr_control_page *page)
{
	/* No later call may find the page valid. */
	virt_store_release(&page->guest.magic, 0);
}

/**
 * imr_page_call() - get the control page ready for a hypercall, which has to follow
 * @page: the control page; no other call is being made
 *
 * Return: the cookie that the hypercall carries.
 */
u64 imr_page_call(struct imr_control_page *page)
{
	struct imr_guest_half *half = &page->guest;

	WRITE_ONCE(half->heartbeat, half->heartbeat + 1);
	/* The host reads the page when it hears of the call: all of it has to be there by then. */
	virt_mb();
	return half->cookie;
}

/**
 * imr_host_read() - see who answers
 * @page: the control page
 * @word: is filled in
 */
void imr_host_read(const struct imr_control_page *page, struct imr_host_word *word)
{
	const struct imr_host_half *half = &page->host;

	/* What the host wrote before it raised the heartbeat has to be read after it. */
	word->beat = virt_load_acquire(&half->heartbeat);
	word->attach = READ_ONCE(half->attach_id);
	word->mode = READ_ONCE(half->mode);
}

/**
 * imr_host_left() - whether the host has acknowledged BYE
 * @page: the control page
 *
 * Return: true when it has: the host will not write the page again.
 */
bool imr_host_left(const struct imr_control_page *page)
{
	/* The host's last word: every other write of its own is older. */
	return !virt_load_acquire(&page->host.attach_id);
}

static void imr_list_write(struct imr_control_page *page, const struct imr_record *record,
			   const struct imr_range *batch, unsigned int count)
{
	struct imr_list_entry *entry = record->at;
	unsigned int i;

	for (i = 0; i < count; i++) {
		WRITE_ONCE(entry[i].gpa, batch[i].gpa);
		WRITE_ONCE(entry[i].order, batch[i].order);
		WRITE_ONCE(entry[i].next, i + 1 < count ? i + 1 : IMR_LIST_END);
	}
	WRITE_ONCE(page->guest.offer_head, 0);
}

static u64 imr_flat_block(const struct imr_record *record, u64 gpa)
{
	/* PAGE_SHIFT of x86: the contract's pages have 4 KiB. */
	return gpa >> (12 + record->order);
}

/**
 * imr_flat_last() - where a range ends in a flat record
 * @record: the record
 * @range: the range, of the record's order at least
 *
 * Return: the number of its last block.
 */
u64 imr_flat_last(const struct imr_record *record, const struct imr_range *range)
{
	return imr_flat_block(record, range->gpa) + (1ULL << (range->order - record->order)) - 1;
}

static void imr_flat_write(struct imr_control_page *page, const struct imr_record *record,
			   const struct imr_range *batch, unsigned int count)
{
	u8 *bytes = record->at;
	unsigned int i;

	for (i = 0; i < count; i++)
		WRITE_ONCE(bytes[imr_flat_block(record, batch[i].gpa)], batch[i].order + 1);
	WRITE_ONCE(page->guest.offer_head, imr_flat_block(record, batch[0].gpa));
	WRITE_ONCE(page->guest.offer_last, imr_flat_last(record, &batch[count - 1]));
}

/**
 * imr_describe() - write the ranges of an offer into the record
 * @page: the control page; no offer is open
 * @record: its record
 * @batch: the ranges, in the order in which the host is to answer: for a flat record, by address
 * @count: their number, 1 to IMR_MAX_RANGES
 */
void imr_describe(struct imr_control_page *page, const struct imr_record *record,
		  const struct imr_range *batch, unsigned int count)
{
	if (record->kind == IMR_RECORD_FLAT)
		imr_flat_write(page, record, batch, count);
	else
		imr_list_write(page, record, batch, count);
}

/**
 * imr_undescribe() - take the ranges of an offer that has ended out of the record
 * @record: the record
 * @batch: the ranges
 * @count: their number
 *
 * A list is written anew for each offer, a flat record is not.
 */
void imr_undescribe(const struct imr_record *record, const struct imr_range *batch,
		    unsigned int count)
{
	u8 *bytes = record->at;
	unsigned int i;

	if (record->kind != IMR_RECORD_FLAT)
		return;
	for (i = 0; i < count; i++)
		WRITE_ONCE(bytes[imr_flat_block(record, batch[i].gpa)], 0);
}

/**
 * imr_publish() - open an offer
 * @page: the control page
 * @count: how many ranges imr_describe() was given; they are out of the allocator
 *
 * Return: the offer's sequence number. Its ranges stay out of the allocator until
 *	imr_offer_look() says that they are ours again.
 */
u64 imr_publish(struct imr_control_page *page, unsigned int count)
{
	struct imr_guest_half *half = &page->guest;
	u64 seq = half->offer_seq + 1;

	WRITE_ONCE(half->offer_count, count);
	/* The record, and where in it the ranges are, before the number that makes them valid. */
	virt_store_release(&half->offer_seq, seq);
	return seq;
}

static enum imr_fate imr_answer(const struct imr_control_page *page, u64 seq)
{
	const struct imr_host_half *half = &page->host;

	/* The results, and the host's last touch of the ranges, come before the number. */
	if (virt_load_acquire(&half->done_seq) == seq)
		return IMR_DONE;
	/* The same: nothing of the batch is touched after this. */
	if (virt_load_acquire(&half->abandon_seq) == seq)
		return IMR_ABANDONED;
	return IMR_PENDING;
}

static enum imr_fate imr_revoke(struct imr_control_page *page, u64 seq)
{
	WRITE_ONCE(page->guest.revoke_seq, seq);
	/*
	 * Pairs with the host's fence between its claim_seq and its look at revoke_seq: at
	 * least one of the two sees the other's store, so either it abandons the batch or we
	 * wait for it.
	 */
	virt_mb();
	return READ_ONCE(page->host.claim_seq) != seq ? IMR_REVOKED : IMR_HELD;
}

/**
 * imr_offer_look() - see what has become of the open offer
 * @page: the control page
 * @seq: what imr_publish() returned
 * @withdraw: withdraw it if there is no answer; not again after IMR_HELD
 *
 * Return: see enum imr_fate. After IMR_PENDING and IMR_HELD the offer is still open.
 */
enum imr_fate imr_offer_look(struct imr_control_page *page, u64 seq, bool withdraw)
{
	enum imr_fate fate = imr_answer(page, seq);

	if (fate == IMR_PENDING && withdraw)
		fate = imr_revoke(page, seq);
	return fate;
}

/**
 * imr_result() - what the host did with a range of an offer
 * @page: the control page; imr_offer_look() has returned IMR_DONE
 * @index: the range's place in the batch
 *
 * Return: IMR_RESULT_*, or anything else that the host wrote.
 */
u8 imr_result(const struct imr_control_page *page, unsigned int index)
{
	return READ_ONCE(page->host.results[index]);
}
