# The module goes, or its guest's kernel does, with a batch open: unloaded while the guest works, suspended to memory,
# panicked, and replaced by kexec. Memory in use stays as it was written, the next kernel's too.
. /root/lib.sh
boots=1

quiet_kernel() {
    guest run 1 dmesg | grep -E 'Bad page|Out of memory|invoked oom|WARN|BUG|Oops' && fail "the guest's kernel complains"
}

# served_again: the module that was loaded last is accepted, and something is reclaimed.
served_again() {
    attached 1
    event 40 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "nothing was reclaimed after the reload"
}

# another_kernel HOW: the guest's next kernel is up and uses its memory; the host wakes up, and takes none of that.
another_kernel() {
    boots=$((boots + 1))
    boot 1 $boots
    hold 1 second auto
    mark
    kill -CONT "$IMR_PID"
    await 20 "$1: imr is done with offer $OPEN" eval "$2"
    need "$1: no imr_guest yet" "$(guest run 1 'grep -c ^imr_guest /proc/modules')" -eq 0
    rewrite 1 second
    module 1 timeout_ms=60000
    event 40 event=hello vm.name=guest1 kind=new >/dev/null || fail "$1: the next kernel's module is not accepted"
    hello=$(FIELD=unix_ms event 1 event=hello)
    # The new module counts from 1 as well.
    need "$1: nothing was finished before that" "$(count event=done "unix_ms<=$((hello - 1))")" -eq 0
    rewrite 1 second
    release 1 second
    event 40 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "$1: the next kernel is not served"
    settle
    nothing_stuck 1
    quiet_kernel
    say "$1: the next kernel is served"
}

# Kernel and initramfs for kexec, as disks.
guest start 1 -drive file=/imr/guest/vmlinuz,if=virtio,format=raw,readonly=on \
    -drive file=/imr/guest/initrd,if=virtio,format=raw,readonly=on || fail "guest 1 does not start"
boot 1

# --- unload, while the guest fills and verifies memory ---

module 1 timeout_ms=60000
guest run 1 "(until [ -e /tmp/load.end ]; do imr-testtool fill --mib 80 || echo FAILED; done; echo ENDED) >/tmp/load.out 2>&1 &"
stopped_at 1 0 heard
guest run -t 20 1 rmmod imr_guest || fail "the module does not unload with an offer open"
mark
kill -CONT "$IMR_PID"
module 1 timeout_ms=60000
served_again
imr_stop
# With a batch that the host has begun with, it waits for that.
stopped_at 1 0 claimed
guest run -t 60 1 rmmod imr_guest &
unloading=$!
await 20 "the module waits for its batch" guest run -t 20 1 "grep '^imr_guest .* Unloading ' /proc/modules"
mark
kill -CONT "$IMR_PID"
wait $unloading || fail "the module does not unload when its batch has ended"
event 10 event=detached vm.name=guest1 >/dev/null || fail "imr did not hear the module's goodbye"
module 1 timeout_ms=1000
served_again
imr_stop
# Where that takes long, the module is in use.
stopped_at 1 0 claimed
await 20 "the module is in use" guest run -t 20 1 "grep '^imr_guest [0-9]* 1 ' /proc/modules"
# The log may say the same of the one before: a load counts its offers from 1.
guest run 1 "dmesg | grep -q 'has held offer $OPEN'" || fail "the guest does not say that it has to wait"
guest run -t 20 1 rmmod imr_guest && fail "the module unloads while the host has its batch"
kill -CONT "$IMR_PID"
await 20 "the batch ends" stat_is 1 open_seq -ne "$OPEN"
guest run -t 20 1 rmmod imr_guest || fail "the module does not unload"
event 10 event=detached vm.name=guest1 >/dev/null || fail "imr did not hear the module's goodbye"
guest run -t 60 1 "touch /tmp/load.end; until grep -q ENDED /tmp/load.out; do usleep 50000; done; ! grep -q FAILED /tmp/load.out" ||
    fail "the guest's work went wrong: $(guest run 1 cat /tmp/load.out)"
say "unloaded three times under load: $(guest run 1 'grep -c mib= /tmp/load.out') fills, none wrong"
quiet_kernel

# --- suspend to memory ---

suspended() { guest qmp 1 '{"execute":"query-status"}' | grep -q '"suspended"'; }
imr_stop
module 1 timeout_ms=60000
hold 1 keep 32
stopped_at 1 120 heard
guest run 1 "cat /sys/power/mem_sleep; (sleep 1; echo mem >/sys/power/state; echo \$? >/tmp/slept) >/tmp/sleep.out 2>&1 &"
await 40 "the guest sleeps" suspended
mark
kill -CONT "$IMR_PID"
guest qmp 1 '{"execute":"system_wakeup"}' >/dev/null || fail "the guest is not woken"
need "the guest slept well" "$(guest run -t 60 1 'until [ -e /tmp/slept ]; do usleep 50000; done; cat /tmp/slept')" = 0
event 40 event=hello vm.name=guest1 >/dev/null || fail "after its sleep the guest is not accepted"
hello=$(FIELD=unix_ms event 1 event=hello)
need "nothing was finished before that" "$(count event=done "unix_ms<=$((hello - 1))")" -eq 0
rewrite 1 keep
served 1
release 1 keep
quiet_kernel
say "suspended and back with offer $OPEN open"

# --- panic ---

FROM=0
imr_stop
stopped_at 1 120 heard
guest run 1 "echo 1 >/proc/sys/kernel/panic; (sleep 1; echo c >/proc/sysrq-trigger) >/dev/null 2>&1 &"
another_kernel panic "event 1 event=reset"

# --- kexec, with a batch that the host has begun with ---

FROM=0
imr_stop
guest run -t 60 1 "modprobe virtio_blk && cat /dev/vda >/tmp/kernel && cat /dev/vdb >/tmp/initrd" || fail "no kernel for kexec"
stopped_at 1 100 claimed
guest run 1 "(sleep 1; imr-testtool kexec --kernel /tmp/kernel --initrd /tmp/initrd) >/tmp/kexec.out 2>&1 &"
another_kernel kexec "event 1 event=abandoned seq=$OPEN"
FROM=0
imr_stop
need "no event was lost" "$(summary events.lost)" -eq 0
