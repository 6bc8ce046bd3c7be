//! The session against a control page in this process' own memory: what the guest module would do is done
//! by hand, step by step, at the moments that matter.

use std::fs::{File, OpenOptions};

use imr_common::guest_abi::GuestHalf;
use imr_common::guest_abi::{
    ABI_VERSION, ControlPage, LIST_END, LIST_RECORD_SIZE, MAGIC, MODE_RECLAIMING, RECORD_FLAT, RECORD_LIST,
    RESULT_KEPT, RESULT_RECLAIMED,
};

use super::*;
use crate::guest::memory::{GuestMemory, RamRange};

const COOKIE: u64 = 0xfeed;
const PAGE: u64 = 0x10_0000;
const RECORD: u64 = PAGE + 4096;
const HOST: HostIdentity = HostIdentity {
    attach_id: 7,
    mode: MODE_RECLAIMING,
    want: Want { seq: 0, pages: 0 },
    compact: Want { seq: 0, pages: 0 },
};

/// Two frames of "guest" memory: the control page and the record.
struct Guest {
    memory: GuestMemory,
}

fn self_mem() -> File {
    OpenOptions::new().read(true).write(true).open("/proc/self/mem").unwrap()
}

impl Guest {
    fn new() -> Self {
        let bytes = Box::leak(vec![0_u64; 3 * 512].into_boxed_slice());
        let hva = (bytes.as_ptr() as u64).next_multiple_of(4096);
        let range = RamRange::from_frames(PAGE / 4096, 2, hva).unwrap();
        // Blocks 4 to 7 of 2 MiB, which nobody reads.
        let blocks = RamRange::from_frames(0x800, 0x800, 1 << 63).unwrap();
        let guest = Self { memory: GuestMemory::new(self_mem(), vec![range, blocks]) };
        guest.set(offset_of!(GuestHalf, magic), &MAGIC.to_le_bytes());
        guest.set(offset_of!(GuestHalf, abi_version), &ABI_VERSION.to_le_bytes());
        guest.set(offset_of!(GuestHalf, record_kind), &RECORD_LIST.to_le_bytes());
        guest.set(offset_of!(GuestHalf, cookie), &COOKIE.to_le_bytes());
        guest.set(offset_of!(GuestHalf, own_gpa), &PAGE.to_le_bytes());
        guest.set(offset_of!(GuestHalf, record_gpa), &RECORD.to_le_bytes());
        guest.set(offset_of!(GuestHalf, record_size), &LIST_RECORD_SIZE.to_le_bytes());
        guest
    }

    fn set(&self, offset: usize, bytes: &[u8]) {
        self.memory.write(Gpa::new(PAGE + offset as u64), bytes).unwrap();
    }

    fn offer(&self, seq: u64) {
        let mut entry = [0; 16];
        entry[..8].copy_from_slice(&0x20_0000_u64.to_le_bytes());
        entry[8..12].copy_from_slice(&9_u32.to_le_bytes());
        entry[12..].copy_from_slice(&LIST_END.to_le_bytes());
        self.memory.write(Gpa::new(RECORD), &entry).unwrap();
        self.set(offset_of!(GuestHalf, offer_count), &1_u32.to_le_bytes());
        self.set(offset_of!(GuestHalf, offer_seq), &seq.to_le_bytes());
    }

    /// Makes the record flat: `blocks` of 2 MiB.
    fn flat(&self, blocks: u64) {
        self.set(offset_of!(GuestHalf, record_kind), &RECORD_FLAT.to_le_bytes());
        self.set(offset_of!(GuestHalf, record_size), &blocks.to_le_bytes());
        self.set(offset_of!(GuestHalf, flat_order), &9_u32.to_le_bytes());
    }

    /// Offers the blocks 1 and 4 to 7 in it.
    fn offer_flat(&self, seq: u64) {
        self.memory.write(Gpa::new(RECORD), &[0, 10, 0, 0, 12, 0, 0, 0]).unwrap();
        self.set(offset_of!(GuestHalf, offer_count), &2_u32.to_le_bytes());
        self.set(offset_of!(GuestHalf, offer_head), &1_u32.to_le_bytes());
        self.set(offset_of!(GuestHalf, offer_last), &7_u32.to_le_bytes());
        self.set(offset_of!(GuestHalf, offer_seq), &seq.to_le_bytes());
    }

