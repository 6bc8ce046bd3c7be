/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * Memory that two sides share, as an x86 processor gives it to a thread: loads and stores of the
 * compiler's atomics, a store buffer, and a random delay before each step.
 *
 * The sanitizers see the atomics, so what they report is judged by the orderings that the code
 * asks for; a full barrier that is missing, which they cannot see, shows by the store buffer.
 */
#ifndef IMR_SHIM_MEMORY_H
#define IMR_SHIM_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* What is taken away from a thread, to see the test fail. */
#define SHIM_NO_MB	1U	/* full barriers */
#define SHIM_NO_ACQUIRE	2U	/* what acquire means */

/* Before anything else in each thread: what its chances follow from, and SHIM_NO_*. */
void shim_begin(uint64_t seed, unsigned int without);

/* Another number of the thread's chances. */
uint64_t shim_random(void);

/* The random delay. */
void shim_step(void);

/* A store of 1, 4 or 8 bytes, naturally aligned. It may be seen by others at any later time. */
void shim_store(void *at, size_t size, uint64_t value, int order);

/* A load of the same; it sees the thread's own stores. */
uint64_t shim_load(const void *at, size_t size, int order);

/* Copies upwards, 8 bytes at a time where they are aligned, each as by shim_load() with acquire. */
void shim_copy(void *to, const void *from, size_t size);

/* Full barrier. */
void shim_mb(void);

/* Has all earlier stores seen, as a system call or an exit to the hypervisor has in the end. */
void shim_drain(void);

#endif
