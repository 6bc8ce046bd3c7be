// SPDX-License-Identifier: GPL-2.0-only
/*
 * imr_guest: offers this guest's free memory to its KVM host, by way of free page reporting or,
 * where that is somebody else's, by sweeps of its own.
 *
 * Here: parameters, load, unload, sleep and reboot. Start and stop are in imr_session.c, what
 * is said to the host in imr_host.c, an offer's life in imr_offer.c, what the host asks for in
 * imr_sweep.c and imr_compact.c, sweeps for want of page reporting in imr_alloc.c, reserve and
 * delay in imr_priority.c. The contract between the two sides is imr_abi.h.
 */
#define pr_fmt(fmt) "imr: " fmt

#include <linux/cc_platform.h>
#include <linux/kvm_para.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/reboot.h>
#include <linux/string.h>
#include <linux/suspend.h>

#include "imr_compat.h"
#include "imr_guest.h"

#define IMR_TIMEOUT_MIN_MS	10
#define IMR_TIMEOUT_MAX_MS	60000
#define IMR_DELAY_MAX_MS	3600000

static unsigned int order = IMR_MIN_ORDER;
module_param(order, uint, 0444);
MODULE_PARM_DESC(order, "Smallest order of a free range that is offered (9, the default, is 2 MiB)");

static unsigned int timeout_ms = 1000;
module_param(timeout_ms, uint, 0444);
MODULE_PARM_DESC(timeout_ms, "Milliseconds until an unanswered offer is withdrawn (10 to 60000, default 1000)");

static char *record = "list";
module_param(record, charp, 0444);
MODULE_PARM_DESC(record, "How offers are described: list (the default), or flat, a byte for each block of memory");

static bool compact = true;
module_param(compact, bool, 0444);
MODULE_PARM_DESC(compact, "Whether free memory is compacted when the host asks for it (default 1)");

static char *source = "auto";
module_param(source, charp, 0444);
MODULE_PARM_DESC(source, "Where free memory to offer comes from: reporting (free page reporting), sweep (allocates it), or auto, the default: reporting where it can be had, else sweep");

static unsigned int reserve_mib;
module_param(reserve_mib, uint, 0444);
MODULE_PARM_DESC(reserve_mib, "Free memory that is not offered, MiB (default 0)");

static unsigned int delay_ms;
module_param(delay_ms, uint, 0444);
MODULE_PARM_DESC(delay_ms, "Milliseconds from memory becoming free to its offer, at least (0, the default, to 3600000)");

/* The host knows one control page per guest, so there is one of this. */
static struct imr_guest imr = {
	.prdev.report	= imr_report,
	.batch_wait	= __WAIT_QUEUE_HEAD_INITIALIZER(imr.batch_wait),
	.lock		= __MUTEX_INITIALIZER(imr.lock),
};

static int imr_pm_notify(struct notifier_block *nb, unsigned long event, void *unused)
{
	int err;

	switch (event) {
	case PM_HIBERNATION_PREPARE:
	case PM_SUSPEND_PREPARE:
	case PM_RESTORE_PREPARE:
		return notifier_from_errno(imr_stop(&imr, IMR_WHY_SLEEP));
	case PM_POST_HIBERNATION:
	case PM_POST_SUSPEND:
	case PM_POST_RESTORE:
		/* Another notifier may have refused before our turn. */
		if (READ_ONCE(imr.phase) != IMR_DOWN)
			break;
		err = imr_start(&imr);
		if (err)
			pr_err("could not start again after sleep (error %d): nothing is offered; load the module again\n",
			       err);
		break;
	}
	return NOTIFY_DONE;
}

static int imr_reboot_notify(struct notifier_block *nb, unsigned long event, void *cmd)
{
	/* kernel_kexec() says so in the command (6.1, 6.12); kexec_in_progress is not exported. */
	bool kexec = event == SYS_RESTART && cmd && !strcmp(cmd, "kexec reboot");

	imr_stop(&imr, kexec ? IMR_WHY_KEXEC : IMR_WHY_REBOOT);
	return NOTIFY_DONE;
}

static struct notifier_block imr_pm_notifier = {
	.notifier_call = imr_pm_notify,
};

static struct notifier_block imr_reboot_notifier = {
	.notifier_call = imr_reboot_notify,
};

/* Whether this guest and these parameters can do it at all, said in words where not. */
static int imr_check(void)
{
	if (order < IMR_MIN_ORDER || order > IMR_TOP_ORDER) {
		pr_err("order=%u is not in %u to %u\n", order, IMR_MIN_ORDER, IMR_TOP_ORDER);
		return -EINVAL;
	}
	if (timeout_ms < IMR_TIMEOUT_MIN_MS || timeout_ms > IMR_TIMEOUT_MAX_MS) {
		pr_err("timeout_ms=%u is not in %u to %u\n", timeout_ms,
		       IMR_TIMEOUT_MIN_MS, IMR_TIMEOUT_MAX_MS);
		return -EINVAL;
	}
	if (strcmp(record, "list") && strcmp(record, "flat")) {
		pr_err("record=%s is neither list nor flat\n", record);
		return -EINVAL;
	}
	if (strcmp(source, "auto") && strcmp(source, "reporting") && strcmp(source, "sweep")) {
		pr_err("source=%s is none of auto, reporting and sweep\n", source);
		return -EINVAL;
	}
	if (reserve_mib >= totalram_pages() >> (20 - PAGE_SHIFT)) {
		pr_err("reserve_mib=%u is all of this guest's memory, or more\n",
		       reserve_mib);
		return -EINVAL;
	}
	if (delay_ms > IMR_DELAY_MAX_MS) {
		pr_err("delay_ms=%u is more than %u\n", delay_ms, IMR_DELAY_MAX_MS);
		return -EINVAL;
	}
	if (!kvm_para_available()) {
		pr_err("no KVM found beneath this kernel (not a KVM guest, or KVM is hidden from it): there is no host to offer memory to\n");
		return -ENODEV;
	}
	if (cc_platform_has(CC_ATTR_GUEST_MEM_ENCRYPT)) {
		pr_err("this guest's memory is encrypted: the host can neither read offers nor take pages\n");
		return -EOPNOTSUPP;
	}
	if (page_poisoning_enabled_static()) {
		pr_err("page poisoning is on (page_poison=1): free pages must keep their pattern, and a page that the host took reads as zero\n");
		return -EOPNOTSUPP;
	}
	return 0;
}