    fn revoke(&self, seq: u64) {
        self.set(offset_of!(GuestHalf, revoke_seq), &seq.to_le_bytes());
    }

    fn host(&self) -> HostFields {
        HostFields::read(&self.memory, Gpa::new(PAGE)).unwrap()
    }

    fn hello(&self, previous: Option<&Session>) -> Result<(Session, HelloKind), PageError> {
        Session::hello(previous, &self.memory, Gpa::new(PAGE), COOKIE, HOST)
            .map(|(session, _, kind)| (session, kind))
    }
}

/// Rung at 1000 ns, taken up at 2000 ns.
fn claim(guest: &Guest, session: &mut Session, seq: u64, cookie: u64) -> Result<Claim, SessionEnd> {
    session.claim(&guest.memory, Doorbell { seq, cookie, rung_ns: 1000 }, HOST, || 2000)
}

#[test]
fn an_offer_is_claimed_answered_and_not_taken_twice() {
    let guest = Guest::new();
    let (mut session, kind) = guest.hello(None).unwrap();
    assert_eq!(kind, HelloKind::New);
    assert_eq!((guest.host().attach_id, guest.host().heartbeat), (7, 1));
    guest.offer(1);
    let Claim::Taken(offer) = claim(&guest, &mut session, 1, COOKIE).unwrap() else { panic!("not taken") };
    assert_eq!((offer.ranges.len(), offer.redone, guest.host().claim_seq), (1, false, 1));
    session.finish(&guest.memory, 1, &[RESULT_RECLAIMED]).unwrap();
    assert_eq!((guest.host().done_seq, guest.host().abandon_seq), (1, 0));
    assert!(matches!(claim(&guest, &mut session, 1, COOKIE).unwrap(), Claim::Settled));
    assert_eq!(guest.hello(Some(&session)).unwrap().1, HelloKind::Repeated);
}

#[test]
fn an_offer_in_a_flat_record_is_the_same_as_in_a_list() {
    let guest = Guest::new();
    guest.flat(160);
    let (mut session, _) = guest.hello(None).unwrap();
    guest.offer_flat(1);
    let Claim::Taken(offer) = claim(&guest, &mut session, 1, COOKIE).unwrap() else { panic!("not taken") };
    let found: Vec<_> = offer.ranges.iter().map(|range| (range.base_gfn.get(), range.npages)).collect();
    assert_eq!(found, [(0x200, 512), (0x800, 2048)]);
    session.finish(&guest.memory, 1, &[RESULT_RECLAIMED, RESULT_KEPT]).unwrap();
    let mut results = [0; 3];
    let at = PAGE + (offset_of!(ControlPage, host) + offset_of!(HostHalf, results)) as u64;
    guest.memory.read(Gpa::new(at), &mut results).unwrap();
    assert_eq!(results, [RESULT_RECLAIMED, RESULT_KEPT, 0]);
    // A window that ends where the guest has no memory.
    guest.offer_flat(2);
    guest.set(offset_of!(GuestHalf, offer_last), &8_u32.to_le_bytes());
    let Claim::Malformed(why) = claim(&guest, &mut session, 2, COOKIE).unwrap() else { panic!("taken") };
    assert!(why.to_string().contains("not inside a RAM slot"), "{why}");
    // A window that leaves out a half of a range, as one that is changed meanwhile may.
    guest.offer_flat(3);
    guest.set(offset_of!(GuestHalf, offer_last), &5_u32.to_le_bytes());
    let Claim::Malformed(why) = claim(&guest, &mut session, 3, COOKIE).unwrap() else { panic!("taken") };
    assert!(why.to_string().contains("goes on behind the last block"), "{why}");
    assert_eq!((guest.host().done_seq, guest.host().abandon_seq), (1, 3));
}

#[test]
fn a_record_that_changes_its_shape_after_hello_is_not_read() {
    type Change = fn(&Guest);
    let changes: [Change; 3] = [
        |guest| guest.set(offset_of!(GuestHalf, record_kind), &RECORD_LIST.to_le_bytes()),
        |guest| guest.set(offset_of!(GuestHalf, record_size), &100_u64.to_le_bytes()),
        |guest| guest.set(offset_of!(GuestHalf, flat_order), &10_u32.to_le_bytes()),
    ];
    for (number, change) in changes.iter().enumerate() {
        let guest = Guest::new();
        // So many that it could be a list by its size.
        guest.flat(LIST_RECORD_SIZE);
        let (mut session, _) = guest.hello(None).unwrap();
        guest.offer_flat(1);
        change(&guest);
        let Claim::Malformed(why) = claim(&guest, &mut session, 1, COOKIE).unwrap() else { panic!("taken") };
        assert!(why.to_string().contains("not the one that HELLO was accepted for"), "{number}: {why}");
    }
}

