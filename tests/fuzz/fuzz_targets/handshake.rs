//! The control page and the handshake: a guest that writes whatever it likes into its memory, between the steps of the
//! host.
//!
//! In: steps, each a byte and what it takes. Guest memory is a memfd with two RAM slots and room that belongs to nobody.
//! Holds, byte by byte over all of it: the host writes into the host half of the page it was told of and nowhere else; a
//! page that fails a check is not written at all; an offer is taken only when it is open, not withdrawn and not answered,
//! with exactly the ranges of the record, and never a second time.

#![no_main]

use std::cell::RefCell;
use std::fs::File;
use std::mem::offset_of;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use imr_common::guest_abi::{
    ABI_VERSION, ControlPage, GuestHalf, HALF_SIZE, HostHalf, LIST_END, LIST_RECORD_SIZE, MAGIC,
    MODE_RECLAIMING, RECORD_FLAT, RECORD_LIST, RESULT_RECLAIMED,
};
use imr_user::guest::memory::{GuestMemory, PageMemory as _, RamRange};
use imr_user::guest::page::{GuestFields, HostFields};
use imr_user::guest::record;
use imr_user::guest::session::{Claim, Doorbell, HelloKind, HostIdentity, Offer, Session, SessionEnd};
use imr_user::guest::want::Want;
use imr_user::guest::{flat, list};
use imr_user::model::ids::Gpa;
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const FRAME: u64 = 4096;
/// Frames of the file. The first, the sixth and the last are no guest's.
const FRAMES: usize = 9;
/// First frame in the guest, frames, and where they are in the file.
const SLOTS: [(u64, u64, u64); 2] = [(0x100, 4, FRAME), (0x200, 2, 6 * FRAME)];
const PAGE: u64 = 0x10_0000;
const COOKIE: u64 = 0xfeed;
const STEPS: usize = 24;
/// Bytes that are compared at a time.
const LINE: usize = 256;

type Image = Box<[u8; FRAMES * FRAME as usize]>;

fuzz_target!(|data: &[u8]| {
    // One file for all runs: making one costs more than a run.
    thread_local!(static FILE: RefCell<Option<File>> = const { RefCell::new(None) });
    FILE.with_borrow_mut(|file| {
        let file = file.get_or_insert_with(|| {
            let fd = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
            File::from(fd)
        });
        let mut world = World::new(file.try_clone().expect("a descriptor"));
        // An error: the bytes are used up.
        let _ = world.play(&mut Unstructured::new(data));
    });
});

struct World {
    file: File,
    memory: GuestMemory,
    session: Option<Session>,
    claimed: Option<Offer>,
    host: HostIdentity,
    now_ns: u64,
}

impl World {
    fn new(file: File) -> Self {
        let host = HostIdentity {
            attach_id: 7,
            mode: MODE_RECLAIMING,
            want: Want::default(),
            compact: Want::default(),
        };
        let memory = GuestMemory::new(file.try_clone().expect("a descriptor"), ranges(3));
        let world = Self { file, memory, session: None, claimed: None, host, now_ns: 1000 };
        world.file.write_all_at(&[0; FRAMES * FRAME as usize], 0).expect("a memfd can be written");
        world
    }

    fn play(&mut self, bytes: &mut Unstructured<'_>) -> Result<()> {
        for _ in 0..STEPS {
            self.now_ns += u64::from(bytes.arbitrary::<u8>()?);
            match bytes.int_in_range(0..=11)? {
                0 => self.guest_writes(bytes)?,
                1 => self.guest_sets_a_field(bytes)?,
                2 => self.guest_makes_a_page(gpa(bytes)?, bytes)?,
                3 | 4 => self.guest_offers(bytes)?,
                5 => self.hello(gpa(bytes)?, cookie(bytes)?),
                6 | 7 => self.doorbell(Doorbell {
                    seq: number(bytes)?,
                    cookie: cookie(bytes)?,
                    rung_ns: self.now_ns.saturating_sub(u64::from(bytes.arbitrary::<u8>()?)),
                }),
                8 => self.answer(bytes.arbitrary()?),
                9 => self.bye(),
                10 => {
                    // The host process ends and another comes, or the first one has a wish.
                    if bytes.arbitrary()? {
                        self.session = None;
                        self.claimed = None;
                        self.host.attach_id += 1;
                    }
                    self.host.want = Want { seq: bytes.arbitrary()?, pages: bytes.arbitrary()? };
                }
                _ => self.memory.set_ranges(ranges(bytes.int_in_range(0..=3)?)),
            }
        }
        Ok(())
    }

