# Integrity soak: guests whose memory is of four kinds churn it and verify every byte, while imr is started with policies by
# chance, stopped, told otherwise and killed. LENGTH and SEED come with the script (xtask/src/test/soak.rs); the seed repeats
# what is done, not the moments it happens at.
. /root/lib.sh
. /etc/imr/config
KINDS="thp memfd anon hugetlb"
GUESTS="1 2 3 4"
# A batch is 32 ranges of 4 MiB at most. One that a dead imr has claimed is not the guest's to use, and the rest of the
# guest has to get by without it.
BATCH_MIB=128
SPARE_MIB=24
# All guests boot, and churn, at once on one CPU under the emulator: what the slowest of them may take, s.
BOOT_LIMIT=300
CHURN_LIMIT=200
# How long a batch may stay open while an imr answers, and how long imr may take to get ready, s.
STUCK=$((40 * PACE))
READY=40
END=$ROOT/tmp/soak.end
STATE=$SEED
STARTS=0 KILLS=0 TERMS=0 STOPS=0 CHANGES=0 EARLY=0 UNHEARD=0

# pick LEAST MOST: R by chance (a linear congruential generator; its low bits are poor).
pick() {
    STATE=$(((STATE * 1103515245 + 12345) & 2147483647))
    R=$(($1 + (STATE >> 12) % ($2 - $1 + 1)))
}

uptime_s() { cut -d. -f1 /proc/uptime; }
available_mib() { echo $(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo) / 1024)); }

# churner N: churns in guest N until END is there. Each 4 KiB page costs a fault, up to 4 ms of a slow machine: with as much
# memory as the others a guest of such pages has a few rounds in all the time.
churner() {
    mib=$MIB
    [ "$(cat "$ROOT/run/imr/guest$1/backing")" != memfd ] || mib=$((MIB / 4))
    while [ ! -e "$END" ]; do
        guest run -t $CHURN_LIMIT "$1" imr-testtool churn --mib "$mib" --rounds 4 --wait-ms 2500 >>"$ROOT/tmp/churn.$1" 2>&1 || {
            echo $? >"$ROOT/tmp/churn.$1.failed"
            return 1
        }
    done
}

# whole: no guest has died or was reset, and none has found a wrong byte.
whole() {
    for n in $GUESTS; do
        [ ! -e "$ROOT/tmp/churn.$n.failed" ] || broken "guest $n: churn ended with status $(cat "$ROOT/tmp/churn.$n.failed")"
        [ ! -e "$ROOT/run/imr/guest$n/off" ] || broken "guest $n has ended"
        [ "$(guest boots $n)" = 1 ] || broken "guest $n was reset"
    done
}

# broken WHY: fails; what the guests and the last instances of imr have said comes out of the machine.
broken() {
    mkdir -p "$IMR_SAVE"
    # Not by cp: that of busybox leaves empty files here.
    for file in "$ROOT"/tmp/imr.* "$ROOT"/tmp/churn.*; do cat "$file" >"$IMR_SAVE/${file##*/}"; done
    for n in $GUESTS; do
        echo "--- churn of guest $n"; tail -n 4 "$ROOT/tmp/churn.$n"
        guest run -t 20 "$n" 'dmesg | tail -n 15; cat /sys/kernel/debug/imr/stats' >"$IMR_SAVE/guest$n" 2>&1
        cat "$ROOT/run/imr/guest$n/console" >"$IMR_SAVE/console$n"
    done
    say "seed $SEED, imr number $IMR_RUN"
    fail "$1"
}

# launch ARGS: `imr run` with a log of its own; does not wait until it is ready.
launch() {
    IMR_RUN=$((IMR_RUN + 1)) STARTS=$((STARTS + 1))
    rm -f "$ROOT/tmp/imr.$((IMR_RUN - 3))".*
    IMR_LOG=$ROOT/tmp/imr.$IMR_RUN.json
    : >"$IMR_LOG"
    imr run --json --inject --config "$ROOT/tmp/soak.toml" "$@" >"$IMR_LOG" 2>"$ROOT/tmp/imr.$IMR_RUN.err" &
    IMR_PID=$!
}

