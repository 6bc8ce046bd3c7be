# Sourced by the host scripts in this folder (L1 of the testbed, busybox ash). What they need to say one thing
# a line: imr and its JSON records, the guests' counters, memory that holds a pattern, and `fail`.
# Where it is not L1 that it runs in, IMR_ROOT says where L1's folders are.
# A function that may be called in $(...) returns non-zero instead of failing: `x=$(f) || fail ...`.
# Limits are in seconds of a fast machine. PACE times as long is waited: a slow one, or one that does something else besides,
# takes several times as long under the emulator, and what fails is all that has to wait so long.
set -u
PACE=${PACE:-3}
ROOT=${IMR_ROOT:-}
IMR_RUN=0
IMR_LOG=/dev/null
IMR_PID=
# What imr-top has said, a JSON object a sample, and its pid.
TOP=$ROOT/tmp/top.json
TOP_PID=

say() { echo "== $*"; }

# The testbed's own command, but for the limit of `guest run -t S`.
guest() {
    if [ "$1" = run ] && [ "$2" = -t ]; then
        limit_s=$(($3 * PACE)); shift 3
        set -- run -t $limit_s "$@"
    fi
    command guest "$@"
}

# fail WHY: ends the test, with the last records of each imr, of the guests' consoles and their modules' counters. With
# status 75 (EX_TEMPFAIL) where the emulator has made a guest deaf.
fail() {
    status=1
    echo "FAIL: $*"
    for log in "$ROOT"/tmp/imr.*; do
        [ -e "$log" ] && { echo "--- $log"; tail -n 25 "$log"; }
    done
    [ ! -e "$TOP" ] || { echo "--- the newest sample of imr-top"; tail -n 1 "$TOP"; }
    for dir in "$ROOT"/run/imr/guest[0-9]*; do
        [ -d "$dir" ] || continue
        echo "--- console of ${dir##*/}"; tail -n 15 "$dir/console"
        guest run -t 5 "${dir##*guest}" 'cat /sys/kernel/debug/imr/stats; uptime; free; cat /proc/buddyinfo' >"$ROOT/tmp/answer" 2>&1
        [ $? -ne 124 ] || { silent "${dir##*guest}"; ! is_deaf "${dir##*guest}" || status=75; }
        paste -sd, "$ROOT/tmp/answer"
    done
    exit $status
}

# monitor N COMMAND: what the monitor of guest N's QEMU, the one for people, answers.
monitor() {
    guest qmp "$1" '{"execute":"human-monitor-command","arguments":{"command-line":"'"$2"'"}}' | sed 's/\\r\\n/\n/g'
}

# silent N: what the CPUs of guest N do, which does not answer: whether they run, and where, at two moments, and which
# interrupts wait or are in service.
silent() {
    for command in "info status" "info registers -a" "info lapic" "info registers -a" "info lapic"; do
        monitor "$1" "$command" |
            grep -E 'status|CPU#|^[RE]IP|^CR|^I[SR]R|PPR|rror'
    done
    tail -n 5 "$ROOT/run/imr/guest$1/qemu.log"
}

# is_deaf N: guest N gets no interrupts any more. Linux tells the local APIC at the beginning of a handler that the interrupt
# has ended (apic_eoi), so one that is in service at each of many looks was never delivered; the emulator has lost it, and
# with it the timer and all that is not more urgent.
is_deaf() {
    in_service= looks=0
    while [ $looks -lt 20 ]; do
        seen=$(monitor "$1" "info lapic" | sed -n 's/^ISR[^0-9]*\([0-9][0-9 ]*\).*/\1/p')
        [ -n "$seen" ] && [ "$seen" = "${in_service:-$seen}" ] || return 1
        in_service=$seen looks=$((looks + 1))
        usleep 50000
    done
    say "guest $1 is deaf: interrupt $in_service is in service at each of $looks looks, and its end was lost"
}

# need WHAT TEST...: the test has to hold, or WHAT is what did not.
need() {
    what=$1; shift
    [ "$@" ] || fail "$what: not so: $*"
}