    fn image(&self) -> Image {
        let mut image = Box::new([0; FRAMES * FRAME as usize]);
        self.file.read_exact_at(image.as_mut_slice(), 0).expect("a memfd can be read");
        image
    }

    /// Runs a step of the host and returns its result and the bytes of the file that changed.
    fn watched<T>(&mut self, step: impl FnOnce(&mut Self) -> T) -> (T, Vec<usize>) {
        let before = self.image();
        let result = step(self);
        let after = self.image();
        // Line by line first: comparing bytes one by one under the sanitizer is what would take the time.
        let lines = before.chunks(LINE).zip(after.chunks(LINE)).enumerate();
        let mut changed = Vec::new();
        for (line, (before, after)) in lines.filter(|(_, (before, after))| before != after) {
            changed.extend((0..LINE).filter(|at| before[*at] != after[*at]).map(|at| line * LINE + at));
        }
        (result, changed)
    }

    fn guest_writes(&self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let at = u64::from(bytes.arbitrary::<u16>()?);
        let length = bytes.int_in_range(1..=16)?;
        let written = bytes.bytes(length)?;
        // Outside its slots a guest has no memory.
        let _ = self.memory.write(Gpa::new(PAGE + at), written);
        Ok(())
    }

    fn guest_sets_a_field(&self, bytes: &mut Unstructured<'_>) -> Result<()> {
        const HOST: usize = offset_of!(ControlPage, host);
        let (offset, length) = *bytes.choose(&[
            (offset_of!(GuestHalf, magic), 8),
            (offset_of!(GuestHalf, abi_version), 4),
            (offset_of!(GuestHalf, record_kind), 4),
            (offset_of!(GuestHalf, cookie), 8),
            (offset_of!(GuestHalf, own_gpa), 8),
            (offset_of!(GuestHalf, record_gpa), 8),
            (offset_of!(GuestHalf, record_size), 8),
            (offset_of!(GuestHalf, offer_seq), 8),
            (offset_of!(GuestHalf, offer_count), 4),
            (offset_of!(GuestHalf, offer_head), 4),
            (offset_of!(GuestHalf, offer_last), 4),
            (offset_of!(GuestHalf, flat_order), 4),
            (offset_of!(GuestHalf, revoke_seq), 8),
            (HOST + offset_of!(HostHalf, claim_seq), 8),
            (HOST + offset_of!(HostHalf, done_seq), 8),
            (HOST + offset_of!(HostHalf, abandon_seq), 8),
            (HOST + offset_of!(HostHalf, heartbeat), 8),
        ])?;
        let value = if bytes.arbitrary()? { number(bytes)? } else { bytes.arbitrary()? };
        let page = self.session.as_ref().map_or(PAGE, |session| session.gpa().get());
        let _ = self.memory.write(Gpa::new(page + offset as u64), &value.to_le_bytes()[..length]);
        Ok(())
    }

    fn guest_makes_a_page(&self, page: Gpa, bytes: &mut Unstructured<'_>) -> Result<()> {
        let set = |offset: usize, value: &[u8]| {
            if let Some(at) = page.get().checked_add(offset as u64) {
                let _ = self.memory.write(Gpa::new(at), value);
            }
        };
        set(offset_of!(GuestHalf, magic), &MAGIC.to_le_bytes());
        set(offset_of!(GuestHalf, abi_version), &ABI_VERSION.to_le_bytes());
        let (kind, size, flat_order) = if bytes.ratio(1, 3)? {
            (RECORD_FLAT, bytes.int_in_range(1..=2 * FRAME)?, bytes.int_in_range(8..=19)?)
        } else {
            (RECORD_LIST, LIST_RECORD_SIZE, 0_u32)
        };
        set(offset_of!(GuestHalf, record_kind), &kind.to_le_bytes());
        set(offset_of!(GuestHalf, flat_order), &flat_order.to_le_bytes());
        set(offset_of!(GuestHalf, cookie), &cookie(bytes)?.to_le_bytes());
        set(offset_of!(GuestHalf, own_gpa), &page.get().to_le_bytes());
        set(offset_of!(GuestHalf, record_gpa), &gpa(bytes)?.get().to_le_bytes());
        set(offset_of!(GuestHalf, record_size), &size.to_le_bytes());
        Ok(())
    }

