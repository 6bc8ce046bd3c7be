/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/* For a user-space compiler: what imr_abi.h takes from the kernel's header of this name. */
#include <stddef.h>
