/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * As much of the kernel's interfaces as guest-kmod/imr_record.c and imr_handshake.c need, for a program in user space.
 * What runs while instructions are counted is short: a struct page is its address, and sort() is a
 * bottom-up heapsort, as the kernel's is.
 */
#ifndef BENCH_KERNEL_H
#define BENCH_KERNEL_H

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint8_t u8, __u8;
typedef uint32_t u32, __u32;
typedef unsigned long long u64, __u64;
typedef long long s64;

#define PAGE_SHIFT 12
#define PAGE_SIZE (1UL << PAGE_SHIFT)
#define NSEC_PER_MSEC 1000000L
#define PAGE_REPORTING_CAPACITY 32
#define MAX_NR_ZONES 1
#define GFP_KERNEL 0
#define __GFP_ZERO 0
#define __GFP_NOWARN 0
#define __GFP_RETRY_MAYFAIL 0

#define __aligned(bytes) __attribute__((aligned(bytes)))
#define WRITE_ONCE(x, value) (*(volatile __typeof__(x) *)&(x) = (value))
#define READ_ONCE(x) (*(volatile __typeof__(x) *)&(x))
/* x86 keeps loads and stores in order by itself, but for a store before a load. */
#define virt_store_release(p, value) __atomic_store_n(p, value, __ATOMIC_RELEASE)
#define virt_load_acquire(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define virt_mb() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define BUILD_BUG_ON(wrong) _Static_assert(!(wrong), #wrong)
#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define DIV_ROUND_UP(n, by) (((n) + (by) - 1) / (by))
#define max(a, b) ((a) > (b) ? (a) : (b))
#define pr_warn(...) fprintf(stderr, __VA_ARGS__)
#define pr_warn_once pr_warn

typedef struct {
	s64 counter;
} atomic64_t;
typedef struct {
	int counter;
} atomic_t;
typedef struct {
	long counter;
} atomic_long_t;
struct list_head {
	struct list_head *next, *prev;
};
struct work_struct {
	long data;
};
struct delayed_work {
	struct work_struct work;
};
struct mutex {
	int owner;
};
typedef struct {
	int lock;
} wait_queue_head_t;
struct seq_file;
struct page;

static inline void atomic64_add(s64 n, atomic64_t *v)
{
	__atomic_fetch_add(&v->counter, n, __ATOMIC_RELAXED);
}

struct scatterlist {
	u64 gpa;
	unsigned int length;
};

struct page_reporting_dev_info {
	int (*report)(struct page_reporting_dev_info *prdev, struct scatterlist *sgl, unsigned int nents);
	struct delayed_work work;
	atomic_t state;
	unsigned int order;
};

#define for_each_sg(sgl, sg, nents, i) for (i = 0, sg = (sgl); i < (nents); i++, sg++)

static inline struct page *sg_page(struct scatterlist *sg)
{
	return (struct page *)(unsigned long)sg->gpa;
}

static inline u64 page_to_phys(struct page *page)
{
	return (unsigned long)page;
}

/* The record's address is in the control page only; nobody looks there. */
static inline u64 virt_to_phys(const void *at)
{
	return (unsigned long)at;
}

static inline unsigned int get_order(unsigned long size)
{
	size = (size - 1) >> PAGE_SHIFT;
	return size ? 64 - __builtin_clzl(size) : 0;
}

/* One node with one zone, which ends where the program says. */
struct zone {
	unsigned long end_pfn;
};
struct node {
	struct zone node_zones[MAX_NR_ZONES];
};
extern struct node bench_node;
#define NODE_DATA(number) (&bench_node)
#define for_each_online_node(node) for (node = 0; node < 1; node++)
#define populated_zone(zone) ((zone)->end_pfn != 0)
#define zone_end_pfn(zone) ((zone)->end_pfn)

static inline void *alloc_pages_exact(size_t size, int flags)
{
	size_t whole = DIV_ROUND_UP(size, PAGE_SIZE) * PAGE_SIZE;
	void *at = aligned_alloc(PAGE_SIZE, whole);

	(void)flags;
	return at ? memset(at, 0, whole) : NULL;
}

static inline unsigned long get_zeroed_page(int flags)
{
	return (unsigned long)alloc_pages_exact(PAGE_SIZE, flags);
}

static inline void free_pages_exact(void *at, size_t size)
{
	(void)size;
	free(at);
}

static inline void bench_swap(char *a, char *b, size_t size)
{
	for (; size; size -= 8, a += 8, b += 8) {
		u64 word = *(u64 *)a;

		*(u64 *)a = *(u64 *)b;
		*(u64 *)b = word;
	}
}

/* Elements of a multiple of eight bytes. */
static void __attribute__((noinline)) sort(void *base, size_t count, size_t size,
					   int (*cmp)(const void *, const void *), void *swap)
{
	size_t build = count / 2, last = count;
	char *at = base;

	(void)swap;
	while (last > 1) {
		size_t root, child;

		if (build)
			build--;
		else
			bench_swap(at, at + --last * size, size);
		/* Down to a leaf by the larger child, then up to where the root belongs. */
		for (root = build; (child = 2 * root + 1) + 1 < last;)
			root = cmp(at + child * size, at + (child + 1) * size) >= 0 ? child : child + 1;
		if (child < last)
			root = child;
		while (root != build && cmp(at + build * size, at + root * size) >= 0)
			root = (root - 1) / 2;
		for (child = root; root != build;) {
			root = (root - 1) / 2;
			bench_swap(at + root * size, at + child * size, size);
		}
	}
}

#endif
