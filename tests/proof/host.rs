//! The host's side: the session is the real one of imr-user. Around it are the steps of pipeline/worker.rs that
//! decide: is the call live, may the block be taken, may it be answered.

use imr_common::guest_abi::{MODE_RECLAIMING, RESULT_RECLAIMED};
use imr_user::guest::memory::MemoryError;
use imr_user::guest::page::PageError;
use imr_user::guest::session::{Claim, Doorbell, HostIdentity, Offer, Session, SessionEnd};
use imr_user::guest::want::Want;
use imr_user::model::ids::Gpa;
use loom::sync::mpsc::{Receiver, Sender};

use crate::page::{COOKIE, OFFER_SEQ, PAGE};
use crate::world::{BLOCK, BLOCKS, Call, Mutant, World};

/// The process was killed.
struct Killed;

/// One host process.
struct Process {
    identity: HostIdentity,
    session: Option<Session>,
}

/// Answers calls until there are no more. A process that is killed has a successor.
pub(crate) fn run(world: &World, calls: &Receiver<Option<Call>>, heard: &Sender<()>, first: Session) {
    let mut process = Process { identity: identity(1), session: Some(first) };
    while let Ok(Some(call)) = calls.recv() {
        if process.call(world, call).is_err() {
            world.page.kill_after(u32::MAX);
            process = Process { identity: identity(2), session: None };
        }
        heard.send(()).expect("the guest lives");
    }
}

/// Who answers.
pub(crate) fn identity(attach_id: u64) -> HostIdentity {
    HostIdentity { attach_id, mode: MODE_RECLAIMING, want: Want::default(), compact: Want::default() }
}

impl Process {
    /// `Worker::call`
    fn call(&mut self, world: &World, mut call: Call) -> Result<(), Killed> {
        if call.seq == 0 {
            if world.mutant != Mutant::NoDoorbell {
                return Ok(());
            }
            let seq = world.page.word(OFFER_SEQ).load(loom::sync::atomic::Ordering::Relaxed);
            call = Call { hello: true, seq, generation: world.generation(), ..call };
        }
        let offer = {
            let _window = world.window.lock();
            if !world.is_same_boot(&call) {
                return Ok(());
            }
            if world.mutant != Mutant::NoDoorbell {
                world.expect_page();
            }
            self.hello(world, &call)?;
            self.doorbell(world, &call)?
        };
        offer.map_or(Ok(()), |offer| self.take(world, &call, &offer))
    }

    fn hello(&mut self, world: &World, call: &Call) -> Result<(), Killed> {
        if !call.hello {
            return Ok(());
        }
        let previous = self.session.as_ref();
        match Session::hello(previous, &world.page, Gpa::new(PAGE), COOKIE, self.identity) {
            Ok((session, ..)) => self.session = Some(session),
            Err(PageError::Memory(MemoryError::VmmGone)) => return Err(Killed),
            Err(_) => {}
        }
        Ok(())
    }

    fn doorbell(&mut self, world: &World, call: &Call) -> Result<Option<Offer>, Killed> {
        let mut doorbell = Doorbell { seq: call.seq, cookie: COOKIE, rung_ns: call.rung_ns };
        let mut tries = 1;
        if world.mutant == Mutant::NoExtraRing {
            doorbell.rung_ns = u64::MAX;
            tries = 2;
        }
        for _ in 0..tries {
            let Some(session) = self.session.as_mut() else { return Ok(None) };
            match session.claim(&world.page, doorbell, self.identity, || world.now_ns()) {
                Ok(Claim::Taken(offer)) => return Ok(Some(offer)),
                Ok(Claim::Settled | Claim::Revoked) => {}
                Ok(Claim::Malformed(error)) => panic!("WRONG: {error}"),
                Err(SessionEnd::Page(PageError::Memory(MemoryError::VmmGone))) => return Err(Killed),
                Err(_) => self.session = None,
            }
        }
        Ok(None)
    }

    /// `Worker::take`
    fn take(&mut self, world: &World, call: &Call, offer: &Offer) -> Result<(), Killed> {
        for range in &offer.ranges {
            let _window = world.window.lock();
            if !world.is_same_boot(call) {
                self.session = None;
                return Ok(());
            }
            let block = (range.base_gfn.get() * 4096 - BLOCKS) / BLOCK;
            world.reclaim(block as usize).map_err(|_| Killed)?;
        }
        let _window = world.window.lock();
        if !world.is_same_boot(call) {
            self.session = None;
            return Ok(());
        }
        if world.mutant != Mutant::NoDoorbell {
            world.expect_page();
        }
        let Some(session) = self.session.as_mut() else { return Ok(()) };
        match session.finish(&world.page, offer.seq, &[RESULT_RECLAIMED]) {
            Ok(()) => Ok(()),
            Err(SessionEnd::Page(PageError::Memory(MemoryError::VmmGone))) => Err(Killed),
            Err(_) => {
                self.session = None;
                Ok(())
            }
        }
    }
}
