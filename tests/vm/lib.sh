# Sourced by the host scripts in this folder (L1 of the testbed, busybox ash). What they need to say one thing
# a line: imr and its JSON records, the guests' counters, memory that holds a pattern, and `fail`.
# Where it is not L1 that it runs in, IMR_ROOT says where L1's folders are.
# A function that may be called in $(...) returns non-zero instead of failing: `x=$(f) || fail ...`.
set -u
ROOT=${IMR_ROOT:-}
IMR_RUN=0
IMR_LOG=/dev/null
IMR_PID=

say() { echo "== $*"; }

# fail WHY: ends the test, with the last records of each imr and of the guests' consoles.
fail() {
    echo "FAIL: $*"
    for log in "$ROOT"/tmp/imr.*; do
        [ -e "$log" ] && { echo "--- $log"; tail -n 25 "$log"; }
    done
    for dir in "$ROOT"/run/imr/guest[0-9]*; do
        [ -d "$dir" ] && { echo "--- console of ${dir##*/}"; tail -n 15 "$dir/console"; }
    done
    exit 1
}

# need WHAT TEST...: the test has to hold, or WHAT is what did not.
need() {
    what=$1; shift
    [ "$@" ] || fail "$what: not so: $*"
}

# await SECONDS WHAT COMMAND...: polls until the command succeeds.
await() {
    limit=$1; what=$2; shift 2
    start=$(cut -d. -f1 /proc/uptime)
    until "$@" >/dev/null 2>&1; do
        [ $(($(cut -d. -f1 /proc/uptime) - start)) -lt "$limit" ] || fail "not within $limit s: $what"
        usleep 50000
    done
}

# --- imr ---

# imr_start [ARGS]: `imr run` with a log of its own; returns when its probes are attached.
imr_start() {
    IMR_RUN=$((IMR_RUN + 1))
    IMR_LOG=$ROOT/tmp/imr.$IMR_RUN.json
    : >"$IMR_LOG"
    imr run --json "$@" >"$IMR_LOG" 2>"$ROOT/tmp/imr.$IMR_RUN.err" &
    IMR_PID=$!
    event 30 event=ready >/dev/null || fail "imr did not get ready"
}

# imr_stop: ends it as Ctrl-C does; it has to end well and with a summary.
imr_stop() {
    kill -INT "$IMR_PID" || fail "imr has ended before"
    wait "$IMR_PID" || fail "imr ended with status $?"
    summary vms >/dev/null || fail "imr ended without a summary"
}

# event SECONDS FILTER...: waits for a record from line FROM on and prints it (FIELD: that field of it).
event() {
    seconds=$1; shift
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
settle() { imr-testtool json quiet --file "$IMR_LOG" --for 4.5 --timeout 90 event=done || fail "offers do not end"; }

# --- the guests ---

# boot N: waits until guest N is up for the first time. Now and then a guest hangs at boot under the emulator, with no
# imr and no module in play; the one who runs this tries again once when the status is 75 (EX_TEMPFAIL), and says so.
boot() {
    timeout 100 guest up "$1" && return
    ended=$?
    say "guest $1 did not boot (status $ended; 143: not within 100 s)"
    guest qmp "$1" '{"execute":"human-monitor-command","arguments":{"command-line":"info registers"}}'
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

# hold N NAME MIB|auto: memory of guest N holds a pattern, until `release N NAME`, which verifies it.
hold() {
    guest run -t 20 "$1" "rm -f /tmp/$2.*; (imr-testtool fill --mib $3 --ready /tmp/$2.ready --until /tmp/$2.go \
        >/tmp/$2.out 2>&1; echo \$? >/tmp/$2.status) &" || fail "guest $1: cannot start the fill"
    guest run -t 120 "$1" "until [ -e /tmp/$2.ready ] || [ -e /tmp/$2.status ]; do usleep 20000; done; \
        cat /tmp/$2.out; [ -e /tmp/$2.ready ]" || fail "guest $1: cannot fill $3 MiB"
}

release() {
    guest run -t 120 "$1" "touch /tmp/$2.go; until [ -e /tmp/$2.status ]; do usleep 20000; done; cat /tmp/$2.out; \
        [ \$(cat /tmp/$2.status) = 0 ]" || fail "guest $1: memory held as \"$2\" is not as it was written"
}

# fill N MIB|auto: writes, verifies and frees once.
fill() { guest run -t 120 "$1" imr-testtool fill --mib "$2" || fail "guest $1: fill of $2 MiB"; }

# resident_kib N: what the file behind the guest's RAM takes, by st_blocks (512 bytes each).
resident_kib() { echo $(($(stat -L -c %b "$(guest ram "$1")") / 2)); }

# field_of_vm N FIELD: a field of guest N in `imr vms --json`.
field_of_vm() {
    imr vms --json >"$ROOT/tmp/vms.json" || return 1
    index=0
    while name=$(imr-testtool json get --file "$ROOT/tmp/vms.json" --field "vms.$index.name"); do
        [ "$name" = "guest$1" ] && { imr-testtool json get --file "$ROOT/tmp/vms.json" --field "vms.$index.$2"; return; }
        index=$((index + 1))
    done
    return 1
}
