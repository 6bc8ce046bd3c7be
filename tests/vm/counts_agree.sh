# imr's counts of page faults and hypercalls are the kernel's own. The guest is paused when counting begins and
# ends, so both see the same.
. /root/lib.sh
EVENTS=/sys/kernel/tracing/events/kvm
boot 1
guest qmp 1 '{"execute":"stop"}' >/dev/null || fail "cannot pause the guest"
imr_start
for key in kvm_page_fault:error_code kvm_hypercall:nr; do
    echo "hist:keys=${key#*:}" >"$EVENTS/${key%:*}/trigger" || fail "no histogram trigger for $key"
done
guest qmp 1 '{"execute":"cont"}' >/dev/null || fail "cannot resume the guest"
attached 1
result=$(guest run -t 60 1 imr-testtool churn --mib auto --rounds 2) || fail "churn: $result"
guest qmp 1 '{"execute":"stop"}' >/dev/null || fail "cannot pause the guest"
hits() {
    need "$1: nothing dropped by the histogram" "$(sed -n 's/^ *Dropped: *//p' "$EVENTS/$1/hist")" -eq 0
    sed -n 's/^ *Hits: *//p' "$EVENTS/$1/hist"
}
faults=$(hits kvm_page_fault)
calls=$(hits kvm_hypercall)
imr_stop
say "page faults: tracefs $faults, imr $(summary events.page_faults)"
say "hypercalls: tracefs $calls, imr $(summary events.hypercalls)"
need "there were page faults" "$faults" -gt 100
need "there were hypercalls" "$calls" -gt 5
need "page faults" "$(summary events.page_faults)" -eq "$faults"
need "hypercalls" "$(summary events.hypercalls)" -eq "$calls"
