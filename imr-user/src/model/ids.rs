//! Identities and addresses. Each is its own type, so that none can be passed for another.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Bytes of a frame.
pub const FRAME_SIZE: u64 = 4096;
/// Bytes of a block.
pub const BLOCK_SIZE: u64 = 2 << 20;
/// Frames of a block.
pub const FRAMES_PER_BLOCK: u64 = BLOCK_SIZE / FRAME_SIZE;

/// Guest frame number: a guest-physical address divided by [`FRAME_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct Gfn(u64);

/// Guest-physical address, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct Gpa(u64);

/// Virtual address in the VMM's process, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct Hva(u64);

/// A 2 MiB-aligned block of guest-physical memory: the address divided by [`BLOCK_SIZE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct BlockId(u64);

/// A VM, unique while this process runs; never used again after the VM has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct VmId(u32);

/// Process id of a VMM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
pub struct Pid(u32);

macro_rules! number {
    ($type:ident, $inner:ty) => {
        impl $type {
            /// Wraps the bare number.
            #[must_use]
            pub const fn new(value: $inner) -> Self {
                Self(value)
            }

            /// The bare number.
            #[must_use]
            pub const fn get(self) -> $inner {
                self.0
            }
        }
    };
}

number!(Gfn, u64);
number!(Gpa, u64);
number!(Hva, u64);
number!(BlockId, u64);
number!(VmId, u32);
number!(Pid, u32);

impl VmId {
    /// None of them: what is told of the host as a whole.
    pub const HOST: Self = Self(0);
}

impl Gfn {
    /// Address of the frame's first byte; `None` past the 64-bit address space.
    #[must_use]
    pub const fn gpa(self) -> Option<Gpa> {
        match self.0.checked_mul(FRAME_SIZE) {
            Some(value) => Some(Gpa(value)),
            None => None,
        }
    }

    /// The block that holds the frame.
    #[must_use]
    pub const fn block(self) -> BlockId {
        BlockId(self.0 / FRAMES_PER_BLOCK)
    }
}

impl Gpa {
    /// The frame that holds the address.
    #[must_use]
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 / FRAME_SIZE)
    }

    /// The block that holds the address.
    #[must_use]
    pub const fn block(self) -> BlockId {
        BlockId(self.0 / BLOCK_SIZE)
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gfn {:#x}", self.0)
    }
}

impl fmt::Display for Hva {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vm{}", self.0)
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
