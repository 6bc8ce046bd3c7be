# A VM that ran before imr is found within a second, even when it does nothing, and is served.
. /root/lib.sh
boot 1
guest qmp 1 '{"execute":"stop"}' >/dev/null || fail "cannot pause the guest"
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
