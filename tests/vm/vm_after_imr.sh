# A VM that starts after imr is found and served, and leaves the table when it ends.
. /root/lib.sh
imr_start
need "no VM at first" "$(FIELD=vms event 5 event=ready)" -eq 0
guest start 1 || fail "guest 1 does not start"
event 20 event=vm_added vm.name=guest1 >/dev/null || fail "the new VM was not found"
boot 1
attached 1
event 40 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "nothing was reclaimed"
guest stop 1
event 10 event=vm_gone vm.name=guest1 >/dev/null || fail "the VM that ended is still there"
imr_stop
need "one VM in all" "$(summary vms)" -eq 1
need "no problem was told" "$(count event=problem)" -eq 0
