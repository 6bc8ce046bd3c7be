# The guest of the demo on a terminal: fills and frees memory, wave after wave.
insmod /imr_guest.ko || exit 1
while :; do
    for part in 300 200 100; do
        rm -f /tmp/go
        imr-testtool fill --mib $part --ready /tmp/ready --until /tmp/go &
        filler=$!
        until [ -e /tmp/ready ]; do usleep 100000; done
        # Time for a person to see it.
        sleep 4
        rm -f /tmp/ready
        touch /tmp/go
        wait $filler || exit 1
        sleep 6
    done
done
