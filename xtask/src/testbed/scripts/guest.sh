#!/bin/busybox sh
# guest: starts, stops and talks to the L2 guests of the testbed; run in L1 (`guest help`).
# In: /etc/imr/config for what a guest is made of; each GUEST_* variable can be set for one call. State of
# guest N lies in /run/imr/guestN. QEMU's monitor and the agent's slots are FIFO pairs there (.in, .out), so
# that a shell can talk to them; every process opens them read-write, so none ever sees an early end of file.

usage() {
    cat <<'EOF'
guest start N [QEMU ARGS...]  start guest N; returns when QEMU answers. GUEST_MEM (MiB), GUEST_CPUS,
                              GUEST_RAM (thp, memfd, hugetlb, anon), GUEST_APPEND (kernel arguments)
                              in the environment override the testbed's arguments for this guest
guest stop N                  end its QEMU (QMP quit, then SIGKILL) and wait until it is gone
guest up N [BOOT]             wait until its userspace is up (the BOOTth time, default 1)
guest wait N                  wait until its guest script ended; exits with its status
guest off N                   wait until its QEMU has ended; exits with QEMU's status
guest boots N                 how many times its userspace came up
guest pid N                   the pid of its QEMU
guest ram N                   the file behind its RAM, to stat (none for anon: fails)
guest qmp N JSON              run a QMP command, print the reply; fails on an error reply
                              (a second monitor for programs: /run/imr/guestN/qmp.sock)
guest run [-t S] N CMD...     run a shell command in the guest (joined by blanks, stdin empty), print its
                              output, exit with its status; 124 after S seconds, 125 when the guest was
                              reset or ended meanwhile. Waits for the guest to be up. Four at a time
guest console N               print its kernel console so far
guest output N                print its script's output so far
EOF
}

die() { echo "guest: $*" >&2; exit 2; }

# await SECONDS TEST...: wait until the shell function TEST holds. The guest's monitor writes a line to every
# FIFO in waiters/ after each event; the five seconds only bound the damage of a monitor that was killed.
await() {
    limit=$1; shift
    waiter="$dir/waiters/$$"
    mkfifo "$waiter" || exit 1
    exec 8<>"$waiter"
    trap 'rm -f "$waiter"' EXIT
    start=$(cut -d. -f1 /proc/uptime)
    until "$@"; do
        [ "$limit" = 0 ] || [ $(($(cut -d. -f1 /proc/uptime) - start)) -lt "$limit" ] || return 1
        read -r -t 5 _ <&8
    done
    rm -f "$waiter"
}

# next_line: waits a second for the next line of file descriptor 4, and has it in $line. A `read -t` that ends in the middle
# of a line loses what it has of it, so the time ends before the first character or, when its sender died, long after.
next_line() {
    rest=
    IFS= read -r -t 1 -n 1 line <&4 || return 1
    [ -z "$line" ] || IFS= read -r -t 10 rest <&4 || return 1
    line=$line$rest
}

boots() { cat "$dir/boots" 2>/dev/null || echo 0; }
ended() { [ -e "$dir/off" ]; }
booted() { [ "$(boots)" -ge "$want" ] || ended; }
scripted() { [ -e "$dir/status" ] || ended; }
greeted() { [ -e "$dir/ready" ] || ended; }

memory_backend() {
    case $GUEST_RAM in
    thp) echo "memory-backend-file,id=ram,size=${GUEST_MEM}M,mem-path=$root/run/imr/thp/guest$n.ram,align=2M,share=on" ;;
    hugetlb) echo "memory-backend-file,id=ram,size=${GUEST_MEM}M,mem-path=$root/run/imr/hugetlb/guest$n.ram,share=on" ;;
    memfd) echo "memory-backend-memfd,id=ram,size=${GUEST_MEM}M,share=on" ;;
    anon) echo "memory-backend-ram,id=ram,size=${GUEST_MEM}M" ;;
    *) die "GUEST_RAM is $GUEST_RAM; it must be thp, memfd, hugetlb or anon" ;;
    esac
}

