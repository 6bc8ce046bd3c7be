# Policy pressure: while the host has memory enough nothing is taken; when it is short the guest is asked and gives, down to
# its floor; then no more is asked. A guest that wants its memory back at once is left alone, however short the host is.
. /root/lib.sh
. /etc/imr/config
FLOOR=96
# How much shorter of memory than at rest the host is made, and where its marks are, MiB.
TAKEN=900
LOW=500
HIGH=300

available_mib() { echo $(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024)); }
# Shared memory is not available: MemAvailable falls by as much.
press() { dd if=/dev/zero of="$ROOT/dev/shm/pressing" bs=1M count="$TAKEN" 2>/dev/null || fail "cannot take $TAKEN MiB"; }
relax() { rm "$ROOT/dev/shm/pressing"; }

# What the guest calls free and the host holds memory for, MiB: what the floor is about.
free_and_held_mib() {
    guest_free=$(guest run -t 20 1 "sed -n 's/^MemFree: *\([0-9]*\) kB/\1/p' /proc/meminfo") || return 1
    echo $(((guest_free - (GUEST_MEM * 1024 - $(resident_kib 1))) / 1024))
}

boot 1
# All of the guest's memory has been in use, and most of it is free.
fill 1 auto
rest=$(available_mib)
say "at rest $rest MiB are available, $(($(resident_kib 1) / 1024)) MiB of the guest are resident"
need "the host has so much to lose, MiB" "$rest" -ge $((TAKEN + 200))
cat >"$ROOT/tmp/pressure.toml" <<CONFIG
[run]
policy = "pressure"
available_low = "$((rest - LOW))M"
available_high = "$((rest - HIGH))M"
# Under the emulator tasks stall for other reasons.
psi_above = "100%"
psi_below = "99%"
floor = "${FLOOR}M"
rate = "256M"
regret_within = "10m"
left_alone = "20m"
CONFIG
imr config check "$ROOT/tmp/pressure.toml" || fail "the configuration is not accepted"
imr_start --config "$ROOT/tmp/pressure.toml"

say "calm"
attached 1
event 40 event=done 'kept>=1' >/dev/null || fail "nothing was offered"
settle
need "nothing is taken" "$(sum reclaimed_bytes event=done)" -eq 0
need "nothing is asked for" "$(count event=asked)" -eq 0
FIELD=why.0 event 1 event=done 'kept>=1' | grep -q "not short of memory" || fail "it is not said why"
before=$(resident_kib 1)
free=$(free_and_held_mib) || fail "how much is free is not known"
say "$((before / 1024)) MiB resident, $free MiB of them free"
need "there is something to take, MiB" "$free" -ge $((FLOOR + 100))

say "short of memory"
mark
press
event 10 event=pressure pressed=true >/dev/null || fail "imr does not see that $(available_mib) MiB are few"
asked=$(FIELD=bytes event 10 event=asked 'bytes>=1') || fail "the guest is not asked"
event 20 event=done 'reclaimed>=1' >/dev/null || fail "the guest gives nothing"
# It is asked for no more than it has over its floor, and again for what is still over it.
# While a batch is open the guest does not count its pages as free.
floor_reached() { settle && left=$(free_and_held_mib) && [ "$left" -le $((FLOOR + 24)) ]; }
await 60 "the guest has given all but its floor" floor_reached
after=$(resident_kib 1)
say "asked for $((asked >> 20)) MiB at first; $((after / 1024)) MiB resident, $left MiB of them free"
need "most of what is free over the floor came back, KiB" $((before - after)) -ge $(((free - FLOOR) * 1024 * 6 / 10))
# The guest's own use goes up and down a little.
need "the floor is left, MiB" "$left" -ge $((FLOOR - 8))
need "it is still short" "$(count event=pressure pressed=false)" -eq 0

say "enough memory"
relax
event 10 event=pressure pressed=false >/dev/null || fail "imr does not see that $(available_mib) MiB are enough"
mark
sleep 3
need "no more is asked" "$(count event=asked 'bytes>=1')" -eq 0

say "the guest wants it back at once"
hold 1 back auto
FIELD=why event 10 event=left_alone alone=true | grep -q regret || fail "the guest is not left alone"
mark
press
event 10 event=pressure pressed=true >/dev/null || fail "imr does not see the second time"
release 1 back
FIELD=why event 20 event=done 'kept>=1' | grep -q "came back too soon" || fail "it is not left alone"
need "nothing is taken" "$(sum reclaimed_bytes event=done)" -eq 0
need "it is not asked" "$(count event=asked)" -eq 0
relax
FROM=0
imr_stop
need "no event was lost" "$(summary events.lost)" -eq 0