#[test]
fn a_revoked_offer_is_given_back_untouched() {
    let guest = Guest::new();
    let (mut session, _) = guest.hello(None).unwrap();
    guest.offer(3);
    guest.revoke(3);
    assert!(matches!(claim(&guest, &mut session, 3, COOKIE).unwrap(), Claim::Revoked));
    assert_eq!((guest.host().abandon_seq, guest.host().done_seq), (3, 0));
}

#[test]
fn an_offer_that_was_withdrawn_with_its_successor_while_the_page_was_copied_is_given_back() {
    let guest = Guest::new();
    let (mut session, _) = guest.hello(None).unwrap();
    // What a copy of the page holds when offer_seq was read before, and revoke_seq after, the guest withdrew 3, made
    // offer 4 and withdrew that.
    guest.offer(3);
    guest.revoke(4);
    assert!(matches!(claim(&guest, &mut session, 3, COOKIE).unwrap(), Claim::Revoked));
    assert_eq!((guest.host().abandon_seq, guest.host().done_seq), (3, 0));
}

#[test]
fn a_successor_redoes_what_its_predecessor_had_claimed() {
    let guest = Guest::new();
    let (mut first, _) = guest.hello(None).unwrap();
    guest.offer(5);
    assert!(matches!(claim(&guest, &mut first, 5, COOKIE).unwrap(), Claim::Taken(_)));
    // The predecessor dies here: nothing more is said by it.
    let (mut second, kind) = guest.hello(None).unwrap();
    assert_eq!(kind, HelloKind::New);
    let Claim::Taken(offer) = claim(&guest, &mut second, 5, COOKIE).unwrap() else { panic!("not taken") };
    assert!(offer.redone);
    second.finish(&guest.memory, 5, &[RESULT_KEPT]).unwrap();
    assert_eq!(guest.host().done_seq, 5);
}

#[test]
fn a_successor_redoes_a_late_batch_only_when_the_guest_rings_after_its_withdrawal_was_seen() {
    let guest = Guest::new();
    let (mut first, _) = guest.hello(None).unwrap();
    guest.offer(5);
    assert!(matches!(claim(&guest, &mut first, 5, COOKIE).unwrap(), Claim::Taken(_)));
    guest.revoke(5);
    let (mut second, _) = guest.hello(None).unwrap();
    let ring = |session: &mut Session, rung_ns| {
        session.claim(&guest.memory, Doorbell { seq: 5, cookie: COOKIE, rung_ns }, HOST, || 2000).unwrap()
    };
    assert!(matches!(ring(&mut second, 1000), Claim::Settled), "the guest may have won");
    assert!(matches!(ring(&mut second, 1999), Claim::Settled), "rung before the withdrawal was seen");
    assert_eq!((guest.host().done_seq, guest.host().abandon_seq), (0, 0));
    let (mut second, kind) = guest.hello(Some(&second)).unwrap();
    assert_eq!(kind, HelloKind::Repeated);
    assert!(matches!(ring(&mut second, 2001), Claim::Taken(Offer { redone: true, .. })));
}

#[test]
fn a_page_that_changed_behind_the_host_ends_the_session() {
    let guest = Guest::new();
    let (mut session, _) = guest.hello(None).unwrap();
    guest.offer(1);
    guest.set(offset_of!(ControlPage, host) + offset_of!(HostHalf, heartbeat), &99_u64.to_le_bytes());
    assert!(matches!(claim(&guest, &mut session, 1, COOKIE), Err(SessionEnd::RolledBack)));
    assert_eq!((guest.host().abandon_seq, guest.host().attach_id), (1, 0));
    assert_eq!(guest.hello(Some(&session)).unwrap().1, HelloKind::RolledBack);
}

#[test]
fn a_page_of_another_module_is_not_written() {
    let guest = Guest::new();
    let (mut session, _) = guest.hello(None).unwrap();
    guest.offer(1);
    let before = guest.host();
    assert!(claim(&guest, &mut session, 1, COOKIE + 1).is_err());
    guest.set(offset_of!(GuestHalf, magic), &0_u64.to_le_bytes());
    assert!(claim(&guest, &mut session, 1, COOKIE).is_err());
    assert_eq!(guest.host(), before);
}

