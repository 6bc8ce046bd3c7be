# imr-top on a real terminal: every view is driven by keys and the mouse, at every size down to 20x5, and leaves a
# capture in $IMR_SAVE (docs/ shows some of them). On the way the operator's two wishes come true: a VM's mode is
# changed, and "reclaim now" brings back what observe mode had kept.
. /root/lib.sh
export LANG=C.UTF-8 COLORTERM=
WIDE=$ROOT/tmp/wide.screen
PLAIN=$ROOT/tmp/plain.screen

cat >"$WIDE" <<'SCREEN'
# Observed only: what the guest offers is kept.
wait/60 attached
wait observe
key 6
wait/90 policy-observe
settle
capture decisions-observe
# The mode, asked for first.
key 1 o
wait y/n
settle
capture mode-prompt
key n
gone y/n
settle
expect observe
key o
wait y/n
key y
wait immediate
# Reclaim now, asked for first.
key R
wait y/n
key y
key 6
wait/60 by punch
settle
capture decisions
# Every view.
key 1
wait "[1 VMs]"
settle
capture vms
key Enter
wait "[2 blocks]"
key z z Right Down n
settle
expect guest says
capture blocks
key 3
wait "[3 cross]"
settle
expect held by the host
capture cross
key 4
wait "[4 timeline]"
settle
capture timeline
key Tab
wait "[5 stages]"
settle
expect notifier
capture stages
key 7
wait "[7 health]"
settle
expect probes
capture health
key BackTab
wait "[6 decisions]"
# Over any view: help, facts, palette.
key ?
wait imr-top: help
settle
capture help
key Esc
gone imr-top: help
key i
wait control page
settle
capture facts
key Esc
key :
type view-cr
settle
capture palette
key Enter
wait "[3 cross]"
# Filter, sort, pause, rate.
key 1 /
type nobody
key Enter
settle
refuse guest1
key Esc
wait guest1
key s Space
wait PAUSED
key Space
gone PAUSED
key +
wait 500ms
key -
wait every 1s
# The mouse: on a tab, on the map.
click 12 4
settle
expect [2
wheel down 40 12
key 1
wait "[1 VMs]"
# The sample on the screen, to a file.
key w
wait .json
key C-u
type /tmp/sample.json
key Enter
wait /tmp/sample.json
# Every view at the smallest size, and at a large one.
resize 20x5
key 1
settle
capture vms-20x5
key 2
settle
capture blocks-20x5
key 3
settle
capture cross-20x5
key 4
settle
key 5
settle
key 6
settle
key 7
settle
capture health-20x5
key ?
settle
key Esc
resize 1x1
settle
resize 200x50
key 1
wait "[1 VMs]"
settle
capture vms-200x50
key 2
settle
capture blocks-200x50
key 3
settle
capture cross-200x50
key 4
settle
capture timeline-200x50
key 5
settle
capture stages-200x50
key 6
settle
capture decisions-200x50
key 7
settle
capture health-200x50
resize 80x24
settle
key q
exit 0
SCREEN

cat >"$PLAIN" <<'SCREEN'
wait/60 attached
key 2
settle
expect guest says
capture blocks-serial
key 3
settle
capture cross-serial
key 4
settle
capture timeline-serial
key C-c
exit 0
SCREEN

boot 1
say "a configuration that is wrong is told with its line, one that is right is taken"
imr config default >"$ROOT/tmp/config.toml" || fail "imr config default"
imr config check "$ROOT/tmp/config.toml" || fail "the default configuration is not accepted"
printf '[top]\ndelay = "1s"\ncolumns = ["name", "nonsense"]\n' >"$ROOT/tmp/bad.toml"
imr-top --config "$ROOT/tmp/bad.toml" -b -n 1 >"$ROOT/tmp/bad.out" 2>&1
need "a bad configuration is wrong usage" $? -eq 2
grep -q 'bad.toml.*3' "$ROOT/tmp/bad.out" || fail "the line is not named: $(cat "$ROOT/tmp/bad.out")"

fill 1 auto &
imr-testtool screen --size 80x24 --out "$IMR_SAVE" --timeout 30 "$WIDE" -- imr-top --observe -d 1s &
screen=$!
wait "$screen" || fail "the screen did not show what it should"
after=$(resident_kib 1)
say "$((after / 1024)) MiB resident after reclaim now"
need "memory that was kept came back" "$after" -le $((200 * 1024))
need "the snapshot in the file is of this VM" \
    "$(imr-testtool json get --file /tmp/sample.json --field vms.0.name)" = guest1
cp /tmp/sample.json "$IMR_SAVE/"

say "over a serial console: no colours, ASCII only, no mouse"
LANG=C imr-testtool screen --size 80x24 --out "$IMR_SAVE" --term vt100 "$PLAIN" -- imr-top -d 1s || fail "serial console"
LC_ALL=C grep -q '[^ -~]' "$IMR_SAVE"/*-serial.txt && fail "not only ASCII over a serial console"
imr-top --json -d 500ms -n 2 >"$IMR_SAVE/samples.jsonl" || fail "imr-top --json"
imr-top -b -d 500ms -n 1 >"$IMR_SAVE/batch.txt" || fail "imr-top -b"
exit 0
