# Guest 1's kernel forges, changes and rewrites all that the host reads of it, and after a reset revives what the boot
# before left: nothing but its own RAM is ever taken, each lie is counted, guest 2 is served and keeps its memory.
. /root/lib.sh
imr_start
boot 1
boot 2
module 2
attached 2
settle
watch_begin
mark
hostile 1 honest
need "an honest offer is taken" "$(sum reclaimed_bytes event=done vm.name=guest1)" -eq 2097152

mark
hostile 1 ranges
need "each range that is no RAM was refused" "$(sum refused event=done vm.name=guest1)" -eq 271
for why in "not completely inside the VM's memory slots" "read-only to the guest" "overlaps an earlier one"; do
    grep '"event":"done"' "$IMR_LOG" | grep -qF "$why" || fail "no range was refused because: $why"
done
need "what was taken is the bait, bytes" "$(sum reclaimed_bytes event=done vm.name=guest1)" -le $((5 * 1048576))

mark
hostile 1 lists
need "each list that is none was given back" "$(count event=abandoned vm.name=guest1)" -eq "$(said abandoned)"
need "each list that is none was counted" "$(count event=refused vm.name=guest1)" -ge 16
need "nothing was claimed" "$(count event=done vm.name=guest1)" -eq 0

mark
hostile 1 flat
need "each flat record that is none was given back" "$(count event=abandoned vm.name=guest1)" -eq "$(said abandoned)"
need "that is" "$(said abandoned)" -eq 24
need "each of them was counted, and each HELLO with a record that cannot be" "$(count event=refused vm.name=guest1)" -ge 32
need "what was taken is the bait, bytes" "$(sum reclaimed_bytes event=done vm.name=guest1)" -eq 2097152
hostile 1 flat_rewrite count=120
need "some of the offers that changed were whole" "$(said done)" -gt 0
need "some of them were not" "$(said abandoned)" -gt 0

mark
hostile 1 pages
need "each page that is none was refused" "$(count event=refused vm.name=guest1)" -ge 20

mark
hostile 1 control
need "no offer of a changed page was done" "$(count event=done vm.name=guest1)" -eq 0
say "control: $(count event=detached vm.name=guest1) sessions ended, $(count event=refused vm.name=guest1) refused"

hostile 1 self
hostile 1 rewrite count=120
need "some of the offers that changed were whole" "$(said done)" -gt 0
need "some of them were not" "$(said abandoned)" -gt 0

mark
gpa=$(FROM=0; FIELD=control_gpa event 1 event=hello vm.name=guest2) || fail "where is guest 2's page"
guest qmp 2 '{"execute":"pmemsave","arguments":{"val":'"$gpa"',"size":4096,"filename":"/tmp/page"}}' >/dev/null ||
    fail "guest 2's page cannot be read"
cookie=$(od -An -t x8 -j 16 -N 8 /tmp/page | tr -d ' ')
say "guest 2's control page is at $gpa, its cookie $cookie"
need "it has a cookie" -n "$cookie"
hostile 1 foreign "gpa=$gpa" "cookie=0x$cookie"
for event in hello detached abandoned; do
    need "guest 2's module: $event" "$(count event=$event vm.name=guest2)" -eq 0
done

# A control page with an open offer is left behind; the next boot rings for it, says BYE for it, shows a copy of it.
hostile 1 stale
gpa=$(said gpa) cookie=$(said cookie)
roms_kept
mark
guest qmp 1 '{"execute":"system_reset"}' >/dev/null || fail "no reset"
event 20 event=reset vm.name=guest1 >/dev/null || fail "imr did not see the reset"
boot 1 2
watch_roms
mark
hostile 1 revive "gpa=$gpa" "cookie=$cookie"
guest run -t 20 1 "dmesg | grep 'the old page is'"
need "nothing was claimed" "$(count event=claim vm.name=guest1)" -eq 0
need "one HELLO was accepted, that of this boot" "$(count event=hello vm.name=guest1)" -eq 1
need "the copy was refused" "$(count event=refused vm.name=guest1)" -ge 1

hostile 1 honest
watch_end
served 2
FROM=0
need "guest 2 said nothing that was refused" "$(count event=refused vm.name=guest2)" -eq 0
imr_stop
say "malformed $(summary malformed), stale $(summary stale_calls), limited $(summary limited_calls)"
