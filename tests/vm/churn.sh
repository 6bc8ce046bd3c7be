# A guest program takes, fills, verifies and frees memory, twenty rounds, while offers are answered.
. /root/lib.sh
imr_start
boot 1
attached 1
before=$(count event=done)
result=$(guest run -t 150 1 imr-testtool churn --mib auto --rounds 20) || fail "churn: $result"
echo "$result"
value() { echo "$result" | tr ' ' '\n' | sed -n "s/^$1=//p"; }
need "twenty rounds" "$(value rounds)" -eq 20
need "nothing wrong" "$(value wrong)" -eq 0
need "reclaim really went on between the rounds" "$(value rounds_with_reclaim)" -ge 7
need "offers really were open between the rounds" "$(value rounds_with_offer)" -ge 7
need "imr has done it" "$(count event=done)" -gt $((before + 10))
imr_stop
need "no event was lost" "$(summary events.lost)" -eq 0
