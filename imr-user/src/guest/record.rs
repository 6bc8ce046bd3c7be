//! What an offer describes, in either kind of record. Input: a guest half that was checked, and guest memory. Output:
//! ranges as the guest offered them, bounded; whether they are RAM of the guest is not looked at here.

use imr_common::guest_abi::{RECORD_FLAT, RECORD_LIST};
use thiserror::Error;

use crate::guest::flat::{self, FlatError, FlatOffer};
use crate::guest::list::{self, ListError};
use crate::guest::memory::{MemoryError, PageMemory};
use crate::guest::page::GuestFields;
use crate::model::ids::{Gfn, Gpa};

/// A range as the guest offered it: a whole number of frames, not yet checked against the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferedRange {
    /// First frame.
    pub base_gfn: Gfn,
    /// Length, frames; 1 to 2^18.
    pub npages: u64,
}

/// Why a record holds no offer.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The list is none.
    #[error(transparent)]
    List(#[from] ListError),
    /// The flat record is none.
    #[error(transparent)]
    Flat(#[from] FlatError),
    /// The guest half was not checked.
    #[error("a record of kind {0}, not known to this host")]
    Kind(u32),
    /// Not reachable.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

/// Which memory a record is, and how it is to be read. It stays the same from HELLO to HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// `RECORD_*`.
    pub kind: u32,
    /// Where it is.
    pub gpa: Gpa,
    /// Bytes of it.
    pub size: u64,
    /// Order of a block of a flat record.
    pub flat_order: u32,
}

impl RecordPlace {
    /// As the guest half has it.
    #[must_use]
    pub fn of(guest: &GuestFields) -> Self {
        Self {
            kind: guest.record_kind,
            gpa: guest.record_gpa,
            size: guest.record_size,
            flat_order: guest.flat_order,
        }
    }
}

/// Copies what the offer of `guest` needs of its record once, and finds its ranges, in the order of the answers.
///
/// # Errors
/// What is wrong with it. The whole offer is then worth nothing.
pub fn read(memory: &impl PageMemory, guest: &GuestFields) -> Result<Vec<OfferedRange>, RecordError> {
    match guest.record_kind {
        RECORD_LIST => {
            let record = list::copy(memory, guest.record_gpa)?;
            Ok(list::parse(&record, guest.offer_head, guest.offer_count)?)
        }
        RECORD_FLAT => Ok(flat::read(memory, guest.record_gpa, flat_offer(guest))??),
        other => Err(RecordError::Kind(other)),
    }
}

/// What the guest half says of a flat record and the offer in it.
#[must_use]
pub fn flat_offer(guest: &GuestFields) -> FlatOffer {
    FlatOffer {
        blocks: guest.record_size,
        flat_order: guest.flat_order,
        first: guest.offer_head,
        last: guest.offer_last,
        count: guest.offer_count,
    }
}
