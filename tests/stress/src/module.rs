//! The guest's side: one boot after the other, in each a module that offers batches, by the C code of the module itself.
//! Around it are the steps of `imr_offer.c`, `imr_host.c` and `imr_session.c` that say when.
//!
//! In: a number of batches. Out: how often what happened. What the guest finds in its blocks is compared with what it
//! left there and with what the host has answered.

use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use imr_common::guest_abi::{
    HOST_STALE_MS, LIST_RECORD_SIZE, MAX_RANGES, OP_BYE, OP_DOORBELL, OP_HELLO, RECORD_FLAT, RECORD_LIST,
    RESULT_KEPT, RESULT_RECLAIMED, RESULT_REFUSED,
};

use crate::counts::{Count, Counts};
use crate::ffi::{self, Fate, Page, Range, Record};
use crate::world::{BLOCK, BLOCKS, CLAIM_LIFETIME, Call, MS, PAGES, Vm, fail};

/// Between two rings for one batch, ns: as often as can be without ringing for ever.
const RING_INTERVAL: u64 = 10 * MS;
/// As `imr_ring()` has it, ns.
const HELLO_INTERVAL: u64 = 100 * MS;
/// Time for the host to acknowledge BYE, ns.
const BYE_WAIT: u64 = 500 * MS;
/// A call in so many never reaches the host.
const LOST_ONCE_IN: u64 = 50;
/// A batch that does not end for so long will not end.
const STUCK: Duration = Duration::from_secs(60);
const ORDER: u32 = 9;

/// Of the machine: the module is loaded into it again and again.
struct Guest<'a> {
    vm: &'a Vm,
    /// Batches to come.
    left: u64,
    /// Numbers that contents are made of, so that no two are the same.
    contents: u64,
    /// Control pages that a host may still write.
    leaked: [bool; PAGES],
    counts: Counts,
}

/// What the guest left in a block, by its number.
type Left = [u64; BLOCKS as usize + 1];

/// One load of the module.
struct Module<'g, 'a> {
    guest: &'g mut Guest<'a>,
    index: usize,
    page: Page,
    cookie: u64,
    left: Left,
    host_beat: u64,
    answered_ns: u64,
    hello_ns: u64,
}

/// How a module ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Unload,
    Reset,
    Kexec,
}

/// Makes `batches` batches.
pub(crate) fn run(vm: &Vm, batches: u64) -> Counts {
    let mut guest =
        Guest { vm, left: batches, contents: 1, leaked: [false; PAGES], counts: Counts::default() };
    let mut left = guest.restart(true);
    while guest.left > 0 {
        let mut module = guest.load(left);
        module.attach();
        let mut end = match ffi::random(16) {
            0..8 => End::Unload,
            8..15 => End::Reset,
            _ => End::Kexec,
        };
        for _ in 0..=ffi::random(400).min(module.guest.left) {
            if let Some(cut) = module.batch() {
                end = cut;
                break;
            }
        }
        left = module.end(end);
    }
    vm.over.store(true, Ordering::Release);
    guest.counts
}

impl<'a> Guest<'a> {
    fn content(&mut self) -> u64 {
        self.contents += 1;
        self.contents
    }

    /// Another kernel runs.
    fn restart(&mut self, reset: bool) -> Left {
        let content = self.content();
        self.vm.restart(reset, content);
        self.leaked = [false; PAGES];
        [content; BLOCKS as usize + 1]
    }

    /// `imr_start()` without HELLO
    fn load(&mut self, mut left: Left) -> Module<'_, 'a> {
        if self.leaked.iter().all(|leaked| *leaked) {
            self.counts.add(Count::Resets);
            left = self.restart(true);
        }
        let start = ffi::random(PAGES as u64) as usize;
        let index = (start..start + PAGES).map(|index| index % PAGES).find(|index| !self.leaked[*index]);
        let index = index.expect("not all are leaked");
        let gpa = Vm::page_gpa(index);
        let flat = ffi::once_in(2);
        let at = self.vm.frame(gpa, 8192).expect("inside the frames");
        let record = Record {
            at: at.wrapping_add(4096).cast(),
            gpa: gpa + 4096,
            size: if flat { BLOCKS + 1 } else { LIST_RECORD_SIZE },
            kind: if flat { RECORD_FLAT } else { RECORD_LIST },
            order: ORDER,
        };
        let cookie = ffi::random(u64::MAX >> 16) + 1;
        // A host that is late may read a page that was its own once.
        let window = self.vm.window();
        self.vm.overwrite_page(index, 0);
        self.vm.set_live(index, true);
        // SAFETY: zeros; no module is loaded but this one, and none is in these frames, for it is not leaked.
        let page = unsafe { Page::fill(at.cast(), gpa, cookie, record) };
        drop(window);
        Module { guest: self, index, page, cookie, left, host_beat: 0, answered_ns: 0, hello_ns: 0 }
    }
}

