#!/bin/busybox sh
# One slot of the agent in an L2 guest: runs the commands that `guest run` sends, one after the other.
# In, a line a command: "ID SECONDS BASE64", 0 seconds for no limit. Out: "boot" once, then "ID+" when it begins,
# "ID|LINE" for each line of output, "ID=STATUS" when it ended (124: killed because its time was over). A process
# left in the background does not hold up the answer.
# The shell tells of every process it kills; that is not for the kernel's console.
exec 4<>"$1" 2>/dev/null
echo boot >&4
while :; do
    # End of file: the port is there but its host side is not open yet.
    read -r id seconds command <&4 || { usleep 50000; continue; }
    echo "$id+" >&4
    # One of its own for every command: what an earlier one left in the background may still write to its own.
    lines=/run/lines.$$.$id
    mkfifo "$lines"
    awk -v id="$id" '{ print id "|" $0; fflush() }' <"$lines" >&4 &
    filter=$!
    sh -c "$(echo "$command" | base64 -d)" >"$lines" 2>&1 </dev/null 4>&- &
    child=$!
    guard=
    if [ "$seconds" != 0 ]; then
        ( sleep "$seconds"; : >"$lines.late"; kill -9 "$child" ) 4>&- &
        guard=$!
    fi
    wait "$child"
    status=$?
    [ -z "$guard" ] || kill "$guard"
    [ ! -e "$lines.late" ] || status=124
    rm -f "$lines" "$lines.late"
    # The filter ends at once unless something in the background still holds its input.
    ( sleep 1; kill "$filter" ) 4>&- &
    limit=$!
    wait "$filter"
    kill "$limit"
    echo >&4
    echo "$id=$status" >&4
done
