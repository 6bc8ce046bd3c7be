# Private guest RAM, and imr stands still with a thread of QEMU in its hands half way through a batch: imr is killed, the
# guest is reset, QEMU is killed. What else the guests hold stays as it was written, and QEMU lives on.
. /root/lib.sh
guest start 1 && guest start 2 || fail "a guest does not start"
boot 1
boot 2
hold 1 keep 32
hold 2 keep 32

# traced N: a thread of guest N's VMM that stands still, as imr holds it.
traced() { grep -l '^State:[[:space:]]*t' "/proc/$(guest pid "$1")"/task/*/status; }
is_free() { ! traced "$1" && ! grep -h '^TracerPid:' "/proc/$(guest pid "$1")"/task/*/status | grep -qv '[[:space:]]0$'; }

# holds N: waits until imr, which was started with --stop-at half, holds THREAD of guest N's VMM. It may be the main loop,
# and so it is not certain that the guest answers.
holds() {
    guest run -t 120 "$1" imr-testtool fill --mib 24 >/dev/null 2>&1 &
    filling=$!
    await 60 "imr stops itself" is_stopped "$IMR_PID"
    THREAD=$(traced "$1") || fail "imr holds no thread of guest $1's QEMU"
}

# imr is killed.
module 1 timeout_ms=60000
imr_start --inject --stop-at half
holds 1
kill -KILL "$IMR_PID"
wait "$IMR_PID"
await 5 "the thread goes on" is_free 1
wait $filling || fail "guest 1: fill of 24 MiB"
OPEN=$(stat_of 1 open_seq) || fail "the guest does not answer"
need "a batch is open" "$OPEN" -ne 0
say "killed with offer $OPEN half taken and ${THREAD#/proc/} held"
imr_start --inject
event 30 event=claim redone=true "seq=$OPEN" >/dev/null || fail "the next imr did not take the batch up again"
event 30 event=done "seq=$OPEN" >/dev/null || fail "the next imr did not finish the batch"
need "it is taken by inject" "$(count event=vm_added vm.name=guest1 backend=inject)" -eq 1
rewrite 1 keep
release 2 keep
# It is a batch of guest 2 that the next imr has to stop at.
guest run -t 60 1 rmmod imr_guest || fail "the module does not unload"
imr_stop

# The guest is reset, and up again before imr goes on.
module 2 timeout_ms=60000
stopped_at 2 24 claimed --inject
guest qmp 2 '{"execute":"system_reset"}' >/dev/null || fail "no reset"
boot 2 2
hold 2 second auto
kill -CONT "$IMR_PID"
event 20 event=abandoned vm.name=guest2 "seq=$OPEN" >/dev/null || fail "the batch was not given back"
event 20 event=reset vm.name=guest2 >/dev/null || fail "imr did not see the reset"
release 2 second
mark
module 2
attached 2
event 40 event=done vm.name=guest2 >/dev/null || fail "the new boot is not served"
say "reset with offer $OPEN claimed"
imr_stop

# QEMU is killed. Its dead thread is imr's to take note of. What has been used since it was offered is offered in one piece, and
# the first stretch of calls, 16 MiB at most, is far from all of that (MAX_CALL_BYTES of imr-user/src/reclaim/executor/run.rs).
guest run -t 60 2 rmmod imr_guest || fail "the module does not unload"
fill 2 auto
module 2
imr_start --inject --stop-at half
holds 2
kill -KILL "$(guest pid 2)"
kill -CONT "$IMR_PID"
await 30 "QEMU ends" [ ! -e "/proc/$(guest pid 2)" ]
guest off 2
event 30 event=vm_gone vm.name=guest2 >/dev/null || fail "imr does not see that the VMM has ended"
need "it was a large batch" "$(count event=claim vm.name=guest2 'bytes>=50331648')" -eq 1
# Its memory is there until its last thread has ended, so it may be told; but the rest of the batch is not taken.
need "of its batch nothing more was taken" "$(count event=done vm.name=guest2 'reclaimed_bytes>=16777217')" -eq 0
need "a few words at most" "$(count event=problem)" -le 2
module 1
attached 1
served 1
release 1 keep
imr_stop
need "standard error is quiet" "$(cat /tmp/imr.*.err | wc -l)" -le 5
