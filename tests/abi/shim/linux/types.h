/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* For a user-space compiler: what imr_abi.h takes from the kernel's header of this name. */
#ifndef IMR_SHIM_TYPES_H
#define IMR_SHIM_TYPES_H

#include <stdint.h>

typedef uint8_t __u8;
typedef uint32_t __u32;
typedef uint64_t __u64;

#endif
