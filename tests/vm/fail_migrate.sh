# A guest is migrated to another VMM while its host is at each step of a batch. What was left behind is not touched any
# more, the batch is finished where the guest is now, and the guest's memory is as it was written.
. /root/lib.sh
MIGRATION=unix:/tmp/migration.sock
qmp() { guest qmp "$1" "$2" >/dev/null || fail "guest $1: QEMU refuses $2"; }
status_is() { guest qmp "$1" '{"execute":"query-status"}' | grep -q "\"status\": \"$2\""; }

# migrate FROM TO: returns when the guest runs there.
migrate() {
    guest start "$2" -incoming defer || fail "no VMM for guest $2"
    for n in "$1" "$2"; do
        qmp "$n" '{"execute":"migrate-set-parameters","arguments":{"max-bandwidth":4294967296,"downtime-limit":5000}}'
    done
    qmp "$2" '{"execute":"migrate-incoming","arguments":{"uri":"'$MIGRATION'"}}'
    qmp "$1" '{"execute":"migrate","arguments":{"uri":"'$MIGRATION'"}}'
    await 60 "guest $1 is gone" status_is "$1" postmigrate
    await 60 "guest $2 is there" status_is "$2" running
    # What the guest said when it came up, it said to the other one.
    echo up 1<>"/run/imr/guest$2/events.out"
    guest up "$2"
}

boot 1
module 1 timeout_ms=60000
hold 1 keep 32
from=1
for step in heard claimed half reclaimed done; do
    to=$((from + 1))
    imr_start --stop-at $step
    stops $from 24
    migrate $from $to
    left=$(resident_kib $from)
    kill -CONT "$IMR_PID"
    event 40 event=hello "vm.name=guest$to" >/dev/null || fail "$step: nobody answers the guest where it is now"
    case $step in
    claimed | half | reclaimed) as=redone=true; same=seq=$OPEN; need "$step: a batch is open" "$OPEN" -ne 0 ;;
    # Its batch is not claimed yet, or it is done and the next one, if any, is not claimed yet. One that is not claimed the
    # guest withdraws in time, and offers that memory anew.
    *) as=redone=false; same="seq>=$OPEN" ;;
    esac
    if [ "$OPEN" -ne 0 ]; then
        taken=$(FIELD=seq event 40 event=claim "vm.name=guest$to" "$same" $as) || fail "$step: offer $OPEN is not taken up"
        event 40 event=done "vm.name=guest$to" "seq=$taken" >/dev/null || fail "$step: offer $taken is not finished"
        need "$step: it was not finished where it was left" "$(count event=done "vm.name=guest$from" "seq>=$OPEN")" -eq 0
    fi
    need "$step: what was left is as it was, KiB" "$(resident_kib $from)" -eq "$left"
    rewrite $to keep
    guest stop $from
    event 20 event=vm_gone "vm.name=guest$from" >/dev/null || fail "the VMM that was left is still there"
    say "$step: offer $OPEN went along from guest $from to guest $to"
    # The next imr is to stop at an offer of its own, not at one that this one claimed.
    settle
    FROM=0
    imr_stop
    from=$to
done
# The guest has taken for given what it gave elsewhere; to another host, and here it is one, it offers it again.
imr_start
attached $from
settle
held=$(resident_kib $from)
imr ctl reclaim || fail "imr ctl reclaim"
settle
say "held: $held KiB, after a request: $(resident_kib $from) KiB"
served $from
release $from keep
FROM=0
imr_stop
