//! How fast a VM's idle blocks go out, and when it is left alone: by the bytes of a second, by what came back, by what
//! never went.
//!
//! Input: what was asked, what went out and what came back, with their time. Output: room, or the reason to rest. Pure.

use std::collections::VecDeque;

use super::{Pause, Settings};
use crate::model::ids::FRAME_SIZE;

/// A block that was advised to go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone {
    /// Position of its slot.
    pub slot: usize,
    /// Its number in the slot.
    pub index: usize,
    /// When, ns.
    pub at_ns: u64,
    /// Frames it had in memory.
    pub asked_frames: u16,
    /// Of these, not in memory afterwards.
    pub out_frames: u16,
    /// Of these, touched again since.
    pub back_frames: u16,
}

/// One VM's pace. Keeps a block for as long as its coming back would be regretted: at most rate times that time.
#[derive(Debug, Clone)]
pub struct Pace {
    settings: Settings,
    saved_bytes: u64,
    earned_at_ns: Option<u64>,
    recent: VecDeque<Gone>,
    rest: Option<(u64, Pause)>,
}

impl Pace {
    /// A VM of which nothing went out yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, saved_bytes: 0, earned_at_ns: None, recent: VecDeque::new(), rest: None }
    }

    /// Bytes that may be asked for now. A second's worth is saved up at most.
    pub fn room(&mut self, now_ns: u64) -> u64 {
        let since_ns = now_ns - self.earned_at_ns.unwrap_or(now_ns).min(now_ns);
        if self.earned_at_ns.is_none() {
            self.saved_bytes = self.settings.rate;
        }
        let earned = u128::from(self.settings.rate) * u128::from(since_ns) / 1_000_000_000;
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        // Time that has not earned a byte yet is not lost.
        if earned > 0 || self.earned_at_ns.is_none() {
            self.earned_at_ns = Some(now_ns);
        }
        self.saved_bytes = self.saved_bytes.saturating_add(earned).min(self.settings.rate);
        self.saved_bytes
    }

    /// A block was advised to go out.
    pub fn advised(&mut self, gone: Gone) {
        self.saved_bytes = self.saved_bytes.saturating_sub(u64::from(gone.asked_frames) * FRAME_SIZE);
        self.recent.push_back(gone);
    }

    /// Looks what has come back: `back` tells how many frames of a block were touched since. Returns the bytes that
    /// nobody had told of before.
    pub fn look_back(&mut self, now_ns: u64, back: impl Fn(&Gone) -> u16) -> u64 {
        let regret_ns = self.settings.regret_ns;
        let mut more = 0;
        for gone in &mut self.recent {
            let frames = back(gone).min(gone.out_frames).max(gone.back_frames);
            more += u64::from(frames - gone.back_frames) * FRAME_SIZE;
            gone.back_frames = frames;
        }
        self.recent.retain(|gone| now_ns.saturating_sub(gone.at_ns) < regret_ns);
        more
    }

    /// The slots are others: what is where is not known any more. A rest goes on.
    pub fn forget_blocks(&mut self) {
        self.recent.clear();
    }

    /// The kernel would not do it at all.
    pub fn refused(&mut self, now_ns: u64) {
        self.rest = Some((now_ns.saturating_add(self.settings.rest_ns), Pause::Refused));
    }

    /// Judges what was asked lately. `Some`: a rest begins now, for this reason.
    pub fn judge(&mut self, now_ns: u64) -> Option<Pause> {
        let sum = |frames: fn(&Gone) -> u16| self.recent.iter().map(|gone| u64::from(frames(gone))).sum();
        let (asked, out, back): (u64, u64, u64) =
            (sum(|gone| gone.asked_frames), sum(|gone| gone.out_frames), sum(|gone| gone.back_frames));
        let proof = self.settings.proof_bytes / FRAME_SIZE;
        let pause = if out >= proof && back * 100 > out * self.settings.regret_most {
            Pause::Regret
        } else if asked >= proof && out * 10 < asked {
            Pause::NothingGoesOut
        } else {
            return None;
        };
        self.rest = Some((now_ns.saturating_add(self.settings.rest_ns), pause));
        self.recent.clear();
        Some(pause)
    }

    /// Why the VM is left alone now, if it is.
    pub fn resting(&mut self, now_ns: u64) -> Option<Pause> {
        self.rest = self.rest.filter(|(until_ns, _)| now_ns < *until_ns);
        self.rest.map(|(_, pause)| pause)
    }
}
