//! The two axes of a block: what the guest claims of it and what the host knows of it. Never mixed.
//!
//! Input: what happened to a block. Output: its next host fact, by one table ([`HostFact::after`]).

use schemars::JsonSchema;
use serde::Serialize;

use super::ids::FRAMES_PER_BLOCK;

/// What the guest says of a block. Never trusted for anything but the guest's own memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum GuestClaim {
    /// The guest has said nothing of it.
    #[default]
    Unknown,
    /// It was free once and the guest has touched it since.
    InUse,
    /// Offered, and not touched since.
    Free,
}

impl GuestClaim {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Unknown, Self::InUse, Self::Free];

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::InUse => "in use",
            Self::Free => "free",
        }
    }
}

/// What the host knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum HostFact {
    /// No memory behind it, and not because it was reclaimed.
    #[default]
    Untouched,
    /// Some or all of its frames have memory behind them, mapped in 4 KiB pages.
    #[serde(rename = "resident_4k")]
    Resident4k,
    /// It has memory behind it and the guest reaches it through a mapping of 2 MiB or more.
    #[serde(rename = "resident_2m")]
    Resident2m,
    /// It has memory, which the guest did not touch between two idleness scans of the host, [`IDLE_NS`] or
    /// more apart.
    Idle,
    /// Most of what it holds is in the host's swap.
    Swapped,
    /// Most of what it holds is shared with equal pages (KSM).
    Merged,
    /// Its memory was taken back, and nobody has touched it since.
    Reclaimed,
    /// It was reclaimed, and has been touched again.
    Refaulted,
}

/// Time between two idleness scans after which memory that was not touched in between counts as idle, ns.
pub const IDLE_NS: u64 = 10_000_000_000;

/// What a look at the memory behind a block shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Sight {
    /// None.
    Nothing,
    /// Mapped in 4 KiB pages, or not mapped into the guest at all.
    Small,
    /// Mapped by 2 MiB or more.
    Large,
    /// Not touched between two idleness scans.
    Idle,
    /// Mostly in swap.
    Swapped,
    /// Mostly shared by KSM.
    Merged,
}

impl Sight {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Nothing, Self::Small, Self::Large, Self::Idle, Self::Swapped, Self::Merged];
}

/// What can happen to the host fact of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Its memory was taken back: the outcome of a reclaim, never a request.
    TakenBack,
    /// Somebody looked, and this is what there was.
    Seen(Sight),
}

impl HostFact {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Untouched,
        Self::Resident4k,
        Self::Resident2m,
        Self::Idle,
        Self::Swapped,
        Self::Merged,
        Self::Reclaimed,
        Self::Refaulted,
    ];

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Resident4k => "resident 4K",
            Self::Resident2m => "resident 2M",
            Self::Idle => "idle",
            Self::Swapped => "swapped",
            Self::Merged => "merged",
            Self::Reclaimed => "reclaimed",
            Self::Refaulted => "refaulted",
        }
    }

    /// Whether the host has memory of its own behind (part of) such a block.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Resident4k | Self::Resident2m | Self::Idle | Self::Refaulted)
    }

    /// The fact after `change`: the one table of transitions.
    #[must_use]
    pub const fn after(self, change: Change) -> Self {
        let Change::Seen(sight) = change else { return Self::Reclaimed };
        match (sight, self) {
            // Reclaimed and refaulted are told apart from what they look like by what was before.
            (Sight::Nothing, Self::Reclaimed) => Self::Reclaimed,
            (Sight::Nothing, _) => Self::Untouched,
            (Sight::Small | Sight::Large, Self::Reclaimed | Self::Refaulted) => Self::Refaulted,
            (Sight::Small, _) => Self::Resident4k,
            (Sight::Large, _) => Self::Resident2m,
            // Memory that came back by itself and is idle at once was touched in between all the same.
            (Sight::Idle, Self::Reclaimed) => Self::Refaulted,
            (Sight::Idle, _) => Self::Idle,
            (Sight::Swapped, _) => Self::Swapped,
            (Sight::Merged, _) => Self::Merged,
        }
    }
}

/// Both axes of one block, and what it holds. Frames with memory of their own, frames in swap and merged frames
/// are disjoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, JsonSchema)]
pub struct BlockState {
    /// The guest's word.
    pub claim: GuestClaim,
    /// The host's knowledge.
    pub fact: HostFact,
    /// Frames with memory of their own behind them, 0 to 512.
    pub resident_frames: u16,
    /// Frames in the host's swap, 0 to 512.
    pub swapped_frames: u16,
    /// Frames that share a KSM page, 0 to 512.
    pub merged_frames: u16,
}

/// What is behind the frames of one block. The three are disjoint; each is 0..=512 frames, and so is their sum.
/// Frames that read as zero without any memory (never touched, or the kernel's zero page) are in none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Residency {
    /// Frames with memory of their own in RAM. Memory that other processes map too counts here.
    pub resident: u16,
    /// Frames in a swap area.
    pub swapped: u16,
    /// Frames that share their page with others because KSM found them equal.
    pub merged: u16,
    /// The VMM maps all of the block by one page of 2 MiB or more, and KVM can then too. All its frames are resident.
    /// False also where it cannot be known.
    pub huge: bool,
}