    fn guest_offers(&self, bytes: &mut Unstructured<'_>) -> Result<()> {
        let page = self.session.as_ref().map_or(Gpa::new(PAGE), Session::gpa);
        let Ok(guest) = GuestFields::read(&self.memory, page) else { return Ok(()) };
        let count = bytes.int_in_range(1..=4_u32)?;
        let (head, last) = if guest.record_kind == RECORD_FLAT {
            self.guest_offers_blocks(page, &guest, count, bytes)?
        } else {
            self.guest_offers_a_list(&guest, count, bytes)?
        };
        let set = |offset: usize, value: &[u8]| {
            let _ = self.memory.write(Gpa::new(page.get() + offset as u64), value);
        };
        set(offset_of!(GuestHalf, offer_count), &count.to_le_bytes());
        set(offset_of!(GuestHalf, offer_head), &head.to_le_bytes());
        set(offset_of!(GuestHalf, offer_last), &last.to_le_bytes());
        set(offset_of!(GuestHalf, offer_seq), &number(bytes)?.to_le_bytes());
        Ok(())
    }

    /// From the record's first entry on. Returns the head, and nothing for the last block.
    fn guest_offers_a_list(
        &self,
        guest: &GuestFields,
        count: u32,
        bytes: &mut Unstructured<'_>,
    ) -> Result<(u32, u32)> {
        for index in 0..count {
            let mut entry = [0; 16];
            entry[..8].copy_from_slice(&(u64::from(bytes.arbitrary::<u16>()?) << 12).to_le_bytes());
            entry[8..12].copy_from_slice(&bytes.int_in_range(0..=19_u32)?.to_le_bytes());
            entry[12..]
                .copy_from_slice(&(if index + 1 == count { LIST_END } else { index + 1 }).to_le_bytes());
            let at = guest.record_gpa.get().saturating_add(u64::from(index) * 16);
            let _ = self.memory.write(Gpa::new(at), &entry);
        }
        Ok((0, 0))
    }

    /// In a flat record: ranges behind one another, mostly. Returns the first and the last block to look at.
    fn guest_offers_blocks(
        &self,
        page: Gpa,
        guest: &GuestFields,
        count: u32,
        bytes: &mut Unstructured<'_>,
    ) -> Result<(u32, u32)> {
        let size = guest.record_size.min(FRAMES as u64 * FRAME);
        // What the offer before left there: the file may hold it no longer.
        for at in 0..size.div_ceil(FRAME) {
            let rest = (size - at * FRAME).min(FRAME) as usize;
            let to = Gpa::new(guest.record_gpa.get().saturating_add(at * FRAME));
            // Never over the page itself, or each such run would end there.
            if to != page {
                let _ = self.memory.write(to, &[0; FRAME as usize][..rest]);
            }
        }
        let first = u64::from(bytes.arbitrary::<u16>()?) % size.max(1);
        let mut block = first;
        for _ in 0..count {
            let above = bytes.int_in_range(0..=2_u32)?;
            block = block.next_multiple_of(1 << above) + u64::from(bytes.int_in_range(0..=15_u8)? / 15);
            let byte = (guest.flat_order.wrapping_add(above) as u8).wrapping_add(1);
            let _ = self.memory.write(Gpa::new(guest.record_gpa.get().saturating_add(block)), &[byte]);
            block += 1 << above;
        }
        let last = (block - 1) as u32 + u32::from(bytes.int_in_range(0..=7_u8)? / 7);
        Ok((first as u32, last))
    }

    fn hello(&mut self, page: Gpa, cookie: u64) {
        let previous = self.session.take();
        self.claimed = None;
        let before = HostFields::read(&self.memory, page).ok();
        let (result, changed) =
            self.watched(|world| Session::hello(previous.as_ref(), &world.memory, page, cookie, world.host));
        let Ok((session, _, kind)) = result else {
            assert!(changed.is_empty(), "a page that fails a check was written");
            return;
        };
        assert_ne!(cookie, 0);
        assert!(previous.is_some() || kind == HelloKind::New);
        self.only_fields(page, &changed, ANSWER);
        let (before, after) = (before.expect("it was read"), self.host_fields(page));
        assert_eq!((after.attach_id, after.mode), (self.host.attach_id, self.host.mode));
        assert_eq!((after.want_seq, after.want_pages), (self.host.want.seq, self.host.want.pages));
        let compact = self.host.compact;
        assert_eq!((after.compact_seq, after.compact_pages), (compact.seq, compact.pages));
        assert_eq!(after.heartbeat, before.heartbeat.wrapping_add(1));
        let guest = GuestFields::read(&self.memory, page).expect("it was read");
        assert_eq!((guest.magic, guest.cookie, guest.own_gpa), (MAGIC, cookie, page));
        self.session = Some(session);
    }

