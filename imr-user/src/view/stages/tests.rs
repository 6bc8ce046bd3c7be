//! The stages on the screen: every size, scrolling, and a thousand VMs.

use super::*;
use crate::view::history::History;
use crate::view::history::testing::{assert_at_every_size, busy, context, many, painted};

fn shown(context: &Context<'_>, state: &StagesState, size: (u16, u16)) -> String {
    painted(size, |buffer, area| paint(state, context, buffer, area))
}

#[test]
fn at_every_size() {
    let (snapshot, history) = (busy(), History::default());
    let context = context(&snapshot, &history, 0);
    assert_at_every_size!(shown, context, StagesState::default());
}

#[test]
fn figures_are_the_summaries() {
    let (snapshot, history) = (busy(), History::default());
    let context = context(&snapshot, &history, 0);
    let text = shown(&context, &StagesState::default(), (80, 20));
    let one = snapshot.vms[0].latency;
    let all = of_all(&snapshot.vms);
    for stage in STAGES {
        let row = text.lines().find(|line| line.starts_with(&format!("{} ", stage.name))).unwrap();
        for summary in [(stage.of)(&one), (stage.of)(&all)] {
            assert!(row.contains(&figures_of(summary, 4)), "{row}");
        }
    }
}

#[test]
fn every_vm_can_be_scrolled_to() {
    let (snapshot, history) = (many(1000), History::default());
    let context = context(&snapshot, &history, 998);
    let area = Rect::new(0, 0, 80, 20);
    let mut state = StagesState::default();
    assert_eq!(act(&mut state, Action::End, &context, area), Response::Done);
    let text = shown(&context, &state, (80, 20));
    // Of VMs with equal figures the order is theirs; those without any come last.
    assert!(text.lines().last().unwrap().starts_with(" vm-997 "), "{text}");
    let names = |state: &StagesState| -> Vec<String> {
        let text = shown(&context, state, (80, 20));
        text.lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with("vm-")))
            .map(str::to_owned)
            .collect()
    };
    let mut seen = std::collections::BTreeSet::new();
    state = StagesState::default();
    for _ in 0..80 {
        seen.extend(names(&state));
        act(&mut state, Action::PageDown, &context, area);
    }
    assert_eq!(seen.len(), 1000);
    assert_eq!(act(&mut state, Action::Enter, &context, area), Response::Ignored);
}

#[test]
fn without_vms_and_at_any_size() {
    let (none, history) = (many(0), History::default());
    let busy = busy();
    for columns in (1..=30).chain([63, 64, 65, 79, 130, 200]) {
        for rows in 1..=12 {
            for (snapshot, selected) in [(&none, 0), (&busy, 0), (&busy, 9)] {
                let context = context(snapshot, &history, selected);
                let mut state = StagesState::default();
                act(&mut state, Action::End, &context, Rect::new(0, 0, columns, rows));
                shown(&context, &state, (columns, rows));
            }
        }
    }
}
