//! What the blocks of a VM add up to, by guest claim and host fact: kept as blocks change, never recounted.
//!
//! Input: states that blocks leave and take. Output: [`CrossTable`], the headline of the whole program.

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

use super::block::{BlockState, GuestClaim, HostFact};
use super::ids::FRAME_SIZE;

/// Blocks of one guest claim and one host fact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cell {
    /// Blocks, those that a slot covers in part included.
    pub blocks: u64,
    /// Frames of guest-physical memory in them.
    pub frames: u64,
    /// Frames with host memory of their own.
    pub resident_frames: u64,
    /// Frames in swap.
    pub swapped_frames: u64,
    /// Frames that share a KSM page.
    pub merged_frames: u64,
}

/// Guest claim x host fact.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrossTable {
    cells: [[Cell; HostFact::ALL.len()]; GuestClaim::ALL.len()],
}

impl CrossTable {
    /// The cell of this claim and this fact.
    #[must_use]
    pub fn cell(&self, claim: GuestClaim, fact: HostFact) -> Cell {
        self.cells[claim as usize][fact as usize]
    }

    /// A block with `frames` frames of guest memory takes `state`.
    pub fn enter(&mut self, state: BlockState, frames: u16) {
        let cell = &mut self.cells[state.claim as usize][state.fact as usize];
        cell.blocks += 1;
        cell.frames += u64::from(frames);
        cell.resident_frames += u64::from(state.resident_frames);
        cell.swapped_frames += u64::from(state.swapped_frames);
        cell.merged_frames += u64::from(state.merged_frames);
    }

    /// A block that had entered with just this leaves it.
    pub fn leave(&mut self, state: BlockState, frames: u16) {
        let cell = &mut self.cells[state.claim as usize][state.fact as usize];
        cell.blocks -= 1;
        cell.frames -= u64::from(frames);
        cell.resident_frames -= u64::from(state.resident_frames);
        cell.swapped_frames -= u64::from(state.swapped_frames);
        cell.merged_frames -= u64::from(state.merged_frames);
    }

    /// Adds another table: that of another VM.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.cells.iter_mut().flatten().zip(other.cells.iter().flatten()) {
            *mine = mine.plus(*theirs);
        }
    }

    /// All cells whose claim and fact are wanted, added up.
    #[must_use]
    pub fn sum(&self, wanted: impl Fn(GuestClaim, HostFact) -> bool) -> Cell {
        let all = self.iter().filter(|(claim, fact, _)| wanted(*claim, *fact));
        all.fold(Cell::default(), |sum, (_, _, cell)| sum.plus(cell))
    }

    /// All cells.
    #[must_use]
    pub fn total(&self) -> Cell {
        self.sum(|_, _| true)
    }

    /// Every cell with its claim and fact, row by row.
    pub fn iter(&self) -> impl Iterator<Item = (GuestClaim, HostFact, Cell)> + '_ {
        GuestClaim::ALL.into_iter().flat_map(move |claim| {
            HostFact::ALL.into_iter().map(move |fact| (claim, fact, self.cell(claim, fact)))
        })
    }
}

impl Cell {
    /// Bytes of guest-physical memory.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.frames * FRAME_SIZE
    }

    /// Bytes of host memory of their own.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.resident_frames * FRAME_SIZE
    }

    /// Bytes in swap.
    #[must_use]
    pub fn swapped_bytes(&self) -> u64 {
        self.swapped_frames * FRAME_SIZE
    }

    /// Bytes that share KSM pages.
    #[must_use]
    pub fn merged_bytes(&self) -> u64 {
        self.merged_frames * FRAME_SIZE
    }

    fn plus(self, other: Self) -> Self {
        Self {
            blocks: self.blocks + other.blocks,
            frames: self.frames + other.frames,
            resident_frames: self.resident_frames + other.resident_frames,
            swapped_frames: self.swapped_frames + other.swapped_frames,
            merged_frames: self.merged_frames + other.merged_frames,
        }
    }
}

/// A cell as it is printed. Cells without blocks are left out.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CrossCell")]
struct PrintedCell {
    /// What the guest says.
    claim: GuestClaim,
    /// What the host knows.
    fact: HostFact,
    /// Blocks of 2 MiB, those that a slot covers in part included.
    blocks: u64,
    /// Bytes of guest-physical memory in them.
    bytes: u64,
    /// Bytes of host memory of their own behind them.
    resident_bytes: u64,
    /// Bytes of them in the host's swap.
    swapped_bytes: u64,
    /// Bytes of them that share KSM pages.
    merged_bytes: u64,
}

impl Serialize for CrossTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let cells = self.iter().filter(|(_, _, cell)| cell.blocks > 0);
        serializer.collect_seq(cells.map(|(claim, fact, cell)| PrintedCell {
            claim,
            fact,
            blocks: cell.blocks,
            bytes: cell.bytes(),
            resident_bytes: cell.resident_bytes(),
            swapped_bytes: cell.swapped_bytes(),
            merged_bytes: cell.merged_bytes(),
        }))
    }
}

impl JsonSchema for CrossTable {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "CrossTable".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        generator.subschema_for::<Vec<PrintedCell>>()
    }
}
