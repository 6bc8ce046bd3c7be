//! The cross table on the screen: its numbers, every size, and what it says when there is nothing to count.

use ratatui::layout::Rect;

use super::*;
use crate::model::block::HostFact;
use crate::model::snapshot::Snapshot;
use crate::view::history::History;
use crate::view::history::testing::{assert_at_every_size, busy, context, of_blocks, painted, quiet};
use crate::view::testing::block;

fn shown(context: &Context<'_>, state: &CrossState, size: (u16, u16)) -> String {
    painted(size, |buffer, area| paint(state, context, buffer, area))
}

#[test]
fn at_every_size() {
    let (snapshot, history) = (busy(), History::default());
    let context = context(&snapshot, &history, 0);
    assert_at_every_size!(shown, context, CrossState::default());
    let all = CrossState { scope: Scope::All, ..CrossState::default() };
    insta::assert_snapshot!("all_80x20", shown(&context, &all, (80, 20)));
}

#[test]
fn what_is_printed_is_the_table() {
    let (snapshot, history) = (busy(), History::default());
    let text = shown(&context(&snapshot, &history, 0), &CrossState::default(), (80, 20));
    let cross = &snapshot.vms[0].cross;
    let mib = |bytes: u64| format!("{:.0}", bytes as f64 / f64::from(1 << 20));
    let numbers = |at: usize| -> Vec<String> {
        text.lines().nth(at).unwrap().split_whitespace().map(|word| word.replace('*', "")).collect()
    };
    let mut columns = [0; 9];
    for (row, claim) in GuestClaim::ALL.into_iter().enumerate() {
        // "in use" is two words.
        let skip = claim.name().split(' ').count();
        let of_row: Vec<String> = numbers(2 + row * 3).split_off(skip);
        for (at, fact) in HostFact::ALL.into_iter().enumerate() {
            assert_eq!(of_row[at], mib(cross.cell(claim, fact).bytes()), "{claim:?} {fact:?}");
            columns[at] += of_row[at].parse::<u64>().unwrap();
        }
        let sum = cross.sum(|other, _| other == claim);
        assert_eq!(of_row[8], mib(sum.bytes()));
        columns[8] += sum.bytes() >> 20;
        assert_eq!(numbers(4 + row * 3).last().unwrap(), &mib(sum.resident_bytes()));
    }
    let all: Vec<u64> = numbers(11)[1..].iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(all, columns);
    assert_eq!(all[8], cross.total().bytes() >> 20);
    // 60 MiB of 512.
    let held = cross.sum(|claim, _| claim == GuestClaim::Free).resident_bytes();
    assert_eq!(held, 60 << 20);
    assert!(text.contains("* 60.0 MiB (12 %) is free in the guest and still held by the host"), "{text}");
}

#[test]
fn all_vms_are_the_sum_of_each() {
    let (snapshot, history) = (busy(), History::default());
    let context = context(&snapshot, &history, 0);
    let all = subject(None, &context);
    let each: Vec<Subject> = snapshot.vms.iter().map(|vm| subject(Some(vm), &context)).collect();
    let sum = |of: fn(&Subject) -> u64| each.iter().map(of).sum::<u64>();
    assert_eq!(all.ram, sum(|subject| subject.ram));
    assert_eq!(all.cross.total().bytes(), sum(|subject| subject.cross.total().bytes()));
    assert_eq!(held(&all.cross), sum(|subject| held(&subject.cross)));
    assert_eq!((all.vms, all.telling), (3, 2));
}

#[test]
fn it_says_what_is_not_known() {
    let history = History::default();
    let mut silent = busy();
    let text = |snapshot: &Snapshot, selected| {
        shown(&context(snapshot, &history, selected), &CrossState::default(), (80, 20))
    };
    assert!(text(&silent, 1).contains("not known: no guest module is attached"));
    silent.vms[0].cross = CrossTable::default();
    assert!(text(&silent, 0).contains("no block is followed yet"));
    silent.vms.clear();
    assert!(text(&silent, 0).contains("no KVM guest runs on this host"));
    let mut nothing_free = quiet();
    of_blocks(&mut nothing_free.vms[0], &[(9, block(GuestClaim::InUse, HostFact::Resident4k, 512))]);
    assert!(text(&nothing_free, 0).contains("nothing that is free in the guest is held by the host"));
}

#[test]
fn the_headline_is_there_at_any_size() {
    let (snapshot, history) = (busy(), History::default());
    let context = context(&snapshot, &history, 0);
    for columns in (1..=44).chain([78, 79, 80, 159, 160, 161]) {
        for rows in (1..=20).chain([35, 36, 37]) {
            let text = shown(&context, &CrossState::default(), (columns, rows));
            if columns >= 20 && rows >= 2 {
                assert!(text.contains("* 60.0 MiB"), "{columns}x{rows}:\n{text}");
                assert!(text.contains("held"), "{columns}x{rows}:\n{text}");
            }
        }
    }
}

#[test]
fn keys_change_the_subject_only_where_both_do_not_fit() {
    let (snapshot, history) = (busy(), History::default());
    let context = context(&snapshot, &history, 0);
    let mut state = CrossState::default();
    let small = Rect::new(0, 0, 80, 20);
    assert_eq!(act(&mut state, Action::Right, &context, small), Response::Done);
    assert_eq!(state.scope, Scope::All);
    assert_eq!(act(&mut state, Action::Down, &context, small), Response::Ignored, "all of it is shown");
    let wide = Rect::new(0, 0, 200, 46);
    assert_eq!(act(&mut state, Action::Right, &context, wide), Response::Ignored);
    let low = Rect::new(0, 0, 40, 9);
    state.scope = Scope::Selected;
    let before = shown(&context, &state, (40, 9));
    assert_eq!(act(&mut state, Action::End, &context, low), Response::Done);
    assert_ne!(shown(&context, &state, (40, 9)), before);
}
