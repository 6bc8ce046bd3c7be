# An unprivileged process of the guest rings HELLO, doorbells and BYE with a forged page: it changes nothing and
# is counted.
. /root/lib.sh
imr_start
boot 1
attached 1
settle
mark
done_before=$(stat_of 1 done)
attach=$(stat_of 1 attach_id)
rung=$(guest run -t 60 1 imr-testtool ring --times 20) || fail "ring: $rung"
echo "$rung"
calls=$(echo "$rung" | tr ' ' '\n' | sed -n 's/^calls=//p')
need "it rang" "$calls" -eq 60
fill 1 150
event 40 event=done 'reclaimed_bytes>=2097152' >/dev/null || fail "the true module is not served any more"
settle
need "no other HELLO was accepted" "$(count event=hello)" -eq 0
need "the true module was not detached" "$(count event=detached)" -eq 0
need "no forged offer was looked at" "$(count event=refused)" -eq 0
need "the same host is attached" "$(stat_of 1 attach_id)" = "$attach"
need "the module goes on" "$(stat_of 1 done)" -gt "$done_before"
imr_stop
say "denied calls: $(summary denied_calls)"
need "every forged call was counted" "$(summary denied_calls)" -eq "$calls"
