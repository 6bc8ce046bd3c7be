//! One VM: the frames of control pages and records, the blocks of memory that are offered, the calls under way, the reset
//! generation. And what only the test knows: whose each block and each page is.
//!
//! A block's content is plain memory, so that ThreadSanitizer finds a touch that nothing orders; a touch while the other
//! side owns the block is found by [`Vm::reclaim`], however it is ordered.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use imr_common::guest_abi::{CALL_LIFETIME_MS, CLAIM_LIFETIME_MS};

use crate::ffi;

/// Bytes of a block.
pub(crate) const BLOCK: u64 = 2 << 20;
/// Blocks that are offered; their numbers begin at 1, and the frames below are in block 0.
pub(crate) const BLOCKS: u64 = 32;
/// Where the first frame is.
pub(crate) const FRAMES_GPA: u64 = 0x10_0000;
/// Control pages that a VM has room for, each with a page for its record behind it.
pub(crate) const PAGES: usize = 8;
/// Bytes of both.
const STRIDE: usize = 8192;
const FRAME: Layout = match Layout::from_size_align(STRIDE, 4096) {
    Ok(layout) => layout,
    Err(_) => panic!("a power of two"),
};
/// Words of a block that stand for all of it.
const WORDS: usize = 4;

/// A millisecond of the contract, ns: time runs a hundred times as fast here.
pub(crate) const MS: u64 = 10_000;
/// [`CALL_LIFETIME_MS`], ns.
pub(crate) const CALL_LIFETIME: u64 = CALL_LIFETIME_MS * MS;
/// [`CLAIM_LIFETIME_MS`], ns.
pub(crate) const CLAIM_LIFETIME: u64 = CLAIM_LIFETIME_MS * MS;

/// What is changed to see the test fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Nothing.
    None,
    /// The guest does not fence between `revoke_seq` and its look at `claim_seq`.
    GuestFence,
    /// The host does not fence between its claim and its look at `revoke_seq`.
    HostFence,
    /// The guest reads the host's numbers without acquire.
    Acquire,
    /// The host does not see withdrawals.
    Revoke,
    /// A successor redoes a batch that the guest tried to withdraw, without waiting for one more ring.
    ExtraRing,
    /// The host looks neither at the reset generation nor at a call's age.
    Generation,
}

/// A hypercall.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Call {
    pub(crate) op: u64,
    pub(crate) arg: u64,
    pub(crate) cookie: u64,
    pub(crate) time_ns: u64,
    pub(crate) generation: u64,
}

const QUEUE: usize = 16;

/// Calls from the guest's thread to the host's.
#[derive(Default)]
struct Queue {
    calls: [UnsafeCell<Call>; QUEUE],
    said: AtomicU64,
    heard: AtomicU64,
}

/// A block of guest memory.
struct Block {
    /// The guest's, or nobody's.
    owned: AtomicBool,
    content: UnsafeCell<[u64; WORDS]>,
}

/// See the module.
pub(crate) struct Vm {
    pub(crate) number: u64,
    pub(crate) mutant: Mutant,
    /// Each an allocation of its own, so that AddressSanitizer sees who goes past its end.
    frames: [*mut u8; PAGES],
    /// Whether each is a control page of a module that runs.
    live: [AtomicBool; PAGES],
    blocks: Vec<Block>,
    calls: Queue,
    generation: AtomicU64,
    start: Instant,
    window: AtomicBool,
    /// Hosts that died or gave up in the middle.
    pub(crate) broken_off: AtomicU32,
    /// The guest has had enough.
    pub(crate) over: AtomicBool,
}

// SAFETY: frames are written by atomics, or while the other side has no business there, which is what is tested; so are
// blocks; a place in the queue belongs to the side that `said` and `heard` say.
unsafe impl Sync for Vm {}

impl Drop for Vm {
    fn drop(&mut self) {
        for frame in self.frames {
            // SAFETY: allocated with this layout; both sides have ended.
            unsafe { dealloc(frame, FRAME) }
        }
    }
}

/// While it lives, no reset comes between a look at the generation and what it allows (docs/safety.md, "What the models
/// assume").
pub(crate) struct Window<'a>(&'a AtomicBool);

impl Drop for Window<'_> {
    fn drop(&mut self) {
        // What is in the store buffer is done with, too: a system call's end.
        ffi::drain();
        self.0.store(false, Ordering::Release);
    }
}

/// Says what went wrong and ends the process.
pub(crate) fn fail(vm: &Vm, what: &str) -> ! {
    eprintln!("{what} (VM {})", vm.number);
    std::process::exit(1)
}

impl Vm {
    pub(crate) fn new(number: u64, mutant: Mutant) -> Self {
        let frame = |_| {
            // SAFETY: the layout has a size.
            let at = unsafe { alloc_zeroed(FRAME) };
            assert!(!at.is_null(), "no memory");
            at
        };
        let block = |_| Block { owned: AtomicBool::new(true), content: UnsafeCell::new([0; WORDS]) };
        Self {
            number,
            mutant,
            frames: std::array::from_fn(frame),
            live: Default::default(),
            blocks: (0..=BLOCKS).map(block).collect(),
            calls: Queue::default(),
            generation: AtomicU64::new(0),
            start: Instant::now(),
            window: AtomicBool::new(false),
            broken_off: AtomicU32::new(0),
            over: AtomicBool::new(false),
        }
    }

