//! imr's whole host side of an offer against the bare system calls on the same pages, in turn.
//!
//! In: a kind of guest memory, rounds. Out: ratios. Before each turn the guest touches every page of it, so that it is mapped
//! in KVM's MMU; after each, what came back is checked.

use std::os::fd::AsFd as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use imr_user::model::ids::Gpa;
use imr_user::model::snapshot::PolicyName;
use imr_user::pipeline::Allowed;
use imr_user::pipeline::answerer::Answerer;
use rustix::fs::{FallocateFlags, fallocate, fstat};

use crate::ask::{Ask, BLOCK, Backing, CONTROL_GPA, COOKIE, DATA_GPA, Ranges};
use crate::figures::{Comparison, Samples};
use crate::host::Host;
use crate::missing::Missing;
use crate::undo::{Change, setting};

/// Batches of one turn in huge pages, 896 MiB: a guest with memory to give offers one batch after the other. In 4 KiB pages one
/// takes so long that it does not matter what was before.
const IN_A_ROW: u64 = 7;
/// Length of a range, bytes, and ranges of a batch.
const RANGE_BYTES: u64 = 4 << 20;
const RANGES: u64 = 32;
/// Pairs of a sample: each way is first in one of them.
const BALANCED: u64 = 2;
/// Pairs before the measured ones.
const WARM_UP: u64 = BALANCED;
/// What the VM may take meanwhile for other things, such as its control page, bytes.
const SLACK: u64 = 64 << 10;
const THP: &str = "/sys/kernel/mm/transparent_hugepage";
const HUGETLB: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Where imr's time went, us a batch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stages {
    /// Call to claim: records read and validated.
    pub(crate) claim_us: Samples,
    /// Planned, guarded, executed, verified.
    pub(crate) reclaim_us: Samples,
    /// Answered.
    pub(crate) done_us: Samples,
    /// What follows when the guest has its answer.
    pub(crate) after_us: Samples,
}

/// What a kind of guest memory gave.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measured {
    pub(crate) times: Comparison,
    pub(crate) stages: Stages,
}

/// Settings of the machine that pages of this kind need.
///
/// # Errors
/// [`Missing`] where it cannot have them.
pub(crate) fn prepare(backing: Backing, bytes: u64) -> Result<Vec<Change>> {
    let huge = |file: &str| {
        let path = format!("{THP}/{file}");
        let allowed = matches!(setting(&path)?.as_str(), "always" | "advise" | "madvise");
        let word = if file == "enabled" { "madvise" } else { "advise" };
        if allowed { Ok(Vec::new()) } else { Ok(vec![Change::set(path, word)?]) }
    };
    match backing {
        Backing::Shared4k | Backing::Private4k => Ok(Vec::new()),
        Backing::Shared2m => huge("shmem_enabled"),
        Backing::Private2m => huge("enabled"),
        Backing::Hugetlb => {
            // One more for page tables and control page.
            let needed = bytes / BLOCK + 1;
            let number = |file: &str| -> Result<u64> { Ok(setting(format!("{HUGETLB}/{file}"))?.parse()?) };
            let free = number("free_hugepages")?;
            if free >= needed {
                return Ok(Vec::new());
            }
            let change = Change::add(format!("{HUGETLB}/nr_hugepages"), needed - free)?;
            let free = number("free_hugepages")?;
            if free < needed {
                let why = format!(
                    "{needed} huge pages of 2 MiB are needed, {free} could be had; free some memory, or reserve them \
                     at boot (hugepages={needed})"
                );
                return Err(Missing(why).into());
            }
            Ok(vec![change])
        }
    }
}

/// A guest whose RAM ends with the ranges.
pub(crate) fn start(backing: Backing, ranges: Ranges) -> Result<Host> {
    Host::start(backing, ranges.end().next_multiple_of(BLOCK))
}

/// The guest's pages are of the size they are meant to be. Call it when they have been touched.
pub(crate) fn check_pages(host: &Host, backing: Backing, bytes: u64) -> Result<()> {
    let huge = match backing {
        Backing::Shared2m => host.smaps("ShmemPmdMapped")?,
        Backing::Private2m => host.smaps("AnonHugePages")?,
        Backing::Hugetlb => host.smaps("Shared_Hugetlb")? + host.smaps("Private_Hugetlb")?,
        Backing::Shared4k | Backing::Private4k => {
            let huge = host.smaps("ShmemPmdMapped")? + host.smaps("AnonHugePages")?;
            ensure!(huge == 0, "{huge} bytes of guest memory are in huge pages that were not to be");
            return Ok(());
        }
    };
    // Memory may be too fragmented for a few.
    if huge * 10 < bytes * 9 {
        let why = format!("of {bytes} bytes only {huge} could be had in pages of 2 MiB; free some memory");
        return Err(Missing(why).into());
    }
    Ok(())
}

/// Punching: imr against one fallocate a range.
pub(crate) fn punch(backing: Backing, rounds: u64) -> Result<Measured> {
    let measured =
        compare(backing, rounds, Bare { take: |host, batch| punch_bare(host, batch), held: blocks })?;
    measured.with_context(|| format!("imr does not take memory of kind {backing:?}"))
}

/// Injecting: imr against the same madvise made by the VMM itself. `None`: imr does not take private memory.
pub(crate) fn inject(backing: Backing, rounds: u64) -> Result<Option<Measured>> {
    let take = |host: &mut Host, batch| Ok(host.discard(batch)?.wall_ns as f64 / 1e3);
    compare(backing, rounds, Bare { take, held: |host| host.smaps("Rss") })
}