impl Module<'_, '_> {
    fn count(&mut self, count: Count) {
        self.guest.counts.add(count);
    }

    fn fail(&self, what: &str) -> ! {
        fail(self.guest.vm, what)
    }

    /// `imr_call()`
    fn call(&mut self, op: u64, arg: u64) {
        let vm = self.guest.vm;
        let cookie = self.page.call();
        if cookie != self.cookie {
            self.fail("WRONG: the cookie has changed");
        }
        ffi::step();
        // The exit to the hypervisor.
        ffi::drain();
        let call = Call { op, arg, cookie, time_ns: vm.now_ns(), generation: vm.generation() };
        if ffi::once_in(LOST_ONCE_IN) || !vm.say(call) {
            self.count(Count::LostCalls);
        }
    }

    fn hello(&mut self) {
        self.hello_ns = self.guest.vm.now_ns();
        self.call(OP_HELLO, Vm::page_gpa(self.index));
    }

    /// `imr_look()`
    fn is_host_fresh(&mut self) -> bool {
        let host = self.page.host();
        let now = self.guest.vm.now_ns();
        if host.beat != self.host_beat {
            self.host_beat = host.beat;
            self.answered_ns = now;
        }
        host.attach != 0 && self.answered_ns != 0 && now - self.answered_ns < HOST_STALE_MS * MS
    }

    /// `imr_ring()`; HELLO is said without need once in so many times, as `imr_hello_work()` may.
    fn ring(&mut self, seq: u64, hello_once_in: u64) {
        let stale = !self.is_host_fresh();
        let due = stale && self.guest.vm.now_ns() - self.hello_ns >= HELLO_INTERVAL;
        if due || ffi::once_in(hello_once_in) {
            self.hello();
        }
        self.count(Count::Rings);
        self.call(OP_DOORBELL, seq);
    }

    /// Says HELLO until a host answers.
    fn attach(&mut self) {
        let start = Instant::now();
        self.hello();
        while !self.is_host_fresh() {
            if start.elapsed() > STUCK {
                self.fail("STUCK: no host answers");
            }
            if self.guest.vm.now_ns() - self.hello_ns >= RING_INTERVAL {
                self.hello();
            }
            thread::yield_now();
        }
    }

    /// Free ranges, as page reporting would bring them.
    fn choose(&mut self) -> Vec<Range> {
        let mut batch: Vec<Range> = Vec::new();
        let mut taken = 1_u64;
        for _ in 0..=ffi::random(6) {
            let order = ORDER + [0, 0, 0, 1, 2][ffi::random(5) as usize];
            let blocks = 1 << (order - ORDER);
            let first = ffi::random(BLOCKS / blocks) * blocks;
            let mask = ((1 << blocks) - 1) << first;
            if taken & mask == 0 && first + blocks <= BLOCKS + 1 {
                taken |= mask;
                batch.push(Range { gpa: first * BLOCK, order });
            }
        }
        if batch.is_empty() {
            batch.push(Range { gpa: BLOCKS * BLOCK, order: ORDER });
        }
        assert!(batch.len() <= MAX_RANGES);
        if self.page.record().kind == RECORD_FLAT {
            batch.sort_by_key(|range| range.gpa);
        }
        batch
    }

