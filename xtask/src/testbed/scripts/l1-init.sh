#!/bin/busybox sh
# PID 1 of L1, the KVM host of the testbed. Mounts, loads kvm, starts the guests, runs the host script.
# In: /etc/imr/config (shell variables), /imr/host-script when there is one. Out: the lines on imr.events
# ("up", "alive", "guest N ...", "exit STATUS"), the script's output on imr.host, and on imr.saved, when there is such a port,
# what the script left in $IMR_SAVE. It never powers the machine off: who reads "exit" ends QEMU.
export PATH=/usr/local/bin:/usr/bin:/bin:/root HOME=/root SHELL=/bin/sh TERM=linux LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null
mkdir -p /dev/pts /dev/shm
mount -t devpts -o ptmxmode=666,mode=620,gid=5 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ln -sf /proc/self/fd /dev/fd
ln -sf /proc/self/fd/0 /dev/stdin
ln -sf /proc/self/fd/1 /dev/stdout
ln -sf /proc/self/fd/2 /dev/stderr
ln -sf /proc/mounts /etc/mtab
hostname imr-host
ip link set lo up

. /etc/imr/config
mkdir -p "$IMR_SAVE"
. /imr/ports.sh
while read -r module options; do
    case $module in
    */kvm-amd.ko) grep -qw svm /proc/cpuinfo || continue ;;
    */kvm-intel.ko) grep -qw vmx /proc/cpuinfo || continue ;;
    esac
    # shellcheck disable=SC2086 # options are words
    insmod "$module" $options || echo "imr: insmod $module failed" >/dev/kmsg
done </etc/imr/modules

# shellcheck disable=SC2086 # names are words
ports $IMR_PORTS

mkdir -p /run/imr/thp /run/imr/hugetlb
mount -t tmpfs -o huge=always,size=100% tmpfs /run/imr/thp
mount -t hugetlbfs hugetlbfs /run/imr/hugetlb
mkfifo /run/imr/events
# Held open: what is written to a FIFO that nobody else has open (cat may not be that far) is gone.
exec 8<>/run/imr/events
# A virtio port has one opener; everybody else writes to the FIFO. The other way come the terminal's sizes.
exec 7<>/dev/virtio-ports/imr.events
cat <>/run/imr/events >&7 &
while :; do
    # End of file until the other side of the port is open.
    read -r request rows columns <&7 || { usleep 50000; continue; }
    [ "$request" != winsize ] || stty -F /dev/hvc0 rows "$rows" cols "$columns"
done &
exec 7>&-
event() { echo "$*" 1<>/run/imr/events; }

# An archive of the plain files in $IMR_SAVE as lines of base64, then "end STATUS COUNT": whether packing went well,
# and how many links, sockets and so on are not in it. One byte more than the most is enough to tell that it is more.
saved() (
    set -o pipefail
    cd "$IMR_SAVE" && find . -type f -print0 | cpio -o -0 -H newc 2>/dev/null | head -c $((IMR_SAVE_MOST + 1)) | base64 -w 4000
    echo "end $? $(find . ! -type f ! -type d | wc -l)"
)

if [ ! -c /dev/kvm ]; then
    event "fail no /dev/kvm in L1: its CPU shows neither svm nor vmx, or the kvm module did not load"
fi

# A swap file on the disk that QEMU has for it (testbed/swap.rs), known by its serial number.
swap() {
    modprobe virtio_blk && serial=$(grep -lx imr-swap /sys/block/vd*/serial) || return
    disk=${serial%/serial}
    mkdir -p /run/imr/swap && mount -t ext4 "/dev/${disk##*/}" /run/imr/swap || return
    fallocate -l $((IMR_SWAP_MIB << 20)) /run/imr/swap/file && chmod 600 /run/imr/swap/file || return
    mkswap /run/imr/swap/file >/dev/null && swapon /run/imr/swap/file
}
if [ -n "$IMR_SWAP_MIB" ]; then
    problem=$(swap 2>&1) || event "fail no swap in L1: $(echo $problem)"
fi
event up
while sleep 10; do event alive; done &

guests=$(seq 1 "$IMR_GUESTS")
if [ "$IMR_AUTOSTART" = 1 ]; then
    for n in $guests; do
        guest start "$n" >/dev/null || event "fail guest $n did not start"
    done
fi

status=0
cd /root || exit 1
if [ -n "$IMR_INTERACTIVE" ]; then
    # The user's terminal is the console hvc0. It is held open: hvc forgets the size with the last close.
    exec 6<>/dev/hvc0
    stty rows "$IMR_ROWS" cols "$IMR_COLS" <&6
    export TERM="$IMR_TERM"
    event interactive
    setsid -c sh /imr/host-script </dev/hvc0 >/dev/hvc0 2>&1
    status=$?
elif [ -e /imr/host-script ]; then
    sh /imr/host-script >/dev/virtio-ports/imr.host 2>&1 </dev/null
    status=$?
    event "script $status"
    if [ -e /dev/virtio-ports/imr.saved ]; then
        saved >/dev/virtio-ports/imr.saved || event "fail the port imr.saved cannot be written"
    fi
fi

if [ -z "$IMR_INTERACTIVE" ]; then
    for n in $guests; do
        [ -d "/run/imr/guest$n" ] || continue
        # The host script may have given up on a guest that hung at boot: it never ends.
        [ "$status" = 0 ] || [ "$(guest boots "$n")" -gt 0 ] || continue
        if [ -n "$IMR_GUEST_SCRIPT" ]; then
            # Without a status, the host script had its guest ended on purpose: that is for it to judge.
            guest wait "$n" || [ "$status" != 0 ] || [ -e /imr/host-script -a ! -e "/run/imr/guest$n/status" ] || status=1
        elif [ ! -e /imr/host-script ]; then
            guest up "$n" || [ "$status" != 0 ] || status=1
        fi
    done
fi
event "exit $status"
while :; do wait; sleep 3600; done
