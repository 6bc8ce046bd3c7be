//! `churn`: rounds of taking, filling, verifying and freeing memory while offers of it are answered.
//!
//! In: how much, how often. Out: one line of counts; fails on the first wrong byte with its address, what was
//! written and what was found. Half of the memory stays from each round to the next, so that a host that takes
//! too much is found out; the half that is freed changes.

use std::io::{self, Write as _};
use std::time::Duration;

use crate::Failure;
use crate::args::Args;
use crate::fill::wrong_word;
use crate::guest_stats;
use crate::pattern;
use crate::region::{BLOCK, Region};

/// Memory is taken and freed in these.
const CHUNK: usize = 4 * BLOCK;
const MIB: usize = 1 << 20;
const ROUNDS: u64 = 20;
/// Page reporting begins 2 s after the free.
const WAIT_MS: u64 = 10_000;

/// A piece of memory and the generation that was written to it.
#[derive(Debug, Default)]
struct Chunk {
    region: Option<Region>,
    generation: u64,
}

#[derive(Debug, Default)]
struct Counts {
    verified_bytes: u64,
    rounds_with_reclaim: u64,
    rounds_with_offer: u64,
}

/// `imr-testtool churn`.
pub(crate) fn run(mut args: Args) -> Result<(), Failure> {
    let mib = guest_stats::mib(&mut args)?;
    let rounds = args.parsed("--rounds")?.unwrap_or(ROUNDS);
    let wait = Duration::from_millis(args.parsed("--wait-ms")?.unwrap_or(WAIT_MS));
    args.end()?;
    let mut chunks: Vec<Chunk> = Vec::new();
    chunks.resize_with((mib * MIB / CHUNK).max(2), Chunk::default);
    let mut counts = Counts::default();
    let before = guest_stats::number("pages_reclaimed")?;
    for round in 1..=rounds {
        take(&mut chunks, round)?;
        verify(&chunks, &mut counts)?;
        let offers = guest_stats::number("offers")?;
        let reclaimed = guest_stats::number("pages_reclaimed")?;
        free_some(&mut chunks, round);
        // In every other round the memory is taken again while an offer of it is still being answered.
        if round % 2 == 0 {
            counts.rounds_with_offer += u64::from(guest_stats::wait_above("offers", offers, wait)?);
        } else {
            let more = guest_stats::wait_above("pages_reclaimed", reclaimed, wait)?;
            counts.rounds_with_reclaim += u64::from(more);
        }
        verify(&chunks, &mut counts)?;
        print!("round={round} ");
        // The one who waits for a line wants to see it now; where nobody reads, nothing is lost.
        let _ = io::stdout().flush();
    }
    let reclaimed = guest_stats::number("pages_reclaimed")? - before;
    println!(
        "\nrounds={rounds} mib={mib} verified_bytes={} rounds_with_reclaim={} rounds_with_offer={} \
         pages_reclaimed={reclaimed} wrong=0",
        counts.verified_bytes, counts.rounds_with_reclaim, counts.rounds_with_offer
    );
    Ok(())
}

/// Takes what is not held, sees that it is zero, and writes the pattern of this generation.
fn take(chunks: &mut [Chunk], generation: u64) -> Result<(), Failure> {
    for chunk in chunks.iter_mut().filter(|chunk| chunk.region.is_none()) {
        let mut region = Region::map(CHUNK)?;
        let address = region.address();
        region.touch();
        if let Some(wrong) = pattern::check_zero(region.words(), address) {
            return Err(wrong_word(wrong, "new memory must be zero"));
        }
        pattern::fill(region.words_mut(), address, generation);
        *chunk = Chunk { region: Some(region), generation };
    }
    Ok(())
}

fn verify(chunks: &[Chunk], counts: &mut Counts) -> Result<(), Failure> {
    for chunk in chunks {
        let Some(region) = &chunk.region else { continue };
        if let Some(wrong) = pattern::check(region.words(), region.address(), chunk.generation) {
            return Err(wrong_word(wrong, &format!("written in round {}", chunk.generation)));
        }
        counts.verified_bytes += CHUNK as u64;
    }
    Ok(())
}

/// Frees about half of the chunks, another half each round, and everything in every fifth.
fn free_some(chunks: &mut [Chunk], round: u64) {
    for (index, chunk) in chunks.iter_mut().enumerate() {
        // Knuth's multiplicative hash: which ones does not matter, only that it changes and is known.
        let hash = (index as u64 + round * 977).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63;
        if round.is_multiple_of(5) || hash == 0 {
            chunk.region = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_memory_keeps_its_generation_and_a_change_is_found() {
        let mut chunks = [Chunk::default(), Chunk::default()];
        let mut counts = Counts::default();
        take(&mut chunks, 1).unwrap();
        chunks[1].region = None;
        take(&mut chunks, 2).unwrap();
        assert_eq!((chunks[0].generation, chunks[1].generation), (1, 2));
        verify(&chunks, &mut counts).unwrap();
        assert_eq!(counts.verified_bytes, 2 * CHUNK as u64);
        chunks[0].region.as_mut().unwrap().words_mut()[77] ^= 1;
        let told = verify(&chunks, &mut counts).unwrap_err().to_string();
        assert!(told.contains("expected") && told.contains("round 1"), "{told}");
    }

    #[test]
    fn every_fifth_round_frees_all_and_the_others_keep_some() {
        let mut chunks: Vec<Chunk> = Vec::new();
        chunks.resize_with(16, Chunk::default);
        take(&mut chunks, 1).unwrap();
        free_some(&mut chunks, 1);
        let held = chunks.iter().filter(|chunk| chunk.region.is_some()).count();
        assert!((3..=13).contains(&held), "{held}");
        free_some(&mut chunks, 5);
        assert!(chunks.iter().all(|chunk| chunk.region.is_none()));
    }
}
