# A VM ends while a batch is open, by QMP quit and by its own power-off: it leaves the table, without a storm of
# errors.
. /root/lib.sh
boot 1
boot 2
module 1
stopped_at 1 24 half
guest qmp 1 '{"execute":"quit"}' >/dev/null || fail "guest 1 does not quit"
guest off 1
kill -CONT "$IMR_PID"
event 20 event=vm_gone vm.name=guest1 >/dev/null || fail "the VM that ended is still there"
need "the batch was not finished" "$(count event=done vm.name=guest1 "seq=$OPEN")" -eq 0
say "guest 1 ended with offer $OPEN half taken"

module 2
attached 2
settle
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