# await SECONDS WHAT COMMAND...: polls until the command succeeds.
await() {
    limit=$(($1 * PACE)); what=$2; shift 2
    start=$(cut -d. -f1 /proc/uptime)
    until "$@" >/dev/null 2>&1; do
        [ $(($(cut -d. -f1 /proc/uptime) - start)) -lt "$limit" ] || fail "not within $limit s: $what"
        usleep 50000
    done
}

# --- imr ---

# imr_start [ARGS]: `imr run` with a log of its own; returns when its probes are attached, or when it has stopped itself as
# --stop-at has it: that may be before it has said anything.
imr_start() {
    IMR_RUN=$((IMR_RUN + 1))
    FROM=0
    IMR_LOG=$ROOT/tmp/imr.$IMR_RUN.json
    : >"$IMR_LOG"
    imr run --json "$@" >"$IMR_LOG" 2>"$ROOT/tmp/imr.$IMR_RUN.err" &
    IMR_PID=$!
    await 30 "imr gets ready" imr_is_ready
}
imr_is_ready() { [ "$(count event=ready)" -eq 1 ] || is_stopped "$IMR_PID"; }

# imr_stop: ends it as Ctrl-C does; it has to end well and with a summary.
imr_stop() {
    kill -INT "$IMR_PID" || fail "imr has ended before"
    wait "$IMR_PID" || fail "imr ended with status $?"
    summary vms >/dev/null || fail "imr ended without a summary"
}

# event SECONDS FILTER...: waits for a record from line FROM on and prints it (FIELD: that field of it).
event() {
    seconds=$(($1 * PACE)); shift
    imr-testtool json wait --file "$IMR_LOG" --from "${FROM:-0}" --timeout "$seconds" ${FIELD:+--field "$FIELD"} "$@"
}

# mark: records that are there by now do not count any more.
mark() { FROM=$(imr-testtool json lines --file "$IMR_LOG"); }

# count FILTER... / sum FIELD FILTER...: of the records from FROM on.
count() { imr-testtool json count --file "$IMR_LOG" --from "${FROM:-0}" "$@"; }
sum() { field=$1; shift; imr-testtool json sum --file "$IMR_LOG" --from "${FROM:-0}" --field "$field" "$@"; }
summary() { imr-testtool json get --file "$IMR_LOG" --field "$1" event=summary; }

# attached N: waits until guest N's module and imr know each other.
attached() { event 40 event=hello "vm.name=guest$1" >/dev/null || fail "guest $1: no HELLO was accepted"; }

# settle: waits until no batch has been finished for 4.5 s. Page reporting begins 2 s after a free
# (PAGE_REPORTING_DELAY), so then there is nothing left to offer.
settle() { imr-testtool json quiet --file "$IMR_LOG" --for 4.5 --timeout $((90 * PACE)) event=done || fail "offers do not end"; }

# stops N [MIB]: waits until imr, which was started with --stop-at, has stopped itself in the middle of an offer; guest N
# frees some memory for it. It may have stopped at an offer that N made by itself, so before it has said that it knows N.
# OPEN is that offer (none by then: 0).
stops() {
    filling=
    [ "${2:-0}" -eq 0 ] || { fill "$1" "$2" & filling=$!; }
    await 60 "imr stops itself" is_stopped "$IMR_PID"
    OPEN=$(stat_of "$1" open_seq) || fail "the guest does not answer"
    [ -z "$filling" ] || wait $filling || fail "guest $1: fill of $2 MiB"
}
is_stopped() { grep -q '^State:[[:space:]]*T' "/proc/$1/status"; }

# stopped_at N MIB STEP [ARGS]: starts an imr that stops itself at that step of an offer of guest N, which frees MIB for it
# (0: it has something to offer). The offer is open: OPEN.
stopped_at() {
    offering=$1 freed_mib=$2; shift 2
    imr_start --stop-at "$@"
    stops "$offering" "$freed_mib"
    need "guest $offering has an open offer" "$OPEN" -gt 0
}

