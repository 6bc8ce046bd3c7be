# Private anonymous guest RAM, as imr-top tells of it and as the kernel does: a VM that ran before imr-top, memory that is
# idle by the host's own scans, pushed out to swap, merged by KSM; and each of them touched again.
. /root/lib.sh
. /etc/imr/config
HELD=64
SAME=32
# What pushing out may leave in memory, MiB. The kernel keeps some of the youngest, however often it is asked.
LEFT=32
KSM=/sys/kernel/mm/ksm

start_in_cgroup 1
boot 1
hold 1 kept $HELD
pause 1
attach_to_running ram_kib 1 Rss

# --- idle ---

# damon_idle: blocks of the guest that DAMON calls idle, those without memory among them.
damon_idle() {
    echo update_schemes_tried_bytes >$DAMON/0/state || fail "DAMON does not run"
    echo $(($(cat $DAMON/0/contexts/0/schemes/0/tried_regions/total_bytes) >> 21))
}

# By DAMON all blocks, by imr-top all memory but one block: the lowest, which the ROMs cut into 4 KiB mappings. A scan that
# comes by a page a time finds another one there for minutes that was touched before the scans began.
all_idle() { [ "$(damon_idle)" -eq $((GUEST_MEM / 2)) ] && [ $(($(ram_kib 1 Rss) - $(top_kib idle_bytes))) -le 2048 ]; }

# While the guest runs, it touches a few blocks between the one's ten seconds and the other's: a sixteenth of them all.
as_idle() {
    [ $(($(top_kib resident_bytes) - $(top_kib idle_bytes))) -ge $((HELD * 1024)) ] || return
    ours=$(($(blocks idle) + $(blocks untouched))); theirs=$(damon_idle)
    [ $((ours - theirs)) -le $((GUEST_MEM / 32)) ] && [ $((theirs - ours)) -le $((GUEST_MEM / 32)) ]
}

# Debian's 6.1 has no DAMON.
if [ "$IMR_HOST_KERNEL" != 6.1 ]; then
    idle_scans 1 || fail "DAMON cannot be set up"
    await 40 "all of a paused guest is idle" all_idle
    say "paused: idle $(blocks idle) blocks with $(top_kib idle_bytes) KiB, by DAMON $(damon_idle) of all $((GUEST_MEM / 2))"
    idle=$(blocks idle)
    resume 1
    rewrite 1 kept
    await 20 "what was touched is not idle, to imr-top and to DAMON" as_idle
    say "touched: idle $(blocks idle) blocks, untouched $(blocks untouched), by DAMON both $(damon_idle)"
    need "touched blocks are resident again" $(($(blocks resident_4k) + $(blocks resident_2m))) -ge $((HELD / 2))
    need "they were idle before" "$idle" -ge $((HELD / 2))
    echo off >$DAMON/0/state
    pause 1
fi

# --- swapped ---
push_out 1 $(($(ram_kib 1 Rss) - LEFT * 1024))
swapped_and_back kept ram_kib 1 Rss

# --- merged ---
for name in pages_to_scan sleep_millisecs run; do eval "ksm_$name=\$(cat $KSM/$name)"; done
merged_kib() { echo $(($(cat "/proc/$(guest pid 1)/ksm_merging_pages") * 4)); }
are_merged() { [ "$(merged_kib)" -ge $((SAME * 1024 * 95 / 100)) ]; }
are_apart() { [ "$(merged_kib)" -le $((merged - SAME * 1024 * 9 / 10)) ]; }
hold 1 same $SAME --same
echo 20000 >$KSM/pages_to_scan; echo 1 >$KSM/sleep_millisecs; echo 1 >$KSM/run
await 60 "KSM merges equal pages" are_merged
pause 1
agree 60 "merged" merged_bytes merged_kib
merged=$(top_kib merged_bytes)
merged_blocks=$(blocks merged)
need "blocks of equal pages are merged" "$merged_blocks" -ge $((SAME / 2 * 3 / 4))
resume 1
rewrite 1 same
# KSM takes note of a page that was written when it comes by the next time.
await 60 "KSM sees that they were written" are_apart
pause 1
agree 60 "written" merged_bytes merged_kib
say "merged: $merged_blocks blocks with $merged KiB; written: $(blocks merged) blocks with $(top_kib merged_bytes) KiB"
need "blocks that were written are not merged" $((merged_blocks - $(blocks merged))) -ge $((SAME / 2 * 3 / 4))
resume 1
for name in pages_to_scan sleep_millisecs run; do eval "echo \$ksm_$name" >$KSM/$name; done
release 1 same
release 1 kept
top_stop
