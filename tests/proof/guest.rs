//! The guest's side of one batch after the other: the steps of guest-kmod/imr_handshake.c and imr_offer.c, each named
//! after its function there, with its ordering. The state is a value, so that a snapshot can keep it and a loadvm bring
//! it back.

use imr_common::guest_abi::RESULT_RECLAIMED;
use loom::sync::atomic::{Ordering, fence};

use crate::page::{ABANDON_SEQ, CLAIM_SEQ, DONE_SEQ, FIRST_GPA, OFFER_SEQ, RESULTS, REVOKE_SEQ};
use crate::world::{BLOCK, BLOCKS, Call, Line, Mutant, World};

/// More rings than any batch needs that a living host answers: one that finds no session and says HELLO, one for
/// the withdrawal to be seen, one to be answered, and as many again after a loadvm.
const RINGS: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Idle,
    Publish,
    Ring,
    Look,
    Revoke,
    Check,
    Wait,
    Over,
}

/// The module's state.
#[derive(Debug, Clone)]
pub(crate) struct Guest {
    at: At,
    /// Batches to come.
    left: u32,
    /// Rings before a batch is withdrawn.
    patience: u32,
    seq: u64,
    block: usize,
    lost: bool,
    rings: u32,
    /// Rings that reach a host late: the first two are on their way together.
    pub(crate) late: bool,
    /// The VM is never rolled back: results and contents belong together.
    pub(crate) exact: bool,
}

impl Guest {
    /// A guest that makes so many offers, and withdraws each after so many rings.
    pub(crate) fn new(offers: u32, patience: u32) -> Self {
        Self {
            at: At::Idle,
            left: offers,
            patience,
            seq: 0,
            block: 0,
            lost: false,
            rings: 0,
            late: false,
            exact: true,
        }
    }

    /// Runs to the end, or for `steps`.
    pub(crate) fn run(&mut self, world: &World, line: &mut Line, steps: u32) {
        for _ in 0..steps {
            if self.at == At::Over {
                return;
            }
            self.at = self.step(world, line);
        }
    }

    fn step(&mut self, world: &World, line: &mut Line) -> At {
        let page = &world.page;
        match self.at {
            At::Idle | At::Over if self.left == 0 => At::Over,
            // imr_record_write()
            At::Idle | At::Over => {
                self.left -= 1;
                self.block = usize::from(self.seq % 2 == 1);
                world.isolate(self.block);
                let gpa = BLOCKS + self.block as u64 * BLOCK;
                page.word(FIRST_GPA).store(gpa, Ordering::Relaxed);
                At::Publish
            }
            // imr_publish()
            At::Publish => {
                self.seq += 1;
                self.lost = false;
                self.rings = 0;
                page.word(OFFER_SEQ).store(self.seq, Ordering::Release);
                At::Ring
            }
            // imr_ring(), imr_call()
            At::Ring => {
                fence(Ordering::SeqCst);
                loop {
                    let (rung_ns, generation) = (world.now_ns(), world.generation());
                    line.say(Call { hello: self.rings > 0, seq: self.seq, rung_ns, generation });
                    self.rings += 1;
                    if !self.late || self.rings > 1 {
                        return At::Look;
                    }
                }
            }
            // imr_wait()
            At::Look if self.is_answered(world) => self.close(world),
            At::Look if !self.lost && self.rings > self.patience => At::Revoke,
            At::Look => At::Wait,
            // imr_revoke()
            At::Revoke => {
                page.word(REVOKE_SEQ).store(self.seq, Ordering::Relaxed);
                At::Check
            }
            At::Check => {
                if world.mutant != Mutant::NoGuestFence {
                    fence(Ordering::SeqCst);
                }
                if page.word(CLAIM_SEQ).load(Ordering::Relaxed) != self.seq {
                    return self.close(world);
                }
                self.lost = true;
                At::Wait
            }
            At::Wait => {
                line.wait();
                if self.is_answered(world) {
                    return self.close(world);
                }
                assert!(self.rings < RINGS, "STUCK: offer {} was rung for {RINGS} times", self.seq);
                At::Ring
            }
        }
    }

    /// imr_answer(), imr_record_settle()
    fn is_answered(&self, world: &World) -> bool {
        let page = &world.page;
        let done = if world.mutant == Mutant::NoAcquire { Ordering::Relaxed } else { Ordering::Acquire };
        if page.word(DONE_SEQ).load(done) == self.seq {
            if self.exact {
                let result = page.word(RESULTS).load(Ordering::Relaxed);
                assert_eq!(result, u64::from(RESULT_RECLAIMED), "WRONG: the result of a finished offer");
                assert_eq!(world.content(self.block), 0, "WRONG: a reclaimed block reads as zero");
            }
            return true;
        }
        page.word(ABANDON_SEQ).load(Ordering::Acquire) == self.seq
    }

    /// imr_batch_close(): the block is in use from here on.
    fn close(&self, world: &World) -> At {
        world.own(self.block);
        At::Idle
    }
}

impl Line {
    pub(crate) fn say(&mut self, call: Call) {
        self.under_way += 1;
        self.calls.send(Some(call)).expect("the host listens");
    }

    fn wait(&mut self) {
        while self.under_way > 0 {
            self.heard.recv().expect("the host listens");
            self.under_way -= 1;
        }
    }
}
