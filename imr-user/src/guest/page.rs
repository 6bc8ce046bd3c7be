//! Bytes of the control page <-> its fields. Decoded in this one place; no guest byte is trusted here, only
//! given a name.

use imr_common::guest_abi::{
    CONTROL_PAGE_SIZE, ControlPage, FLAT_MIN_ORDER, FLAT_RECORD_MAX, FREE_ORDERS, FREE_ZONES, GuestHalf,
    HALF_SIZE, HostHalf, LIST_RECORD_SIZE, MAGIC, MAX_OFFER_ORDER, MAX_RANGES, RECORD_FLAT, RECORD_LIST,
};
use std::mem::offset_of;
use thiserror::Error;

use crate::guest::memory::{MemoryError, PageMemory};
use crate::model::ids::{FRAME_SIZE, Gpa};

/// The fields of the guest half that the host uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestFields {
    /// [`MAGIC`] when the page is one.
    pub magic: u64,
    /// Version of the layout.
    pub abi_version: u32,
    /// Kind of record.
    pub record_kind: u32,
    /// Identity of this load of the module.
    pub cookie: u64,
    /// Where the guest says the page is.
    pub own_gpa: Gpa,
    /// Where its record is.
    pub record_gpa: Gpa,
    /// Bytes of the record.
    pub record_size: u64,
    /// Order of a block of a flat record.
    pub flat_order: u32,
    /// Newest offer.
    pub offer_seq: u64,
    /// Ranges of it.
    pub offer_count: u32,
    /// First entry of the list, first block of a flat record to look at.
    pub offer_head: u32,
    /// Last such block.
    pub offer_last: u32,
    /// Newest withdrawn offer.
    pub revoke_seq: u64,
    /// The guest's own memory statistics.
    pub statistics: GuestStatistics,
}

/// What the guest says of its memory. Shown; of what is free, policy pressure leaves it a floor, so that a wrong word harms
/// nobody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GuestStatistics {
    /// All of it, 4 KiB pages.
    pub total_pages: u64,
    /// Free, 4 KiB pages.
    pub free_pages: u64,
    /// Free but not to be offered, 4 KiB pages.
    pub reserve_pages: u64,
    /// Free blocks per order.
    pub free_blocks: [u64; FREE_ORDERS],
    /// The same per kind of zone (`ZONE_*`), each at most 2^32 - 1.
    pub zone_free_blocks: [[u32; FREE_ORDERS]; FREE_ZONES],
    /// Smallest order that is offered.
    pub offer_order: u32,
    /// Free pages in blocks of that order and above that are not offered, per kind of zone.
    pub zone_kept_pages: [u64; FREE_ZONES],
    /// Whether it serves requests to compact.
    pub compacts: bool,
    /// Blocks that it has made free so.
    pub compacted_blocks: u64,
}

/// The fields of the host half.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostFields {
    /// Who answers; 0: nobody.
    pub attach_id: u64,
    /// Raised at every answer.
    pub heartbeat: u64,
    /// `MODE_*`.
    pub mode: u32,
    /// Newest offer taken up.
    pub claim_seq: u64,
    /// Newest offer finished.
    pub done_seq: u64,
    /// Newest offer given back.
    pub abandon_seq: u64,
    /// Pages that the request asks for.
    pub want_pages: u64,
    /// Number of the request.
    pub want_seq: u64,
    /// Pages that the request to compact asks for.
    pub compact_pages: u64,
    /// Number of that.
    pub compact_seq: u64,
}

/// Why a page is not a control page that this host can use.
#[derive(Debug, Error)]
pub enum PageError {
    /// Not at the start of a frame.
    #[error("control page at {0}: not page-aligned")]
    Unaligned(Gpa),
    /// The magic number is not there.
    #[error("control page at {gpa}: magic is {found:#x}, not {MAGIC:#x}")]
    NoMagic {
        /// Where.
        gpa: Gpa,
        /// What is there.
        found: u64,
    },
    /// Another version of the layout.
    #[error("control page at {gpa}: ABI version {found}, this host speaks {expected}: update the older side")]
    Version {
        /// Where.
        gpa: Gpa,
        /// The guest's.
        found: u32,
        /// The host's.
        expected: u32,
    },
    /// The page says it is elsewhere: a copy, or a lie.
    #[error("control page at {gpa}: says it is at {found}")]
    WrongAddress {
        /// Where.
        gpa: Gpa,
        /// What it says.
        found: Gpa,
    },
    /// Not the module that called.
    #[error("control page at {gpa}: cookie {found:#x}, the caller has {expected:#x}")]
    WrongCookie {
        /// Where.
        gpa: Gpa,
        /// In the page.
        found: u64,
        /// In the call.
        expected: u64,
    },
    /// A record that cannot be one.
    #[error("record at {gpa}, {size} bytes, kind {kind}: {why}")]
    BadRecord {
        /// Where.
        gpa: Gpa,
        /// Its size, bytes.
        size: u64,
        /// Its kind.
        kind: u32,
        /// What is wrong.
        why: &'static str,
    },
    /// Not reachable.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl GuestFields {
    /// Copies the guest half of the page at `gpa` once.
    ///
    /// # Errors
    /// [`MemoryError`] when the page cannot be read.
    pub fn read(memory: &impl PageMemory, gpa: Gpa) -> Result<Self, MemoryError> {
        let mut bytes = [0_u8; HALF_SIZE];
        memory.read(gpa, &mut bytes)?;
        Ok(Self::decode(&bytes))
    }

