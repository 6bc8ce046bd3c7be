# Guest 1's kernel forges, changes and rewrites all that the host reads of it: nothing but its own RAM is ever taken,
# each lie is counted, guest 2 is served and keeps its memory.
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
need "each range that is no RAM was refused" "$(sum refused event=done vm.name=guest1)" -eq 275
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
need "nothing was done in guest 2's name" "$(count event=done vm.name=guest2)" -eq 0
need "guest 2 was not detached" "$(count event=detached vm.name=guest2)" -eq 0

hostile 1 honest
watch_end
served 2
FROM=0
need "nobody was reset" "$(count event=reset)" -eq 0
need "guest 2 said nothing that was refused" "$(count event=refused vm.name=guest2)" -eq 0
imr_stop
say "malformed $(summary malformed), stale $(summary stale_calls), limited $(summary limited_calls)"
