# The module in guests that others run: init_on_free=1, page poisoning, several CPUs, memory above 4 GiB, and for
# half a minute no host. What the guest's kernel promises of free pages holds though the host has taken them.
. /root/lib.sh
. /etc/imr/config

# take MIB: guest 1's kernel takes so much, and each word of it has to be zero. HELD is what is resident then, KiB.
take() {
    guest run -t 120 1 "insmod /imr_pages.ko mib=$1" || fail "imr_pages does not load"
    found taken
    TAKEN=$(($(said blocks) * 2))
    need "most of it was free in large blocks, MiB" "$TAKEN" -ge $(($1 * 8 / 10))
    HELD=$(resident_kib 1)
}

# give: verifies and frees it; the host takes it.
give() {
    mark
    guest run -t 120 1 "rmmod imr_pages" || fail "imr_pages does not unload"
    found freed
    need "blocks freed" $(($(said blocks) * 2)) -eq "$TAKEN"
    event 40 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "nothing was reclaimed"
    settle
    LEFT=$(resident_kib 1)
    say "taken $TAKEN MiB: resident $((HELD / 1024)) MiB, after the free $((LEFT / 1024)) MiB"
    # Pieces below 2 MiB, and zones with too little free, are not offered.
    need "the host has most of it, KiB" $((HELD - LEFT)) -ge $(((TAKEN - 80) * 1024))
}

# found WHAT: LINE is what imr_pages said last; no word was wrong.
found() {
    LINE=$(guest run -t 20 1 "dmesg | sed -n 's/.*imr_pages: $1 //p' | tail -n 1")
    say "$1: $LINE"
    need "$1: no word is wrong" "$(said wrong)" -eq 0
}

quiet_kernel() {
    guest run 1 dmesg | grep -E 'Bad page|Out of memory|invoked oom|WARN|BUG|Oops' && fail "the guest's kernel complains"
}

hypercalls() { cat /sys/kernel/debug/kvm/hypercalls; }

# --- init_on_free=1: the kernel gives out what is free as zeroed, and does not look ---

GUEST_APPEND="init_on_free=1 init_on_alloc=0" guest start 1 || fail "guest 1 does not start"
boot 1
guest run 1 "dmesg | grep 'mem auto-init'" | grep 'heap alloc:off, heap free:on' || fail "init_on_free is not on"
guest run -t 30 1 insmod /imr_guest.ko source=sweep && fail "a sweep begins with init_on_free"
guest run 1 "dmesg | grep -q 'imr: init_on_free is on'" || fail "the guest is not told why there is no sweep"
module 1

# Nobody answers: a HELLO each 10 s is all that the module does.
hellos=$(stat_of 1 hellos); calls=$(hypercalls); began=$(cut -d. -f1 /proc/uptime)
fill 1 100
await 60 "the third HELLO" stat_is 1 hellos -ge $((hellos + 3))
took=$(($(cut -d. -f1 /proc/uptime) - began)); hellos=$(($(stat_of 1 hellos) - hellos)); calls=$(($(hypercalls) - calls))
say "no host: $hellos HELLOs, $calls hypercalls in $took s"
need "no more than a HELLO each 10 s" "$hellos" -le $((took / 10 + 1))
# One may have been made between the two readings.
need "KVM counts no other hypercall" $((calls - hellos)) -le 1
for none in rings offers pages_offered kicks sweeps leaked_pages; do
    need "with no host there are no $none" "$(stat_of 1 $none)" -eq 0
done

imr_start
attached 1
settle
for round in 1 2; do
    take 280
    # In the second round it is what the host took in the first.
    [ $round = 1 ] || need "it had been the host's, KiB" $((HELD - LEFT)) -ge $(((TAKEN - 80) * 1024))
    give
done
quiet_kernel
guest stop 1

# --- two CPUs, memory above 4 GiB, init_on_alloc=1, and page poisoning where the kernel has it ---

mark
GUEST_MEM=4608 GUEST_CPUS=2 GUEST_APPEND="init_on_alloc=1 init_on_free=0 page_poison=1" guest start 1 ||
    fail "guest 1 does not start again"
boot 1
need "two CPUs" "$(guest run 1 'grep -c ^processor /proc/cpuinfo')" -eq 2
if guest run 1 "dmesg | grep -q 'PAGE_POISONING is on'"; then
    guest run -t 30 1 insmod /imr_guest.ko && fail "the module loads with page poisoning"
    guest run 1 "dmesg | grep -q 'imr: page poisoning is on'" || fail "the guest is not told why"
    need "imr has not heard of it" "$(count event=hello)" -eq 0
    say "refused for page poisoning; without it now"
    guest stop 1
    GUEST_MEM=4608 GUEST_CPUS=2 guest start 1 || fail "guest 1 does not start once more"
    boot 1
else
    say "this kernel has no page poisoning, page_poison=1 means nothing to it"
fi
module 1
attached 1
settle
for round in 1 2; do
    take 360
    # The kernel begins with the zone above 4 GiB.
    need "what is taken is above 4 GiB, blocks" "$(said above_4g)" -ge $((TAKEN / 2 - 10))
    [ $round = 1 ] || need "it had been the host's, KiB" $((HELD - LEFT)) -ge $(((TAKEN - 80) * 1024))
    give
done
for one in 1 2; do
    guest run -t 150 1 imr-testtool churn --mib 150 --rounds 4 >/tmp/churn.$one 2>&1 &
    eval "churn$one=$!"
done
wait "$churn1" || fail "churn: $(cat /tmp/churn.1)"
wait "$churn2" || fail "churn: $(cat /tmp/churn.2)"
cat /tmp/churn.1 /tmp/churn.2
for one in 1 2; do
    LINE=$(cat /tmp/churn.$one)
    need "nothing wrong" "$(said wrong)" -eq 0
    need "reclaim really went on between the rounds" "$(said rounds_with_reclaim)" -ge 1
done
settle
nothing_stuck 1
quiet_kernel
FROM=0
imr_stop
need "nothing was refused" "$(count event=done 'refused>=1')" -eq 0
need "no event was lost" "$(summary events.lost)" -eq 0
