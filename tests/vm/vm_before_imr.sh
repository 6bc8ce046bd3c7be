# A VM that ran before imr is found within a second, even when it does nothing, and is served. How its memory is mapped
# shows at once, too.
. /root/lib.sh
boot 1
guest qmp 1 '{"execute":"stop"}' >/dev/null || fail "cannot pause the guest"
# No event can tell how the memory of a guest that does nothing is mapped; QEMU's page tables do.
imr-top --observe --json -n 1 >"$ROOT/tmp/top.json" || fail "imr-top ended with status $?"
blocks() { imr-testtool json sum --file "$ROOT/tmp/top.json" --field "vms.name:guest1.cross.fact:$1.blocks"; }
large=$(blocks resident_2m)
small=$(blocks resident_4k)
huge=$(awk '/^ShmemPmdMapped:/ { kib += $2 } END { print int(kib / 2048) }' "/proc/$(guest pid 1)/smaps")
say "blocks resident 2M $large, resident 4K $small; QEMU maps $huge huge pages"
need "most of it is resident 2M" "$large" -gt $((4 * small))
need "not more than QEMU maps so" "$large" -le "$huge"
# What the first and last blocks of a slot have in common with its neighbour is not mapped so by KVM.
need "not many less than QEMU maps so" "$large" -ge $((huge - 4))
imr_start
added=$(FIELD=unix_ms event 5 event=vm_added vm.name=guest1) || fail "the paused VM was not found"
ready=$(FIELD=unix_ms event 5 event=ready)
need "found within 1000 ms of imr being ready" $((added - ready)) -le 1000
need "the pid is QEMU's" "$(FIELD=vm.pid event 5 event=vm_added)" -eq "$(guest pid 1)"
ram=$(FIELD=ram_bytes event 5 event=vm_added)
need "its RAM is known" "$ram" -ge $((500 * 1024 * 1024))
guest qmp 1 '{"execute":"cont"}' >/dev/null || fail "cannot resume the guest"
attached 1
event 40 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "nothing was reclaimed"
need "HELLO was accepted once" "$(count event=hello)" -eq 1
imr_stop
