/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* For a user-space compiler: what the handshake takes from the kernel's header of this name. */
#ifndef IMR_SHIM_COMPILER_H
#define IMR_SHIM_COMPILER_H

#include "../memory.h"

#define __aligned(bytes) __attribute__((aligned(bytes)))

#define READ_ONCE(x) \
	((__typeof__(x))shim_load((const void *)&(x), sizeof(x), __ATOMIC_RELAXED))
#define WRITE_ONCE(x, value) \
	shim_store((void *)&(x), sizeof(x), (uint64_t)(value), __ATOMIC_RELAXED)

#endif