/* What imr_begin() made, after imr_stop(). */
static void imr_end(struct imr_guest *g)
{
	imr_pressure_exit();
	imr_alloc_exit(g);
}

/* Begins with the source asked for; auto is page reporting where that is nobody's. */
static int __init imr_begin(struct imr_guest *g)
{
	bool automatic = !strcmp(source, "auto");
	int err;

	if (strcmp(source, "sweep")) {
		g->source = IMR_SOURCE_REPORTING;
		g->source_why = automatic ? IMR_SOURCE_FREE : IMR_SOURCE_ASKED;
		err = imr_start(g);
		if (err == -EBUSY && !automatic)
			pr_err("page reporting is taken, most likely by virtio-balloon: use source=auto or sweep, or start the VM with free-page-reporting=off on that device\n");
		if (err != -EBUSY || !automatic)
			return err;
	}
	if (want_init_on_free()) {
		pr_err("init_on_free is on: to free a block is to write to it, so a sweep gives nothing; source=reporting can be used where page reporting is free\n");
		return -EOPNOTSUPP;
	}
	g->source = IMR_SOURCE_SWEEP;
	g->source_why = automatic ? IMR_SOURCE_BUSY : IMR_SOURCE_ASKED;
	INIT_DELAYED_WORK(&g->sweep_work, imr_alloc_work);
	err = imr_alloc_init(g);
	if (!err)
		err = imr_pressure_init(g);
	if (!err)
		err = imr_start(g);
	if (err)
		imr_end(g);
	return err;
}

static int __init imr_init(void)
{
	static const char * const why[] = {
		[IMR_SOURCE_ASKED]	= "as asked for",
		[IMR_SOURCE_FREE]	= "as nobody else uses it",
		[IMR_SOURCE_BUSY]	= "as page reporting is taken, by virtio-balloon perhaps",
	};
	const char *name;
	int err;

	err = imr_check();
	if (err)
		return err;

	imr.order = order;
	imr.flat = !strcmp(record, "flat");
	imr.compacts = compact && IMR_HAS_CONTIG;
	/*
	 * 6.1 takes it at each registration, 6.12 only if nobody has set page_reporting_order
	 * before.
	 */
	imr.prdev.order = order;
	imr.timeout_ns = imr_ms(timeout_ms);
	INIT_DELAYED_WORK(&imr.hello_work, imr_hello_work);
	INIT_DELAYED_WORK(&imr.kick_work, imr_kick_work);
	INIT_DELAYED_WORK(&imr.sweep_work, imr_sweep_work);
	INIT_DELAYED_WORK(&imr.compact_work, imr_compact_work);
	imr.reserve_pages = (u64)reserve_mib << (20 - PAGE_SHIFT);
	imr.delay_ns = imr_ms(delay_ms);
	imr_sweep_init(&imr);
	err = imr_begin(&imr);
	if (err)
		goto err_sweep;

	err = register_reboot_notifier(&imr_reboot_notifier);
	if (err)
		goto err_stop;
	err = register_pm_notifier(&imr_pm_notifier);
	if (err)
		goto err_reboot;
	imr_debugfs_init(&imr);
	pr_info("offering free ranges of order %u and above, record %s of %llu bytes\n", order,
		imr.record.kind == IMR_RECORD_FLAT ? "flat" : "list", imr.record.size);
	name = imr.source == IMR_SOURCE_SWEEP ? "sweep" : "reporting";
	pr_info("source %s, %s\n", name, why[imr.source_why]);
	return 0;

err_reboot:
	unregister_reboot_notifier(&imr_reboot_notifier);
err_stop:
	imr_stop(&imr, IMR_WHY_UNLOAD);
	imr_end(&imr);
err_sweep:
	imr_sweep_exit(&imr);
	return err;
}
module_init(imr_init);

static void __exit imr_exit(void)
{
	imr_debugfs_exit();
	unregister_pm_notifier(&imr_pm_notifier);
	unregister_reboot_notifier(&imr_reboot_notifier);
	imr_stop(&imr, IMR_WHY_UNLOAD);
	imr_end(&imr);
	imr_sweep_exit(&imr);
}
module_exit(imr_exit);

MODULE_DESCRIPTION("Offers free guest memory to the KVM host (IMR)");
MODULE_AUTHOR("The IMR authors");
MODULE_LICENSE("GPL");
/* Its probe fails where it finds page reporting taken (-EBUSY); it cannot do without, we can. */
MODULE_SOFTDEP("pre: virtio_balloon");
