# Guest 1 is reset and leaves a control page with an open offer; the next boot's kernel rings for it, says BYE for it
# and shows a copy of it: nothing is claimed, nobody writes the page.
. /root/lib.sh
imr_start
boot 1
boot 2
module 2
attached 2
settle
watch_begin
hostile 1 stale
gpa=$(said gpa) cookie=$(said cookie)
mark
guest qmp 1 '{"execute":"system_reset"}' >/dev/null || fail "no reset"
event 20 event=reset vm.name=guest1 >/dev/null || fail "imr did not see the reset"
guest up 1 2 || fail "guest 1 did not boot again"
mark
hostile 1 revive "gpa=$gpa" "cookie=$cookie"
guest run -t 20 1 "dmesg | grep 'the old page is'"
need "nothing was claimed" "$(count event=claim vm.name=guest1)" -eq 0
need "one HELLO was accepted, that of this boot" "$(count event=hello vm.name=guest1)" -eq 1
need "the copy was refused" "$(count event=refused vm.name=guest1)" -ge 1
hostile 1 honest
watch_end
served 2
imr_stop