    /// CLOCK_MONOTONIC.
    pub(crate) fn now_ns(&self) -> u64 {
        // Zero means "never" to the contract.
        self.start.elapsed().as_nanos() as u64 + 1
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// See [`Window`].
    pub(crate) fn window(&self) -> Window<'_> {
        while self.window.swap(true, Ordering::Acquire) {
            thread::yield_now();
        }
        Window(&self.window)
    }

    /// Guest-physical address of control page `index`.
    pub(crate) fn page_gpa(index: usize) -> u64 {
        FRAMES_GPA + (index * STRIDE) as u64
    }

    /// Where `len` bytes at `gpa` are, if they are inside the frames.
    pub(crate) fn frame(&self, gpa: u64, len: usize) -> Option<*mut u8> {
        let offset = usize::try_from(gpa.checked_sub(FRAMES_GPA)?).ok()?;
        let (frame, offset) = (self.frames.get(offset / STRIDE)?, offset % STRIDE);
        (offset.checked_add(len)? <= STRIDE).then(|| frame.wrapping_add(offset))
    }

    /// Frames and blocks.
    pub(crate) fn is_ram(&self, gpa: u64, len: u64) -> bool {
        let end = gpa.checked_add(len);
        self.frame(gpa, len as usize).is_some()
            || gpa >= BLOCK && end.is_some_and(|end| end <= (BLOCKS + 1) * BLOCK)
    }

    /// Whether control page `index` is one.
    pub(crate) fn set_live(&self, index: usize, live: bool) {
        self.live[index].store(live, Ordering::Relaxed);
    }

    /// The host is about to write at `gpa`, in the frames.
    pub(crate) fn expect_live(&self, gpa: u64) {
        let index = (gpa - FRAMES_GPA) as usize / STRIDE;
        if !self.live[index].load(Ordering::Relaxed) {
            fail(self, "LOST: a page was written that is no control page any more");
        }
    }

    /// Somebody else uses the frames of control page `index`.
    pub(crate) fn overwrite_page(&self, index: usize, byte: u8) {
        // SAFETY: it was allocated so large; the host is through with it, which is what is tested.
        unsafe { self.frames[index].write_bytes(byte, STRIDE) }
    }

    /// A call is on its way, unless there are too many.
    pub(crate) fn say(&self, call: Call) -> bool {
        let Queue { calls, said, heard } = &self.calls;
        let number = said.load(Ordering::Relaxed);
        if number - heard.load(Ordering::Acquire) == QUEUE as u64 {
            return false;
        }
        // SAFETY: the guest's thread alone writes, and the host is not there yet.
        unsafe { *calls[number as usize % QUEUE].get() = call }
        said.store(number + 1, Ordering::Release);
        true
    }

    /// The next call.
    pub(crate) fn hear(&self) -> Option<Call> {
        let Queue { calls, said, heard } = &self.calls;
        let number = heard.load(Ordering::Relaxed);
        if number == said.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the guest's thread has written it, and writes it again only when it was heard.
        let call = unsafe { *calls[number as usize % QUEUE].get() };
        heard.store(number + 1, Ordering::Release);
        Some(call)
    }

    /// Whether calls are under way.
    pub(crate) fn is_saying(&self) -> bool {
        self.calls.said.load(Ordering::Relaxed) != self.calls.heard.load(Ordering::Acquire)
    }

    /// The guest owns `block` and uses it.
    pub(crate) fn own(&self, block: u64, value: u64) {
        self.blocks[block as usize].owned.store(true, Ordering::Relaxed);
        self.put(block, value);
    }

    /// The guest takes `block`, which is free, out of its allocator.
    pub(crate) fn isolate(&self, block: u64, value: u64) {
        self.put(block, value);
        self.blocks[block as usize].owned.store(false, Ordering::Relaxed);
    }

    /// The host gives `block` back to its kernel.
    pub(crate) fn reclaim(&self, block: u64) {
        let owned = &self.blocks[block as usize].owned;
        for time in ["when it began", "when it was through"] {
            if owned.load(Ordering::Relaxed) {
                fail(self, &format!("LOST: block {block} was taken while the guest owned it, {time}"));
            }
            if time == "when it began" {
                ffi::step();
                self.put(block, 0);
                ffi::step();
            }
        }
    }

    fn put(&self, block: u64, value: u64) {
        // SAFETY: whoever owns it; that only one does is what is tested.
        unsafe { *self.blocks[block as usize].content.get() = [value; WORDS] }
    }

    /// What `block` holds; `None` when its words differ.
    pub(crate) fn content(&self, block: u64) -> Option<u64> {
        // SAFETY: as in `put`.
        let words = unsafe { *self.blocks[block as usize].content.get() };
        words.iter().all(|word| *word == words[0]).then_some(words[0])
    }

    /// Another kernel runs and uses all memory: after a reset, which the host is told of, or by kexec.
    pub(crate) fn restart(&self, reset: bool, value: u64) {
        let _window = self.window();
        self.generation.fetch_add(u64::from(reset), Ordering::Relaxed);
        for page in 0..PAGES {
            self.set_live(page, false);
            self.overwrite_page(page, 0xdb);
        }
        for block in 1..=BLOCKS {
            self.own(block, value);
        }
    }
}