# The monitor of one guest: QEMU's parent and the only reader of the guest's events.
monitor() {
    exec 3<>"$dir/events.out" </dev/null >>"$dir/qemu.log" 2>&1
    (
        sh -c 'echo $$ >"$0/pid"; exec "$@"' "$dir" "$@"
        echo "off $?" >&3
    ) &
    exec 4<>"$dir/qmp.out" 5<>"$dir/qmp.in"
    (
        read -r _ <&4
        echo '{"execute":"qmp_capabilities"}' >&5
        read -r _ <&4
        echo ready >&3
    ) &
    while read -r event value <&3; do
        case $event in
        ready) echo 1 >"$dir/ready" ;;
        up) rm -f "$dir/status"; boots=$(($(boots) + 1)); echo "$boots" >"$dir/boots.new"; mv "$dir/boots.new" "$dir/boots" ;;
        script) echo "$value" >"$dir/status.new"; mv "$dir/status.new" "$dir/status" ;;
        off) echo "$value" >"$dir/off.new"; mv "$dir/off.new" "$dir/off" ;;
        esac
        echo "guest $n $event $value" 1<>"$root/run/imr/events"
        for waiter in "$dir"/waiters/*; do
            [ -p "$waiter" ] && echo 1<>"$waiter"
        done
        [ "$event" != off ] || break
    done
    # What the reader of qmp.out was waiting for will not come.
    echo >&4
    rm -f "$root/run/imr/thp/guest$n.ram" "$root/run/imr/hugetlb/guest$n.ram"
}

start() {
    [ ! -d "$dir" ] || ended || die "guest $n is running (pid $(cat "$dir/pid"))"
    backend=$(memory_backend) || exit 2
    rm -rf "$dir"
    mkdir -p "$dir/waiters"
    for fifo in events qmp agent0 agent1 agent2 agent3; do
        mkfifo "$dir/$fifo.in" "$dir/$fifo.out"
    done
    # GUEST_QEMU_ARGS is a list of words.
    # shellcheck disable=SC2086
    set -- qemu-system-x86_64 -name "guest$n,process=guest$n" -accel kvm -cpu "$(cpu_model)" \
        -machine pc,memory-backend=ram,usb=off -smp "$GUEST_CPUS" -m "${GUEST_MEM}M" -object "$backend" \
        -nodefaults -no-user-config -display none \
        -kernel "$root/imr/guest/vmlinuz" -initrd "$root/imr/guest/initrd" \
        -append "console=ttyS0 quiet loglevel=4 mitigations=off panic=0 $GUEST_CMDLINE $GUEST_APPEND imr.guest=$n" \
        -chardev "file,id=console,path=$(port "console$n"),logfile=$dir/console" -serial chardev:console \
        -chardev "pipe,id=qmp,path=$dir/qmp" -mon chardev=qmp,mode=control \
        -qmp "unix:$dir/qmp.sock,server=on,wait=off" \
        -device virtio-serial-pci,max_ports=8 \
        -chardev "pipe,id=events,path=$dir/events" -device virtserialport,chardev=events,name=imr.events \
        -chardev "file,id=out,path=$(port "guest$n"),logfile=$dir/output" -device virtserialport,chardev=out,name=imr.out \
        $GUEST_QEMU_ARGS "$@"
    for slot in 0 1 2 3; do
        set -- "$@" -chardev "pipe,id=agent$slot,path=$dir/agent$slot" \
            -device "virtserialport,chardev=agent$slot,name=imr.agent$slot"
    done
    echo "$GUEST_RAM" >"$dir/backing"
    setsid "$0" monitor "$n" "$@" &
    await 60 greeted || die "guest $n: QEMU did not answer on its monitor within 60 s"
    if ended; then
        cat "$dir/qemu.log" >&2
        die "guest $n: QEMU ended with status $(cat "$dir/off")"
    fi
}

# Under the emulator's SVM the guest would warn about an XSAVE state of the wrong size.
cpu_model() { grep -q 'QEMU TCG' /proc/cpuinfo && echo host,-xsave || echo host; }

# The way out of L1 for a guest's stream; a guest beyond those the testbed was started for has none.
port() { [ -e "/dev/virtio-ports/imr.$1" ] && readlink -f "/dev/virtio-ports/imr.$1" || echo /dev/null; }

qmp() {
    exec 9>"$dir/qmp.lock" 4<>"$dir/qmp.out" 5<>"$dir/qmp.in"
    flock 9
    case $1 in '{'*) ;; *) die "a QMP command is a JSON object, such as {\"execute\":\"query-status\"}" ;; esac
    echo "{\"id\":\"$$\",${1#?}" >&5
    while :; do
        if ! next_line; then
            ended && die "guest $n ended"
            continue
        fi
        case $line in
        *"\"id\": \"$$\""*) break ;;
        esac
    done
    echo "$line"
    case $line in *'"error"'*) return 1 ;; esac
}

# until_answered: waits until the agent is done with what `run` has sent it, or the guest was reset or has ended.
until_answered() {
    until ended; do
        next_line || continue
        case $line in
        "$$="*) return ;;
        boot) [ -z "$begun" ] || return ;;
        esac
    done
}

late() { echo "guest: guest $n: not done after $limit s: $asked" >&2; }

run() {
    want=1
    asked=$*
    await "$limit" booted || exit 124
    ended && die "guest $n has ended"
    for slot in 0 1 2 3 none; do
        [ $slot = none ] && break
        exec 9>"$dir/agent$slot.lock"
        flock -n 9 && break
    done
    if [ $slot = none ]; then
        # All four are busy: queue up for one of them, by chance so that waiters spread.
        slot=$(($$ % 4))
        exec 9>"$dir/agent$slot.lock"
        if [ "$limit" = 0 ]; then
            flock 9
        else
            timeout "$limit" flock 9 || { late; return 124; }
        fi
    fi
    exec 4<>"$dir/agent$slot.out" 5<>"$dir/agent$slot.in"
    echo "$$ $limit $(echo "$*" | base64 -w0)" >&5
    begun=
    start=$(cut -d. -f1 /proc/uptime)
    while :; do
        # The agent keeps the limit; this is for a guest that is too busy, or stopped, to do so.
        if [ "$limit" != 0 ] && [ $(($(cut -d. -f1 /proc/uptime) - start)) -ge $((limit + 10)) ]; then
            late
            # The agent still waits for it, so the slot stays taken until then.
            until_answered >/dev/null 2>&1 </dev/null &
            return 124
        fi
        if ! next_line; then
            ended && { echo "guest: guest $n ended during: $asked" >&2; return 125; }
            continue
        fi
        case $line in
        "$$|"*) echo "${line#*|}" ;;
        "$$+") begun=1 ;;
        "$$="*)
            [ "${line#*=}" != 124 ] || [ "$limit" = 0 ] || late
            return "${line#*=}" ;;
        boot) [ -z "$begun" ] || { echo "guest: guest $n was reset during: $asked" >&2; return 125; } ;;
        esac
    done
}

command=$1
[ $# -gt 0 ] && shift
case $command in
help | -h | --help) usage; exit 0 ;;
start | stop | up | wait | off | boots | pid | ram | qmp | run | console | output | monitor) ;;
*) usage >&2; exit 2 ;;
esac
limit=0
if [ "$command" = run ] && [ "$1" = -t ]; then limit=$2; shift 2; fi
case $limit in '' | *[!0-9]*) die "run: \"$limit\" is not a number of seconds" ;; esac
n=$1
case $n in '' | *[!0-9]* | 0*) die "$command: \"$n\" is not a guest's number" ;; esac
shift
# Set where the guests run on a machine that is not L1: its folders lie there.
root=${IMR_ROOT:-}
. "$root/etc/imr/config"
dir=$root/run/imr/guest$n
[ "$command" = start ] || [ -d "$dir" ] || die "guest $n was not started"
case $command in
start) start "$@" ;;
monitor) monitor "$@" ;;
stop)
    ended && exit 0
    echo '{"execute":"quit"}' 1<>"$dir/qmp.in"
    await 10 ended || { kill -9 "$(cat "$dir/pid")"; await 10 ended; } ;;
up)
    want=${1:-1}
    await 0 booted
    [ "$(boots)" -ge "$want" ] || die "guest $n ended before its userspace was up $want times" ;;
wait)
    await 0 scripted
    [ -e "$dir/status" ] && exit "$(cat "$dir/status")"
    # A guest that powered itself off, or was stopped, did not fail.
    exit "$(cat "$dir/off")" ;;
off) await 0 ended; exit "$(cat "$dir/off")" ;;
boots) boots ;;
pid) cat "$dir/pid" ;;
ram)
    case $(cat "$dir/backing") in
    thp) echo "$root/run/imr/thp/guest$n.ram" ;;
    hugetlb) echo "$root/run/imr/hugetlb/guest$n.ram" ;;
    memfd)
        for fd in "/proc/$(cat "$dir/pid")/fd"/*; do
            case $(readlink "$fd") in */memfd:memory-backend-memfd*) echo "$fd"; exit 0 ;; esac
        done
        die "guest $n: QEMU has no memfd open" ;;
    anon) die "guest $n has private anonymous memory: no file is behind it" ;;
    esac ;;
qmp) qmp "$@" ;;
run) run "$@" ;;
console) cat "$dir/console" ;;
output) cat "$dir/output" ;;
esac
