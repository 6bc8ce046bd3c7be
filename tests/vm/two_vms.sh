# Two VMs at once: each is credited with its own blocks, by its own counters and by its own file.
. /root/lib.sh
imr_start
boot 1
boot 2
attached 1
attached 2
settle
mark
hold 1 big 220
hold 2 big 90
held1=$(resident_kib 1) held2=$(resident_kib 2)
release 1 big
release 2 big
settle
for n in 1 2; do
    eval "held=\$held$n"
    offered=$(sum offered_bytes event=done "vm.name=guest$n")
    fell=$(((held - $(resident_kib $n)) * 1024))
    say "guest $n: offered $((offered / 1048576)) MiB, its file fell by $((fell / 1048576)) MiB"
    need "guest $n: its file fell by at least 90 % of its offers" "$fell" -ge $((offered * 9 / 10))
done
first=$(sum offered_bytes event=done vm.name=guest1)
second=$(sum offered_bytes event=done vm.name=guest2)
need "they offered as much as each had freed" $((first - second)) -ge $((70 * 1048576))
FROM=0
for n in 1 2; do
    for kind in offered reclaimed; do
        said=$(($(stat_of $n pages_$kind) * 4096))
        known=$(sum ${kind}_bytes event=done "vm.name=guest$n")
        need "guest $n: $kind bytes by imr and by the guest" "$known" -eq "$said"
    done
    need "guest $n: no offer was given back" "$(count event=abandoned "vm.name=guest$n")" -eq 0
done
imr_stop
need "two VMs" "$(summary vms)" -eq 2
