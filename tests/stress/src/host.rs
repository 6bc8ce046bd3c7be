//! The host's side: the session is the real one of imr-user. Around it are the steps of `pipeline/worker.rs` that decide:
//! is the call live, may the block be taken, may it be answered.
//!
//! In: the calls of one VM. Out: how often what happened. A host process is killed before any write by chance, and
//! another takes its place.

use std::mem::offset_of;
use std::sync::atomic::Ordering;
use std::thread;

use imr_common::guest_abi::{
    CONTROL_PAGE_SIZE, GuestHalf, MODE_RECLAIMING, OP_BYE, OP_DOORBELL, OP_HELLO, RESULT_KEPT,
    RESULT_RECLAIMED, RESULT_REFUSED,
};
use imr_stress::guest::memory::{MemoryError, PageMemory};
use imr_stress::guest::page::PageError;
use imr_stress::guest::session::{
    Claim, Doorbell, HelloKind, HostIdentity, Offer, OfferError, Session, SessionEnd,
};
use imr_stress::guest::want::Want;
use imr_stress::model::ids::Gpa;

use crate::counts::{Count, Counts};
use crate::ffi;
use crate::world::{BLOCK, CALL_LIFETIME, CLAIM_LIFETIME, Call, Mutant, Vm, fail};

/// A host process is killed before one in so many of its writes.
const KILLED_ONCE_IN: u64 = 300;

/// The process was killed.
struct Killed;

/// Guest memory as the host has it.
struct Memory<'a>(&'a Vm);

impl Memory<'_> {
    /// Something that everybody sees is about to be done.
    fn act(&self) -> Result<(), MemoryError> {
        if ffi::once_in(KILLED_ONCE_IN) { Err(MemoryError::VmmGone) } else { Ok(()) }
    }
}

impl PageMemory for Memory<'_> {
    fn is_ram(&self, start: Gpa, len: u64) -> bool {
        self.0.is_ram(start.get(), len)
    }

    fn read(&self, start: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let len = buffer.len() as u64;
        let from = self.0.frame(start.get(), buffer.len()).ok_or(MemoryError::OutsideRam { start, len })?;
        // SAFETY: `frame` says that it is there; the guest writes it by atomics, but where it has ended with the page.
        unsafe { ffi::copy(buffer, from) }
        if self.0.mutant == Mutant::Revoke && buffer.len() >= size_of::<GuestHalf>() {
            buffer[offset_of!(GuestHalf, revoke_seq)..][..8].fill(0);
        }
        Ok(())
    }

    fn write(&self, start: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        let len = bytes.len() as u64;
        let at = self.0.frame(start.get(), bytes.len()).ok_or(MemoryError::OutsideRam { start, len })?;
        // The kernel copies upwards; numbers are not torn.
        let piece = if matches!(len, 4 | 8) && start.get().is_multiple_of(len) { bytes.len() } else { 1 };
        for (index, bytes) in bytes.chunks(piece).enumerate() {
            self.act()?;
            self.0.expect_live(start.get());
            let mut value = [0; 8];
            value[..piece].copy_from_slice(bytes);
            // SAFETY: `frame` says that it is there, `piece` that it is aligned; the guest reads it by atomics.
            unsafe { ffi::store(at.wrapping_add(index * piece), piece, u64::from_le_bytes(value)) }
        }
        Ok(())
    }

    fn fence(&self) {
        ffi::mb();
    }
}

/// One host process after the other.
struct Host<'a> {
    vm: &'a Vm,
    memory: Memory<'a>,
    attach_id: u64,
    session: Option<Session>,
    generation: u64,
    counts: Counts,
}

/// Answers calls until the guest has had enough.
pub(crate) fn run(vm: &Vm) -> Counts {
    let mut host = Host {
        vm,
        memory: Memory(vm),
        attach_id: 1,
        session: None,
        generation: 0,
        counts: Counts::default(),
    };
    while !vm.over.load(Ordering::Acquire) {
        let Some(call) = vm.hear() else {
            thread::yield_now();
            continue;
        };
        ffi::step();
        if host.call(&call).is_err() {
            host.counts.add(Count::HostsKilled);
            vm.broken_off.fetch_add(1, Ordering::Relaxed);
            host.end();
        }
        ffi::drain();
    }
    host.counts
}

