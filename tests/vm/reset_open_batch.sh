# The guest is reset while an offer is open and its host sleeps. The page of the old kernel still lies in memory;
# nothing of the new boot's memory is taken on account of it.
. /root/lib.sh
boot 1
module 1 timeout_ms=60000
stopped_at 1 0 heard
say "offer $OPEN is open, the host asleep"
guest qmp 1 '{"execute":"system_reset"}' >/dev/null || fail "no reset"
boot 1 2
hold 1 second auto
mark
kill -CONT "$IMR_PID"
event 20 event=reset vm.name=guest1 >/dev/null || fail "imr did not see the reset"
module 1
event 40 event=hello vm.name=guest1 kind=new >/dev/null || fail "the new boot's module was not accepted"
# The new module counts from 1 as well; what is claimed before its HELLO would be the old one's.
hello=$(FIELD=unix_ms event 1 event=hello)
need "nothing was finished between the reset and the new HELLO" "$(count event=done "unix_ms<=$((hello - 1))")" -eq 0
need "nothing was claimed between the reset and the new HELLO" "$(count event=claim "unix_ms<=$((hello - 1))")" -eq 0
release 1 second
event 40 event=done >/dev/null || fail "the new boot is not served"
imr_stop
