# The guest's memory grows and shrinks, and part of its work has a limit: a DIMM is plugged in after the module was loaded,
# and pulled out again while batches are offered; a cgroup has all that it may, and then wants more.
. /root/lib.sh
. /etc/imr/config
DIMM=384

plugged_kib() { echo $(($(stat -c %b /run/imr/thp/plugged) / 2)); }
total_kib() { guest run -t 20 1 "sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo"; }
grown() { now=$(total_kib) && [ "$now" -ge $((before + DIMM * 1024 * 9 / 10)) ]; }
gone() { guest qmp 1 '{"execute":"query-memory-devices"}' | grep -q '"return": \[\]'; }
quiet_kernel() { guest run 1 dmesg | grep -E 'Bad page|CONSTRAINT_NONE|WARN|BUG|Oops' && fail "the guest's kernel complains"; }

guest start 1 -m slots=1,maxmem=2G || fail "guest 1 does not start"
imr_start
boot 1
# By sweeps at first: they have to make room for memory that comes later.
module 1 source=sweep
attached 1
hold 1 keep 32
settle

# --- memory that is plugged in: 6.1 does not use it by itself ---

before=$(total_kib)
pages=$(stat_of 1 total_pages)
mark
guest run 1 "echo online_movable >/sys/devices/system/memory/auto_online_blocks" || fail "the guest has no memory hot-plug"
guest qmp 1 '{"execute":"object-add","arguments":{"qom-type":"memory-backend-file","id":"plugged","size":'$((DIMM << 20))',
    "mem-path":"/run/imr/thp/plugged","align":2097152,"share":true}}' >/dev/null || fail "no memory to plug in"
guest qmp 1 '{"execute":"device_add","arguments":{"driver":"pc-dimm","id":"dimm","memdev":"plugged"}}' >/dev/null ||
    fail "no DIMM is plugged in"
await 30 "the guest has the DIMM" grown
event 20 event=slots_changed "ram_bytes>=$(((GUEST_MEM + DIMM - 8) << 20))" >/dev/null || fail "imr does not see the DIMM"
await 20 "imr is told of it" stat_is 1 total_pages -ge $((pages + DIMM * 256 * 9 / 10))
# At 4 GiB: the place of what is plugged into a small guest.
imr vms | grep ' 0x000100000000 .*: punch' || fail "imr does not take the DIMM: $(imr vms)"

for source in sweep reporting; do
    [ $source = sweep ] || {
        guest run -t 60 1 rmmod imr_guest || fail "the module does not unload"
        module 1 source=$source
        attached 1
        settle
    }
    mark
    # Programs have the memory first that can be moved, and that is the DIMM.
    hold 1 high $((DIMM - 64))
    used=$(plugged_kib)
    need "the DIMM is in use, KiB" "$used" -ge $(((DIMM - 128) * 1024))
    rewrite 1 high
    release 1 high
    event 40 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "nothing was reclaimed"
    settle
    left=$(plugged_kib)
    say "source $source, DIMM of $DIMM MiB: $((used / 1024)) MiB in use, $((left / 1024)) MiB held when free"
    # Pieces below 2 MiB are not offered, and neither is what is left of a zone with too little free.
    need "it comes back to the host, KiB" $((used - left)) -ge $(((DIMM - 200) * 1024))
done

# --- and out again, while what it held is offered ---

mark
hold 1 high $((DIMM - 64))
release 1 high
guest qmp 1 '{"execute":"device_del","arguments":{"id":"dimm"}}' >/dev/null || fail "the DIMM is not asked for"
await 60 "the DIMM is pulled out" gone
event 20 event=slots_changed "ram_bytes<=$((GUEST_MEM << 20))" >/dev/null || fail "imr does not see that the DIMM is gone"
guest qmp 1 '{"execute":"object-del","arguments":{"id":"plugged"}}' >/dev/null || fail "its memory is still in use"
rewrite 1 keep
settle
served 1 100
quiet_kernel

# --- a limit ---

# boxed COMMAND: imr-testtool within the limit.
boxed() { guest run -t 60 1 "echo 0 >/sys/fs/cgroup/box/cgroup.procs; exec imr-testtool $*"; }
box() { guest run -t 20 1 "sed -n 's/^$2 //p' /sys/fs/cgroup/box/memory.$1"; }
guest run 1 "mkdir -p /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && cd /sys/fs/cgroup &&
    echo +memory >cgroup.subtree_control && mkdir box && echo 120M >box/memory.max" || fail "the guest has no cgroups"
settle
LINE=$(boxed churn --mib 100 --rounds 4) || fail "churn within a limit: $LINE"
echo "$LINE"
need "nothing wrong" "$(said wrong)" -eq 0
need "reclaim really went on between the rounds" "$(said rounds_with_reclaim)" -ge 1
need "nobody was killed for the limit" "$(box events oom_kill)" -eq 0
need "what was freed does not count any more, KiB" $(($(guest run 1 cat /sys/fs/cgroup/box/memory.current) / 1024)) -le 8192
settle
mark
boxed fill --mib 160 && fail "160 MiB are within a limit of 120 MiB"
need "the limit was kept" "$(box events oom_kill)" -eq 1
event 40 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "what the one who was killed had does not come back"
settle
served 1
release 1 keep
need "no result is missing" "$(stat_of 1 pages_unanswered)" -eq 0
guest run -t 60 1 rmmod imr_guest || fail "the module does not unload"
quiet_kernel
FROM=0
imr_stop
need "nothing was refused" "$(count event=done 'refused>=1')" -eq 0
need "no event was lost" "$(summary events.lost)" -eq 0