# served N [MIB]: a new batch of guest N is offered and finished, and nothing is stuck.
served() {
    mark
    fill "$1" "${2:-24}"
    event 60 event=done "vm.name=guest$1" >/dev/null || fail "guest $1 is not served"
    nothing_stuck "$1"
}

# nothing_stuck N: guest N's offers are finished. It may make more by itself, so one may be open at the first look.
nothing_stuck() {
    await 30 "guest $1: no offer is open" stat_is "$1" open_seq -eq 0
    need "guest $1: no result is missing" "$(stat_of "$1" pages_unanswered)" -eq 0
}

# --- the guests ---

# boot N [BOOTS]: waits until guest N has come up for the first time, or so often. Now and then a guest hangs at boot under
# the emulator, with no imr and no module in play; the one who runs this tries again when the status is 75 (EX_TEMPFAIL),
# and says so.
boot() {
    timeout "${BOOT_LIMIT:-150}" guest up "$@" && return
    ended=$?
    say "guest $1 did not boot (status $ended; 143: not within ${BOOT_LIMIT:-150} s)"
    silent "$1"
    is_deaf "$1"
    guest console "$1"
    exit 75
}

# stat_of N NAME: a counter of the module.
stat_of() { guest run -t 30 "$1" imr-testtool stat "$2"; }

# stat_is N NAME TEST...: for `await`, such as: await 10 "it is open" stat_is 1 open_seq -gt 0
stat_is() {
    value=$(stat_of "$1" "$2") || return 1
    [ "$value" "$3" "$4" ]
}

# module N [PARAMETERS]: loads it.
module() {
    number=$1; shift
    guest run -t 30 "$number" insmod /imr_guest.ko "$@" || fail "guest $number: the module does not load"
}

# hold N NAME MIB|auto [OPTIONS of fill]: memory of guest N holds a pattern, until `release N NAME`, which verifies it.
hold() {
    guest run -t 20 "$1" "rm -f /tmp/$2.*; (imr-testtool fill --mib $3 --ready /tmp/$2.ready --until /tmp/$2.go \
        --rewrite /tmp/$2.rewrite ${4:-} >/tmp/$2.out 2>&1; echo \$? >/tmp/$2.status) &" ||
        fail "guest $1: cannot start the fill"
    guest run -t 120 "$1" "until [ -e /tmp/$2.ready ] || [ -e /tmp/$2.status ]; do usleep 20000; done; \
        cat /tmp/$2.out; [ -e /tmp/$2.ready ]" || fail "guest $1: cannot fill $3 MiB"
}

# fragment N NAME MIB|auto: as hold, and every second page is free; `release N NAME` ends and verifies it.
fragment() {
    guest run -t 20 "$1" "rm -f /tmp/$2.*; (imr-testtool fragment --mib $3 --ready /tmp/$2.ready --until /tmp/$2.go \
        >/tmp/$2.out 2>&1; echo \$? >/tmp/$2.status) &" || fail "guest $1: cannot begin to fragment"
    guest run -t 120 "$1" "until [ -e /tmp/$2.ready ] || [ -e /tmp/$2.status ]; do usleep 20000; done; \
        cat /tmp/$2.out; [ -e /tmp/$2.ready ]" || fail "guest $1: cannot fragment $3 MiB"
}

# rewrite N NAME: verifies all of it and writes another pattern.
rewrite() {
    guest run -t 120 "$1" "touch /tmp/$2.rewrite; while [ -e /tmp/$2.rewrite ] && [ ! -e /tmp/$2.status ]; do \
        usleep 20000; done; cat /tmp/$2.out; [ ! -e /tmp/$2.status ]" ||
        fail "guest $1: memory held as \"$2\" is not as it was written"
}

release() {
    guest run -t 120 "$1" "touch /tmp/$2.go; until [ -e /tmp/$2.status ]; do usleep 20000; done; cat /tmp/$2.out; \
        [ \$(cat /tmp/$2.status) = 0 ]" || fail "guest $1: memory held as \"$2\" is not as it was written"
}

# fill N MIB|auto: writes, verifies and frees once.
fill() { guest run -t 120 "$1" imr-testtool fill --mib "$2" || fail "guest $1: fill of $2 MiB"; }

