# A VMM crashes or is killed in the middle of a batch: imr lets go of it, serves the other VM on, and also the same guest
# when it is started again.
. /root/lib.sh
boot 1
boot 2
hold 1 keep 32

# crash SIGNAL STEP: guest 2's VMM ends by that signal while imr is at that step of its batch.
crash() {
    kill -"$1" "$(guest pid 2)"
    guest off 2
    kill -CONT "$IMR_PID"
    event 30 event=vm_gone vm.name=guest2 >/dev/null || fail "imr does not see that the VMM has ended ($1, $2)"
    need "its batch was not finished" "$(count event=done vm.name=guest2 "seq=$OPEN")" -eq 0
    need "a few words at most" "$(count event=problem)" -le 2
    say "$1 at $2: offer $OPEN ended with its VMM"
}

module 2
stopped_at 2 24 half
crash SEGV half
module 1
attached 1
served 1

guest start 2 || fail "guest 2 does not start again"
boot 2
mark
module 2
attached 2
served 2
# It is a batch of guest 2 that the next imr has to stop at.
guest run -t 60 1 rmmod imr_guest || fail "the module does not unload"
imr_stop

stopped_at 2 24 claimed
crash KILL claimed
module 1
attached 1
served 1
release 1 keep
FROM=0
imr vms --json >/tmp/vms.json || fail "imr vms"
need "one VM is left" "$(imr-testtool json get --file /tmp/vms.json --field vms.0.name)" = guest1
imr_stop
need "standard error is quiet" "$(cat /tmp/imr.*.err | wc -l)" -le 5
