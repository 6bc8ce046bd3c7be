# Guest 1's kernel makes a million hypercalls, and an unprivileged process of it some thousands: imr hears so many a
# second and no more, its CPU time stays bounded, guest 2 is served meanwhile.
CALLS=1000000
# Some machines make no more than a few hundred calls a second under the emulator: there the flood ends after so long, s.
MOST_S=480
. /root/lib.sh
now_ms() { echo $(($(cut -d' ' -f1 /proc/uptime | tr -d .) * 10)); }
imr_start
boot 1
boot 2
module 2
attached 2
settle
watch_begin
hostile 1 honest
mark
before=$(cpu_ticks)
(PATIENCE=$MOST_S; hostile 1 flood "count=$CALLS" most_s=$MOST_S; echo "$LINE" >/tmp/flood.line) >/tmp/flood.out 2>&1 &
flood=$!
begun=$(now_ms)
event 30 event=done vm.name=guest1 >/dev/null || fail "the flood has not begun"
fill 2 60
event 60 event=done vm.name=guest2 'reclaimed_bytes>=2097152' >/dev/null || fail "guest 2 is not served during the flood"
[ ! -e /tmp/flood.line ] || fail "the flood was over before guest 2 was served"
say "guest 2 was served during the flood"
wait $flood || { cat /tmp/flood.out; fail "the flood ended badly"; }
took=$(($(now_ms) - begun))
used=$((($(cpu_ticks) - before) * 10))
LINE=$(cat /tmp/flood.line)
say "$LINE"
say "imr had $used ms of CPU in $took ms: $((used * 100 / took)) % of one"
made=$(said calls)
most=25
if [ "$made" -lt $CALLS ]; then
    say "this machine made $made of $CALLS calls in $MOST_S s"
    need "it ended for that time, ms" "$took" -ge $((MOST_S * 1000))
    need "the flood was one: calls" "$made" -ge 50000
    # So slow that nearly every call is one of the thousand a second that are heard: imr's share is what hearing a call costs
    # under the emulator against making one.
    most=40
fi
need "imr's CPU time, percent of one CPU" $((used * 100 / took)) -le "$most"
hostile 1 honest
rung=$(guest run -t 100 1 imr-testtool ring --times 5000) || fail "ring: $rung"
echo "$rung"
watch_end
served 2
imr_stop
say "limited $(summary limited_calls), denied $(summary denied_calls), stale $(summary stale_calls), malformed $(summary malformed)"
# A thousand a second are heard, and the first one in each window may be one too many per CPU.
need "calls over the limit were counted" "$(summary limited_calls)" -ge $((made - took - 3000))
need "records were held back" "$(summary held_back)" -ge 1000
need "the process's calls were counted" "$(summary denied_calls)" -eq 15000