    /// Gives names to the bytes of a guest half.
    #[must_use]
    pub fn decode(bytes: &[u8; HALF_SIZE]) -> Self {
        let mut free_blocks = [0; FREE_ORDERS];
        for (order, blocks) in free_blocks.iter_mut().enumerate() {
            *blocks = u64_at(bytes, offset_of!(GuestHalf, free_blocks) + order * 8);
        }
        let mut zone_free_blocks = [[0; FREE_ORDERS]; FREE_ZONES];
        for (index, blocks) in zone_free_blocks.as_flattened_mut().iter_mut().enumerate() {
            *blocks = u32_at(bytes, offset_of!(GuestHalf, zone_free_blocks) + index * 4);
        }
        Self {
            magic: u64_at(bytes, offset_of!(GuestHalf, magic)),
            abi_version: u32_at(bytes, offset_of!(GuestHalf, abi_version)),
            record_kind: u32_at(bytes, offset_of!(GuestHalf, record_kind)),
            cookie: u64_at(bytes, offset_of!(GuestHalf, cookie)),
            own_gpa: Gpa::new(u64_at(bytes, offset_of!(GuestHalf, own_gpa))),
            record_gpa: Gpa::new(u64_at(bytes, offset_of!(GuestHalf, record_gpa))),
            record_size: u64_at(bytes, offset_of!(GuestHalf, record_size)),
            flat_order: u32_at(bytes, offset_of!(GuestHalf, flat_order)),
            offer_seq: u64_at(bytes, offset_of!(GuestHalf, offer_seq)),
            offer_count: u32_at(bytes, offset_of!(GuestHalf, offer_count)),
            offer_head: u32_at(bytes, offset_of!(GuestHalf, offer_head)),
            offer_last: u32_at(bytes, offset_of!(GuestHalf, offer_last)),
            revoke_seq: u64_at(bytes, offset_of!(GuestHalf, revoke_seq)),
            statistics: GuestStatistics {
                total_pages: u64_at(bytes, offset_of!(GuestHalf, total_pages)),
                free_pages: u64_at(bytes, offset_of!(GuestHalf, free_pages)),
                reserve_pages: u64_at(bytes, offset_of!(GuestHalf, reserve_pages)),
                free_blocks,
                zone_free_blocks,
                offer_order: u32_at(bytes, offset_of!(GuestHalf, offer_order)),
                zone_kept_pages: std::array::from_fn(|zone| {
                    u64_at(bytes, offset_of!(GuestHalf, zone_kept_pages) + zone * 8)
                }),
                compacts: u32_at(bytes, offset_of!(GuestHalf, compacts)) == 1,
                compacted_blocks: u64_at(bytes, offset_of!(GuestHalf, compacted_blocks)),
            },
        }
    }

    /// Whether this is the live control page at `gpa` of the module with `cookie`.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check_identity(&self, gpa: Gpa, cookie: u64) -> Result<(), PageError> {
        let expected = imr_common::guest_abi::ABI_VERSION;
        if self.magic != MAGIC {
            return Err(PageError::NoMagic { gpa, found: self.magic });
        }
        if self.abi_version != expected {
            return Err(PageError::Version { gpa, found: self.abi_version, expected });
        }
        if self.own_gpa != gpa {
            return Err(PageError::WrongAddress { gpa, found: self.own_gpa });
        }
        if self.cookie != cookie || cookie == 0 {
            return Err(PageError::WrongCookie { gpa, found: self.cookie, expected: cookie });
        }
        Ok(())
    }

    /// Whether the record is one that can be read.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_record(&self, memory: &impl PageMemory) -> Result<(), PageError> {
        let bad = |why| {
            Err(PageError::BadRecord {
                gpa: self.record_gpa,
                size: self.record_size,
                kind: self.record_kind,
                why,
            })
        };
        match self.record_kind {
            RECORD_LIST if self.record_size != LIST_RECORD_SIZE => return bad("a list record has one page"),
            RECORD_FLAT if self.record_size == 0 => return bad("a flat record has a block at least"),
            RECORD_FLAT if self.record_size > FLAT_RECORD_MAX => {
                return bad("a flat record has 4 Mi blocks at most");
            }
            RECORD_FLAT if self.flat_order < FLAT_MIN_ORDER => return bad("its blocks have less than 2 MiB"),
            RECORD_FLAT if self.flat_order > MAX_OFFER_ORDER => {
                return bad("its blocks are larger than any offer");
            }
            RECORD_LIST | RECORD_FLAT => {}
            _ => return bad("kind not known to this host"),
        }
        if !self.record_gpa.get().is_multiple_of(FRAME_SIZE) {
            return bad("not page-aligned");
        }
        if !memory.is_ram(self.record_gpa, self.record_size) {
            return bad("not inside a RAM slot");
        }
        // Both are page-aligned, and inside RAM no address wraps.
        let after = self.own_gpa.get().checked_sub(self.record_gpa.get());
        if after.is_some_and(|bytes| bytes < self.record_size) {
            return bad("is the control page, or goes over it");
        }
        Ok(())
    }
}

