# A VM ends while a batch is open, by QMP quit and by its own power-off: it leaves the table, without a storm of
# errors.
. /root/lib.sh
imr_start
boot 1
boot 2
attached 1
attached 2
settle
mark
fill 1 auto
claim=$(imr-testtool json wait --file "$IMR_LOG" --from "$FROM" --timeout 30 \
    --qmp /run/imr/guest1/qmp.sock:quit --field seq event=claim vm.name=guest1 'bytes>=67108864') ||
    fail "no large batch was claimed"
event 20 event=vm_gone vm.name=guest1 >/dev/null || fail "the VM that ended is still there"
need "the batch was open when the VM ended" "$(count event=done vm.name=guest1 "seq=$claim")" -eq 0
say "guest 1 ended with offer $claim open"

mark
fill 2 auto
event 30 event=claim vm.name=guest2 >/dev/null || fail "no batch was claimed"
guest run 2 'poweroff -f &'
guest off 2
event 20 event=vm_gone vm.name=guest2 >/dev/null || fail "the VM that powered off is still there"
FROM=0
kill -0 "$IMR_PID" || fail "imr has ended"
need "a few words at most" "$(count event=problem)" -le 2
need "standard error is quiet" "$(wc -l </tmp/imr.1.err)" -le 5
imr vms --json >/tmp/vms.json || fail "imr vms"
imr-testtool json get --file /tmp/vms.json --field vms.0.name && fail "imr vms still has a VM"
imr_stop
need "two VMs in all" "$(summary vms)" -eq 2
