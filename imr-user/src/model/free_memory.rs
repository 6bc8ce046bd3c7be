//! What a guest's free memory is good for: given back now, kept by the guest, or stranded in blocks too small to offer.
//!
//! Input: free blocks by order and kind of zone, as the guest says. Output: [`FreeMemory`], whose parts add up, or why the
//! guest's word makes no sense. Numbers are shown and compared, and decide nothing about which memory is taken.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ids::{FRAME_SIZE, FRAMES_PER_BLOCK};

/// Orders of free blocks that a guest tells of.
pub const ORDERS: usize = 16;
/// Kinds of zone that it tells of: dma, dma32, normal, movable.
pub const ZONES: usize = 4;
/// The smallest order that can be offered, 2 MiB.
const LEAST_ORDER: u32 = FRAMES_PER_BLOCK.trailing_zeros();
/// The largest.
const MOST_ORDER: u32 = ORDERS as u32 - 1;

/// Why a guest's word of its free memory counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Nonsense {
    /// No such order can be offered.
    #[error("its smallest order to offer is {0}; it can be {LEAST_ORDER} to {MOST_ORDER}")]
    Order(u32),
    /// More is free than there is.
    #[error("{free} bytes are free of {ram} bytes of RAM")]
    TooMuch {
        /// By the guest's word.
        free: u64,
        /// The VM's.
        ram: u64,
    },
}

/// Free memory of one zone, as the guest says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ZoneCounts {
    /// Free blocks of `4 KiB << order`, by order.
    pub blocks: [u32; ORDERS],
    /// 4 KiB pages in blocks large enough that the guest does not offer all the same.
    pub kept_pages: u64,
}

/// Free memory, bytes. The last three add up to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct FreeParts {
    /// All that is free.
    pub free_bytes: u64,
    /// In blocks that the guest offers: could be taken now, or was taken and is not in use since.
    pub reclaimable_bytes: u64,
    /// In such blocks, of zones with so little free memory that the guest keeps it, or of its reserve.
    pub kept_bytes: u64,
    /// In smaller blocks: cannot be taken, for fragmentation.
    pub stranded_bytes: u64,
}

/// Free memory of each kind of zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct FreeZones {
    /// The first 16 MiB.
    pub dma: FreeParts,
    /// Below 4 GiB.
    pub dma32: FreeParts,
    /// Above.
    pub normal: FreeParts,
    /// What can be moved away, such as memory to be unplugged.
    pub movable: FreeParts,
}

/// Free memory of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct FreeMemory {
    /// The guest offers blocks of `4 KiB << order` and larger.
    pub order: u32,
    /// All zones.
    pub all: FreeParts,
    /// The zones.
    pub zones: FreeZones,
    /// Whether the guest would compact on request.
    pub compacts: bool,
    /// Blocks of `order` that it has made free by that, since its module was loaded.
    pub compacted_blocks: u64,
}

impl FreeParts {
    fn of(order: u32, counts: &ZoneCounts) -> Self {
        let (mut large, mut small) = (0_u64, 0_u64);
        for (blocks, at) in counts.blocks.iter().zip(0_u32..) {
            // 2^32 blocks of order 15, twelve bits a page: less than 2^60 each, and all sixteen less than 2^64.
            let bytes = u64::from(*blocks) * (FRAME_SIZE << at);
            *(if at < order { &mut small } else { &mut large }) += bytes;
        }
        // The guest counts without a lock: what it keeps may have been counted at another moment.
        let kept = counts.kept_pages.saturating_mul(FRAME_SIZE).min(large);
        Self {
            free_bytes: large.saturating_add(small),
            reclaimable_bytes: large - kept,
            kept_bytes: kept,
            stranded_bytes: small,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            free_bytes: self.free_bytes.saturating_add(other.free_bytes),
            reclaimable_bytes: self.reclaimable_bytes.saturating_add(other.reclaimable_bytes),
            kept_bytes: self.kept_bytes.saturating_add(other.kept_bytes),
            stranded_bytes: self.stranded_bytes.saturating_add(other.stranded_bytes),
        }
    }

    /// Whether another picture differs by `bytes` or more in what can be taken or what is stranded.
    #[must_use]
    pub fn differs(&self, other: &Self, bytes: u64) -> bool {
        self.reclaimable_bytes.abs_diff(other.reclaimable_bytes) >= bytes
            || self.stranded_bytes.abs_diff(other.stranded_bytes) >= bytes
    }
}

