# Files on tmpfs and the page cache of a block device keep their content while memory is offered and taken.
. /root/lib.sh
imr_start
truncate -s 96M /dev/shm/disk.img
guest start 1 -drive file=/dev/shm/disk.img,format=raw,if=virtio || fail "guest 1 does not start"
boot 1
attached 1
guest run 1 'modprobe virtio_blk && mkdir -p /tmp/files' || fail "no virtio_blk in the guest"
await 20 "the disk is there" guest run 1 test -b /dev/vda
# The page cache of a block device goes when the last one closes it.
guest run 1 'sh -c "exec 3</dev/vda; sleep 100000" >/dev/null 2>&1 &' || fail "cannot open the disk"
guest run -t 60 1 'imr-testtool files write /tmp/files --mib 64 && imr-testtool files write /dev/vda --mib 64' ||
    fail "cannot write"
cached=$(guest run 1 "sed -n 's/^Cached: *\([0-9]*\).*/\1/p;s/^Buffers: *\([0-9]*\).*/\1/p' /proc/meminfo") || fail "meminfo"
say "Buffers and Cached, KiB:" $cached
need "the disk's pages are in the page cache, KiB" "$(echo "$cached" | head -n 1)" -ge 60000
settle
mark
for round in 1 2 3; do
    fill 1 200
    event 30 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "nothing was reclaimed in round $round"
    guest run -t 60 1 'imr-testtool files verify /tmp/files --mib 64 && imr-testtool files verify /dev/vda --mib 64' ||
        fail "a file has changed (round $round)"
    mark
done
guest run -t 60 1 'sync; echo 3 >/proc/sys/vm/drop_caches; imr-testtool files verify /tmp/files --mib 64 &&
    imr-testtool files verify /dev/vda --mib 64' || fail "a file has changed after the cache was dropped"
imr_stop