impl Residency {
    /// Frames that are anything.
    #[must_use]
    pub fn frames(&self) -> u16 {
        self.resident.saturating_add(self.swapped).saturating_add(self.merged)
    }

    /// Whether all 512 frames have memory of their own.
    #[must_use]
    pub fn is_full(&self) -> bool {
        u64::from(self.resident) == FRAMES_PER_BLOCK
    }

    /// Takes in what another mapping has of the same block. A block's mappings are disjoint, so that the sum stays
    /// within the block; were they not, the sum is cut, resident frames first.
    pub fn add(&mut self, part: Self) {
        let mut room = (FRAMES_PER_BLOCK as u16).saturating_sub(self.frames());
        for (sum, part) in [
            (&mut self.resident, part.resident),
            (&mut self.swapped, part.swapped),
            (&mut self.merged, part.merged),
        ] {
            let taken = part.min(room);
            *sum += taken;
            room -= taken;
        }
        self.huge = (self.huge || part.huge) && self.is_full();
    }

    /// With no more frames than a block has: what says so was read while it changed.
    #[must_use]
    pub fn clamped(self) -> Self {
        let most = FRAMES_PER_BLOCK as u16;
        let resident = self.resident.min(most);
        let merged = self.merged.min(most - resident);
        let swapped = self.swapped.min(most - resident - merged);
        Self { resident, swapped, merged, huge: self.huge && resident == most }
    }

    /// What it looks like. Among equals the one that costs the guest more when it comes back.
    #[must_use]
    pub fn sight(self, large: bool, idle: bool) -> Sight {
        let Self { resident, swapped, merged, huge: _ } = self;
        match (resident, swapped, merged) {
            (0, 0, 0) => Sight::Nothing,
            _ if swapped >= resident && swapped >= merged => Sight::Swapped,
            _ if merged >= resident => Sight::Merged,
            _ if idle => Sight::Idle,
            _ if large => Sight::Large,
            _ => Sight::Small,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_table_of_transitions_in_full() {
        use HostFact as F;
        // One row a fact: after Nothing, Small, Large, Idle, Swapped, Merged.
        let [u, s, l, i, w, m, c, r] = F::ALL;
        let rows = [
            (u, [u, s, l, i, w, m]),
            (s, [u, s, l, i, w, m]),
            (l, [u, s, l, i, w, m]),
            (i, [u, s, l, i, w, m]),
            (w, [u, s, l, i, w, m]),
            (m, [u, s, l, i, w, m]),
            (c, [c, r, r, r, w, m]),
            (r, [u, r, r, i, w, m]),
        ];
        for (fact, after) in rows {
            assert_eq!(Sight::ALL.map(|sight| fact.after(Change::Seen(sight))), after, "{fact:?}");
            assert_eq!(fact.after(Change::TakenBack), F::Reclaimed);
        }
    }

    #[test]
    fn numbers_are_positions() {
        assert!(HostFact::ALL.iter().enumerate().all(|(at, fact)| *fact as usize == at));
        assert!(GuestClaim::ALL.iter().enumerate().all(|(at, claim)| *claim as usize == at));
        assert!(Sight::ALL.iter().enumerate().all(|(at, sight)| *sight as usize == at));
        assert_eq!(size_of::<BlockState>(), 8);
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            1 => Just(Change::TakenBack),
            5 => proptest::sample::select(Sight::ALL.to_vec()).prop_map(Change::Seen),
        ]
    }

    proptest! {
        #[test]
        fn whatever_the_order(changes in proptest::collection::vec(change(), 1..40)) {
            let mut fact = HostFact::default();
            let mut taken_back = false;
            for change in changes {
                let before = fact;
                fact = fact.after(change);
                taken_back |= change == Change::TakenBack;
                // Only an outcome makes a block reclaimed, and only a reclaimed one refaults.
                prop_assert!(taken_back || !matches!(fact, HostFact::Reclaimed | HostFact::Refaulted));
                prop_assert!(fact != HostFact::Reclaimed || before == fact || change == Change::TakenBack);
                // Saying the same twice changes nothing more.
                prop_assert_eq!(fact.after(change), fact.after(change).after(change));
                if change == Change::Seen(Sight::Nothing) {
                    prop_assert!(!fact.is_held());
                }
            }
        }

        #[test]
        fn residency_never_exceeds_a_block(resident: u16, swapped: u16, merged: u16, huge: bool) {
            let clamped = Residency { resident, swapped, merged, huge }.clamped();
            prop_assert_eq!(clamped.huge, huge && resident >= 512, "a huge page has no holes");
            prop_assert!(clamped.resident + clamped.swapped + clamped.merged <= 512);
            prop_assert!(clamped.resident <= resident && clamped.swapped <= swapped && clamped.merged <= merged);
            let empty = clamped == Residency::default();
            prop_assert_eq!(clamped.sight(false, false) == Sight::Nothing, empty);
        }
    }
}
