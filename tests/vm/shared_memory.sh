# A shared memfd as guest RAM, as imr-top tells of it and as the kernel does: a VM that ran before imr-top, memory that
# was reclaimed and is used again, and memory pushed out to swap (which /proc/PID/status does not tell of) and back.
. /root/lib.sh
. /etc/imr/config
HELD=64
# What pushing out may leave in memory, MiB. The kernel keeps some of the youngest, however often it is asked.
LEFT=32

# What the file has in memory and in swap together; and in memory alone.
file_kib() { resident_kib 1; }
in_memory_kib() { echo $(($(file_kib) - $(ram_kib 1 Swap))); }

# What lies in the swap cache is swapped to smaps and in memory to mincore(2), which is what imr-top has before Linux 6.5.
swap_cache_kib() { echo $(($(sed -n 's/^swapcached //p' /sys/fs/cgroup/guest1/memory.stat) / 1024)); }
if [ "$IMR_HOST_KERNEL" = 6.1 ]; then
    apart_kib() { cached=$(swap_cache_kib); echo $((1024 + (cached < 16384 ? cached : 16384))); }
fi

# Waits until no offer was answered for 5 s: page reporting begins 2 s after a free.
offers_end() {
    answered=-1
    await 60 "the end of the offers" no_offers
}
no_offers() {
    now=$(top vms.0.offers.done); uptime=$(cut -d. -f1 /proc/uptime)
    [ "$now" = "$answered" ] || { answered=$now; since=$uptime; }
    [ $((uptime - since)) -ge 5 ]
}

start_in_cgroup 1
boot 1
pause 1
attach_to_running in_memory_kib
resume 1
await 40 "the handshake" top_has vms.0.guest.state=attached

# --- reclaimed and refaulted ---
hold 1 first $HELD
release 1 first
offers_end
pause 1
agree 30 "freed" resident_bytes file_kib
before=$(file_kib); refaulted=$(top_kib refaulted_bytes); reclaimed=$(top_kib reclaimed_bytes)
say "freed: $(blocks reclaimed) blocks are reclaimed; $refaulted KiB refaulted so far"
need "what was freed is reclaimed" "$(blocks reclaimed)" -ge $((HELD / 2 * 9 / 10))
resume 1
hold 1 second $HELD
pause 1
agree 30 "used again" resident_bytes file_kib
grown=$(($(file_kib) - before))
refaulted=$(($(top_kib refaulted_bytes) - refaulted))
# The guest may have offered some more meanwhile.
reclaimed=$(($(top_kib reclaimed_bytes) - reclaimed))
say "used again: the file has grown by $grown KiB after $reclaimed KiB were reclaimed; $refaulted KiB have refaulted"
# The guest does not offer the last of its free memory, nor what is free in pieces only: that was still there.
need "half of what is held had been reclaimed, KiB" "$grown" -ge $((HELD * 1024 / 2))
need "what refaulted is what the file grew by: KiB missing" $((grown + reclaimed - refaulted)) -le 1024
need "what refaulted is what the file grew by: KiB too many" $((refaulted - grown - reclaimed)) -le 1024
need "blocks that are used again are refaulted, KiB" $(($(blocks refaulted) * 2048)) -ge $((grown * 9 / 10))

# --- swapped ---
push_out 1 $(($(file_kib) - LEFT * 1024))
say "in the swap cache: $(swap_cache_kib) KiB"
say "VmSwap, which does not tell of it: $(sed -n 's/^VmSwap: *//p' "/proc/$(guest pid 1)/status")"
swapped_and_back second in_memory_kib
release 1 second
top_stop
