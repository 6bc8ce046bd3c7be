# imr is killed in the middle of a batch, twice. The guest keeps the batch out of its allocator and rings on, even when
# its time is over, and the next imr redoes the batch.
. /root/lib.sh

# Kills imr after it has claimed a batch and before it has answered; OPEN is that batch.
kill_mid_batch() {
    for try in 1 2 3 4 5; do
        settle
        mark
        fill 1 auto
        imr-testtool json wait --file "$IMR_LOG" --from "$FROM" --timeout $((30 * PACE)) --signal "KILL:$IMR_PID" event=claim ||
            fail "no batch was claimed after the free"
        wait "$IMR_PID"
        OPEN=$(stat_of 1 open_seq) || fail "the guest does not answer"
        [ "$OPEN" -eq 0 ] || break
        say "try $try: the batch was finished before the signal came"
        FROM=0
        imr_start
        attached 1
    done
    need "imr was killed with a batch open" "$OPEN" -ne 0
    need "the killed imr had claimed it" "$(count event=claim "seq=$OPEN")" -eq 1
    need "the killed imr had not answered it" "$(count event=done "seq=$OPEN")" -eq 0
    say "offer $OPEN is open and its host is dead"
    FROM=0
}

boot 1
module 1 timeout_ms=30000
imr_start
attached 1

kill_mid_batch
lost=$(stat_of 1 revoke_lost)
# The next imr takes up offer OPEN again and finishes it.
redo() {
    imr_start
    event 30 event=claim redone=true "seq=$OPEN" >/dev/null || fail "the next imr did not take the batch up again"
    event 30 event=done "seq=$OPEN" >/dev/null || fail "the next imr did not finish the batch"
}

redo
need "the guest had not tried to withdraw it" "$(stat_of 1 revoke_lost)" -eq "$lost"

kill_mid_batch
await 30 "the guest tries to withdraw the batch, and has to wait on" stat_is 1 revoke_lost -gt "$lost"
need "the batch is still open" "$(stat_of 1 open_seq)" -eq "$OPEN"
redo

await 10 "the guest has its memory back" stat_is 1 open_seq -ne "$OPEN"
result=$(guest run -t 100 1 imr-testtool churn --mib auto --rounds 4) || fail "churn: $result"
echo "$result"
settle
nothing_stuck 1
imr_stop
