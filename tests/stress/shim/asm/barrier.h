/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* For a user-space compiler: what the handshake takes from the kernel's header of this name. */
#ifndef IMR_SHIM_BARRIER_H
#define IMR_SHIM_BARRIER_H

#include "../memory.h"

#define virt_mb() shim_mb()
#define virt_load_acquire(at) \
	((__typeof__(*(at)))shim_load((const void *)(at), sizeof(*(at)), __ATOMIC_ACQUIRE))
#define virt_store_release(at, value) \
	shim_store((void *)(at), sizeof(*(at)), (uint64_t)(value), __ATOMIC_RELEASE)

#endif