impl Host<'_> {
    /// The session is over, and the next one is another's or has another name.
    fn end(&mut self) {
        self.session = None;
        self.attach_id += 1;
    }

    fn identity(&self) -> HostIdentity {
        let none = Want::default();
        HostIdentity { attach_id: self.attach_id, mode: MODE_RECLAIMING, want: none, compact: none }
    }

    fn is_same_boot(&self, call: &Call) -> bool {
        self.vm.mutant == Mutant::Generation || call.generation == self.vm.generation()
    }

    fn age(&self, call: &Call) -> u64 {
        if self.vm.mutant == Mutant::Generation { 0 } else { self.vm.now_ns().saturating_sub(call.time_ns) }
    }

    /// `Worker::call`
    fn call(&mut self, call: &Call) -> Result<(), Killed> {
        let window = self.vm.window();
        // `Worker::obey`
        if self.vm.mutant != Mutant::Generation && self.generation != self.vm.generation() {
            self.generation = self.vm.generation();
            self.end();
        }
        if self.age(call) > CALL_LIFETIME || !self.is_same_boot(call) {
            self.counts.add(Count::StaleCalls);
            return Ok(());
        }
        let offer = match call.op {
            OP_HELLO => return self.hello(call),
            OP_BYE => return self.bye(call),
            OP_DOORBELL => self.doorbell(call)?,
            other => fail(self.vm, &format!("WRONG: call {other}")),
        };
        drop(window);
        offer.map_or(Ok(()), |offer| self.take(call, &offer))
    }

    /// `Worker::hello`
    fn hello(&mut self, call: &Call) -> Result<(), Killed> {
        let gpa = Gpa::new(call.arg);
        match Session::hello(self.session.as_ref(), &self.memory, gpa, call.cookie, self.identity()) {
            Ok((session, _, kind)) => {
                if kind == HelloKind::RolledBack {
                    fail(self.vm, "WRONG: a VM that was never rolled back seems to have been");
                }
                self.session = Some(session);
                Ok(())
            }
            Err(PageError::Memory(MemoryError::VmmGone)) => Err(Killed),
            // One that came late.
            Err(_) => Ok(()),
        }
    }

    /// `Worker::bye`
    fn bye(&mut self, call: &Call) -> Result<(), Killed> {
        match self.session.take() {
            Some(session) if session.cookie() == call.cookie => session.bye(&self.memory).map_err(|_| Killed),
            other => {
                self.session = other;
                Ok(())
            }
        }
    }

    /// `Worker::doorbell`
    fn doorbell(&mut self, call: &Call) -> Result<Option<Offer>, Killed> {
        let identity = self.identity();
        let Some(session) = self.session.as_mut() else { return Ok(None) };
        let mut doorbell = Doorbell { seq: call.arg, cookie: call.cookie, rung_ns: call.time_ns };
        let mut claim = session.claim(&self.memory, doorbell, identity, || self.vm.now_ns());
        if self.vm.mutant == Mutant::ExtraRing && matches!(claim, Ok(Claim::Settled)) {
            doorbell.rung_ns = u64::MAX;
            claim = session.claim(&self.memory, doorbell, identity, || self.vm.now_ns());
        }
        match claim {
            Ok(Claim::Taken(offer)) => {
                if offer.redone {
                    self.counts.add(Count::Redone);
                }
                return Ok(Some(offer));
            }
            Ok(Claim::Settled) => self.counts.add(Count::Settled),
            Ok(Claim::Revoked) => self.counts.add(Count::GivenBack),
            // A guest that goes on by kexec retires its page whatever the host holds.
            Ok(Claim::Malformed(OfferError::Page(PageError::NoMagic { .. }))) => {
                self.counts.add(Count::GivenBack);
            }
            Ok(Claim::Malformed(error)) => fail(self.vm, &format!("WRONG: {error}")),
            Err(SessionEnd::Page(PageError::Memory(MemoryError::VmmGone))) => return Err(Killed),
            Err(SessionEnd::RolledBack) => {
                fail(self.vm, "WRONG: a VM that was never rolled back seems to have been");
            }
            // The page of a module that was unloaded.
            Err(_) => self.end(),
        }
        Ok(None)
    }

    /// Why what was claimed on this call may not be gone on with, if it may not.
    fn is_void(&self, call: &Call) -> bool {
        !self.is_same_boot(call) || self.age(call) > CLAIM_LIFETIME
    }

    /// `Worker::give_up`
    fn give_up(&mut self) {
        self.counts.add(Count::GivenUp);
        self.vm.broken_off.fetch_add(1, Ordering::Relaxed);
        self.end();
    }

    /// `Worker::take`
    fn take(&mut self, call: &Call, offer: &Offer) -> Result<(), Killed> {
        let mut results = Vec::with_capacity(offer.ranges.len());
        for range in &offer.ranges {
            ffi::step();
            let result = match ffi::random(8) {
                0 => RESULT_KEPT,
                1 => RESULT_REFUSED,
                _ => RESULT_RECLAIMED,
            };
            results.push(result);
            if result != RESULT_RECLAIMED {
                continue;
            }
            let _window = self.vm.window();
            if self.is_void(call) {
                self.give_up();
                return Ok(());
            }
            let first = range.base_gfn.get() * CONTROL_PAGE_SIZE as u64 / BLOCK;
            for block in first..first + range.npages * CONTROL_PAGE_SIZE as u64 / BLOCK {
                self.memory.act().map_err(|_| Killed)?;
                self.vm.reclaim(block);
            }
        }
        let _window = self.vm.window();
        if self.is_void(call) {
            self.give_up();
            return Ok(());
        }
        let Some(session) = self.session.as_mut() else { return Ok(()) };
        match session.finish(&self.memory, offer.seq, &results) {
            Ok(()) => Ok(()),
            Err(SessionEnd::Page(PageError::Memory(MemoryError::VmmGone))) => Err(Killed),
            // As above: it goes on by kexec, and waits for no answer.
            Err(SessionEnd::Page(PageError::NoMagic { .. })) => {
                self.give_up();
                Ok(())
            }
            Err(end) => fail(self.vm, &format!("WRONG: {end}")),
        }
    }
}