# resident_kib N: what the file behind the guest's RAM takes, by st_blocks (512 bytes each).
resident_kib() { echo $(($(stat -L -c %b "$(guest ram "$1")") / 2)); }

# field_of_vm N FIELD...: fields of guest N in one `imr vms --json`, with the arguments VMS where that is set; a line each.
field_of_vm() {
    # shellcheck disable=SC2086
    imr vms --json ${VMS:-} >"$ROOT/tmp/vms.json" || return 1
    name=guest$1 index=0; shift
    while named=$(imr-testtool json get --file "$ROOT/tmp/vms.json" --field "vms.$index.name"); do
        if [ "$named" = "$name" ]; then
            for field in "$@"; do
                imr-testtool json get --file "$ROOT/tmp/vms.json" --field "vms.$index.$field" || return 1
            done
            return 0
        fi
        index=$((index + 1))
    done
    return 1
}

# pause N / resume N: its vCPUs do nothing in between, so that the memory stays as it is.
pause() { guest qmp "$1" '{"execute":"stop"}' >/dev/null || fail "guest $1: cannot be paused"; }
resume() { guest qmp "$1" '{"execute":"cont"}' >/dev/null || fail "guest $1: cannot be resumed"; }

# --- the host's memory, by the kernel's own numbers ---

# start_in_cgroup N: starts guest N in a cgroup (v2) of its own: what it touches from the first page on is charged there.
start_in_cgroup() {
    cgroup=/sys/fs/cgroup/guest$1
    echo +memory >/sys/fs/cgroup/cgroup.subtree_control && mkdir "$cgroup" || fail "no cgroup for guest $1"
    (echo 0 >"$cgroup/cgroup.procs" && guest start "$1") || fail "guest $1 does not start in its cgroup"
}

# push_out N KIB: the host reclaims from guest N's cgroup until so much of its RAM is in swap.
push_out() {
    start=$(cut -d. -f1 /proc/uptime)
    while [ "$(ram_kib "$1" Swap)" -lt "$2" ]; do
        [ $(($(cut -d. -f1 /proc/uptime) - start)) -lt $((60 * PACE)) ] || fail "only $(ram_kib "$1" Swap) of $2 KiB were swapped out"
        # Fails when it got less than asked for.
        echo 16M >"/sys/fs/cgroup/guest$1/memory.reclaim" 2>/dev/null
    done
}

# ram_vma N: first and last address of the mapping of guest N's RAM, by its size: QEMU has no other as large.
ram_vma() {
    sed -n 's/^\([0-9a-f]*\)-\([0-9a-f]*\) .*/\1 \2/p' "/proc/$(guest pid "$1")/maps" | while read -r from to; do
        [ $((0x$to - 0x$from)) -lt $((GUEST_MEM << 20)) ] || echo "$from $to"
    done
}

# ram_kib N FIELD: a field of that mapping in smaps, such as Rss or Swap (of shared memory, too), KiB.
ram_kib() {
    ram=$(ram_vma "$1")
    awk -v ram="${ram% *}-${ram#* }" -v field="$2:" '/^[0-9a-f]+-[0-9a-f]+ / { here = $1 == ram }
        here && $1 == field { print $2; found = 1 } END { exit !found }' "/proc/$(guest pid "$1")/smaps"
}

# --- the host's idleness scans ---

DAMON=/sys/kernel/mm/damon/admin/kdamonds