impl FreeZones {
    /// Each with its name, the lowest first.
    #[must_use]
    pub fn named(&self) -> [(&'static str, FreeParts); ZONES] {
        [("dma", self.dma), ("dma32", self.dma32), ("normal", self.normal), ("movable", self.movable)]
    }
}

impl FreeMemory {
    /// Of a VM with so much RAM, whose guest says `zones` (dma, dma32, normal, movable) and that it offers `order` and up.
    ///
    /// # Errors
    /// [`Nonsense`].
    pub fn of(order: u32, zones: &[ZoneCounts; ZONES], ram_bytes: u64) -> Result<Self, Nonsense> {
        if !(LEAST_ORDER..=MOST_ORDER).contains(&order) {
            return Err(Nonsense::Order(order));
        }
        let [dma, dma32, normal, movable] = zones.each_ref().map(|counts| FreeParts::of(order, counts));
        let all = dma.plus(dma32).plus(normal).plus(movable);
        if all.free_bytes > ram_bytes {
            return Err(Nonsense::TooMuch { free: all.free_bytes, ram: ram_bytes });
        }
        let zones = FreeZones { dma, dma32, normal, movable };
        Ok(Self { order, all, zones, compacts: false, compacted_blocks: 0 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(blocks: &[(usize, u32)], kept_pages: u64) -> ZoneCounts {
        let mut counts = ZoneCounts { kept_pages, ..ZoneCounts::default() };
        blocks.iter().for_each(|(order, number)| counts.blocks[*order] = *number);
        counts
    }

    #[test]
    fn what_is_free_is_reclaimable_kept_or_stranded() {
        let zones = [
            counts(&[(0, 3), (9, 1)], 512),
            counts(&[(8, 2), (9, 3), (10, 1)], 0),
            ZoneCounts::default(),
            counts(&[(10, 1)], u64::MAX),
        ];
        let free = FreeMemory::of(9, &zones, 1 << 30).unwrap();
        let mib = |mib: u64| mib << 20;
        assert_eq!(free.zones.dma.stranded_bytes, 3 * 4096);
        assert_eq!((free.zones.dma.kept_bytes, free.zones.dma.reclaimable_bytes), (mib(2), 0));
        assert_eq!((free.zones.dma32.stranded_bytes, free.zones.dma32.reclaimable_bytes), (mib(2), mib(10)));
        assert_eq!(free.zones.movable.kept_bytes, mib(4), "no more than there is");
        // Where only 4 MiB are offered, 2 MiB are stranded.
        let larger = FreeMemory::of(10, &zones, 1 << 30).unwrap().zones.dma32;
        assert_eq!((larger.stranded_bytes, larger.reclaimable_bytes), (mib(8), mib(4)));
        assert!(free.all.differs(&FreeParts::default(), mib(10)) && !free.all.differs(&free.all, 1));
    }

    #[test]
    fn nonsense_is_named() {
        let zones = [counts(&[(0, 2)], 0); ZONES];
        assert_eq!(FreeMemory::of(9, &zones, 8 * 4096).map(|free| free.all.free_bytes), Ok(8 * 4096));
        let too_much = Nonsense::TooMuch { free: 8 * 4096, ram: 8 * 4096 - 1 };
        assert_eq!(FreeMemory::of(9, &zones, 8 * 4096 - 1), Err(too_much));
        for order in [0, 8, 16, u32::MAX] {
            assert_eq!(FreeMemory::of(order, &zones, 1 << 30), Err(Nonsense::Order(order)));
        }
    }

    proptest! {
        #[test]
        fn whatever_the_guest_says_nothing_overflows_and_all_adds_up(
            order: u32,
            small_order in 0..20_u32,
            blocks in any::<[[u32; ORDERS]; ZONES]>(),
            shift in 0..32_u32,
            kept in any::<[u64; ZONES]>(),
            ram_bytes in prop_oneof![any::<u64>(), Just(u64::MAX), 0..1_u64 << 45],
        ) {
            let zones = std::array::from_fn(|zone| ZoneCounts {
                blocks: blocks[zone].map(|number| number >> shift),
                kept_pages: kept[zone],
            });
            for order in [order, small_order] {
                let Ok(free) = FreeMemory::of(order, &zones, ram_bytes) else { continue };
                prop_assert!(free.all.free_bytes <= ram_bytes);
                for (_, parts) in free.zones.named().into_iter().chain([("all", free.all)]) {
                    let sum = parts.reclaimable_bytes + parts.kept_bytes + parts.stranded_bytes;
                    prop_assert_eq!(sum, parts.free_bytes);
                }
            }
        }
    }
}
