/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* For a user-space compiler: what the handshake takes from the kernel's header of this name. */
#ifndef IMR_SHIM_TYPES_H
#define IMR_SHIM_TYPES_H

#include <stdbool.h>
#include <stdint.h>

typedef uint8_t __u8;
typedef uint32_t __u32;
typedef uint64_t __u64;
typedef __u8 u8;
typedef __u32 u32;
typedef __u64 u64;

#endif
