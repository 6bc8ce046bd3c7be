# What is free in pieces too small to offer shows as stranded, as the guest's own buddy allocator counts it; on the host's
# request the guest compacts, and what is whole again is offered and taken. Memory that was moved keeps its content.
. /root/lib.sh
MIB=1048576
HELD=240

# told FIELD FILTER...: waits for such a word of guest 1's free memory, and says the field of it, MiB.
told() { field=$1; shift; bytes=$(FIELD=$field event 40 event=free_memory "$@") && echo $((bytes / MIB)); }
# What the guest's kernel has free in blocks below 2 MiB, MiB.
small() {
    guest run -t 20 1 "awk '{ size = 4; for (o = 5; o < 14; o++) { kib += \$o * size; size *= 2 } } END { print int(kib / 1024) }' /proc/buddyinfo"
}

imr_start
boot 1
attached 1
settle
FROM=0
whole=$(told reclaimable_bytes 'free_bytes>=1') || fail "nothing is known of the guest's free memory"
at_rest=$(told stranded_bytes 'free_bytes>=1')
say "at rest: $whole MiB reclaimable now, $at_rest MiB stranded"
need "there is so much to fragment, MiB" "$whole" -ge $((HELD + 80))

mark
fragment 1 pieces "$HELD"
# What was freed last is on the CPUs' own lists for some seconds; before it has left them, no two numbers are of one moment.
in_pieces() {
    own=$(small) && [ "$own" -ge $((at_rest + HELD / 2 - 16)) ] || return 1
    known=$(field_of_vm 1 free_memory.all.stranded_bytes) && known=$((known / MIB))
    [ $((known > own ? known - own : own - known)) -le 12 ]
}
await 40 "half of what was taken is in small blocks, and imr vms says so" in_pieces
# A word is said when it differs by 8 MiB from the one before.
stranded=$(told stranded_bytes "stranded_bytes>=$(((known - 8) * MIB))") || fail "what was fragmented does not show"
left=$(told reclaimable_bytes "stranded_bytes>=$(((known - 8) * MIB))")
say "fragmented: $left MiB reclaimable now, $stranded MiB stranded, $known by imr vms; by its buddyinfo $own MiB are in small blocks"
need "what is held and what is stranded is not reclaimable, MiB" "$left" -le $((whole - HELD + 24))
need "the guest counts no less in small blocks, MiB" $((stranded - own)) -le 16
imr vms
need "it was not asked to compact" "$(stat_of 1 compactions)" -eq 0
need "nothing is refused" "$(count event=refused)" -eq 0
imr_stop

LIMIT=$((at_rest + 24))
cat >"$ROOT/tmp/compact.toml" <<CONFIG
[run]
compact_over = "${LIMIT}M"
compact_every = "5s"
CONFIG
FROM=0
imr_start --config "$ROOT/tmp/compact.toml"
attached 1
FIELD=why event 20 event=compact 'bytes>=1' || fail "the guest is not asked"
# It is asked for what is over the limit, and no more. It may have been told by now: all of this imr's records count.
fewer=$((stranded - (stranded - LIMIT) * 2 / 3))
after=$(told stranded_bytes "stranded_bytes<=$((fewer * MIB))") || fail "nothing comes of it"
back=$(told reclaimable_bytes "stranded_bytes<=$((fewer * MIB))")
blocks=$(stat_of 1 compacted_blocks)
say "compacted: $blocks blocks, $(stat_of 1 compact_failed) failed; $back MiB reclaimable now, $after MiB stranded"
need "so many blocks of 2 MiB were made whole" "$blocks" -ge $(((stranded - LIMIT) / 2 * 2 / 3))
need "what is whole again is reclaimable, MiB" $((back - left)) -ge $(((stranded - after) / 2))
event 30 event=done 'reclaimed>=1' >/dev/null || fail "what was compacted is not taken"

# It verifies the pages that were moved.
mark
release 1 pieces
ended=$(told reclaimable_bytes "reclaimable_bytes>=$(((whole - 32) * MIB))") || fail "what was released does not show"
say "released: $ended MiB reclaimable now"
FROM=0
imr_stop
need "no event was lost" "$(summary events.lost)" -eq 0
need "nothing the guest said was nonsense" "$(count event=refused)" -eq 0
