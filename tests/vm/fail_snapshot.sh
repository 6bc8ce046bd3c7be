# A guest goes back to snapshots (savevm, loadvm): to a moment with a batch offered, with one claimed, and, while the host
# is in the middle of another batch, to one at which that memory was in use.
. /root/lib.sh
qmp() { guest qmp 1 "$1" >/dev/null || fail "QEMU refuses $1"; }
concluded() { guest qmp 1 '{"execute":"query-jobs"}' | grep -q '"concluded"'; }
# job JSON: a job of QEMU's from its start to its end.
job() {
    qmp "$1"
    await 60 "the end of $1" concluded
    guest qmp 1 '{"execute":"query-jobs"}' | grep '"error"' && fail "$1 failed"
    qmp '{"execute":"job-dismiss","arguments":{"id":"job"}}'
}
disk() {
    job '{"execute":"blockdev-create","arguments":{"job-id":"job","options":{"driver":"file","filename":"/tmp/disk","size":0}}}'
    qmp '{"execute":"blockdev-add","arguments":{"driver":"file","node-name":"file","filename":"/tmp/disk"}}'
    job '{"execute":"blockdev-create","arguments":{"job-id":"job","options":{"driver":"qcow2","file":"file","size":1048576}}}'
    qmp '{"execute":"blockdev-add","arguments":{"driver":"qcow2","node-name":"disk","file":"file"}}'
}
snapshot() { job '{"execute":"snapshot-'"$1"'","arguments":{"job-id":"job","tag":"'"$2"'","vmstate":"disk","devices":["disk"]}}'; }

boot 1
disk
module 1 timeout_ms=60000
hold 1 keep 32

stopped_at 1 0 heard
offered=$OPEN
snapshot save offered
kill -CONT "$IMR_PID"
event 30 event=done "seq=$offered" >/dev/null || fail "offer $offered was not finished"
settle
imr_stop

stopped_at 1 24 claimed
claimed=$OPEN
need "a batch is claimed" "$claimed" -gt "$offered"
snapshot save claimed
kill -CONT "$IMR_PID"
event 30 event=done "seq=$claimed" >/dev/null || fail "offer $claimed was not finished"
settle
imr_stop

hold 1 big 40
snapshot save used
imr_start --stop-at half
release 1 big
stops 1
need "a batch is being taken" "$OPEN" -gt "$claimed"
say "offered $offered, claimed $claimed, and now $OPEN half taken: back to when that memory was in use"
snapshot load used
mark
kill -CONT "$IMR_PID"
event 30 event=abandoned "seq=$OPEN" >/dev/null || fail "the batch of the time that never was is not given up"
event 30 event=hello >/dev/null || fail "imr and the guest do not find each other again"
rewrite 1 big
rewrite 1 keep
release 1 big
event 40 event=done >/dev/null || fail "the guest is not served after it went back"
settle

# back NAME SEQ REDONE: to a snapshot with that batch open; it is finished, and all of the memory is right.
back() {
    mark
    snapshot load "$1"
    event 30 event=reset >/dev/null || fail "imr did not see the restore"
    event 30 event=claim "seq=$2" "redone=$3" >/dev/null || fail "offer $2 was not taken up again"
    event 30 event=done "seq=$2" >/dev/null || fail "offer $2 was not finished"
    rewrite 1 keep
    await 30 "no offer is open" stat_is 1 open_seq -eq 0
    settle
}
back claimed "$claimed" true
back offered "$offered" false
# Loading the snapshot gave memory to what had been taken before. The guest knows that it is not so any more.
snapshot load claimed
settle
held=$(resident_kib 1)
mark
imr ctl reclaim --vm guest1 || fail "imr ctl reclaim"
event 30 event=done >/dev/null || fail "nothing is offered at the host's request"
settle
say "held after the restore: $held KiB, after the request: $(resident_kib 1) KiB"
served 1
release 1 keep
FROM=0
imr_stop