# idle_scans N: DAMON looks five times a second at one page of each 2 MiB of the guest's RAM, and counts the regions that
# it found untouched for 10 s.
idle_scans() (
    regions=$((GUEST_MEM / 2))
    echo 1 >$DAMON/nr_kdamonds && cd $DAMON/0 && echo 1 >contexts/nr_contexts && cd contexts/0 || exit
    echo fvaddr >operations
    echo 200000 >monitoring_attrs/intervals/sample_us
    echo 1000000 >monitoring_attrs/intervals/aggr_us
    # With this many at least, none may grow beyond 2 MiB; above half of the most, none is split (mm/damon/core.c).
    echo $((regions * 3 / 2)) >monitoring_attrs/nr_regions/max
    echo $regions >monitoring_attrs/nr_regions/min
    echo 1 >targets/nr_targets
    guest pid "$1" >targets/0/pid_target
    echo $regions >targets/0/regions/nr_regions
    from=$(ram_vma "$1"); from=0x${from% *}; at=0
    while [ $at -lt $regions ]; do
        echo $((from + (at << 21))) >targets/0/regions/$at/start
        at=$((at + 1))
        echo $((from + (at << 21))) >targets/0/regions/$((at - 1))/end
    done
    echo 1 >schemes/nr_schemes
    cd schemes/0 || exit
    echo stat >action
    echo $((1 << 40)) >access_pattern/sz/max
    echo 0 >access_pattern/nr_accesses/max
    echo 10 >access_pattern/age/min
    echo 1000000000 >access_pattern/age/max
    echo on >$DAMON/0/state
)

# --- imr-top ---

# top_start [ARGS]: `imr-top --json` in the background; returns with its first sample.
top_start() {
    : >"$TOP"
    imr-top --json "$@" >"$TOP" 2>"$ROOT/tmp/imr.top.err" &
    TOP_PID=$!
    await 30 "the first sample of imr-top" top_has 'vms.0.name=guest1'
}

# top_stop: ends it as Ctrl-C does, which its status tells of (130).
top_stop() {
    kill -INT "$TOP_PID" || fail "imr-top has ended before"
    wait "$TOP_PID"
    ended=$?
    [ $ended = 130 ] || fail "imr-top ended with status $ended: $(cat "$ROOT/tmp/imr.top.err")"
}

# top_has FILTER...: whether the newest sample is like that.
top_has() { [ "$(imr-testtool json count --file "$TOP" --last "$@")" = 1 ]; }

# top PATH: a number in the newest sample; of several, the sum.
top() { imr-testtool json sum --file "$TOP" --last --field "$1"; }

# top_kib FIELD: bytes of the first VM in the newest sample, as KiB.
top_kib() { echo $(($(top "vms.0.$1") / 1024)); }

# blocks FACT: how many blocks of the first VM are that.
blocks() { top "vms.0.cross.fact:$1.blocks"; }

# How far, in KiB, imr-top and the kernel may be apart. So much of the RAM's mapping is no guest memory to KVM: the hole
# below 1 MiB, which belongs to the ROMs.
apart_kib() { echo 1024; }

# agree SECONDS WHAT FIELD COMMAND...: waits until imr-top's FIELD and the kernel's number, KiB by COMMAND, are no further
# apart. The memory has to be at rest. What imr-top knows of swapped and merged memory is read every 5 s, and
# less often when that takes more than 50 ms, as it may under the emulator.
agree() {
    limit=$(($1 * PACE)); what=$2; field=$3; shift 3
    start=$(cut -d. -f1 /proc/uptime)
    while :; do
        known=$(top_kib "$field"); real=$("$@") || fail "$what: no number by $*"
        apart=$((known > real ? known - real : real - known))
        took=$(($(cut -d. -f1 /proc/uptime) - start))
        [ "$apart" -gt "$(apart_kib)" ] || break
        [ "$took" -lt "$limit" ] || fail "$what: $field is $known KiB to imr-top and $real KiB by $* after $took s"
        usleep 200000
    done
    say "$what: $field is $known KiB to imr-top, $real KiB by $* ($took s)"
}

# attach_to_running COMMAND...: starts imr-top; its very first sample of the paused guest 1 has to be right.
attach_to_running() {
    top_start
    known=$(($(imr-testtool json get --file "$TOP" --field vms.0.resident_bytes sequence=1) / 1024)); real=$("$@")
    say "very first sample: $known KiB resident, $real KiB by $*"
    need "something is resident" "$real" -ge $((32 * 1024))
    need "the first sample is right: KiB apart" $((known > real ? known - real : real - known)) -le "$(apart_kib)"
}

