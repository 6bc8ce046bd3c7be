//! The memory that both sides share, for loom: the numbers of the control page that decide are loom's atomics, with
//! the ordering that the real accesses have; the rest of the page never changes, or nobody decides by it.
//!
//! It also counts what the host writes, and has it die before a write that the test names.

use std::mem::offset_of;
use std::sync::atomic::{AtomicU32 as Count, AtomicU64 as Plain, Ordering::Relaxed as Unordered};

use imr_common::guest_abi::{
    ABI_VERSION, ControlPage, GuestHalf, HostHalf, LIST_END, LIST_RECORD_SIZE, MAGIC, RECORD_LIST,
};
use imr_user::guest::memory::{MemoryError, PageMemory};
use imr_user::model::ids::Gpa;
use loom::sync::atomic::{AtomicU64, Ordering, fence};

/// Where the control page is.
pub(crate) const PAGE: u64 = 0x10_0000;
/// Where the record is: behind it, so that one array holds both.
const RECORD: u64 = PAGE + 4096;
/// Identity of the module.
pub(crate) const COOKIE: u64 = 0xfeed;

const HOST: u64 = offset_of!(ControlPage, host) as u64;
/// Offsets of what decides: guest half, host half, first entry of the record.
pub(crate) const OFFER_SEQ: u64 = offset_of!(GuestHalf, offer_seq) as u64;
pub(crate) const REVOKE_SEQ: u64 = offset_of!(GuestHalf, revoke_seq) as u64;
pub(crate) const CLAIM_SEQ: u64 = HOST + offset_of!(HostHalf, claim_seq) as u64;
pub(crate) const DONE_SEQ: u64 = HOST + offset_of!(HostHalf, done_seq) as u64;
pub(crate) const ABANDON_SEQ: u64 = HOST + offset_of!(HostHalf, abandon_seq) as u64;
pub(crate) const RESULTS: u64 = HOST + offset_of!(HostHalf, results) as u64;
pub(crate) const FIRST_GPA: u64 = RECORD - PAGE;
const DECIDING: [u64; 7] = [OFFER_SEQ, REVOKE_SEQ, CLAIM_SEQ, DONE_SEQ, ABANDON_SEQ, RESULTS, FIRST_GPA];

fn is_hosts(offset: u64) -> bool {
    (HOST..FIRST_GPA).contains(&offset)
}

/// The control page and the record.
pub(crate) struct Page {
    deciding: [AtomicU64; DECIDING.len()],
    /// What the host's restart or the checker may look at, but no decision of the other side.
    rest: Vec<Plain>,
    /// Mutant: the host's fence is none.
    pub(crate) no_fence: bool,
    /// Writes that the host has left before it is killed.
    writes_left: Count,
}

impl Page {
    pub(crate) fn new() -> Self {
        let page = Self {
            deciding: std::array::from_fn(|_| AtomicU64::new(0)),
            rest: (0..1024).map(|_| Plain::new(0)).collect(),
            no_fence: false,
            writes_left: Count::new(u32::MAX),
        };
        // What imr_fill_guest_half() and a record of one block of order 9 have; the list begins at its entry 0.
        page.put(offset_of!(GuestHalf, magic) as u64, MAGIC);
        let kind = u64::from(ABI_VERSION) | u64::from(RECORD_LIST) << 32;
        page.put(offset_of!(GuestHalf, abi_version) as u64, kind);
        page.put(offset_of!(GuestHalf, cookie) as u64, COOKIE);
        page.put(offset_of!(GuestHalf, own_gpa) as u64, PAGE);
        page.put(offset_of!(GuestHalf, record_gpa) as u64, RECORD);
        page.put(offset_of!(GuestHalf, record_size) as u64, LIST_RECORD_SIZE);
        page.put(offset_of!(GuestHalf, offer_count) as u64, 1);
        page.put(FIRST_GPA + 8, 9 | u64::from(LIST_END) << 32);
        page
    }

    fn put(&self, offset: u64, value: u64) {
        self.rest[offset as usize / 8].store(value, Unordered);
    }

    /// A number that decides.
    pub(crate) fn word(&self, offset: u64) -> &AtomicU64 {
        let index = DECIDING.iter().position(|known| *known == offset);
        &self.deciding[index.expect("one of the numbers that decide")]
    }

    /// Has the host killed after `writes` more of them.
    pub(crate) fn kill_after(&self, writes: u32) {
        self.writes_left.store(writes, Unordered);
    }

    /// Something that the host does and everybody sees. Fails when it has been killed.
    pub(crate) fn act(&self) -> Result<(), MemoryError> {
        match self.writes_left.load(Unordered) {
            0 => Err(MemoryError::VmmGone),
            u32::MAX => Ok(()),
            left => {
                self.writes_left.store(left - 1, Unordered);
                Ok(())
            }
        }
    }

    /// Everything, as a VM that is stopped has it: for a snapshot.
    pub(crate) fn save(&self) -> Vec<u64> {
        let deciding = DECIDING.iter().zip(&self.deciding).map(|(offset, word)| {
            // No store is under way any more: what a side wrote last is there.
            if is_hosts(*offset) {
                self.rest[*offset as usize / 8].load(Unordered)
            } else {
                word.load(Ordering::Relaxed)
            }
        });
        deciding.chain(self.rest.iter().map(|word| word.load(Unordered))).collect()
    }

    /// Puts back what [`Page::save`] saved.
    pub(crate) fn load(&self, saved: &[u64]) {
        for (word, value) in self.deciding.iter().zip(saved) {
            word.store(*value, Ordering::Relaxed);
        }
        for (word, value) in self.rest.iter().zip(&saved[DECIDING.len()..]) {
            word.store(*value, Unordered);
        }
    }
}

impl PageMemory for Page {
    fn is_ram(&self, start: Gpa, len: u64) -> bool {
        start.get() >= PAGE && start.get() + len <= PAGE + 8192
    }

    fn read(&self, start: Gpa, buffer: &mut [u8]) -> Result<(), MemoryError> {
        let offset = start.get() - PAGE;
        let first = offset as usize / 8;
        for (index, bytes) in buffer.chunks_exact_mut(8).enumerate() {
            bytes.copy_from_slice(&self.rest[first + index].load(Unordered).to_le_bytes());
        }
        // Upwards, one after the other, as the kernel's copy does it: two numbers are not of one instant.
        let read = offset..offset + buffer.len() as u64;
        // Of its own half the host reads what it wrote last, whatever the guest may see by now. To read that from the
        // atomics would blind loom, too: it remembers an atomic's last access only, to find what could have come
        // before it, and a load of the host's hid the guest's before it.
        for known in DECIDING.iter().filter(|known| read.contains(known) && !is_hosts(**known)) {
            let value = self.word(*known).load(Ordering::Relaxed);
            buffer[(known - offset) as usize..][..8].copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    fn write(&self, start: Gpa, bytes: &[u8]) -> Result<(), MemoryError> {
        self.act()?;
        let offset = start.get() - PAGE;
        let mut value = [0; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        let value = u64::from_le_bytes(value);
        self.put(offset, value);
        if DECIDING.contains(&offset) {
            self.word(offset).store(value, Ordering::Relaxed);
        }
        Ok(())
    }

    fn fence(&self) {
        if !self.no_fence {
            fence(Ordering::SeqCst);
        }
    }
}
