// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * See memory.h.
 *
 * The store buffer is that of a TSO processor: first in, first out; a thread's load sees what is
 * in its own; a barrier empties it. How long a store stays in it is a matter of chance.
 */
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "memory.h"

#define BUFFERED	16

struct store {
	void *at;
	uint64_t value;
	size_t size;
	int order;
};

static _Thread_local struct {
	uint64_t chance;
	unsigned int without;
	unsigned int count;
	struct store stores[BUFFERED];
} this;

void shim_begin(uint64_t seed, unsigned int without)
{
	this.chance = seed | 1;
	this.without = without;
	this.count = 0;
}

/* xorshift64* */
uint64_t shim_random(void)
{
	this.chance ^= this.chance >> 12;
	this.chance ^= this.chance << 25;
	this.chance ^= this.chance >> 27;
	return this.chance * 0x2545f4914f6cdd1dULL >> 16;
}

static void spin(uint64_t turns)
{
	while (turns--)
		__asm__ volatile("pause" ::: "memory");
}

void shim_step(void)
{
	uint64_t chance = shim_random();

	/* Mostly none: what is to be met by chance is met by trying often. */
	if (chance % 16)
		return;
	chance /= 16;
	if (chance % 8 < 5) {
		spin(chance / 8 % 64);
	} else if (chance % 8 < 7) {
		spin(chance / 8 % 512);
	} else if (chance / 8 % 64) {
		sched_yield();
	} else {
		struct timespec wait = { .tv_nsec = chance / 512 % 50000 };

		nanosleep(&wait, NULL);
	}
}

static void put(const struct store *store)
{
	bool release = store->order == __ATOMIC_RELEASE;

	/* The order has to be a constant, or it is taken for the strongest. */
	switch (store->size) {
#define PUT(bytes, type) \
	case bytes: \
		if (release) \
			__atomic_store_n((type *)store->at, (type)store->value, __ATOMIC_RELEASE); \
		else \
			__atomic_store_n((type *)store->at, (type)store->value, __ATOMIC_RELAXED); \
		break
	PUT(1, uint8_t);
	PUT(4, uint32_t);
	PUT(8, uint64_t);
	default:
		abort();
	}
}

/* Has the @some oldest stores seen. */
static void drain(unsigned int some)
{
	unsigned int i;

	for (i = 0; i < some; i++)
		put(&this.stores[i]);
	this.count -= some;
	for (i = 0; i < this.count; i++)
		this.stores[i] = this.stores[i + some];
}

void shim_drain(void)
{
	drain(this.count);
}

void shim_mb(void)
{
	shim_step();
	if (this.without & SHIM_NO_MB)
		return;
	shim_drain();
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void shim_store(void *at, size_t size, uint64_t value, int order)
{
	shim_step();
	if (this.count == BUFFERED)
		drain(1);
	this.stores[this.count++] = (struct store){ at, value, size, order };
	if (shim_random() % 4)
		shim_drain();
}

/* As much of the buffer is emptied as chance and what is read next ask for. */
static void before_load(const void *at, size_t size)
{
	const char *from = at, *to = from + size;
	unsigned int i;

	if (!this.count)
		return;
	for (i = 0; i < this.count; i++) {
		const char *mine = this.stores[i].at;

		if (mine < to && from < mine + this.stores[i].size) {
			shim_drain();
			return;
		}
	}
	drain(shim_random() % (this.count + 1));
}

static uint64_t get(const void *at, size_t size, bool acquire)
{
	switch (size) {
#define GET(bytes, type) \
	case bytes: \
		return acquire ? __atomic_load_n((const type *)at, __ATOMIC_ACQUIRE) \
			       : __atomic_load_n((const type *)at, __ATOMIC_RELAXED)
	GET(1, uint8_t);
	GET(4, uint32_t);
	GET(8, uint64_t);
	default:
		abort();
	}
}

uint64_t shim_load(const void *at, size_t size, int order)
{
	shim_step();
	before_load(at, size);
	return get(at, size, order == __ATOMIC_ACQUIRE && !(this.without & SHIM_NO_ACQUIRE));
}

void shim_copy(void *to, const void *from, size_t size)
{
	char *out = to;
	const char *in = from;

	shim_step();
	before_load(from, size);
	while (size) {
		size_t bytes = size >= 8 && !((uintptr_t)in % 8) ? 8 : 1;
		uint64_t value = get(in, bytes, true);

		__builtin_memcpy(out, &value, bytes);
		in += bytes;
		out += bytes;
		size -= bytes;
		/* The kernel's copy may be interrupted anywhere. */
		if (!((uintptr_t)in % 128))
			shim_step();
	}
}
