/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* For a user-space compiler: what imr_abi.h takes from the kernel's header of this name. */
#ifndef IMR_SHIM_COMPILER_H
#define IMR_SHIM_COMPILER_H

#define __aligned(bytes) __attribute__((aligned(bytes)))

#endif
