# The module is unloaded and loaded: it says goodbye, comes back as a new one, and offers again.
. /root/lib.sh
. /etc/imr/config
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
# Reserve and delay: free memory that the host holds and was not offered, and the time from the load to the first offer.
RESERVE=96
over_reserve_kib() {
    used=$((GUEST_MEM * 1024 - $(guest run 1 "sed -n 's/^MemFree: *\([0-9]*\) kB/\1/p' /proc/meminfo")))
    echo $(($(resident_kib 1) - used - RESERVE * 1024))
}
guest run -t 60 1 rmmod imr_guest || fail "the module does not unload"
hold 1 big auto
mark
loaded=$(cut -d. -f1 /proc/uptime)
module 1 reserve_mib=$RESERVE delay_ms=6000
release 1 big
event 60 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "nothing was reclaimed with a delay"
took=$(($(cut -d. -f1 /proc/uptime) - loaded))
await 60 "no more than a batch and a block is kept beside the reserve" eval \
    '[ "$(over_reserve_kib)" -le $(((128 + 8) * 1024)) ]'
settle
over=$(over_reserve_kib)
say "offered after $took s; free and resident: $((over / 1024)) MiB beside a reserve of $RESERVE MiB"
need "the delay was kept, s" "$took" -ge 5
# What is in use need not all be resident: of what the kernel keeps at boot some is never touched.
need "the reserve is with the guest, KiB over it" "$over" -ge $((-16 * 1024))
need "batches came before it was over" "$(stat_of 1 for_delay)" -ge 1
need "batches were kept back for the reserve" "$(stat_of 1 for_reserve)" -ge 1
need "no page was given up" "$(stat_of 1 leaked_pages)" -eq 0
guest run 1 dmesg | grep -E 'WARN|BUG|Oops' && fail "the guest's kernel complains"
imr_stop
