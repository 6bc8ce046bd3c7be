# imr is killed in the middle of a batch. The guest keeps the batch out of its allocator, rings on, and the next
# imr finishes it.
. /root/lib.sh
guest up 1 || fail "guest 1 did not boot"
open=0
for try in 1 2 3 4 5; do
    imr_start
    attached 1
    settle
    mark
    fill 1 auto
    imr-testtool json wait --file "$IMR_LOG" --from "$FROM" --timeout 30 --signal "KILL:$IMR_PID" event=claim ||
        fail "no batch was claimed after the free"
    wait "$IMR_PID"
    open=$(stat_of 1 open_seq) || fail "the guest does not answer"
    FROM=0
    [ "$open" -eq 0 ] || break
    say "try $try: the batch was finished before the signal came"
done
need "imr was killed with a batch open" "$open" -ne 0
need "the killed imr did not tell of its end" "$(count event=done "seq=$open")" -eq 0
need "the killed imr had claimed it" "$(count event=claim "seq=$open")" -eq 1
say "offer $open is open and its host is dead"
await 10 "the guest's withdrawal came too late" stat_is 1 revoke_lost -ge 1
need "the batch is still open" "$(stat_of 1 open_seq)" -eq "$open"

imr_start
event 30 event=claim redone=true "seq=$open" >/dev/null || fail "the next imr did not take the batch up again"
event 30 event=done "seq=$open" >/dev/null || fail "the next imr did not finish the batch"
await 10 "the guest has its memory back" stat_is 1 open_seq -ne "$open"
result=$(guest run -t 100 1 imr-testtool churn --mib auto --rounds 4) || fail "churn: $result"
echo "$result"
settle
need "no offer is stuck" "$(stat_of 1 open_seq)" -eq 0
need "no result is missing" "$(stat_of 1 pages_unanswered)" -eq 0
imr_stop
