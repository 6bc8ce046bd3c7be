# Free memory of a guest goes back to the host, measured by the blocks of the file behind it; and what imr knows
# of the memory agrees with that file, whatever page tables KVM uses.
. /root/lib.sh

# imr's own idea of what is resident, against the file: KiB of memory, and how far off it may be.
agrees() {
    known=$(field_of_vm 1 resident_bytes) || fail "imr vms --json does not know guest 1"
    known=$((known / 1024))
    real=$(resident_kib 1)
    say "$1: $((real / 1024)) MiB by st_blocks, $((known / 1024)) MiB by imr vms"
    need "resident ($1) within 16 MiB of st_blocks" $((known - real)) -le 16384
    need "resident ($1) within 16 MiB of st_blocks" $((real - known)) -le 16384
}

imr_start
boot 1
attached 1
settle
say "after boot: $(($(resident_kib 1) / 1024)) MiB resident"

mark
hold 1 big auto
held=$(resident_kib 1)
agrees "memory in use"
release 1 big
filled=$(($(guest run 1 "sed -n 's/^mib=\([0-9]*\).*/\1/p' /tmp/big.out") * 1024))
event 40 event=done >/dev/null || fail "nothing was offered after the free"
settle
after=$(resident_kib 1)
agrees "memory freed"

offered=$(($(sum offered_bytes event=done) / 1024))
reclaimed=$(($(sum reclaimed_bytes event=done) / 1024))
freed=$(($(sum freed_bytes event=done) / 1024))
say "KiB: filled $filled, held $held, offered $offered, reclaimed $reclaimed, freed $freed, resident after $after"
need "a good part of the guest was filled" "$filled" -ge $((100 * 1024))
need "what was filled was resident" "$held" -ge "$filled"
need "most of what was freed was offered" "$offered" -ge $((filled * 8 / 10))
need "resident fell by at least 90 % of what was offered" $((held - after)) -ge $((offered * 9 / 10))
need "nothing was kept without need" "$(count event=done 'kept>=1')" -eq 0

FROM=0
# A batch more may end between the two looks.
await 20 "the guest and the host agree on what was reclaimed" eval \
    '[ $(($(stat_of 1 pages_reclaimed) * 4096)) -eq "$(sum reclaimed_bytes event=done)" ]'
imr_stop
refaulted=$(($(summary refaulted_bytes) / 1024))
say "refaulted: $refaulted KiB"
# The fill took memory that had been reclaimed after the boot.
need "memory that was reclaimed and used again is seen as refaulted" "$refaulted" -ge $((filled * 6 / 10))
need "no more is seen as refaulted than was reclaimed" "$refaulted" -le $(($(summary reclaimed_bytes) / 1024 + filled))
need "no event was lost" "$(summary events.lost)" -eq 0
need "every page fault has its VM" "$(summary events.page_faults)" -gt 0
