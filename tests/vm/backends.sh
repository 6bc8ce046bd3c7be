# One guest after the other on each kind of memory that QEMU gives them: `imr vms` names the backend, or the guard that
# forbids it, of the VM and of each slot; and memory that the guest frees comes back in all of them, and stays away.
. /root/lib.sh
. /etc/imr/config

# vms ARGS...: how guest 1 is taken by `imr vms` with these: its backend, or the name of its guard.
vms() {
    VMS="$*"
    field_of_vm 1 reclaim.backend || field_of_vm 1 reclaim.guard
}

# shows RAM WANT ARGS...: what `imr vms` with ARGS says of it, in JSON and as text, of the VM and of its largest slot.
shows() {
    ram=$1; want=$2; shift 2
    have=$(vms "$@") || fail "imr vms $* does not know guest 1"
    say "$ram, imr vms $*: $have"
    need "what takes memory of kind $ram (imr vms $*)" "$have" = "$want"
    imr vms "$@" >"$ROOT/tmp/vms.txt" || fail "imr vms $*"
    grep "guest1 " "$ROOT/tmp/vms.txt" | grep -qF "$want" || fail "imr vms $* does not name $want: $(cat "$ROOT/tmp/vms.txt")"
    grep " slot " "$ROOT/tmp/vms.txt" | grep -qF ": $want" || fail "no slot is taken by $want: $(cat "$ROOT/tmp/vms.txt")"
    # A ROM is nobody's free memory, whatever is behind it.
    grep " ro " "$ROOT/tmp/vms.txt" | grep -vqF ": read-only-slot" && fail "a ROM is to be taken: $(cat "$ROOT/tmp/vms.txt")"
}

# held_kib RAM: what the host holds of guest 1.
held_kib() { if [ "$1" = anon ]; then ram_kib 1 Rss; else resident_kib 1; fi; }

# comes_back RAM: fills and frees most of the guest; the host has it again.
comes_back() {
    mark
    hold 1 big auto
    held=$(held_kib "$1")
    release 1 big
    event 40 event=done >/dev/null || fail "$1: nothing was offered after the free"
    settle
    after=$(held_kib "$1")
    offered=$(($(sum offered_bytes event=done) / 1024))
    freed=$(($(sum freed_bytes event=done) / 1024))
    say "$1, KiB: held $held, offered $offered, freed $freed, held after $after"
    need "$1: a good part of the guest was offered" "$offered" -ge $((64 * 1024))
    # A free block grows, and is offered again with the part of it that is away: each time up to half of it.
    need "$1: what was measured is most of what was offered" "$freed" -ge $((offered * 8 / 10))
    need "$1: what the host holds fell by what was measured, but for 5 %" $((held - after)) -ge $((freed * 95 / 100))
    need "$1: nothing was kept without need" "$(count event=done 'kept>=1')" -eq 0
    need "$1: nothing was refused" "$(count event=done 'refused>=1')" -eq 0
}

imr_start --inject
for ram in hugetlb memfd thp anon; do
    mark
    GUEST_RAM=$ram guest start 1 || fail "guest 1 does not start on $ram"
    boot 1
    attached 1
    case $ram in
    anon)
        shows anon private-mapping
        shows anon inject --inject
        shows anon "dry-run (inject)" --inject --dry-run
        ;;
    *)
        shows $ram punch
        shows $ram punch --inject
        shows $ram "dry-run (punch)" --dry-run
        ;;
    esac
    settle
    comes_back $ram
    guest stop 1
    event 10 event=vm_gone vm.name=guest1 >/dev/null || fail "the VM that ended is still there"
done
FROM=0
imr_stop
need "four VMs in all" "$(summary vms)" -eq 4
need "no problem was told" "$(count event=problem)" -eq 0
need "no memory was left where it was taken: offers" "$(summary left)" -eq 0
need "KVM was told of each call: calls that it was not told of" "$(summary unnotified_calls)" -eq 0
need "what came back was always measured: offers that were not" "$(summary unmeasured)" -eq 0
need "no event was lost" "$(summary events.lost)" -eq 0
