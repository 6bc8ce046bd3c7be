//! `fragment`: take memory and give every second page of it back, so that what is free is in pieces of one page.
//!
//! In: how much, and the files to make and to wait for. Out: one line; fails on a wrong byte in what was held. The pages
//! that are held are anonymous memory, which the kernel can move.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::args::Args;
use crate::fill::wrong_word;
use crate::guest_stats;
use crate::pattern;
use crate::region::{BLOCK, Region};
use crate::{Failure, failed};

const MIB: usize = 1 << 20;
const PAGE_WORDS: usize = 512;

/// `imr-testtool fragment`.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let mib = guest_stats::mib(&mut args)?;
    let ready = args.option("--ready")?;
    let until = args.option("--until")?;
    args.end()?;
    let mut region = Region::map((mib * MIB).next_multiple_of(BLOCK))?;
    region.in_small_pages()?;
    let address = region.address();
    pattern::fill(region.words_mut(), address, 1);
    // All of it first: what is freed while the rest is being taken would be taken again.
    let pages = region.words().len() / PAGE_WORDS;
    for page in (1..pages).step_by(2) {
        region.drop_page(page)?;
    }
    if let Some(path) = ready {
        fs::write(&path, b"").map_err(failed(&path))?;
    }
    while until.as_ref().is_some_and(|until| !Path::new(until).exists()) {
        thread::sleep(Duration::from_millis(5));
    }
    let kept = region.words().chunks(PAGE_WORDS).enumerate().step_by(2);
    for (page, words) in kept {
        let at = address + (page * PAGE_WORDS * 8) as u64;
        if let Some(wrong) = pattern::check(words, at, 1) {
            return Err(wrong_word(wrong, "every second page"));
        }
    }
    println!("mib={mib} held={} wrong=0", pages.div_ceil(2));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_page_goes_and_the_others_are_as_they_were() {
        let mut region = Region::map(4 * PAGE_WORDS * 8).unwrap();
        region.in_small_pages().unwrap();
        let address = region.address();
        pattern::fill(region.words_mut(), address, 1);
        region.drop_page(1).unwrap();
        region.drop_page(3).unwrap();
        let page = |number: usize| &region.words()[number * PAGE_WORDS..][..PAGE_WORDS];
        assert!(page(1).iter().chain(page(3)).all(|&word| word == 0));
        assert_eq!(pattern::check(page(2), address + 2 * 4096, 1), None);
        assert!(region.drop_page(4).is_err());
        run(Args::new("--mib 2".split(' ').map(str::to_owned))).unwrap();
    }
}
