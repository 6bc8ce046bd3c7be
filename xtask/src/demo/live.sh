# The demo on a terminal: runs in the testbed's L1, or on the machine itself, on the user's terminal. q ends it.
echo "imr-top starts; the guest boots meanwhile. Enter opens the VM, ? shows the keys, q ends the demo."
imr-top
status=$?
if reclaimed=$(guest run -t 5 1 imr-testtool stat pages_reclaimed 2>/dev/null); then
    echo "The guest had $((reclaimed * 4 / 1024)) MiB taken back in all."
fi
exit $status
