# A host that answers too late: the guest has withdrawn the batch and uses its memory again, and nothing of it
# is taken.
. /root/lib.sh
boot 1
module 1 timeout_ms=300
imr_start --stop-at heard
stops 1
await 20 "the guest has withdrawn it" stat_is 1 revoked -gt 0
need "the batch was never claimed" "$(stat_of 1 revoke_lost)" -eq 0
hold 1 second auto
# Offers that were opened meanwhile were withdrawn, too: nobody answered.
await 20 "no offer is open" stat_is 1 open_seq -eq 0
newest=$(stat_of 1 offer_seq)
mark
kill -CONT "$IMR_PID"
event 60 event=done >/dev/null || fail "after its pause imr serves the guest no more"
need "nothing that was withdrawn was finished" "$(count event=done "seq<=$newest")" -eq 0
release 1 second
FROM=0
imr_stop
say "stale calls: $(summary stale_calls), revoked: $(summary revoked)"
need "the late calls were counted" $(($(summary stale_calls) + $(summary revoked))) -ge 1