    fn doorbell(&mut self, doorbell: Doorbell) {
        let Some(mut session) = self.session.take() else { return };
        let (seq, page) = (doorbell.seq, session.gpa());
        let before = HostFields::read(&self.memory, page).ok();
        let guest = GuestFields::read(&self.memory, page).ok();
        let (host, now_ns) = (self.host, self.now_ns);
        let (result, changed) = self.watched(|world| session.claim(&world.memory, doorbell, host, || now_ns));
        let claim = match result {
            Err(SessionEnd::Page(_)) => {
                return assert!(changed.is_empty(), "a page that fails a check was written");
            }
            Err(SessionEnd::RolledBack) => {
                const GIVEN_BACK: &[usize] =
                    &[offset_of!(HostHalf, abandon_seq), offset_of!(HostHalf, attach_id)];
                self.only_fields(page, &changed, GIVEN_BACK);
                let after = self.host_fields(page);
                return assert_eq!((after.abandon_seq, after.attach_id), (seq, 0));
            }
            Ok(claim) => claim,
        };
        let (before, guest) = (before.expect("it was read"), guest.expect("it was read"));
        assert_eq!((guest.magic, guest.own_gpa, guest.cookie), (MAGIC, page, doorbell.cookie));
        let after = self.host_fields(page);
        assert_eq!(after.done_seq, before.done_seq, "nothing is done yet");
        if matches!(claim, Claim::Settled) {
            self.only_fields(page, &changed, ANSWER);
        } else {
            self.only_fields(page, &changed, CLAIM);
            assert_eq!((after.claim_seq, guest.offer_seq), (seq, seq));
            assert!(
                seq != 0 && before.done_seq != seq && before.abandon_seq != seq,
                "it was answered before"
            );
        }
        match claim {
            Claim::Taken(offer) => {
                assert!(guest.revoke_seq < seq || offer.redone, "the guest had withdrawn it");
                assert_eq!(
                    (offer.seq, offer.redone, after.abandon_seq),
                    (seq, before.claim_seq == seq, before.abandon_seq)
                );
                self.check_ranges(&guest, &offer);
                self.claimed = Some(offer);
            }
            Claim::Revoked => {
                // A later one was withdrawn already: sequence numbers only grow.
                assert!(guest.revoke_seq >= seq, "the guest had not withdrawn it");
                assert_eq!(after.abandon_seq, seq);
            }
            Claim::Malformed(_) => assert_eq!(after.abandon_seq, seq),
            Claim::Settled => {}
        }
        self.session = Some(session);
    }

    fn check_ranges(&self, guest: &GuestFields, offer: &Offer) {
        assert_eq!(offer.ranges.len(), guest.offer_count as usize);
        if guest.record_kind == RECORD_FLAT {
            let mut record = vec![0; guest.record_size as usize];
            self.memory.read(guest.record_gpa, &mut record).expect("it was copied");
            return assert_eq!(flat::parse(&record, record::flat_offer(guest)).as_ref(), Ok(&offer.ranges));
        }
        assert_eq!((guest.record_kind, guest.record_size), (RECORD_LIST, LIST_RECORD_SIZE));
        let record = list::copy(&self.memory, guest.record_gpa).expect("it was copied");
        assert_eq!(list::parse(&record, guest.offer_head, guest.offer_count).as_ref(), Ok(&offer.ranges));
    }

    fn answer(&mut self, done: bool) {
        let (Some(mut session), Some(offer)) = (self.session.take(), self.claimed.take()) else { return };
        let results = vec![RESULT_RECLAIMED; offer.ranges.len()];
        let page = session.gpa();
        let (result, changed) = self.watched(|world| match done {
            true => session.finish(&world.memory, offer.seq, &results),
            false => session.abandon(&world.memory, offer.seq),
        });
        let Ok(()) = result else { return assert!(changed.is_empty(), "a refused step wrote") };
        let after = self.host_fields(page);
        if done {
            let start = place(page).start + offset_of!(HostHalf, results);
            let allowed = start..start + results.len();
            let elsewhere: Vec<usize> = changed.into_iter().filter(|at| !allowed.contains(at)).collect();
            self.only_fields(page, &elsewhere, &[offset_of!(HostHalf, done_seq)]);
            assert_eq!(after.done_seq, offer.seq);
        } else {
            self.only_fields(page, &changed, &[offset_of!(HostHalf, abandon_seq)]);
            assert_eq!(after.abandon_seq, offer.seq);
        }
        self.session = Some(session);
    }

