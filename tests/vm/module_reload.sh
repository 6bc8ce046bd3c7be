# The module is unloaded and loaded: it says goodbye, comes back as a new one, and offers again. Pages that were reported stay
# reported (PG_reported), also when the module is gone: what an imr that only observed was told of is offered once to the next
# that reclaims, and so is what an earlier load was told of. No memory is used in between.
. /root/lib.sh
. /etc/imr/config

# observed: leaves the guest with memory that carries the kernel's marks and is with nobody; MARKED, KiB, is resident then.
observed() {
    imr_start --observe
    [ "$IMR_RUN" != 1 ] || boot 1
    attached 1
    mark
    fill 1 200
    event 40 event=done 'kept>=1' >/dev/null || fail "nothing was offered to who only observes"
    settle
    MARKED=$(resident_kib 1)
    need "it took nothing" "$(sum reclaimed_bytes event=done)" -eq 0
}

# came_back WHAT: most of it comes back, and then offers come to an end.
fell() { [ "$(resident_kib 1)" -le $((MARKED - 120 * 1024)) ]; }
came_back() {
    await 60 "$1: what was marked comes back" fell
    settle
    offered=$(($(sum offered_bytes event=done) / 1024))
    free=$(guest run 1 "sed -n 's/^MemFree: *\([0-9]*\) kB/\1/p' /proc/meminfo")
    say "$1: resident $((MARKED / 1024)) MiB, then $(($(resident_kib 1) / 1024)) MiB;" \
        "offered $((offered / 1024)) of $((free / 1024)) MiB free"
    need "$1: it is offered once, KiB" "$offered" -le $((free + 64 * 1024))
    need "$1: nobody asked for it" "$(stat_of 1 sweeps)" -eq 0
}

observed
imr_stop
imr_start
attached 1
came_back "another imr"
imr_stop

observed
guest run -t 60 1 rmmod imr_guest || fail "the module does not unload"
event 10 event=detached vm.name=guest1 >/dev/null || fail "imr did not hear the module's goodbye"
need "the module is gone" "$(guest run 1 'grep -c ^imr_guest /proc/modules')" -eq 0
imr_stop
imr_start
module 1
attached 1
came_back "another load"

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
# What the host calls reclaimable is without the reserve: that is kept, or in pieces too small.
parts=$(field_of_vm 1 free_memory.all.kept_bytes free_memory.all.stranded_bytes) ||
    fail "imr vms knows nothing of the guest's free memory"
# Of one moment: some of what is kept may be in pieces the next.
kept=${parts%%[!0-9]*} stranded=${parts##*[!0-9]}
say "by imr vms $((kept >> 20)) MiB are kept by the guest, $((stranded >> 20)) MiB stranded"
need "the reserve is not reclaimable, MiB" $(((kept + stranded) >> 20)) -ge $((RESERVE - 1))
need "the module says what it keeps, pages" "$(stat_of 1 reserve_pages)" -ge $((RESERVE * 256))
need "batches came before it was over" "$(stat_of 1 for_delay)" -ge 1
need "batches were kept back for the reserve" "$(stat_of 1 for_reserve)" -ge 1
need "no page was given up" "$(stat_of 1 leaked_pages)" -eq 0
guest run 1 dmesg | grep -E 'WARN|BUG|Oops' && fail "the guest's kernel complains"
imr_stop
