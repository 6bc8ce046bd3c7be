# Two VMs at once: each is credited with its own blocks, by its own counters and by its own file.
. /root/lib.sh
imr_start
boot 1
boot 2
attached 1
attached 2
settle
hold 1 big 220
hold 2 big 90
mark
held1=$(resident_kib 1) held2=$(resident_kib 2)
release 1 big
release 2 big
settle
for n in 1 2; do
    eval "held=\$held$n"
    filled=$(($(guest run $n "sed -n 's/^mib=\([0-9]*\).*/\1/p' /tmp/big.out") * 1048576))
    freed=$(sum freed_bytes event=done "vm.name=guest$n")
    fell=$(((held - $(resident_kib $n)) * 1024))
    say "guest $n: $((filled / 1048576)) MiB filled and freed; its file fell by $((fell / 1048576)) MiB, $((freed / 1048576)) MiB by imr"
    # What was offered is no measure: free blocks that merge are offered again, also the part that is back already.
    # Page reporting has whole blocks only: where a piece of one is still in use, the block stays. Of 90 MiB in 4 KiB
    # pages that was seen to be 29 %.
    need "guest $n: its file fell by at least half of what it had filled" "$fell" -ge $((filled / 2))
    need "guest $n: imr credits it with what its file fell by" "$freed" -ge $((fell * 9 / 10))
    need "guest $n: imr credits it with no more" "$freed" -le $((fell * 12 / 10))
done
first=$(sum offered_bytes event=done vm.name=guest1)
second=$(sum offered_bytes event=done vm.name=guest2)
need "they offered as much as each had freed" $((first - second)) -ge $((70 * 1048576))
FROM=0
for n in 1 2; do
    for kind in offered reclaimed; do
        # A batch more may end between the two looks.
        await 20 "guest $n: $kind bytes by imr are those by the guest" eval \
            '[ $(($(stat_of $n pages_$kind) * 4096)) -eq "$(sum ${kind}_bytes event=done vm.name=guest$n)" ]'
    done
    need "guest $n: no offer was given back" "$(count event=abandoned "vm.name=guest$n")" -eq 0
done
imr_stop
need "two VMs" "$(summary vms)" -eq 2