/// Length of the host half without the results, bytes.
const BEFORE_RESULTS: usize = offset_of!(HostHalf, results);

impl HostFields {
    /// Copies the host half of the page at `gpa` once.
    ///
    /// # Errors
    /// [`MemoryError`] when the page cannot be read.
    pub fn read(memory: &impl PageMemory, gpa: Gpa) -> Result<Self, MemoryError> {
        let mut bytes = [0_u8; BEFORE_RESULTS];
        memory.read(host_gpa(gpa, 0), &mut bytes)?;
        Ok(Self::decode(&bytes))
    }

    fn decode(bytes: &[u8; BEFORE_RESULTS]) -> Self {
        Self {
            attach_id: u64_at(bytes, offset_of!(HostHalf, attach_id)),
            heartbeat: u64_at(bytes, offset_of!(HostHalf, heartbeat)),
            mode: u32_at(bytes, offset_of!(HostHalf, mode)),
            claim_seq: u64_at(bytes, offset_of!(HostHalf, claim_seq)),
            done_seq: u64_at(bytes, offset_of!(HostHalf, done_seq)),
            abandon_seq: u64_at(bytes, offset_of!(HostHalf, abandon_seq)),
            want_pages: u64_at(bytes, offset_of!(HostHalf, want_pages)),
            want_seq: u64_at(bytes, offset_of!(HostHalf, want_seq)),
            compact_pages: u64_at(bytes, offset_of!(HostHalf, compact_pages)),
            compact_seq: u64_at(bytes, offset_of!(HostHalf, compact_seq)),
        }
    }
}

/// Copies both halves of the page at `gpa` in one call: the kernel's way to another process's page costs more than the
/// bytes.
///
/// # Errors
/// [`MemoryError`] when the page cannot be read.
pub fn read_halves(memory: &impl PageMemory, gpa: Gpa) -> Result<(GuestFields, HostFields), MemoryError> {
    let mut bytes = [0_u8; HALF_SIZE + BEFORE_RESULTS];
    memory.read(gpa, &mut bytes)?;
    let mut guest = [0; HALF_SIZE];
    guest.copy_from_slice(&bytes[..HALF_SIZE]);
    let mut host = [0; BEFORE_RESULTS];
    host.copy_from_slice(&bytes[HALF_SIZE..]);
    Ok((GuestFields::decode(&guest), HostFields::decode(&host)))
}

/// Writes one 64-bit field of the host half.
///
/// # Errors
/// [`MemoryError`] when the page cannot be written.
pub fn write_host_u64(
    memory: &impl PageMemory,
    page: Gpa,
    field_offset: usize,
    value: u64,
) -> Result<(), MemoryError> {
    memory.write(host_gpa(page, field_offset), &value.to_le_bytes())
}

/// Writes `mode`.
///
/// # Errors
/// [`MemoryError`] when the page cannot be written.
pub fn write_mode(memory: &impl PageMemory, page: Gpa, mode: u32) -> Result<(), MemoryError> {
    memory.write(host_gpa(page, offset_of!(HostHalf, mode)), &mode.to_le_bytes())
}

/// Writes the first `results.len()` results.
///
/// # Errors
/// [`MemoryError`] when the page cannot be written.
pub fn write_results(memory: &impl PageMemory, page: Gpa, results: &[u8]) -> Result<(), MemoryError> {
    debug_assert!(results.len() <= MAX_RANGES);
    memory.write(host_gpa(page, offset_of!(HostHalf, results)), results)
}

/// Whether a control page may be at `gpa`: aligned and inside RAM.
///
/// # Errors
/// Which of the two it is not.
pub fn check_place(memory: &impl PageMemory, gpa: Gpa) -> Result<(), PageError> {
    if !gpa.get().is_multiple_of(CONTROL_PAGE_SIZE as u64) {
        return Err(PageError::Unaligned(gpa));
    }
    if !memory.is_ram(gpa, CONTROL_PAGE_SIZE as u64) {
        return Err(MemoryError::OutsideRam { start: gpa, len: CONTROL_PAGE_SIZE as u64 }.into());
    }
    Ok(())
}

// The page was checked to lie inside a slot, whose addresses do not overflow.
fn host_gpa(page: Gpa, field_offset: usize) -> Gpa {
    Gpa::new(page.get().saturating_add((offset_of!(ControlPage, host) + field_offset) as u64))
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(value)
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(value)
}

#[cfg(test)]
mod tests;
