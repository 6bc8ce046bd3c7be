//! What the two sides share besides the page: two blocks of guest memory, the calls under way, the reset generation.
//! And what only the checker knows: whose each block is.
//!
//! A block's content is loom's cell: that it is touched by both sides without an order between them is found even
//! where neither is late. A touch by the host while the guest owns it is found by [`World::reclaim`].

use std::sync::atomic::{AtomicBool, AtomicU64 as Ghost, Ordering::Relaxed as Unordered};

use imr_user::guest::memory::MemoryError;
use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::sync::mpsc::{Receiver, Sender};

use crate::page::Page;

/// Where block 0 is; block 1 is behind it.
pub(crate) const BLOCKS: u64 = 0x4000_0000;
/// Bytes of a block.
pub(crate) const BLOCK: u64 = 2 << 20;
/// What a block holds that the guest uses.
const IN_USE: u64 = 0xda7a;
/// What a free block holds.
const FREE: u64 = 0xf4ee;

/// What is changed to see that the models can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Nothing: the code as it is.
    None,
    /// The host does not fence between its claim and its look at `revoke_seq`.
    NoHostFence,
    /// The guest does not fence between `revoke_seq` and its look at `claim_seq`.
    NoGuestFence,
    /// The guest reads `done_seq` without acquire.
    NoAcquire,
    /// Nobody looks at the reset generation.
    NoGeneration,
    /// A successor redoes a batch that the guest tried to withdraw, without waiting for one more ring.
    NoExtraRing,
    /// The host acts on what the page says by itself.
    NoDoorbell,
}

/// A ring of the guest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    /// HELLO is said first.
    pub(crate) hello: bool,
    /// The doorbell's offer; 0: there is no call, the host could look for itself.
    pub(crate) seq: u64,
    pub(crate) rung_ns: u64,
    pub(crate) generation: u64,
}

/// The guest's end of the calls.
pub(crate) struct Line {
    pub(crate) calls: Sender<Option<Call>>,
    /// The host is through with a call: the test's own, so that it need not ring for ever.
    pub(crate) heard: Receiver<()>,
    pub(crate) under_way: u32,
}

/// One VM.
pub(crate) struct World {
    pub(crate) page: Page,
    pub(crate) mutant: Mutant,
    blocks: [UnsafeCell<u64>; 2],
    /// Whose each block is: the guest's, or nobody's.
    owned: [AtomicBool; 2],
    /// The frame of the control page is the module's.
    page_live: AtomicBool,
    generation: Ghost,
    clock: Ghost,
    /// From a look at the generation to the end of what it allows, against reset and loadvm: docs/safety.md,
    /// "What the models assume".
    pub(crate) window: Mutex<()>,
}

impl World {
    pub(crate) fn new(mutant: Mutant) -> Self {
        let mut page = Page::new();
        page.no_fence = mutant == Mutant::NoHostFence;
        Self {
            page,
            mutant,
            blocks: [UnsafeCell::new(IN_USE), UnsafeCell::new(IN_USE)],
            owned: [AtomicBool::new(true), AtomicBool::new(true)],
            page_live: AtomicBool::new(true),
            generation: Ghost::new(0),
            clock: Ghost::new(1),
            window: Mutex::new(()),
        }
    }

    /// CLOCK_MONOTONIC: rises with every look, and orders nothing.
    pub(crate) fn now_ns(&self) -> u64 {
        self.clock.fetch_add(1, Unordered)
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Unordered)
    }

    /// Whether a call is of the present boot.
    pub(crate) fn is_same_boot(&self, call: &Call) -> bool {
        self.mutant == Mutant::NoGeneration || call.generation == self.generation()
    }

    /// The host gives a block back to the host's kernel.
    pub(crate) fn reclaim(&self, block: usize) -> Result<(), MemoryError> {
        self.page.act()?;
        assert!(!self.owned[block].load(Unordered), "LOST: block {block} was taken while the guest owned it");
        self.put(block, 0);
        Ok(())
    }

    /// The host is about to write the page.
    pub(crate) fn expect_page(&self) {
        assert!(self.page_live.load(Unordered), "LOST: a page was written that is no control page any more");
    }

    /// The guest takes a free block out of its allocator.
    pub(crate) fn isolate(&self, block: usize) {
        self.put(block, FREE);
        self.owned[block].store(false, Unordered);
    }

    /// The guest uses a block.
    pub(crate) fn own(&self, block: usize) {
        self.owned[block].store(true, Unordered);
        self.put(block, IN_USE);
    }

    pub(crate) fn is_owned(&self, block: usize) -> bool {
        self.owned[block].load(Unordered)
    }

    /// What the guest would read in a block.
    pub(crate) fn content(&self, block: usize) -> u64 {
        self.blocks[block].with(|cell| {
            // SAFETY: the pointer is the cell's own; loom sees to it that nobody has another.
            unsafe { *cell }
        })
    }

    fn put(&self, block: usize, value: u64) {
        self.blocks[block].with_mut(|cell| {
            // SAFETY: as in `content`.
            unsafe { *cell = value }
        });
    }

    /// What the guest uses is as it left it.
    pub(crate) fn check_blocks(&self) {
        for block in 0..2 {
            assert!(
                !self.is_owned(block) || self.content(block) == IN_USE,
                "LOST: block {block} is not as the guest left it"
            );
        }
    }

    /// The VM is reset and another kernel uses all of its memory.
    pub(crate) fn reset(&self) {
        let _window = self.window.lock();
        self.generation.fetch_add(1, Unordered);
        self.page_live.store(false, Unordered);
        self.own(0);
        self.own(1);
    }

    /// A saved state of the VM is loaded: the page's content, and whose each block was.
    pub(crate) fn roll_back(&self, page: &[u64], owned: [bool; 2]) {
        let _window = self.window.lock();
        self.generation.fetch_add(1, Unordered);
        self.page.load(page);
        for (block, owned) in owned.into_iter().enumerate() {
            if owned { self.own(block) } else { self.isolate(block) }
        }
    }
}
