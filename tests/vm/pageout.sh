# A guest without the module: its idle blocks go to swap because imr asks for it, and come back whole; without swap, without
# idleness scans and after too much has come back they stay, and imr says why.
. /root/lib.sh
. /etc/imr/config
HELD=64

guest start 1
boot 1
hold 1 kept $HELD

# The device that L1's swap is on.
swap=$(awk 'NR == 2 { print $1 }' /proc/swaps)
need "L1 has swap" -n "$swap"
swapoff "$swap" || fail "swapoff $swap"
imr vms --pageout | grep 'none (no-swap: ' || fail "no word of the missing swap: $(imr vms --pageout)"
swapon "$swap" || fail "swapon $swap"
imr vms --pageout | grep 'idle memory can be swapped out' || fail "not with swap: $(imr vms --pageout)"

top_start --pageout
waits() { top_has "vms.0.pageout.state=$1" "vms.0.pageout.reason=$2"; }
await 10 "nobody scans, and imr says so" waits waiting no-idle-information

pause 1
idle_scans 1 || fail "DAMON cannot be set up"
await 20 "idle memory is called cold" top_has "vms.0.pageout.state=ready"
# What a scan comes by every ten seconds is not known at once; the rest is a matter of the rate.
gone() { [ $(($(top vms.0.pageout.out_bytes) >> 20)) -ge $((HELD * 3 / 2)) ]; }
await 50 "idle memory goes to swap" gone
cold=$(top vms.0.pageout.cold_bytes); asked=$(top vms.0.pageout.asked_bytes); out=$(top vms.0.pageout.out_bytes)
say "cold $((cold >> 20)) MiB, advised to go $((asked >> 20)) MiB, out $((out >> 20)) MiB"
need "what was to go went" $((out >> 20)) -ge $(((asked >> 20) * 9 / 10))
need "what went was called cold before" "$cold" -ge "$asked"
agree 20 "paged out" swapped_bytes ram_kib 1 Swap
say "$(blocks swapped) blocks are swapped; VmSwap $(sed -n 's/^VmSwap: *//p' "/proc/$(guest pid 1)/status")"
need "blocks are swapped to imr-top" "$(blocks swapped)" -ge $((HELD * 3 / 4 * 9 / 10))

resume 1
rewrite 1 kept
await 20 "what comes back is regretted" waits waiting regret
back=$(top vms.0.pageout.back_bytes)
say "$((back >> 20)) MiB of it came back"
need "the VM is left alone" "$(top vms.0.pageout.rests)" -eq 1
before=$(top vms.0.pageout.asked_bytes)
release 1 kept
need "nothing more is asked for" "$(top vms.0.pageout.asked_bytes)" -eq "$before"
echo off >$DAMON/0/state
top_stop
