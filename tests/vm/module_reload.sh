# The module is unloaded and loaded: it says goodbye, comes back as a new one, and offers again.
. /root/lib.sh
imr_start
boot 1
attached 1
event 40 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "nothing was reclaimed"
settle
for round in 1 2; do
    mark
    guest run -t 60 1 rmmod imr_guest || fail "the module does not unload"
    event 10 event=detached vm.name=guest1 >/dev/null || fail "imr did not hear the module's goodbye"
    need "the module is gone" "$(guest run 1 'grep -c ^imr_guest /proc/modules')" -eq 0
    module 1
    attached 1
    # Pages that were reported stay reported: only what is used and freed anew is offered.
    fill 1 200
    event 40 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "nothing was reclaimed after the reload"
    settle
done
need "no page was given up" "$(stat_of 1 leaked_pages)" -eq 0
guest run 1 dmesg | grep -E 'WARN|BUG|Oops' && fail "the guest's kernel complains"
imr_stop
