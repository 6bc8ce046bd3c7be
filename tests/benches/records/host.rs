//! What finding an offer's ranges costs the host: imr's own reading code, on a record in memory of the guest's size.
//!
//! In: where the free blocks are. Out: ns a block, list and flat in turn. The memory is one mapping as large as the guest's,
//! of which only the records are there; it is read through /proc/self/mem, as a VMM's is through its own.

use std::fs::OpenOptions;
use std::ptr::null_mut;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use imr_common::guest_abi::{ABI_VERSION, LIST_END, MAGIC, RECORD_FLAT, RECORD_LIST};
use imr_user::guest::memory::{GuestMemory, PageMemory as _, RamRange};
use imr_user::guest::page::{GuestFields, GuestStatistics};
use imr_user::guest::record;
use imr_user::model::ids::{FRAME_SIZE, Gpa, Hva};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::{Kind, ORDER, RANGES};

const BLOCK: u64 = FRAME_SIZE << ORDER;
/// Where the records are: behind the first block, which stays for what is at the bottom of real guests.
const LIST_AT: u64 = BLOCK;
const FLAT_AT: u64 = 2 * BLOCK;
/// Offers that are read of each case, at most, spread over all that there are.
const OFFERS: usize = 200;

/// A guest's memory, mapped until it is dropped.
pub(crate) struct Host {
    memory: GuestMemory,
    blocks: u64,
    mapped: (*mut std::ffi::c_void, usize),
}

impl Host {
    /// Of a guest of so many MiB.
    pub(crate) fn map(guest_mib: u64) -> Result<Self> {
        let bytes = guest_mib << 20;
        let length = usize::try_from(bytes)?;
        // SAFETY: no MAP_FIXED: the kernel picks addresses that nobody uses.
        let address = unsafe {
            mmap_anonymous(
                null_mut(),
                length,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }
        .with_context(|| format!("cannot map {guest_mib} MiB (vm.overcommit_memory=2?)"))?;
        let mem = OpenOptions::new().read(true).write(true).open("/proc/self/mem");
        let ram = RamRange { start: Gpa::new(0), len: bytes, hva: Hva::new(address as u64) };
        let memory = GuestMemory::new(mem.context("/proc/self/mem")?, vec![ram]);
        Ok(Self { memory, blocks: bytes / BLOCK, mapped: (address, length) })
    }

    /// Median time of reading an offer, by kind, for the blocks that are free, divided by its ranges, ns.
    pub(crate) fn ns_per_block(&self, free: &[u64]) -> Result<[f64; 2]> {
        let offers: Vec<&[u64]> = free.chunks(RANGES).collect();
        let step = offers.len().div_ceil(OFFERS);
        // Few offers are read several times.
        let rounds = (OFFERS / offers.len()).max(1);
        let mut times = [Vec::new(), Vec::new()];
        let chosen = offers.iter().step_by(step);
        for (turn, offer) in chosen.cycle().take(offers.len().div_ceil(step) * rounds).enumerate() {
            let list = self.write_list(offer)?;
            let (flat, blocks) = self.write_flat(offer)?;
            let mut turns = [(Kind::List, &list), (Kind::Flat, &flat)];
            if turn % 2 == 1 {
                turns.reverse();
            }
            for (kind, fields) in turns {
                let begin = Instant::now();
                let found = record::read(&self.memory, fields);
                let ns = begin.elapsed().as_nanos() as f64;
                let found = found.with_context(|| kind.name())?;
                let at: Vec<u64> = found.iter().map(|range| range.base_gfn.get() >> ORDER).collect();
                let expected = if kind == Kind::List { offer } else { blocks.as_slice() };
                ensure!(at == expected, "{}: another offer was read", kind.name());
                times[kind as usize].push(ns / offer.len() as f64);
            }
            self.clear_flat(offer)?;
        }
        Ok(times.map(median))
    }

    fn fields(&self, offer: &[u64]) -> GuestFields {
        GuestFields {
            magic: MAGIC,
            abi_version: ABI_VERSION,
            record_kind: RECORD_LIST,
            cookie: 1,
            own_gpa: Gpa::new(0),
            record_gpa: Gpa::new(LIST_AT),
            record_size: imr_common::guest_abi::LIST_RECORD_SIZE,
            flat_order: 0,
            offer_seq: 1,
            offer_count: offer.len() as u32,
            offer_head: 0,
            offer_last: 0,
            revoke_seq: 0,
            statistics: GuestStatistics::default(),
        }
    }

    /// As imr_list_write() of the guest module.
    fn write_list(&self, offer: &[u64]) -> Result<GuestFields> {
        let mut bytes = Vec::new();
        for (index, block) in offer.iter().enumerate() {
            let next = if index + 1 < offer.len() { index as u32 + 1 } else { LIST_END };
            bytes.extend((block * BLOCK).to_le_bytes());
            bytes.extend(ORDER.to_le_bytes());
            bytes.extend(next.to_le_bytes());
        }
        self.memory.write(Gpa::new(LIST_AT), &bytes)?;
        Ok(self.fields(offer))
    }

    /// As imr_flat_write() of the guest module. With the blocks in the order of the answers.
    fn write_flat(&self, offer: &[u64]) -> Result<(GuestFields, Vec<u64>)> {
        let mut blocks = offer.to_vec();
        blocks.sort_unstable();
        for block in &blocks {
            self.memory.write(Gpa::new(FLAT_AT + block), &[ORDER as u8 + 1])?;
        }
        let ends = blocks.first().zip(blocks.last()).context("an offer of nothing")?;
        let fields = GuestFields {
            record_kind: RECORD_FLAT,
            record_gpa: Gpa::new(FLAT_AT),
            record_size: self.blocks,
            flat_order: ORDER,
            offer_head: u32::try_from(*ends.0)?,
            offer_last: u32::try_from(*ends.1)?,
            ..self.fields(offer)
        };
        Ok((fields, blocks))
    }

    fn clear_flat(&self, offer: &[u64]) -> Result<()> {
        offer.iter().try_for_each(|block| Ok(self.memory.write(Gpa::new(FLAT_AT + block), &[0])?))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let (address, length) = self.mapped;
        // SAFETY: mapped by `map`; nothing has a reference into it, all access is by system calls.
        let unmapped = unsafe { munmap(address, length) };
        debug_assert!(unmapped.is_ok());
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