    /// `imr_report()`; how the module ends if the batch is cut off.
    fn batch(&mut self) -> Option<End> {
        let vm = self.guest.vm;
        let batch = self.choose();
        self.guest.left = self.guest.left.saturating_sub(1);
        self.count(Count::Batches);
        let broken_off = vm.broken_off.load(Ordering::Relaxed);
        let free = self.guest.content();
        for block in batch.iter().flat_map(blocks) {
            if vm.content(block) != Some(self.left[block as usize]) {
                self.fail(&format!("LOST: block {block} is not as the guest left it"));
            }
            vm.isolate(block, free);
        }
        self.page.describe(&batch);
        let seq = self.page.publish(batch.len());
        self.ring(seq, 64);
        if ffi::once_in(16) {
            // The next ring is on its way together with the first.
            self.ring(seq, 1);
        }
        let fate = match self.wait(seq) {
            Ok(fate) => fate,
            Err(end) => {
                self.count(Count::Cut);
                return Some(end);
            }
        };
        // A host that did not get to the end may have taken anything of it before.
        let torn = vm.broken_off.load(Ordering::Relaxed) != broken_off && fate != Fate::Revoked;
        for (index, range) in batch.iter().enumerate() {
            let result = if fate == Fate::Done { self.page.result(index) } else { RESULT_KEPT };
            for block in blocks(range) {
                let found = vm.content(block);
                let fits = match result {
                    RESULT_RECLAIMED => found == Some(0),
                    RESULT_KEPT | RESULT_REFUSED => found == Some(free) || torn && found == Some(0),
                    _ => false,
                };
                if !fits {
                    self.fail(&format!(
                        "WRONG: offer {seq} is {fate:?} with result {result}, and block {block} holds {found:?} where \
                         {free} was left"
                    ));
                }
            }
        }
        self.page.undescribe(&batch);
        let content = self.guest.content();
        for block in batch.iter().flat_map(blocks) {
            vm.own(block, content);
            self.left[block as usize] = content;
        }
        if fate == Fate::Revoked && ffi::once_in(4) {
            // What is still under way is heard while this is the newest offer.
            for _ in 0..1000 {
                if !vm.is_saying() {
                    break;
                }
                thread::yield_now();
            }
        }
        None
    }

    /// `imr_wait()`; how the module ends if it does not wait for it.
    fn wait(&mut self, seq: u64) -> Result<Fate, End> {
        let vm = self.guest.vm;
        let start = Instant::now();
        let patience = match ffi::random(4) {
            0 => ffi::random(8),
            1 => ffi::random(64),
            _ => ffi::random(100_000),
        };
        let cut = if ffi::once_in(400) { ffi::random(64) } else { u64::MAX };
        let mut ring_ns = vm.now_ns() + RING_INTERVAL;
        let mut held = false;
        for look in 0.. {
            if look >= cut {
                if ffi::once_in(16) {
                    // `imr_stop()` waits only so long for the answer.
                    self.page.look(seq, !held);
                    return Err(End::Kexec);
                }
                return Err(End::Reset);
            }
            ffi::step();
            match self.page.look(seq, !held && look >= patience) {
                Fate::Held => {
                    self.count(Count::Held);
                    held = true;
                }
                Fate::Pending => {}
                fate => {
                    self.count(match fate {
                        Fate::Done => Count::Done,
                        Fate::Abandoned => Count::Abandoned,
                        _ => Count::Revoked,
                    });
                    return Ok(fate);
                }
            }
            if vm.now_ns() >= ring_ns {
                self.ring(seq, 4);
                ring_ns = vm.now_ns() + RING_INTERVAL;
                if start.elapsed() > STUCK {
                    self.fail(&format!("STUCK: offer {seq} is neither finished nor given back"));
                }
            }
            if look > 64 {
                thread::yield_now();
            }
        }
        unreachable!("nobody looks so often")
    }

    /// `imr_stop()`, or what comes without.
    fn end(mut self, end: End) -> Left {
        match end {
            End::Unload => {
                self.count(Count::Unloads);
                self.bye();
                self.left
            }
            End::Reset => {
                self.count(Count::Resets);
                self.guest.restart(true)
            }
            End::Kexec => {
                self.count(Count::Kexecs);
                self.page.retire();
                self.call(OP_BYE, 0);
                // `imr_stop()` lets the last call grow too old.
                thread::sleep(Duration::from_nanos(CLAIM_LIFETIME));
                self.guest.restart(false)
            }
        }
    }

    /// `imr_bye()`; the page is used for something else once the host has left it.
    fn bye(&mut self) {
        let vm = self.guest.vm;
        self.page.retire();
        let start = vm.now_ns();
        let mut said = 0;
        while !self.page.host_left() {
            let now = vm.now_ns();
            if now - start > BYE_WAIT {
                self.count(Count::PagesLeaked);
                self.guest.leaked[self.index] = true;
                return;
            }
            if said == 0 || now - said >= RING_INTERVAL {
                self.call(OP_BYE, 0);
                said = now;
            }
            thread::yield_now();
        }
        vm.set_live(self.index, false);
        vm.overwrite_page(self.index, 0xbe);
    }
}

fn blocks(range: &Range) -> std::ops::Range<u64> {
    let first = range.gpa / BLOCK;
    first..first + (1 << (range.order - ORDER))
}