#[test]
fn nonsense_offers_are_given_back() {
    let guest = Guest::new();
    let (mut session, _) = guest.hello(None).unwrap();
    guest.offer(1);
    guest.set(offset_of!(GuestHalf, offer_count), &2_u32.to_le_bytes());
    assert!(matches!(claim(&guest, &mut session, 1, COOKIE).unwrap(), Claim::Malformed(_)));
    assert_eq!(guest.host().abandon_seq, 1);
    assert!(matches!(claim(&guest, &mut session, 2, COOKIE).unwrap(), Claim::Settled));
}

#[test]
fn hello_names_what_is_wrong_and_writes_nothing() {
    let guest = Guest::new();
    let said = |gpa: u64, cookie| {
        Session::hello(None, &guest.memory, Gpa::new(gpa), cookie, HOST).err().map(|error| error.to_string())
    };
    assert!(said(PAGE + 8, COOKIE).unwrap().contains("not page-aligned"));
    assert!(said(PAGE - 4096, COOKIE).unwrap().contains("not inside a RAM slot"));
    assert!(said(!4095, COOKIE).unwrap().contains("not inside a RAM slot"));
    assert!(said(RECORD, COOKIE).unwrap().contains("magic"));
    assert!(said(PAGE, COOKIE + 1).unwrap().contains("cookie"));
    guest.set(offset_of!(GuestHalf, record_gpa), &PAGE.to_le_bytes());
    assert!(said(PAGE, COOKIE).unwrap().contains("is the control page"));
    guest.set(offset_of!(GuestHalf, abi_version), &(ABI_VERSION + 1).to_le_bytes());
    assert!(said(PAGE, COOKIE).unwrap().contains("ABI version"));
    assert_eq!(guest.host(), HostFields::default());
}

#[test]
fn a_request_is_in_the_page_from_the_next_answer_on_and_stays() {
    let guest = Guest::new();
    let asked = |seq, pages| HostIdentity {
        want: Want { seq, pages },
        compact: Want { seq: seq + 9, pages },
        ..HOST
    };
    let wanted = || {
        let HostFields { want_seq, want_pages, compact_seq, compact_pages, .. } = guest.host();
        // The request to compact comes and goes with the other.
        assert_eq!(
            (compact_seq, compact_pages),
            if want_seq == 0 { (0, 0) } else { (want_seq + 9, want_pages) }
        );
        (want_seq, want_pages)
    };
    let hello = |previous: Option<&Session>, host| {
        let page = Gpa::new(PAGE);
        Session::hello(previous, &guest.memory, page, COOKIE, host).map(|(session, _, kind)| (session, kind))
    };
    let (session, _) = hello(None, HOST).unwrap();
    assert_eq!(wanted(), (0, 0));
    let (mut session, kind) = hello(Some(&session), asked(1, 1024)).unwrap();
    assert_eq!((kind, wanted()), (HelloKind::Repeated, (1, 1024)));
    guest.offer(1);
    let doorbell = Doorbell { seq: 1, cookie: COOKIE, rung_ns: 1000 };
    let taken = session.claim(&guest.memory, doorbell, asked(2, 512), || 2000).unwrap();
    assert!(matches!(taken, Claim::Taken(_)));
    assert_eq!(wanted(), (2, 512), "an answered doorbell brings it too");
    session.finish(&guest.memory, 1, &[RESULT_KEPT]).unwrap();
    assert_eq!(wanted(), (2, 512));
    let (session, kind) = hello(Some(&session), asked(2, 0)).unwrap();
    assert_eq!((kind, wanted()), (HelloKind::Repeated, (2, 0)), "taken back");
    guest.set(offset_of!(ControlPage, host) + offset_of!(HostHalf, want_seq), &9_u64.to_le_bytes());
    let (_, kind) = hello(Some(&session), asked(2, 0)).unwrap();
    assert_eq!(kind, HelloKind::RolledBack, "a number that this host has not written");
}

#[test]
fn bye_says_that_nobody_writes_any_more() {
    let guest = Guest::new();
    let (session, _) = guest.hello(None).unwrap();
    session.bye(&guest.memory).unwrap();
    assert_eq!(guest.host().attach_id, 0);
}