# ended_by SIGNAL: sends it to imr, which has to be there still, and sees that it ends as it should.
ended_by() {
    kill "-$1" "$IMR_PID" 2>/dev/null || broken "imr ended by itself"
    wait "$IMR_PID"
    ended=$?
    ! grep -q panicked "$ROOT/tmp/imr.$IMR_RUN.err" || broken "imr panicked"
    case $1:$ended in
    KILL:137) KILLS=$((KILLS + 1)) ;;
    TERM:0) TERMS=$((TERMS + 1)) ;;
    TERM:143)
        # It had not come to take the signal itself.
        [ "$(count event=ready)" = 0 ] || broken "imr ended with status $ended by SIGTERM"
        TERMS=$((TERMS + 1)) ;;
    *) broken "imr ended with status $ended by SIG$1" ;;
    esac
}

# ask_policy NAME: at run time; an imr that is not ready yet has no socket.
ask_policy() {
    imr ctl policy "$1" >/dev/null 2>"$ROOT/tmp/ctl.err"
    asked=$?
    case $asked in
    0) CHANGES=$((CHANGES + 1)) ;;
    3) EARLY=$((EARLY + 1)) ;;
    # With four guests under the emulator imr or its client may have to wait for a CPU for long; that is counted and shown.
    1)
        grep -q 'does not answer within' "$ROOT/tmp/ctl.err" || broken "imr ctl policy $1: $(cat "$ROOT/tmp/ctl.err")"
        UNHEARD=$((UNHEARD + 1))
        say "imr number $IMR_RUN: $(cat "$ROOT/tmp/ctl.err")" ;;
    *) broken "imr ctl policy $1: status $asked: $(cat "$ROOT/tmp/ctl.err")" ;;
    esac
}

policy() {
    pick 1 8
    case $R in
    [1-4]) POLICY="immediate" ;;
    [56]) POLICY="pressure" ;;
    7) POLICY="observe" ;;
    8) POLICY="immediate --dry-run" ;;
    esac
}

# one_life: an imr from its start to its end, 2 to 15 s later; meanwhile its policy changes, or it is stopped for a while.
one_life() {
    policy
    # POLICY is words.
    # shellcheck disable=SC2086
    launch --policy $POLICY
    pick 20 150; life=$R
    pick 1 4; chance=$R
    pick 10 90; before=$((life * R / 100))
    usleep $((before * 100000))
    case $chance in
    1 | 2)
        policy
        ask_policy "${POLICY%% *}" ;;
    3)
        pick 5 50
        kill -STOP "$IMR_PID" || broken "imr ended by itself"
        usleep $((R * 100000))
        kill -CONT "$IMR_PID"
        STOPS=$((STOPS + 1)) ;;
    esac
    usleep $(((life - before) * 100000))
    pick 1 3
    if [ "$R" = 1 ]; then
        ended_by TERM
    else
        ended_by KILL
    fi
    # So long nobody answers.
    pick 0 30
    usleep $((R * 100000))
}

# settled_life: one that is left alone until no guest's batch is open that was open when it got ready.
settled_life() {
    launch --policy immediate
    event $READY event=ready >/dev/null || broken "imr did not get ready"
    unstuck
    ended_by TERM
}

unstuck() {
    for n in $GUESTS; do
        open=$(stat_of "$n" open_seq) || broken "guest $n does not answer"
        start=$(uptime_s)
        now=$open
        while [ "$now" != 0 ] && [ "$now" = "$open" ]; do
            [ $(($(uptime_s) - start)) -lt $STUCK ] || broken "guest $n: batch $open is stuck for $STUCK s"
            whole
            now=$(stat_of "$n" open_seq) || broken "guest $n does not answer"
        done
    done
}

# total FIELD FILE: the sum of what churn said.
total() {
    wanted=$1
    tr ' ' '\n' <"$2" | awk -F= -v wanted="$wanted" '$1 == wanted { sum += $2 } END { printf "%.0f\n", sum }'
}