    fn bye(&mut self) {
        self.claimed = None;
        let Some(session) = self.session.take() else { return };
        let page = session.gpa();
        let (result, changed) = self.watched(|world| session.bye(&world.memory));
        match result {
            Ok(()) => {
                self.only_fields(page, &changed, &[offset_of!(HostHalf, attach_id)]);
                assert_eq!(self.host_fields(page).attach_id, 0);
            }
            Err(_) => assert!(changed.is_empty(), "a refused step wrote"),
        }
    }

    fn host_fields(&self, page: Gpa) -> HostFields {
        HostFields::read(&self.memory, page).expect("a page that was answered can be read")
    }

    /// Every byte that changed is one of these fields of the host half at `page`.
    fn only_fields(&self, page: Gpa, changed: &[usize], fields: &[usize]) {
        let half = place(page);
        for at in changed {
            let inside = half.contains(at) && fields.contains(&((at - half.start) & !7));
            assert!(inside, "byte {at} of the file was changed; the host half at {page} is {half:?}");
        }
    }
}

/// Fields of an answer, rounded down to eight bytes.
const ANSWER: &[usize] = &[
    offset_of!(HostHalf, attach_id),
    offset_of!(HostHalf, heartbeat),
    offset_of!(HostHalf, mode),
    offset_of!(HostHalf, want_pages),
    offset_of!(HostHalf, want_seq),
    offset_of!(HostHalf, compact_pages),
    offset_of!(HostHalf, compact_seq),
];
/// And what a claim may change besides.
const CLAIM: &[usize] = &[
    offset_of!(HostHalf, attach_id),
    offset_of!(HostHalf, heartbeat),
    offset_of!(HostHalf, mode),
    offset_of!(HostHalf, want_pages),
    offset_of!(HostHalf, want_seq),
    offset_of!(HostHalf, compact_pages),
    offset_of!(HostHalf, compact_seq),
    offset_of!(HostHalf, claim_seq),
    offset_of!(HostHalf, abandon_seq),
];

/// The slots with these bits set, and a large one.
fn ranges(slots: u8) -> Vec<RamRange> {
    let with_bits = SLOTS.iter().enumerate().filter(|(bit, _)| slots & (1 << bit) != 0);
    let small = with_bits.map(|(_, (gfn, npages, at))| (*gfn, *npages, *at));
    // Where the blocks of a flat record are: RAM that cannot be reached, as no file has such an offset.
    let blocks = (0x400, 1 << 32, 1 << 63);
    small.chain([blocks]).filter_map(|(gfn, npages, at)| RamRange::from_frames(gfn, npages, at)).collect()
}

/// Where in the file the host half of the page at `page` is.
fn place(page: Gpa) -> Range<usize> {
    let slot = SLOTS.iter().find(|(gfn, npages, _)| (*gfn..gfn + npages).contains(&page.gfn().get()));
    let (gfn, _, at) = slot.unwrap_or_else(|| panic!("{page} is in no slot"));
    let start = (at + page.get() - gfn * FRAME) as usize + HALF_SIZE;
    start..start + HALF_SIZE
}

fn gpa(bytes: &mut Unstructured<'_>) -> Result<Gpa> {
    let gpa = match bytes.int_in_range(0..=9_u8)? {
        0..=2 => PAGE,
        3..=4 => PAGE + FRAME,
        5 => PAGE + 3 * FRAME,
        6 => PAGE + 4 * FRAME,
        7 => 0x20_0000,
        8 => PAGE + u64::from(bytes.arbitrary::<u16>()?),
        _ => bytes.arbitrary()?,
    };
    Ok(Gpa::new(gpa))
}

fn cookie(bytes: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match bytes.int_in_range(0..=15_u8)? {
        0 => 0,
        1 => COOKIE + 1,
        _ => COOKIE,
    })
}

/// A sequence number or some other small one.
fn number(bytes: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match bytes.int_in_range(0..=8_u8)? {
        8 => u64::MAX,
        small => u64::from(small),
    })
}
