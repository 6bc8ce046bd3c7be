//! /proc/kpageflags: what the kernel uses a page frame for.
//!
//! In: page frame numbers. Out: whether KSM merged the page, it is the zero page, or part of a huge one. Needs
//! CAP_SYS_ADMIN.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// include/uapi/linux/kernel-page-flags.h.
const HUGE: u64 = 1 << 17;
const KSM: u64 = 1 << 21;
const THP: u64 = 1 << 22;
const ZERO_PAGE: u64 = 1 << 24;

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Frame numbers not further apart are read in one call: what lies between costs less than another call.
const MAX_GAP: u64 = 32;
/// Entries of a call at most.
const MAX_RUN: u64 = 1024;

/// What a page that is mapped more than once, or by nobody's count, turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// KSM merged it.
    Merged,
    /// The zero page, small or huge.
    Zero,
    /// Anything else: memory that the VMM shares with a child, or a file's page.
    Other,
    /// The kernel says nothing of this frame.
    Unknown,
}

/// The file, opened when it is first needed.
#[derive(Debug, Default)]
pub(super) struct KPageFlags {
    file: Option<File>,
    buffer: Vec<u8>,
}

impl KPageFlags {
    /// Calls `each` with every candidate and what it is. Sorts `candidates`: (page frame number, whatever the caller
    /// knows it by).
    pub(super) fn classify<T: Copy + Ord>(
        &mut self,
        candidates: &mut [(u64, T)],
        mut each: impl FnMut(T, Use),
    ) {
        self.read(candidates, |key, flags| each(key, flags.map_or(Use::Unknown, use_of)));
    }

    /// Calls `each` with the candidates whose frame is part of a huge page: a transparent one of any size, or one of
    /// hugetlbfs. Sorts `candidates`.
    pub(super) fn in_huge_pages<T: Copy + Ord>(
        &mut self,
        candidates: &mut [(u64, T)],
        mut each: impl FnMut(T),
    ) {
        self.read(candidates, |key, flags| {
            if flags.is_some_and(|flags| flags & (THP | HUGE) != 0) {
                each(key);
            }
        });
    }

    fn read<T: Copy + Ord>(&mut self, candidates: &mut [(u64, T)], mut each: impl FnMut(T, Option<u64>)) {
        if self.file.is_none() {
            self.file = File::open("/proc/kpageflags").ok();
        }
        candidates.sort_unstable();
        for run in runs(candidates) {
            let (first, last) = (run[0].0, run[run.len() - 1].0);
            let bytes = usize::try_from((last - first + 1) * ENTRY).unwrap_or(0);
            self.buffer.resize(bytes, 0);
            let read = self.file.as_ref().and_then(|file| file.read_at(&mut self.buffer, first * ENTRY).ok());
            let read = &self.buffer[..read.unwrap_or(0)];
            for (frame, key) in run {
                let at = usize::try_from((frame - first) * ENTRY).unwrap_or(usize::MAX);
                let entry = at.checked_add(ENTRY as usize).and_then(|end| read.get(at..end));
                let flags = entry.and_then(|bytes| bytes.try_into().ok()).map(u64::from_ne_bytes);
                each(*key, flags);
            }
        }
    }
}

fn use_of(flags: u64) -> Use {
    if flags & ZERO_PAGE != 0 {
        Use::Zero
    } else if flags & KSM != 0 {
        Use::Merged
    } else {
        Use::Other
    }
}

/// Cuts sorted candidates where the next is too far away for the same call.
fn runs<T>(sorted: &[(u64, T)]) -> impl Iterator<Item = &[(u64, T)]> {
    let mut rest = sorted;
    std::iter::from_fn(move || {
        let first = rest.first()?.0;
        let near = |pair: &[(u64, T)]| pair[1].0 - pair[0].0 <= MAX_GAP && pair[1].0 - first < MAX_RUN;
        let length = 1 + rest.windows(2).take_while(|pair| near(pair)).count();
        let (run, after) = rest.split_at(length);
        rest = after;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_are_all_of_it_and_short(mut frames in proptest::collection::vec(prop_oneof![0..4000_u64, any::<u64>()], 0..400)) {
            frames.sort_unstable();
            let frames: Vec<(u64, ())> = frames.into_iter().map(|frame| (frame, ())).collect();
            let mut joined = Vec::new();
            for run in runs(&frames) {
                prop_assert!(run[run.len() - 1].0 - run[0].0 < MAX_RUN);
                prop_assert!(run.windows(2).all(|pair| pair[1].0 - pair[0].0 <= MAX_GAP));
                joined.extend_from_slice(run);
            }
            prop_assert_eq!(joined, frames);
        }
    }

    #[test]
    fn near_frames_share_a_call() {
        let frames: Vec<(u64, ())> = [5, 5, 6, 38, 71, 72].map(|frame| (frame, ())).to_vec();
        let lengths: Vec<usize> = runs(&frames).map(<[_]>::len).collect();
        assert_eq!(lengths, [4, 2], "38 - 6 is near, 71 - 38 is not");
        let dense: Vec<(u64, ())> = (0..MAX_RUN + 1).map(|frame| (frame, ())).collect();
        assert_eq!(runs(&dense).map(<[_]>::len).collect::<Vec<_>>(), [MAX_RUN as usize, 1]);
        assert_eq!(runs::<()>(&[]).count(), 0);
    }

    #[test]
    fn the_zero_page_is_never_called_merged() {
        assert_eq!(use_of(KSM), Use::Merged);
        assert_eq!(use_of(ZERO_PAGE | KSM), Use::Zero);
        assert_eq!(use_of(1 << 12), Use::Other);
    }

    #[test]
    fn a_frame_that_does_not_exist_is_unknown() {
        let mut seen = Vec::new();
        KPageFlags::default().classify(&mut [(1 << 50, 'x')], |key, what| seen.push((key, what)));
        assert_eq!(seen, [('x', Use::Unknown)]);
    }
}
