//! The handshake with one load of the guest module: HELLO, claim, done, abandon, BYE.
//!
//! The host half is written in answer to a live, proven call only, never on a timer: the page of a kernel
//! that no longer runs belongs to somebody else. Callers check age and reset generation of the call right
//! before each step.

use std::mem::offset_of;

use imr_common::guest_abi::HostHalf;
use thiserror::Error;

use crate::guest::memory::{MemoryError, PageMemory};
use crate::guest::page::{self, GuestFields, GuestStatistics, HostFields, PageError};
use crate::guest::record::{self, OfferedRange, RecordError, RecordPlace};
use crate::guest::want::Want;
use crate::model::ids::Gpa;

/// What this host says of itself in the host half of one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostIdentity {
    /// Random, never zero.
    pub attach_id: u64,
    /// `MODE_*`.
    pub mode: u32,
    /// The newest request. It stays in the page when it has been served; the guest knows by its number.
    pub want: Want,
    /// The newest request to compact; the same.
    pub compact: Want,
}

/// How a HELLO was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelloKind {
    /// The first of this module, or of this host process.
    New,
    /// Another one; the page is as this host left it.
    Repeated,
    /// The page is not as this host left it: the VM was rolled back or moved. Taken as new.
    RolledBack,
}

/// A live, proven doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Doorbell {
    /// The offer it names.
    pub seq: u64,
    /// The cookie it carries.
    pub cookie: u64,
    /// When it was rung, ns of CLOCK_MONOTONIC.
    pub rung_ns: u64,
}

/// What became of a doorbell.
#[derive(Debug)]
pub enum Claim {
    /// The offer is the host's until it is finished or abandoned.
    Taken(Offer),
    /// The guest had withdrawn it; given back untouched.
    Revoked,
    /// It was answered before, is not the guest's newest any more, or the next ring must be waited for. Nothing
    /// was done.
    Settled,
    /// It makes no sense; given back untouched.
    Malformed(OfferError),
}

/// An offer that the host has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Its sequence number.
    pub seq: u64,
    /// Its ranges, copied and bounded, not yet checked against the slots.
    pub ranges: Vec<OfferedRange>,
    /// An earlier host process had claimed it and died.
    pub redone: bool,
}

/// Why an offer makes no sense.
#[derive(Debug, Error)]
pub enum OfferError {
    /// The record holds none.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The page changed between the claim and the copy.
    #[error("the control page changed while offer {seq} was being claimed (it now says {found})")]
    Changed {
        /// Claimed.
        seq: u64,
        /// What the page says.
        found: u64,
    },
    /// The page names another record, or another shape of it.
    #[error("the record at {0} is not the one that HELLO was accepted for")]
    Moved(Gpa),
    /// The page or its record is not what HELLO was accepted for.
    #[error(transparent)]
    Page(#[from] PageError),
}

/// Why a session is over. The host must not write the page again.
#[derive(Debug, Error)]
pub enum SessionEnd {
    /// The page is no longer this module's control page.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The host half is not what this host wrote last: the VM was rolled back or moved. The open offer was
    /// given back.
    #[error("the host half of the control page is not as this host left it: the VM was rolled back or moved")]
    RolledBack,
}

impl From<MemoryError> for SessionEnd {
    fn from(error: MemoryError) -> Self {
        Self::Page(error.into())
    }
}

/// The handshake with one load of the guest module.
#[derive(Debug)]
pub struct Session {
    gpa: Gpa,
    cookie: u64,
    record: RecordPlace,
    written: HostFields,
    /// An offer that a predecessor had claimed and the guest tried to withdraw, and when that was seen.
    overdue: Option<(u64, u64)>,
}

impl Session {
    /// Takes a HELLO that names `gpa` and `cookie`, and answers it. `previous` is the session before it.
    ///
    /// # Errors
    /// [`PageError`]: nothing was written, or the VMM is gone. The previous session stands no more.
    pub fn hello(
        previous: Option<&Self>,
        memory: &impl PageMemory,
        gpa: Gpa,
        cookie: u64,
        host: HostIdentity,
    ) -> Result<(Self, GuestStatistics, HelloKind), PageError> {
        page::check_place(memory, gpa)?;
        let (guest, found) = page::read_halves(memory, gpa)?;
        guest.check_identity(gpa, cookie)?;
        guest.check_record(memory)?;
        let kind =
            match previous {
                Some(session) if session.gpa == gpa && session.cookie == cookie => {
                    if session.written == found { HelloKind::Repeated } else { HelloKind::RolledBack }
                }
                _ => HelloKind::New,
            };
        let mut session =
            Self { gpa, cookie, record: RecordPlace::of(&guest), written: found, overdue: None };
        session.overdue =
            previous.filter(|_| kind == HelloKind::Repeated).and_then(|session| session.overdue);
        session.answer(memory, host)?;
        Ok((session, guest.statistics, kind))
    }

