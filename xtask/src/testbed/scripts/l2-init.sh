#!/bin/busybox sh
# PID 1 of an L2 guest. Mounts, loads imr_guest.ko when no guest script is given, runs the guest script.
# In: /imr/guest-script when there is one. Out: "up" and "script STATUS" on the port imr.events, the script's
# output on imr.out, and an agent on each imr.agentK. It runs again, script included, after every reset.
export PATH=/usr/local/bin:/usr/bin:/bin:/root HOME=/root SHELL=/bin/sh TERM=linux LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
ln -sf /proc/self/fd /dev/fd
. /imr/ports.sh
IMR_GUEST=$(sed -n 's/.*imr\.guest=\([0-9]*\).*/\1/p' /proc/cmdline)
export IMR_GUEST
hostname "guest$IMR_GUEST"

while read -r module options; do
    # shellcheck disable=SC2086 # options are words
    insmod "$module" $options || echo "imr: insmod $module failed" >/dev/kmsg
done </etc/imr/modules
ports imr.events imr.out imr.agent0 imr.agent1 imr.agent2 imr.agent3

exec 3>/dev/virtio-ports/imr.events
status=0
if [ ! -e /imr/guest-script ] && [ -e /imr_guest.ko ]; then
    insmod /imr_guest.ko >/dev/virtio-ports/imr.out 2>&1
    status=$?
fi
for slot in 0 1 2 3; do
    /imr/agent "/dev/virtio-ports/imr.agent$slot" 3>&- &
done
echo up >&3
if [ -e /imr/guest-script ]; then
    cd /root || exit 1
    sh /imr/guest-script >/dev/virtio-ports/imr.out 2>&1 </dev/null 3>&-
    status=$?
fi
echo "script $status" >&3
while :; do wait; sleep 3600; done
