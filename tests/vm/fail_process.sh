# What can happen to imr itself: a full disk, a minute asleep, a second one, SIGTERM and the OOM killer in the middle of a
# batch. The memory that the guest holds stays as it was written, and no batch stays open once an imr runs again.
. /root/lib.sh
ctl_field() { imr ctl status --json --socket "$1" >/tmp/ctl.json && imr-testtool json get --file /tmp/ctl.json --field "$2"; }
boot 1
module 1 timeout_ms=3000
hold 1 keep 32

# Records, socket and lock have no room: it serves the guest all the same, or says why not until there is room.
mkdir -p /tmp/full && mount -t tmpfs -o size=8k tmpfs /tmp/full
imr run --json --ctl /tmp/full.sock >/tmp/full/log 2>/tmp/full.err &
IMR_PID=$!
await 40 "imr serves the guest" stat_is 1 pages_reclaimed -ge 1
dd if=/dev/zero of=/tmp/full/rest bs=1k count=8 2>/dev/null
# Each of these is a record.
for round in $(seq 40); do imr ctl policy immediate --socket /tmp/full.sock >/dev/null || fail "imr does not answer"; done
need "no room is left" "$(df /tmp/full | awk 'END { print $4 }')" -eq 0
need "it is said on standard error" "$(grep -c 'full file system' /tmp/full.err)" -ge 1
finished=$(ctl_field /tmp/full.sock vms.0.done) || fail "imr does not answer"
fill 1 24
await 40 "a batch is done without room for its records" eval '[ "$(ctl_field /tmp/full.sock vms.0.done)" -gt "$finished" ]'
mount -o remount,size=1m /tmp/full
kill -TERM "$IMR_PID"
wait "$IMR_PID" || fail "imr ended with status $?"
need "the socket went with it" ! -e /tmp/full.sock
need "what is missing is told of" "$(grep -c 'records are missing here' /tmp/full/log)" -ge 1
say "full disk: $(grep -o "[0-9]* records are missing" /tmp/full/log)"
umount /tmp/full

# No room for a lock or a socket: nothing is answered, and that is said; with room it is answered with the next HELLO.
used=$(df -i /run | awk 'END { print $3 }')
rm -f /run/imr/vm-*.lock
mount -o remount,nr_inodes="$used" /run || fail "/run cannot be made full"
touch /run/a /run/b 2>/dev/null
imr_start
await 10 "imr says that it has no socket" grep -q 'no control socket' "$IMR_LOG"
await 30 "imr says that it has no lock" grep -q 'vm-[-0-9a-f]*.lock: No space' "$IMR_LOG"
need "nobody is answered without a lock" "$(count event=hello)" -eq 0
mount -o remount,nr_inodes=100000 /run || fail "/run stays full"
rm -f /run/a /run/b
attached 1
imr_stop

# A minute asleep with a batch claimed. Another imr is there meanwhile, and has nothing to say to this guest.
lost=$(stat_of 1 revoke_lost)
stopped_at 1 24 claimed
first=$IMR_PID first_log=$IMR_LOG
imr_start --ctl /tmp/second.sock
began=$(cut -d. -f1 /proc/uptime)
await 20 "the second imr says whose the guest is" eval '[ "$(ctl_field /tmp/second.sock vms.0.backend)" = other-instance ]'
await 20 "the guest tries to withdraw the batch" stat_is 1 revoke_lost -gt "$lost"
rewrite 1 keep
left=$((60 - $(cut -d. -f1 /proc/uptime) + began))
say "asleep with offer $OPEN claimed; $left s to go"
[ $left -le 0 ] || sleep $left
need "the batch is still open" "$(stat_of 1 open_seq)" -eq "$OPEN"
need "the second imr has not touched it" "$(count event=claim)" -eq 0
kill -CONT "$first"
imr-testtool json wait --file "$first_log" --timeout $((30 * PACE)) event=done "seq=$OPEN" >/dev/null ||
    fail "after its sleep imr did not finish the batch"
rewrite 1 keep
# It dies, and the second one has the guest with its next call.
kill -KILL "$first"
attached 1
served 1
kill -TERM "$IMR_PID"
wait "$IMR_PID" || fail "the second imr ended with status $?"

# SIGTERM in the middle of the calls: it finishes the batch, and ends well. At once: a claim is void after 5 s.
imr_start --stop-at half
(until is_stopped "$IMR_PID"; do usleep 20000; done; kill -TERM "$IMR_PID"; kill -CONT "$IMR_PID") &
fill 1 24
wait "$IMR_PID" || fail "imr ended with status $? by SIGTERM"
need "a batch was claimed" "$(count event=claim)" -ge 1
need "all that was claimed was finished" "$(count event=done)" -eq "$(count event=claim)"
need "there is a summary" "$(count event=summary)" -eq 1
await 10 "the guest has its memory back" stat_is 1 open_seq -eq 0

# The OOM killer in the middle of the calls: the next imr does the batch again.
cgroup=/sys/fs/cgroup/imr
echo +memory >/sys/fs/cgroup/cgroup.subtree_control && mkdir $cgroup || fail "no cgroup for imr"
echo $$ >$cgroup/cgroup.procs
imr_start --stop-at half
echo $$ >/sys/fs/cgroup/cgroup.procs
stops 1 24
# What it has cannot be swapped out, and there is no swap: less than that is more than it can give.
echo 256k >$cgroup/memory.max
wait "$IMR_PID"
ended=$?
need "imr was killed (128 + 9)" $ended -eq 137
need "by the OOM killer" "$(sed -n 's/^oom_kill //p' $cgroup/memory.events)" -ge 1
need "its batch is open" "$(stat_of 1 open_seq)" -eq "$OPEN"
imr_start
event 30 event=claim redone=true "seq=$OPEN" >/dev/null || fail "the next imr did not take the batch up again"
event 30 event=done "seq=$OPEN" >/dev/null || fail "the next imr did not finish the batch"
need "the socket of the dead one is replaced" "$(ctl_field /run/imr/ctl.sock pid)" -eq "$IMR_PID"
served 1
release 1 keep
FROM=0
imr_stop