say "seed $SEED, $LENGTH s"
n=0
for kind in $KINDS; do
    n=$((n + 1))
    GUEST_RAM=$kind guest start $n || fail "guest $n ($kind) does not start"
done
least=$GUEST_MEM
for n in $GUESTS; do
    boot $n
    free=$(guest run -t 30 $n "sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo") || fail "guest $n does not answer"
    [ $((free / 1024)) -ge "$least" ] || least=$((free / 1024))
done
MIB=$((least - BATCH_MIB - SPARE_MIB))
need "there is memory to churn, MiB" $MIB -ge 64
rest=$(available_mib)
# Guests that have touched all that they churn go below the lower mark, and above the upper one with it reclaimed. A guest
# that wants all back at once is left alone for a moment only.
cat >"$ROOT/tmp/soak.toml" <<CONFIG
[run]
available_low = "$((rest - MIB))M"
available_high = "$((rest - MIB / 2))M"
psi_above = "100%"
psi_below = "99%"
floor = "16M"
rate = "512M"
regret_within = "1s"
left_alone = "2s"
CONFIG
imr config check "$ROOT/tmp/soak.toml" || fail "the configuration is not accepted"
say "four guests of $GUEST_MEM MiB are up ($KINDS); each churns $MIB MiB, memfd a quarter; $rest MiB available here"

began=$(uptime_s)
churners=
for n in $GUESTS; do
    churner $n &
    churners="$churners $!"
done
lives=0
# The end takes a while, too.
while [ $(($(uptime_s) - began)) -lt $((LENGTH - 25)) ]; do
    lives=$((lives + 1))
    if [ $((lives % 8)) = 0 ]; then settled_life; else one_life; fi
    whole
done

touch "$END"
for pid in $churners; do wait "$pid"; done
whole
launch --policy immediate
event $READY event=ready >/dev/null || broken "the last imr did not get ready"
unstuck
# More than what lies free in small pieces, so that whole blocks are freed.
for n in $GUESTS; do served $n $((MIB + BATCH_MIB / 2)); done
ended_by TERM
need "no event was lost by the last imr" "$(summary events.lost)" -eq 0

offers=0 done=0 abandoned=0 pages=0
for n in $GUESTS; do
    kind=$(cat "$ROOT/run/imr/guest$n/backing")
    rounds=$(total rounds "$ROOT/tmp/churn.$n") bytes=$(total verified_bytes "$ROOT/tmp/churn.$n")
    wrong=$(total wrong "$ROOT/tmp/churn.$n")
    [ "$wrong" = 0 ] || broken "guest $n: $wrong wrong"
    for name in offers done abandoned pages_reclaimed pages_unanswered leaked_pages open_seq; do
        value=$(stat_of $n $name) || broken "guest $n does not answer"
        eval "guest_$name=\$value"
    done
    [ "$guest_pages_unanswered$guest_leaked_pages" = 00 ] ||
        broken "guest $n: $guest_pages_unanswered pages without an answer, $guest_leaked_pages leaked"
    say "guest $n ($kind): $rounds rounds, $bytes bytes verified, $guest_done of $guest_offers batches done," \
        "$guest_abandoned abandoned, $((guest_pages_reclaimed * 4096)) bytes reclaimed"
    all_rounds=$((${all_rounds:-0} + rounds)) all_bytes=$((${all_bytes:-0} + bytes))
    offers=$((offers + guest_offers)) done=$((done + guest_done)) abandoned=$((abandoned + guest_abandoned))
    pages=$((pages + guest_pages_reclaimed))
done
echo "soak: seed=$SEED rounds=$all_rounds verified_bytes=$all_bytes wrong=0 imr_starts=$STARTS kills=$KILLS terms=$TERMS" \
    "stops=$STOPS policy_changes=$CHANGES asked_too_early=$EARLY unheard=$UNHEARD offers=$offers batches_done=$done abandoned=$abandoned" \
    "reclaimed_bytes=$((pages * 4096))"