# swapped_and_back NAME RESIDENT...: the paused guest 1 was pushed out but for LEFT MiB; it verifies and writes the HELD MiB
# that it holds as NAME, and that brings them back. RESIDENT is the command for what is resident, KiB.
swapped_and_back() {
    held=$1; shift
    agree 40 "pushed out" swapped_bytes ram_kib 1 Swap
    agree 40 "pushed out" resident_bytes "$@"
    out=$(top_kib swapped_bytes)
    out_blocks=$(blocks swapped)
    need "blocks that were pushed out are swapped" "$out_blocks" -ge $(((HELD - LEFT) / 2))
    need "imr-top's host line knows of the swap, KiB" $(($(top host.swap_used) / 1024)) -ge "$out"
    resume 1
    rewrite 1 "$held"
    pause 1
    agree 40 "touched again" swapped_bytes ram_kib 1 Swap
    agree 40 "touched again" resident_bytes "$@"
    back=$((out - $(top_kib swapped_bytes)))
    say "swapped: $out_blocks blocks with $out KiB; back: $back KiB; now swapped: $(blocks swapped) blocks"
    need "what was touched has come back, KiB" "$back" -ge $(((HELD - LEFT) * 1024))
    # The first and the last block of what is held may be of others, too.
    need "blocks that were touched are not swapped" $((out_blocks - $(blocks swapped))) -ge $(((HELD - LEFT) / 2 - 2))
    resume 1
}

# --- a guest that attacks the host (tests/hostile-kmod) ---

# hostile N ATTACK [PARAMETERS]: guest N's kernel makes one attack; the module says whether all went as it has to.
# LINE is what it said last.
hostile() {
    number=$1 attack=$2; shift 2
    LINE=$(guest run -t "${PATIENCE:-170}" "$number" "insmod /imr_hostile.ko attack=$attack $* && rmmod imr_hostile; \
        dmesg | sed -n 's/.*imr_hostile: attack=$attack /attack=$attack /p' | tail -n 1")
    say "${LINE:-no word of attack $attack}"
    case $LINE in
    *verdict=ok*) ;;
    *) guest run -t 20 "$number" "dmesg | grep imr_hostile | tail -n 30"; fail "attack $attack: not as it has to be" ;;
    esac
    kill -0 "$IMR_PID" || fail "imr has ended"
}

# said FIELD: a number of LINE.
said() { echo "$LINE" | tr ' ' '\n' | sed -n "s/^$1=//p"; }

# roms N: checksums of what lies in guest N's address space beside its RAM: VGA and option ROMs, BIOS, flash.
roms() {
    for area in 786432:131072 917504:131072 4294705152:262144; do
        guest qmp "$1" '{"execute":"pmemsave","arguments":{"val":'"${area%:*}"',"size":'"${area#*:}"',"filename":"/tmp/rom"}}' \
            >/dev/null || return 1
        sha256sum </tmp/rom
    done
    rm -f /tmp/rom
}

# cpu_ticks: what imr has had of the CPUs so far, user and system, ticks of 10 ms.
cpu_ticks() { sed 's/.*) //' "/proc/$IMR_PID/stat" | awk '{ print $12 + $13 }'; }

# watch_roms, roms_kept: guest 1's ROMs as they are, and still are. A reset ends that: the firmware below 1 MiB is shadowed
# in RAM and keeps its own tables there, which it makes anew.
watch_roms() { ROMS=$(roms 1) || fail "guest 1's ROMs cannot be read"; }
roms_kept() { need "guest 1's ROMs are as they were" "$(roms 1)" = "$ROMS"; }

# watch_begin: what must not change: guest 2's held memory, guest 1's ROMs, a file of L1.
watch_begin() {
    hold 2 watched 90
    watch_roms
    dd if=/dev/urandom of=/dev/shm/canary bs=1M count=8 2>/dev/null || fail "no canary file"
    CANARY=$(sha256sum </dev/shm/canary)
}

# watch_end: it has not.
watch_end() {
    release 2 watched
    roms_kept
    need "the canary file is as it was" "$(sha256sum </dev/shm/canary)" = "$CANARY"
}
