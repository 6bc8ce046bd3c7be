/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* For a user-space compiler: what imr_abi.h takes from the kernel's header of this name. */
#ifndef IMR_SHIM_BUILD_BUG_H
#define IMR_SHIM_BUILD_BUG_H

#define static_assert(condition) _Static_assert(condition, #condition)

#endif