/// The bare way.
struct Bare {
    /// Takes the ranges: us.
    take: fn(&mut Host, Ranges) -> Result<f64>,
    /// Bytes of guest memory that the host holds.
    held: fn(&Host) -> Result<u64>,
}

/// The batches of one turn. No range touches the next of its batch: neighbours would be taken in fewer calls than the bare
/// loop's. What lies in between is of the other batches.
fn batches(backing: Backing) -> impl Iterator<Item = Ranges> {
    let count = if backing.page() == "4k" { 1 } else { IN_A_ROW };
    (0..count).map(move |number| Ranges {
        first: DATA_GPA + number * RANGE_BYTES,
        bytes: RANGE_BYTES,
        distance: count.max(2) * RANGE_BYTES,
        count: RANGES,
    })
}

/// Pairs of turns, one right after the other, so that what else the machine does meets both ways; each turn begins when the
/// guest has touched its memory. The sums of [`BALANCED`] pairs are one sample.
fn compare(backing: Backing, rounds: u64, bare: Bare) -> Result<Option<Measured>> {
    let turn_bytes: u64 = batches(backing).map(Ranges::total).sum();
    let last = batches(backing).last().context("a turn without batches")?;
    let _settings = prepare(backing, last.end())?;
    let mut host = start(backing, last)?;
    let mut answerer = attach(&host)?;
    let mut measured = Measured::default();
    let mut seq = 0;
    let (mut offered, mut bare_us) = (Vec::new(), 0.0);
    for round in 0..rounds.next_multiple_of(BALANCED) + WARM_UP {
        for imr in [round & 1 == 0, round & 1 != 0] {
            for ranges in batches(backing) {
                host.touch(ranges)?;
            }
            if round == 0 {
                check_pages(&host, backing, turn_bytes)?;
            }
            let before = (bare.held)(&host)?;
            for ranges in batches(backing) {
                seq += 1;
                // Also where nobody answers it: both ways begin when a guest has written what it offers.
                host.is(Ask::Offer { ranges, seq })?;
                if imr {
                    let Some(stages) = answer(&mut host, &mut answerer, ranges, seq)? else {
                        return Ok(None);
                    };
                    offered.push(stages);
                } else {
                    bare_us += (bare.take)(&mut host, ranges)?;
                }
            }
            let freed = before.saturating_sub((bare.held)(&host)?);
            ensure!(freed + SLACK >= turn_bytes, "of {turn_bytes} bytes {freed} came back (imr: {imr})");
        }
        if (round + 1).is_multiple_of(BALANCED) {
            if round >= WARM_UP {
                measured.add(&offered, bare_us, (BALANCED * turn_bytes) as f64 / BLOCK as f64);
            }
            offered.clear();
            bare_us = 0.0;
        }
    }
    Ok(Some(measured))
}

/// imr's host side of this VM, its module's HELLO answered.
fn attach(host: &Host) -> Result<Answerer> {
    let allowed = Allowed { inject: true, ..Allowed::default() };
    let mut answerer = Answerer::start(&host.vmm, host.vm_fd, &[host.slot], PolicyName::Immediate, allowed)?;
    answerer.hello(Gpa::new(CONTROL_GPA), COOKIE).map_err(anyhow::Error::msg).context("HELLO")?;
    Ok(answerer)
}

/// One batch by imr, us.
struct Offered {
    claim: f64,
    reclaim: f64,
    done: f64,
    /// What the worker does when the guest has its answer.
    after: f64,
}

/// imr takes a batch that was offered. `None`: it does not take such memory.
fn answer(host: &mut Host, answerer: &mut Answerer, ranges: Ranges, seq: u64) -> Result<Option<Offered>> {
    let start = Instant::now();
    let answered = answerer.doorbell(seq, COOKIE);
    let whole = micros(start);
    let answered = answered.map_err(anyhow::Error::msg).with_context(|| format!("offer {seq}"))?;
    if answered.outcome.ranges.iter().all(|range| range.result.guard().as_deref() == Some("private-mapping"))
    {
        return Ok(None);
    }
    let told = host.is(Ask::Reclaimed { seq, count: ranges.count })?;
    ensure!(told, "the guest was not told that offer {seq} is reclaimed: {:?}", answered.outcome);
    let us = |ns: u64| ns as f64 / 1e3;
    let (claim, reclaim, done) = (us(answered.claim_ns), us(answered.reclaim_ns), us(answered.done_ns));
    Ok(Some(Offered { claim, reclaim, done, after: whole - (claim + reclaim + done) }))
}

impl Measured {
    fn add(&mut self, offered: &[Offered], bare_us: f64, blocks: f64) {
        let imr_us: f64 = offered.iter().map(|batch| batch.claim + batch.reclaim + batch.done).sum();
        self.times.add(imr_us / blocks, bare_us / blocks);
        for batch in offered {
            self.stages.claim_us.add(batch.claim);
            self.stages.reclaim_us.add(batch.reclaim);
            self.stages.done_us.add(batch.done);
            self.stages.after_us.add(batch.after);
        }
    }
}

/// One fallocate a range, and nothing else: us.
pub(crate) fn punch_bare(host: &Host, ranges: Ranges) -> Result<f64> {
    let file = host.memory()?.as_fd();
    let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let start = Instant::now();
    for offset in ranges.starts() {
        fallocate(file, mode, offset, ranges.bytes).context("fallocate(PUNCH_HOLE)")?;
    }
    Ok(micros(start))
}

/// Bytes that the file of guest memory holds.
fn blocks(host: &Host) -> Result<u64> {
    Ok(u64::try_from(fstat(host.memory()?)?.st_blocks)? * 512)
}

/// Since then, us.
pub(crate) fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}
