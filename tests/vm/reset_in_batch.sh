# The guest is reset while the host is in the middle of a batch: it stops, and the new boot's memory stays as it is.
. /root/lib.sh
imr_start
boot 1
hit=
for boot in 2 3 4 5; do
    mark
    module 1
    attached 1
    settle
    mark
    fill 1 auto
    seq=$(imr-testtool json wait --file "$IMR_LOG" --from "$FROM" --timeout $((30 * PACE)) --field seq \
        --qmp /run/imr/guest1/qmp.sock:system_reset event=claim) || fail "no batch was claimed after the free"
    event 20 event=reset >/dev/null || fail "imr did not see the reset"
    boot 1 "$boot"
    hold 1 pattern auto
    # By now whatever the host did with the old batch is done.
    if [ "$(count event=done "seq=$seq")" -eq 0 ]; then
        hit=$seq
        break
    fi
    say "the batch was finished before the reset"
    release 1 pattern
done
need "the reset came in the middle of a batch" -n "$hit"
say "offer $hit was being reclaimed at the reset"
need "the batch was given back" "$(count event=abandoned "seq=$hit")" -eq 1
mark
module 1
attached 1
release 1 pattern
event 40 event=done >/dev/null || fail "the new boot is not served"
result=$(guest run -t 60 1 imr-testtool churn --mib auto --rounds 2) || fail "churn: $result"
echo "$result"
imr_stop