    /// Where the control page is.
    #[must_use]
    pub fn gpa(&self) -> Gpa {
        self.gpa
    }

    /// Identity of this load of the module.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Claims the offer that a live doorbell names. `now_ns` reads CLOCK_MONOTONIC.
    ///
    /// # Errors
    /// [`SessionEnd`]: forget the session and wait for HELLO.
    pub fn claim(
        &mut self,
        memory: &impl PageMemory,
        doorbell: Doorbell,
        host: HostIdentity,
        now_ns: impl Fn() -> u64,
    ) -> Result<Claim, SessionEnd> {
        let Doorbell { seq, cookie, rung_ns } = doorbell;
        let (before, found) = page::read_halves(memory, self.gpa)?;
        if cookie != self.cookie {
            let (gpa, found) = (self.gpa, self.cookie);
            return Err(PageError::WrongCookie { gpa, found, expected: cookie }.into());
        }
        before.check_identity(self.gpa, self.cookie)?;
        if found != self.written {
            self.abandon(memory, seq)?;
            self.write(memory, offset_of!(HostHalf, attach_id), 0)?;
            return Err(SessionEnd::RolledBack);
        }
        if seq == 0
            || before.offer_seq != seq
            || self.written.done_seq == seq
            || self.written.abandon_seq == seq
        {
            return Ok(Claim::Settled);
        }
        let redone = self.written.claim_seq == seq;
        if redone && before.revoke_seq == seq && !self.guest_waits_on(seq, rung_ns) {
            // A predecessor claimed it and died. Whether the guest's withdrawal came before that claim, and
            // has won, cannot be seen in the page; but a guest whose withdrawal has won does not ring again.
            self.overdue.get_or_insert((seq, now_ns()));
            self.answer(memory, host)?;
            return Ok(Claim::Settled);
        }
        let guest_waits = redone && before.revoke_seq == seq;
        self.answer(memory, host)?;
        self.write(memory, offset_of!(HostHalf, claim_seq), seq)?;
        self.written.claim_seq = seq;
        // Pairs with the guest's fence between its store of revoke_seq and its load of claim_seq: at least
        // one side sees the other (design: claim, full fence, read revoke).
        memory.fence();
        let guest = GuestFields::read(memory, self.gpa)?;
        // Not only for equality: offer_seq and revoke_seq are not copied at one instant. A guest that withdraws this
        // offer in between, and then its next one, too, would look like one that has withdrawn nothing.
        if guest.revoke_seq >= seq && !guest_waits {
            self.abandon(memory, seq)?;
            return Ok(Claim::Revoked);
        }
        match self.copy_ranges(memory, seq, &guest) {
            Ok(ranges) => Ok(Claim::Taken(Offer { seq, ranges, redone })),
            Err(error) => {
                self.abandon(memory, seq)?;
                Ok(Claim::Malformed(error))
            }
        }
    }

    /// Whether the guest rang for `seq` after its attempt to withdraw it was seen: it found the claim, then,
    /// and waits for the answer without limit.
    fn guest_waits_on(&mut self, seq: u64, rung_ns: u64) -> bool {
        self.overdue = self.overdue.filter(|(overdue, _)| *overdue == seq);
        self.overdue.is_some_and(|(_, seen_ns)| rung_ns > seen_ns)
    }

