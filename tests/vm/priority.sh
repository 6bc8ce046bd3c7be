# What reserve, delay and order of the guest module cost and bring: a guest that takes MIB in a burst, frees it and is idle
# for PAUSE seconds, again and again, under each of CASES (`RESERVE:DELAY:ORDER ...`, MiB and ms). For each a line
# `priority: name=number ...`. CASES, MIB, PAUSE and ROUNDS come with the script (xtask/src/bench/priority.rs).
. /root/lib.sh
. /etc/imr/config

refaulted_kib() {
    imr ctl status --json >"$ROOT/tmp/status.json" || fail "imr does not answer"
    echo $(($(imr-testtool json get --file "$ROOT/tmp/status.json" --field vms.0.refaulted_bytes) / 1024))
}

# away: KiB of the guest's memory that the host has.
away() { echo $((GUEST_MEM * 1024 - $(resident_kib 1))); }

burst() {
    guest run -t 100 1 imr-testtool burst --mib "$MIB" --times /tmp/times >/dev/null || fail "the burst failed"
}

boot 1
for case in $CASES; do
    reserve=${case%%:*} order=${case##*:} delay=${case#*:}
    delay=${delay%:*}
    FROM=0
    imr_start
    # Since 6.4 the first who registered in a boot has set it (mm/page_reporting.c).
    guest run 1 "of=/sys/module/page_reporting/parameters/page_reporting_order; [ ! -e \$of ] || echo $order >\$of" ||
        fail "page reporting's order cannot be set"
    module 1 "source=reporting reserve_mib=$reserve delay_ms=$delay order=$order"
    attached 1
    # What the guest was left with by the case before is not this one's: the first bursts are not measured.
    for round in 1 2; do
        burst
        sleep "$PAUSE"
    done
    guest run 1 rm -f /tmp/times
    before=$(refaulted_kib) gone=0
    for round in $(seq "$ROUNDS"); do
        gone=$((gone + $(away)))
        burst
        # The load: time that the guest is idle.
        sleep "$PAUSE"
    done
    refaulted=$(($(refaulted_kib) - before))
    times=$(guest run 1 imr-testtool burst --report /tmp/times) || fail "no times: $times"
    echo "priority: reserve_mib=$reserve delay_ms=$delay order=$order refaults=$((refaulted / 4)) ${times#chunks=* }" \
        "reclaimed_mib=$((gone / ROUNDS / 1024))"
    guest run -t 60 1 rmmod imr_guest || fail "the module does not unload"
    imr_stop
    need "no event was lost" "$(summary events.lost)" -eq 0
done
