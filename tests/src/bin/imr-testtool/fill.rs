//! `fill`: take memory, write the pattern, hold it until a file exists, verify, free.
//!
//! In: how much, and the files to make and to wait for. Out: one line; fails on a wrong byte. While it is held, each
//! time that the file to rewrite for exists, it is verified, written with new content, and the file is removed.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::args::Args;
use crate::guest_stats;
use crate::pattern::{self, Wrong};
use crate::region::{BLOCK, Region};
use crate::{Failure, failed};

const MIB: usize = 1 << 20;
const PAGE_WORDS: usize = 512;
/// Where every page is said to be whose content is to be that of all others.
const NOWHERE: u64 = 0;

/// What is written.
#[derive(Debug, Clone, Copy)]
enum Content {
    /// Something else in each page.
    Various(u64),
    /// The same in each page.
    Same,
}

impl Content {
    fn write(self, words: &mut [u64], address: u64) {
        match self {
            Self::Various(generation) => pattern::fill(words, address, generation),
            Self::Same => words.chunks_mut(PAGE_WORDS).for_each(|page| pattern::fill(page, NOWHERE, 0)),
        }
    }

    fn check(self, words: &[u64], address: u64) -> Option<Wrong> {
        match self {
            Self::Various(generation) => pattern::check(words, address, generation),
            Self::Same => words.chunks(PAGE_WORDS).zip(0..).find_map(|(page, number)| {
                let wrong = pattern::check(page, NOWHERE, 0)?;
                Some(Wrong { address: address + number * 4096 + wrong.address, ..wrong })
            }),
        }
    }
}

/// `imr-testtool fill`.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let mib = guest_stats::mib(&mut args)?;
    let ready = args.option("--ready")?;
    let until = args.option("--until")?;
    let rewrite = args.option("--rewrite")?;
    let mut content = if args.flag("--same") { Content::Same } else { Content::Various(1) };
    args.end()?;
    let mut region = Region::map((mib * MIB).next_multiple_of(BLOCK))?;
    let address = region.address();
    content.write(region.words_mut(), address);
    if let Some(path) = ready {
        fs::write(&path, b"").map_err(failed(&path))?;
    }
    let mut generation = 1;
    if let Some(until) = until {
        while !Path::new(&until).exists() {
            if let Some(path) = rewrite.as_ref().filter(|path| Path::new(path).exists()) {
                verify(content, &region, "before it was rewritten")?;
                generation += 1;
                content = Content::Various(generation);
                content.write(region.words_mut(), address);
                fs::remove_file(path).map_err(failed(path))?;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
    verify(content, &region, "held")?;
    println!("mib={mib} bytes={} wrong=0", region.words().len() * 8);
    Ok(())
}

fn verify(content: Content, region: &Region, when: &str) -> Result<(), Failure> {
    content.check(region.words(), region.address()).map_or(Ok(()), |wrong| Err(wrong_word(wrong, when)))
}

/// The failure that names a wrong word.
pub(crate) fn wrong_word(wrong: Wrong, when: &str) -> Failure {
    let Wrong { address, expected, found } = wrong;
    Failure::Failed(format!(
        "wrong memory ({when}): address {address:#x}, expected {expected:#018x}, found {found:#018x}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_the_same_or_all_different_and_a_wrong_word_is_named() {
        let mut words = vec![0; 3 * PAGE_WORDS];
        Content::Same.write(&mut words, 0x7000);
        assert_eq!(words[..PAGE_WORDS], words[PAGE_WORDS..2 * PAGE_WORDS]);
        assert_eq!(Content::Same.check(&words, 0x7000), None);
        words[PAGE_WORDS + 3] = 7;
        assert_eq!(Content::Same.check(&words, 0x7000).unwrap().address, 0x8000 + 3 * 8);
        Content::Various(2).write(&mut words, 0x7000);
        assert_ne!(words[..PAGE_WORDS], words[PAGE_WORDS..2 * PAGE_WORDS]);
        assert_eq!(Content::Various(2).check(&words, 0x7000), None);
        assert!(Content::Various(1).check(&words, 0x7000).is_some());
    }

    #[test]
    fn what_is_held_is_rewritten_each_time_that_it_is_asked_for() {
        let dir = std::env::temp_dir().join(format!("imr-fill-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let file = |name: &str| dir.join(name).to_str().unwrap().to_owned();
        let options = format!("--mib 2 --same --until {} --rewrite {}", file("until"), file("rewrite"));
        let asked = file("rewrite");
        fs::write(&asked, b"").unwrap();
        let holder = thread::spawn(move || run(Args::new(options.split_whitespace().map(str::to_owned))));
        for round in 0..2 {
            while Path::new(&asked).exists() && !holder.is_finished() {
                thread::sleep(Duration::from_millis(1));
            }
            if round == 0 {
                fs::write(&asked, b"").unwrap();
            }
        }
        fs::write(file("until"), b"").unwrap();
        holder.join().unwrap().unwrap();
        fs::remove_dir_all(dir).unwrap();
    }
}
