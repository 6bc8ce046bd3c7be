# The demo without a terminal: runs in the testbed's L1, or on the machine itself. A guest fills and frees memory in waves while imr answers
# its offers; what that does to the host's memory is told by the blocks of the file behind the guest's RAM.
# The last line, after "RESULT", is for the program that runs this.
. "${IMR_ROOT:-}/root/lib.sh"

mib() { echo $(($1 / 1024)); }

say "imr attaches its probes"
imr_start
boot 1
attached 1
say "a guest with $(guest run 1 "sed -n 's/MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo") KiB runs, and its module has said HELLO to imr"
settle
say "what it had free after its boot is back with the host: $(mib "$(resident_kib 1)") MiB of it are resident"
mark
for wave in 1 2; do
    say "wave $wave: a program in the guest fills memory with a pattern"
    hold 1 "wave$wave" auto
    before=$(resident_kib 1)
    say "wave $wave: $(mib "$before") MiB are resident; the program verifies the pattern and frees its memory"
    release 1 "wave$wave"
    event 60 event=done >/dev/null || fail "nothing was offered after the free"
    settle
    after=$(resident_kib 1)
    say "wave $wave: $(mib "$after") MiB are resident: $(mib $((before - after))) MiB came back"
done
fell=$((before - after))
say "a last check: the guest takes, fills, verifies and frees memory while offers are answered"
checked=ok
guest run -t 100 1 imr-testtool churn --mib auto --rounds 4 || checked=wrong
FROM=0
imr_stop
echo "RESULT offered=$(summary offered_bytes) reclaimed=$(summary reclaimed_bytes) before_kib=$before after_kib=$after" \
    "fell_kib=$fell p50_us=$(summary offer_to_done_p50_us) lost=$(summary events.lost) check=$checked"
