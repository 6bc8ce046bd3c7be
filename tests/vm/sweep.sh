# The source sweep: page reporting is virtio-balloon's, and then nobody's. Free memory comes back to the host all the same,
# memory in use stays as it was written, and a guest that runs short of memory has a batch back at once, without an OOM kill.
. /root/lib.sh
. /etc/imr/config
HELD=48
# Of the module, ms.
DELAY=0

available_kib() { guest run -t 20 1 "sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo"; }

came_back() { [ "$(resident_kib 1)" -le $((held - filled * 7 / 10)) ]; }

# gives_back WHAT: memory that was filled and freed comes back to the host, and offers come to an end. RECLAIMED and FILLED
# are what IMR took and what was filled, KiB.
gives_back() {
    sweeps=$(stat_of 1 sweeps)
    hold 1 big auto
    held=$(resident_kib 1)
    mark
    freed_s=$(date +%s)
    release 1 big
    filled=$(($(guest run 1 "sed -n 's/^mib=\([0-9]*\).*/\1/p' /tmp/big.out") * 1024))
    need "$1: a good part of the guest was filled" "$filled" -ge $((100 * 1024))
    need "$1: it was resident" "$held" -ge "$filled"
    await 40 "$1: most of it comes back" came_back
    settle
    reclaimed=$(($(sum reclaimed_bytes event=done) / 1024))
    say "$1, KiB: filled $filled, resident $held, then $(resident_kib 1); reclaimed $reclaimed;" \
        "$(($(stat_of 1 sweeps) - sweeps)) sweeps, $(stat_of 1 strays) strays, ended by $(stat_of 1 sweep_stopped_by)"
    # What the host has is not allocated again: that would bring it back, and have it offered once more.
    need "$1: it stays there" "$(resident_kib 1)" -le $((held - filled * 7 / 10))
    need "$1: nothing was taken twice" "$reclaimed" -le $((filled + 64 * 1024))
    # The guest goes on freeing a little, and so do sweeps.
    await 20 "$1: a sweep holds nothing any more" stat_is 1 held_pages -eq 0
    [ "$DELAY" = 0 ] || {
        # A large one: what the guest itself had freed before was due earlier.
        first_ms=$(FIELD=unix_ms event 1 event=done 'offered_bytes>=67108864') || fail "$1: no batch was done"
        need "$1: what is free has time to be used again, ms" $((first_ms - freed_s * 1000)) -ge "$DELAY"
    }
}

# --- page reporting is virtio-balloon's ---

guest start 1 -device virtio-balloon-pci,free-page-reporting=on || fail "guest 1 does not start"
imr_start
boot 1
guest run -t 60 1 modprobe virtio_balloon || fail "the guest has no balloon"
guest run -t 30 1 insmod /imr_guest.ko source=reporting && fail "page reporting is not the balloon's"
guest run -t 30 1 "dmesg | grep -q 'imr: page reporting is taken'" || fail "the guest is not told why"
module 1
attached 1
need "auto is sweep" "$(stat_of 1 source)" -eq 2
need "because page reporting is taken" "$(stat_of 1 source_why)" -eq 2
guest run -t 30 1 "dmesg | grep 'imr: source sweep'" || fail "it is not said"
hold 1 kept $HELD
settle
# The balloon takes what it hears of first, and sometimes that is all.
for round in 1 2 3; do
    gives_back "beside the balloon, round $round"
    [ "$reclaimed" -lt $((filled / 4)) ] || break
done
need "IMR took a good part of it, KiB" "$reclaimed" -ge $((filled / 4))
need "page reporting did not come to the module" "$(stat_of 1 registered)" -eq 0
guest run -t 60 1 rmmod imr_guest || fail "the module does not unload"

# --- nobody's; a flat record, a reserve, a delay ---

# Not by unloading virtio_balloon: 6.12 dies of that (vp_del_vq() of a queue that the device does not have).
release 1 kept
# Two CPUs from here on: memory becomes short on one while the sweep runs on the other.
guest stop 1 && GUEST_CPUS=2 guest start 1 || fail "guest 1 does not start again"
mark
boot 1
RESERVE=64
DELAY=4000
module 1 source=sweep record=flat reserve_mib=$RESERVE delay_ms=$DELAY timeout_ms=60000
attached 1
need "the record is flat" "$(stat_of 1 record_kind)" -eq 2
need "it was asked for" "$(stat_of 1 source_why)" -eq 0
hold 1 kept $HELD
settle
gives_back "alone"
need "IMR took what is over the reserve, KiB" "$reclaimed" -ge $((filled / 2))
# What is resident: in use, the reserve, or the 64 MiB and more that a sweep leaves (imr_offerable()).
resident=$(resident_kib 1)
used=$((GUEST_MEM * 1024 - $(guest run 1 "sed -n 's/^MemFree: *\([0-9]*\) kB/\1/p' /proc/meminfo")))
say "resident $((resident / 1024)) MiB, in use $((used / 1024)) MiB, reserve $RESERVE MiB"
# What is in use need not all be resident: of what the kernel keeps at boot some is never touched.
need "the reserve is left with the guest, KiB" $((resident - used)) -ge $(((RESERVE - 16) * 1024))

# --- memory pressure, with a batch held: the host has heard of it and is stopped; the guest would wait 60 s ---

hold 1 big auto
imr_stop
available=$(available_kib)
release 1 big
mib=$(guest run 1 "sed -n 's/^mib=\([0-9]*\).*/\1/p' /tmp/big.out")
FROM=0
stopped_at 1 0 heard
held=$(stat_of 1 held_pages)
say "held: $((held / 256)) MiB; available $(($(available_kib) / 1024)) MiB; $((mib + available / 1024)) MiB without a batch"
need "a sweep holds a batch, pages" "$held" -ge 16384
# All but 24 MiB of what is there without the batch, so more than there is now.
fill 1 $((mib + available / 1024 - 24))
need "the guest has asked for it" "$(stat_of 1 pressed)" -ge 1
need "and got it, pages" "$(stat_of 1 pressed_pages)" -ge 512
need "the batch was withdrawn" "$(stat_of 1 revoked)" -ge 1
need "no offer is open" "$(stat_of 1 open_seq)" -eq 0
need "a sweep holds nothing" "$(stat_of 1 held_pages)" -eq 0
guest run 1 dmesg | grep -E 'Out of memory|oom-kill|invoked oom|WARN|BUG|Oops' && fail "the guest's kernel complains"
kill -CONT "$IMR_PID"
mark
# It is left alone for 10 s, then swept again.
event 60 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "after the pressure nothing is offered"
release 1 kept
guest run -t 60 1 rmmod imr_guest || fail "the module does not unload"
guest run 1 dmesg | grep -E 'Bad page|WARN|BUG|Oops' && fail "the guest's kernel complains"
FROM=0
imr_stop
need "no event was lost" "$(summary events.lost)" -eq 0
