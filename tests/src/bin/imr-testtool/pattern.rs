//! A content that says where and when it was written: a function of the address and the generation.
//!
//! In: words of memory, the address of the first and a generation. Out: filled words, or the first wrong one.
//! Memory of another page, or of the same page an earlier time, does not pass for the right one.

/// 64-bit words of a 4 KiB page; each page has a seed of its own.
const PAGE_WORDS: usize = 512;
/// Odd, so that the words of a page are all different.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A word that is not what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrong {
    /// Its address.
    pub(crate) address: u64,
    /// What was written.
    pub(crate) expected: u64,
    /// What is there.
    pub(crate) found: u64,
}

/// Fills `words`, the first of which is at `address`, a multiple of 4096.
pub(crate) fn fill(words: &mut [u64], address: u64, generation: u64) {
    for (page, chunk) in words.chunks_mut(PAGE_WORDS).enumerate() {
        let mut value = seed(page_address(address, page), generation);
        for word in chunk {
            *word = value;
            value = value.wrapping_add(STEP);
        }
    }
}

/// The first of `words` that `fill` did not write, if any.
pub(crate) fn check(words: &[u64], address: u64, generation: u64) -> Option<Wrong> {
    for (page, chunk) in words.chunks(PAGE_WORDS).enumerate() {
        let start = page_address(address, page);
        let mut expected = seed(start, generation);
        for (index, &found) in chunk.iter().enumerate() {
            if found != expected {
                return Some(Wrong { address: start + 8 * index as u64, expected, found });
            }
            expected = expected.wrapping_add(STEP);
        }
    }
    None
}

/// The first of `words` that is not zero, if any.
pub(crate) fn check_zero(words: &[u64], address: u64) -> Option<Wrong> {
    let at = words.iter().position(|&word| word != 0)?;
    Some(Wrong { address: address + 8 * at as u64, expected: 0, found: words[at] })
}

fn page_address(address: u64, page: usize) -> u64 {
    address + (page * PAGE_WORDS * 8) as u64
}

/// splitmix64's finaliser: neighbouring addresses and generations give unrelated seeds.
fn seed(address: u64, generation: u64) -> u64 {
    let mut value = address ^ generation.wrapping_mul(STEP);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_place_and_generation_pass() {
        let mut words = vec![0; 3 * PAGE_WORDS];
        fill(&mut words, 0x7000, 5);
        assert_eq!(check(&words, 0x7000, 5), None);
        assert_eq!(check(&words, 0x7000, 4).unwrap().address, 0x7000);
        assert_eq!(check(&words[PAGE_WORDS..], 0x7000, 5).unwrap().address, 0x7000);
        let expected = words[700];
        words[700] = 0;
        let wrong = Wrong { address: 0x7000 + 700 * 8, expected, found: 0 };
        assert_eq!(check(&words, 0x7000, 5), Some(wrong));
    }

    #[test]
    fn zero_is_told_from_anything_else() {
        let mut words = vec![0; 600];
        assert_eq!(check_zero(&words, 0x1000), None);
        words[513] = 1;
        assert_eq!(
            check_zero(&words, 0x1000).unwrap(),
            Wrong { address: 0x1000 + 513 * 8, expected: 0, found: 1 }
        );
    }
}
