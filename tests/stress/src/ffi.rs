//! The C side: the guest module's handshake, and the memory that it shares with the host (`shim/memory.h`).
//!
//! Must not do anything but call. Who calls is the one thread that [`begin`] was called in, on one side of one VM.

use std::ffi::{c_int, c_uint, c_void};

use imr_common::guest_abi::ControlPage;

/// Full barriers are none, for this thread.
pub(crate) const NO_MB: u32 = 1;
/// Acquire means nothing, for this thread.
pub(crate) const NO_ACQUIRE: u32 = 2;

const RELEASE: c_int = 3;

/// `struct imr_range`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Range {
    pub(crate) gpa: u64,
    pub(crate) order: c_uint,
}

/// `struct imr_record`
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    pub(crate) at: *mut c_void,
    pub(crate) gpa: u64,
    pub(crate) size: u64,
    pub(crate) kind: u32,
    pub(crate) order: u32,
}

/// `struct imr_host_word`
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct HostWord {
    pub(crate) beat: u64,
    pub(crate) attach: u64,
    pub(crate) mode: u32,
}

/// `enum imr_fate`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Pending,
    Done,
    Abandoned,
    Revoked,
    Held,
}

unsafe extern "C" {
    fn imr_page_fill(page: *mut ControlPage, gpa: u64, cookie: u64, record: *const Record);
    fn imr_page_retire(page: *mut ControlPage);
    fn imr_page_call(page: *mut ControlPage) -> u64;
    fn imr_host_read(page: *const ControlPage, word: *mut HostWord);
    fn imr_host_left(page: *const ControlPage) -> bool;
    fn imr_describe(page: *mut ControlPage, record: *const Record, batch: *const Range, count: c_uint);
    fn imr_undescribe(record: *const Record, batch: *const Range, count: c_uint);
    fn imr_publish(page: *mut ControlPage, count: c_uint) -> u64;
    fn imr_offer_look(page: *mut ControlPage, seq: u64, withdraw: bool) -> c_uint;
    fn imr_result(page: *const ControlPage, index: c_uint) -> u8;

    fn shim_begin(seed: u64, without: c_uint);
    fn shim_random() -> u64;
    fn shim_step();
    fn shim_store(at: *mut c_void, size: usize, value: u64, order: c_int);
    fn shim_copy(to: *mut c_void, from: *const c_void, size: usize);
    fn shim_mb();
    fn shim_drain();
}

/// First of all in each thread: its chances, and what is taken away from it (`NO_*`).
pub(crate) fn begin(seed: u64, without: u32) {
    // SAFETY: changes what belongs to the thread alone.
    unsafe { shim_begin(seed, without) }
}

/// A number below `end`.
pub(crate) fn random(end: u64) -> u64 {
    // SAFETY: as in `begin`.
    unsafe { shim_random() % end }
}

/// True once in so many times.
pub(crate) fn once_in(times: u64) -> bool {
    random(times) == 0
}

/// A random delay, mostly none.
pub(crate) fn step() {
    // SAFETY: as in `begin`.
    unsafe { shim_step() }
}

/// Full barrier.
pub(crate) fn mb() {
    // SAFETY: stores only what was to be stored, see `store`.
    unsafe { shim_mb() }
}

/// Has all earlier stores of this thread seen.
pub(crate) fn drain() {
    // SAFETY: as in `mb`.
    unsafe { shim_drain() }
}

/// Stores the 1, 4 or 8 bytes of `value`, seen by others at any later time.
///
/// # Safety
/// `at` is aligned to `size`, and memory that others access by atomics only for as long as this process lives.
pub(crate) unsafe fn store(at: *mut u8, size: usize, value: u64) {
    // x86 sees stores in order. That of the contract's that needs no such order is loom's matter.
    // SAFETY: the caller's word.
    unsafe { shim_store(at.cast(), size, value, RELEASE) }
}

/// Copies upwards, by atomic loads.
///
/// # Safety
/// `from` is memory of `to.len()` bytes that others write by atomics only.
pub(crate) unsafe fn copy(to: &mut [u8], from: *const u8) {
    // SAFETY: the caller's word; `to` is ours.
    unsafe { shim_copy(to.as_mut_ptr().cast(), from.cast(), to.len()) }
}

/// A control page as the guest's thread has it, with its record.
#[derive(Debug)]
pub(crate) struct Page {
    page: *mut ControlPage,
    record: Record,
}

impl Page {
    /// `imr_page_fill()`
    ///
    /// # Safety
    /// `page` and `record` are zeros, in memory that lives as long as the process, of which no one else uses what the guest
    /// may write until the value is gone; the host accesses it by atomics.
    pub(crate) unsafe fn fill(page: *mut ControlPage, gpa: u64, cookie: u64, record: Record) -> Self {
        // SAFETY: the caller's word.
        unsafe { imr_page_fill(page, gpa, cookie, &raw const record) }
        Self { page, record }
    }

    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// `imr_page_retire()`
    pub(crate) fn retire(&mut self) {
        // SAFETY: `fill`'s caller's word.
        unsafe { imr_page_retire(self.page) }
    }

    /// `imr_page_call()`
    pub(crate) fn call(&mut self) -> u64 {
        // SAFETY: as in `retire`.
        unsafe { imr_page_call(self.page) }
    }

    /// `imr_host_read()`
    pub(crate) fn host(&self) -> HostWord {
        let mut word = HostWord::default();
        // SAFETY: as in `retire`; `word` is ours.
        unsafe { imr_host_read(self.page, &raw mut word) }
        word
    }

    /// `imr_host_left()`
    pub(crate) fn host_left(&self) -> bool {
        // SAFETY: as in `retire`.
        unsafe { imr_host_left(self.page) }
    }

    /// `imr_describe()`: each range inside what the record has bytes or entries for, by address in a flat record.
    pub(crate) fn describe(&mut self, batch: &[Range]) {
        // SAFETY: as in `retire`; as many ranges as are said.
        unsafe { imr_describe(self.page, &raw const self.record, batch.as_ptr(), batch.len() as c_uint) }
    }

    /// `imr_undescribe()`
    pub(crate) fn undescribe(&mut self, batch: &[Range]) {
        // SAFETY: as in `describe`.
        unsafe { imr_undescribe(&raw const self.record, batch.as_ptr(), batch.len() as c_uint) }
    }

    /// `imr_publish()`
    pub(crate) fn publish(&mut self, count: usize) -> u64 {
        // SAFETY: as in `retire`.
        unsafe { imr_publish(self.page, count as c_uint) }
    }

    /// `imr_offer_look()`
    pub(crate) fn look(&mut self, seq: u64, withdraw: bool) -> Fate {
        // SAFETY: as in `retire`.
        match unsafe { imr_offer_look(self.page, seq, withdraw) } {
            0 => Fate::Pending,
            1 => Fate::Done,
            2 => Fate::Abandoned,
            3 => Fate::Revoked,
            4 => Fate::Held,
            other => unreachable!("imr_offer_look() returned {other}"),
        }
    }

    /// `imr_result()`
    pub(crate) fn result(&self, index: usize) -> u8 {
        // SAFETY: as in `retire`; a batch has no more ranges than the page has results.
        unsafe { imr_result(self.page, index as c_uint) }
    }
}
