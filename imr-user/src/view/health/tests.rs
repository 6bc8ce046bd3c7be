//! Events and health on the screen: every size, the order of what is wrong, and a host on which nothing is.

use super::findings::COUNTERS;
use super::*;
use crate::model::snapshot::{ProbeState, ProbeStatus, Snapshot};
use crate::view::history::History;
use crate::view::history::testing::{assert_at_every_size, busy, context, many, painted, quiet};

fn text(context: &Context<'_>, state: &HealthState, size: (u16, u16)) -> String {
    painted(size, |buffer, area| paint(state, context, buffer, area))
}

#[test]
fn at_every_size() {
    let (snapshot, history) = (busy(), History::default());
    let context = context(&snapshot, &history, 0);
    assert_at_every_size!(text, context, HealthState::default());
    for size in [(80, 70), (40, 110)] {
        let name = format!("whole_{}", size.0);
        insta::assert_snapshot!(name, text(&context, &HealthState::default(), size));
    }
}

#[test]
fn all_is_well_only_where_it_is() {
    let history = History::default();
    let well = |snapshot: &crate::model::snapshot::Snapshot| {
        let text = text(&context(snapshot, &history, 0), &HealthState::default(), (120, 40));
        text.lines().next().unwrap().starts_with("All is well")
    };
    let good = quiet();
    assert!(well(&good));
    insta::assert_snapshot!(
        "quiet_80x20",
        text(&context(&good, &history, 0), &HealthState::default(), (80, 20))
    );
    type Spoil = fn(&mut Snapshot);
    let spoilt: [Spoil; 14] = [
        |all| all.host.counters.lost = 1,
        |all| all.host.counters.undecodable = 1,
        |all| all.host.counters.table_full = 1,
        |all| all.host.counters.unattributed = 1 << 40,
        |all| all.host.counters.ambiguous = 1,
        |all| all.host.counters.unproven = 1,
        |all| all.host.probes[0].state = ProbeState::Failed("why".to_owned()),
        |all| {
            all.host.probes[0].state =
                ProbeState::StoodIn { reason: "why".to_owned(), by: "other".to_owned() }
        },
        |all| all.vms[0].offers.denied_calls = 1,
        |all| all.vms[0].offers.malformed = 1,
        |all| all.vms[0].offers.limited_calls = 1,
        |all| all.vms[0].offers.stale_calls = 1,
        |all| all.host.baseline.cpu_percent = 1.5,
        |all| all.sequence = 0,
    ];
    for (at, spoil) in spoilt.into_iter().enumerate() {
        let mut snapshot = quiet();
        spoil(&mut snapshot);
        assert!(!well(&snapshot), "number {at}");
    }
    let harmless: [Spoil; 5] = [
        |all| all.host.counters.unattributed = 1,
        |all| all.host.probes[0].state = ProbeState::NotNeeded("why".to_owned()),
        |all| all.vms[0].offers.resets = 1,
        |all| all.vms[0].drift.unseen_frames = 5,
        |all| all.host.counters.page_faults += 1,
    ];
    for (at, change) in harmless.into_iter().enumerate() {
        let mut snapshot = quiet();
        change(&mut snapshot);
        assert!(well(&snapshot), "number {at}");
    }
}

#[test]
fn the_worst_comes_first_and_nothing_is_left_out() {
    let (snapshot, history) = (busy(), History::default());
    let found = findings(&snapshot, context(&snapshot, &history, 0).theme);
    assert!(found.is_sorted_by_key(|finding| finding.severity));
    assert_eq!((found[0].severity, &found[0].text[..8]), (Severity::Bad, "12 lost:"));
    let text = text(&context(&snapshot, &history, 0), &HealthState::default(), (200, 100));
    for counter in &COUNTERS {
        assert!(text.contains(counter.text), "{}", counter.name);
    }
    for ProbeStatus { hook, .. } in &snapshot.host.probes {
        assert!(text.contains(hook.as_str()), "{hook}");
    }
    // 1234 frames of 4 KiB.
    assert!(text.contains("1.23k      4.82M          7      28.0K"), "{text}");
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn it_scrolls_and_jumps_from_part_to_part() {
    let (snapshot, history) = (many(1000), History::default());
    let context = context(&snapshot, &history, 0);
    let area = Rect::new(0, 0, 80, 20);
    let mut state = HealthState::default();
    let second =
        |state: &HealthState| text(&context, state, (80, 20)).lines().nth(1).unwrap_or_default().to_owned();
    let mut titles = Vec::new();
    for _ in 0..6 {
        assert_eq!(act(&mut state, Action::Next, &context, area), Response::Done);
        titles.push(second(&state).split(' ').nth(1).unwrap().to_owned());
    }
    assert_eq!(titles, ["events", "probes", "baseline", "drift", "memory", "calls"]);
    act(&mut state, Action::Previous, &context, area);
    assert!(second(&state).starts_with("── memory"));
    act(&mut state, Action::End, &context, area);
    assert!(text(&context, &state, (80, 20)).lines().last().unwrap().contains("vm-998"));
    for _ in 0..10 {
        act(&mut state, Action::Previous, &context, area);
    }
    assert!(second(&state).starts_with("FAIL"));
    assert_eq!(act(&mut state, Action::Enter, &context, area), Response::Ignored);
}

#[test]
fn any_size() {
    let (snapshot, history) = (busy(), History::default());
    let context = context(&snapshot, &history, 0);
    for columns in (1..=50).chain([79, 120]) {
        for rows in 1..=26 {
            let mut state = HealthState::default();
            act(&mut state, Action::End, &context, Rect::new(0, 0, columns, rows));
            let text = text(&context, &state, (columns, rows));
            assert!(columns < 3 || !text.is_empty());
        }
    }
}
