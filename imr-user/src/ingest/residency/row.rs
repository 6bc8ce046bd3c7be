//! Blocks whose frames lie in one row in the host's memory: what a word for each page can tell of huge pages, on
//! kernels without PAGEMAP_SCAN.
//!
//! In: the words of a piece's pages, in order. Out: blocks that may each be mapped by one huge page; the flags of
//! their first frame decide (kpageflags). A huge page that is mapped page by page, as after mprotect(2) of a part of
//! it, looks the same. Where page frame numbers are hidden, nothing is found.

use super::pagemap::{PFN, PRESENT};
use super::piece::Piece;
use crate::model::ids::FRAMES_PER_BLOCK;

/// The search, and what it found.
#[derive(Debug, Default)]
pub(super) struct Rows {
    wanted: bool,
    /// Page frame number that goes on with the row; 0: there is none.
    next: u64,
    found: Vec<(u64, usize)>,
}

impl Rows {
    /// Starts afresh; unless `wanted`, nothing will be found.
    pub(super) fn begin(&mut self, wanted: bool) {
        self.wanted = wanted;
        self.next = 0;
        self.found.clear();
    }

    /// Takes the word of a frame, counted from the piece's first. The frame before it came before it.
    pub(super) fn look(&mut self, piece: &Piece, frame: u64, word: u64) {
        if !self.wanted {
            return;
        }
        let place = piece.place_in_block(frame);
        let pfn = if word & PRESENT == 0 { 0 } else { word & PFN };
        let in_row = pfn != 0 && if place == 0 { pfn % FRAMES_PER_BLOCK == 0 } else { pfn == self.next };
        self.next = if in_row { pfn + 1 } else { 0 };
        if in_row && place == FRAMES_PER_BLOCK - 1 {
            self.found.push((pfn - place, piece.block_of(frame)));
        }
    }

    /// The first page frame and the number of each block that lies in a row.
    pub(super) fn found(&mut self) -> &mut [(u64, usize)] {
        &mut self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAMES: u64 = FRAMES_PER_BLOCK;

    fn rows(piece: &Piece, pfns: impl IntoIterator<Item = u64>) -> Vec<(u64, usize)> {
        let mut rows = Rows::default();
        rows.begin(true);
        for (frame, pfn) in (0..).zip(pfns) {
            let word = if pfn == 0 { 0 } else { PRESENT | 1 << 61 | pfn };
            rows.look(piece, frame, word);
        }
        rows.found
    }

    #[test]
    fn a_row_is_a_whole_block_from_an_aligned_frame_on() {
        let two = Piece::at(0, 2 * FRAMES);
        assert_eq!(rows(&two, 5 * FRAMES..7 * FRAMES), [(5 * FRAMES, 0), (6 * FRAMES, 1)]);
        assert_eq!(rows(&two, 5 * FRAMES + 1..7 * FRAMES + 1), [], "shifted by a frame");
        let apart = (9 * FRAMES..10 * FRAMES).chain(3 * FRAMES..4 * FRAMES);
        assert_eq!(rows(&two, apart), [(9 * FRAMES, 0), (3 * FRAMES, 1)]);
        for broken in [0, 1, 300, FRAMES - 1] {
            let but_one = |instead: u64| {
                let pfns = 5 * FRAMES..6 * FRAMES;
                rows(&two, pfns.map(move |pfn| if pfn % FRAMES == broken { instead } else { pfn }))
            };
            assert_eq!(but_one(0), [], "{broken} is not there");
            assert_eq!(but_one(99), [], "{broken} is elsewhere");
        }
    }

    #[test]
    fn a_block_of_which_the_piece_has_a_part_is_none() {
        // 100 frames of one block and 512 of the next.
        let piece = Piece::at(412, 612);
        assert_eq!(rows(&piece, 7 * FRAMES + 412..9 * FRAMES), [(8 * FRAMES, 1)]);
    }

    #[test]
    fn what_is_not_wanted_or_not_told_is_not_found() {
        let piece = Piece::at(0, FRAMES);
        let mut rows = Rows::default();
        rows.begin(false);
        (0..FRAMES).for_each(|frame| rows.look(&piece, frame, PRESENT | (FRAMES + frame)));
        assert_eq!(rows.found(), []);
        rows.begin(true);
        (0..FRAMES).for_each(|frame| rows.look(&piece, frame, PRESENT));
        assert_eq!(rows.found(), [], "page frame numbers are hidden");
        (0..FRAMES).for_each(|frame| rows.look(&piece, frame, FRAMES + frame));
        assert_eq!(rows.found(), [], "these are not in memory");
    }
}
