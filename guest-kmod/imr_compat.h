/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences between kernel versions. No other file may depend on the version; where a
 * difference can be told without asking for it, it is.
 */
#ifndef IMR_COMPAT_H
#define IMR_COMPAT_H

#include <linux/kernel.h>
#include <linux/mmzone.h>

/*
 * The largest order that the buddy allocator has. MAX_ORDER was one more than that up to 6.3,
 * the order itself from 6.4, and became MAX_PAGE_ORDER in 6.8. The array of the orders had
 * their number all the time.
 */
#define IMR_TOP_ORDER	((unsigned int)ARRAY_SIZE(((struct zone *)NULL)->free_area) - 1)

#endif /* IMR_COMPAT_H */