    /// Answers offer `seq`: one of `RESULT_*` for each range, then `done_seq`. The page is looked at once more: it may have been
    /// unplugged, rolled back or offered itself while the offer was carried out.
    ///
    /// # Errors
    /// [`SessionEnd`] when the page cannot be written, or is not as this host left it; nothing was written then.
    pub fn finish(&mut self, memory: &impl PageMemory, seq: u64, results: &[u8]) -> Result<(), SessionEnd> {
        let (guest, found) = page::read_halves(memory, self.gpa)?;
        guest.check_identity(self.gpa, self.cookie)?;
        if found != self.written {
            return Err(SessionEnd::RolledBack);
        }
        page::write_results(memory, self.gpa, results)?;
        // The guest loads done_seq with acquire and then reads the results.
        memory.fence();
        self.write(memory, offset_of!(HostHalf, done_seq), seq)?;
        self.written.done_seq = seq;
        Ok(())
    }

    /// Gives offer `seq` back untouched.
    ///
    /// # Errors
    /// [`SessionEnd`] when the page cannot be written.
    pub fn abandon(&mut self, memory: &impl PageMemory, seq: u64) -> Result<(), SessionEnd> {
        self.write(memory, offset_of!(HostHalf, abandon_seq), seq)?;
        self.written.abandon_seq = seq;
        Ok(())
    }

    /// Answers BYE: zero in `attach_id` tells the guest that the host will not write the page again.
    ///
    /// # Errors
    /// [`SessionEnd`] when the page cannot be written.
    pub fn bye(self, memory: &impl PageMemory) -> Result<(), SessionEnd> {
        self.write(memory, offset_of!(HostHalf, attach_id), 0)
    }

    fn copy_ranges(
        &self,
        memory: &impl PageMemory,
        seq: u64,
        guest: &GuestFields,
    ) -> Result<Vec<OfferedRange>, OfferError> {
        guest.check_identity(self.gpa, self.cookie)?;
        guest.check_record(memory)?;
        if guest.offer_seq != seq {
            return Err(OfferError::Changed { seq, found: guest.offer_seq });
        }
        if RecordPlace::of(guest) != self.record {
            return Err(OfferError::Moved(guest.record_gpa));
        }
        Ok(record::read(memory, guest)?)
    }

    /// Says who answers and in which mode, where the page does not say so yet; the heartbeat last, so that the guest
    /// sees the rest with it. `written` must be what is in the page.
    fn answer(&mut self, memory: &impl PageMemory, host: HostIdentity) -> Result<(), MemoryError> {
        let before = self.written;
        let after = HostFields {
            mode: host.mode,
            want_pages: host.want.pages,
            want_seq: host.want.seq,
            compact_pages: host.compact.pages,
            compact_seq: host.compact.seq,
            attach_id: host.attach_id,
            heartbeat: before.heartbeat.wrapping_add(1),
            ..before
        };
        if after.mode != before.mode {
            page::write_mode(memory, self.gpa, after.mode)?;
        }
        // After the pages: a guest that sees the number finds the pages of it, or of a newer one.
        for (offset, before, after) in [
            (offset_of!(HostHalf, want_pages), before.want_pages, after.want_pages),
            (offset_of!(HostHalf, want_seq), before.want_seq, after.want_seq),
            (offset_of!(HostHalf, compact_pages), before.compact_pages, after.compact_pages),
            (offset_of!(HostHalf, compact_seq), before.compact_seq, after.compact_seq),
            (offset_of!(HostHalf, attach_id), before.attach_id, after.attach_id),
            (offset_of!(HostHalf, heartbeat), before.heartbeat, after.heartbeat),
        ] {
            if before != after {
                page::write_host_u64(memory, self.gpa, offset, after)?;
            }
        }
        self.written = after;
        Ok(())
    }

    fn write(&self, memory: &impl PageMemory, field_offset: usize, value: u64) -> Result<(), SessionEnd> {
        Ok(page::write_host_u64(memory, self.gpa, field_offset, value)?)
    }
}

#[cfg(test)]
mod tests;
