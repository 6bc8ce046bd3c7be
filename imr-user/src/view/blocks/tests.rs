//! The view as people use it: pictures of it, moves, zooms, jumps, clicks, and memory that changes under the cursor.

use proptest::prelude::*;
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Color, Modifier};

use super::testing::{Stage, every_state, storied, with_slots};
use super::{Picture, inspect_target};
use crate::model::ids::{BLOCK_SIZE, BlockId, VmId};
use crate::model::snapshot::SlotSnapshot;
use crate::view::cells::CellKind;
use crate::view::context::{Action, Response};
use crate::view::testing::{slot, snapshot};
use crate::view::theme::{Palette, Symbols, Theme};

/// 16 GiB and a DIMM.
fn stage(columns: u16, rows: u16) -> Stage {
    Stage::new(storied(1, 8192), columns, rows)
}

fn played(columns: u16, rows: u16, actions: &[Action]) -> Stage {
    let mut stage = stage(columns, rows);
    for action in actions {
        stage.act(*action);
    }
    stage
}

fn picture(stage: &Stage) -> Picture<'_> {
    Picture::new(&stage.state, &stage.context(), stage.area).unwrap()
}

/// Where the cursor is on the screen: the reversed cells.
fn marked(stage: &Stage) -> Vec<Position> {
    let buffer = stage.buffer();
    let reversed = |at: &Position| buffer[*at].modifier.contains(Modifier::REVERSED);
    stage.area.positions().filter(reversed).collect()
}

const TO_REFAULTED: [Action; 3] = [Action::Next, Action::Next, Action::Next];

#[test]
fn pictures_in_unicode() {
    insta::assert_snapshot!("unicode_80x20", played(80, 20, &TO_REFAULTED).screen());
    insta::assert_snapshot!("unicode_200x46", played(200, 46, &TO_REFAULTED).screen());
    insta::assert_snapshot!("unicode_40x9", played(40, 9, &TO_REFAULTED).screen());
    insta::assert_snapshot!("unicode_20x3", played(20, 3, &TO_REFAULTED).screen());
}

#[test]
fn pictures_in_ascii() {
    for (columns, rows) in [(80, 20), (200, 46), (40, 9), (20, 3)] {
        let mut stage = played(columns, rows, &TO_REFAULTED);
        stage.theme.symbols = Symbols::Ascii;
        let screen = stage.screen();
        assert!(screen.is_ascii());
        insta::assert_snapshot!(format!("ascii_{columns}x{rows}"), screen);
    }
}

#[test]
fn picture_at_one_block_a_cell() {
    insta::assert_snapshot!(played(80, 20, &[Action::Next, Action::Enter]).screen());
}

#[test]
fn picture_of_a_small_vm_before_anything_is_known() {
    let mut small = storied(1, 200);
    small.slots.pop();
    insta::assert_snapshot!(Stage::new(small, 80, 20).screen());
}

#[test]
fn pictures_of_nothing() {
    let mut bare = Stage::new(with_slots(1, vec![slot(0, 0, &[])]), 60, 3);
    insta::assert_snapshot!(bare.screen(), @r"
    |── blocks of storied ───────────────────────────────────────
    |no slot of this VM is followed yet
    |
    ");
    assert_eq!((bare.act(Action::Right), bare.block()), (Response::Ignored, None));
    bare.snapshot.vms.clear();
    assert_eq!(bare.screen().lines().next(), Some("|no VM is selected"));
    bare.area.height = 1;
    bare.snapshot = snapshot(vec![with_slots(1, Vec::new())]);
    assert_eq!(bare.screen(), "|no slot of this VM is followed yet\n");
}

#[test]
fn the_cursor_asks_for_its_block_once() {
    let mut stage = stage(80, 20);
    assert_eq!(stage.block(), Some(0));
    let vm = VmId::new(1);
    assert_eq!(stage.act(Action::Home), Response::Inspect(vm, BlockId::new(0)), "nobody has asked yet");
    assert_eq!(stage.act(Action::Home), Response::Done);
    let per_cell = picture(&stage).grid.per_cell();
    assert!(per_cell > 1);
    assert_eq!(stage.act(Action::Right), Response::Inspect(vm, BlockId::new(per_cell)));
    assert_eq!(stage.act(Action::ZoomIn), Response::Done, "the block stays");
    assert_eq!(stage.act(Action::Left), Response::Inspect(vm, BlockId::new(per_cell / 2)));
    let target = inspect_target(&stage.state, &stage.context(), stage.area);
    assert_eq!(target, Some((vm, BlockId::new(per_cell / 2))));
}

#[test]
fn history_is_shown_of_the_cursors_block_only() {
    let mut stage = stage(80, 20);
    stage.act(Action::Home);
    assert!(stage.screen().contains("2.1 s ago: refaulted, guest says in use"));
    stage.detail.as_mut().unwrap().block = BlockId::new(77);
    let screen = stage.screen();
    assert!(!screen.contains("ago") && screen.contains("history  not there yet"), "{screen}");
    stage.act(Action::Right);
    stage.detail.as_mut().unwrap().life.clear();
    assert!(stage.screen().contains("nothing has happened to it yet"));
}

#[test]
fn zoom_goes_by_powers_of_two_around_the_same_address() {
    let mut stage = stage(80, 20);
    stage.act(Action::Next);
    let block = stage.block();
    let all = picture(&stage).grid.clone();
    assert!(all.zoom >= 3, "{all:?}");
    for zoom in (0..all.zoom).rev() {
        stage.act(Action::ZoomIn);
        let picture = picture(&stage);
        assert_eq!((picture.grid.zoom, stage.block()), (zoom, block));
        let row = picture.grid.row_of(picture.cell) - picture.first;
        let middle = u64::from(picture.map.height / 2);
        assert!(row == middle || picture.first == 0, "in the middle: {row} of {}", picture.map.height);
    }
    stage.act(Action::ZoomIn);
    assert_eq!(picture(&stage).grid.zoom, 0, "not closer than a block");
    for zoom in 1..=all.zoom {
        stage.act(Action::ZoomOut);
        assert_eq!((picture(&stage).grid.zoom, stage.block()), (zoom, block));
    }
    stage.act(Action::ZoomOut);
    assert_eq!(picture(&stage).grid, all, "not farther than all of it");
    assert_eq!(stage.act(Action::Enter), Response::Done);
    assert_eq!((picture(&stage).grid.zoom, stage.block()), (0, block));
    assert_eq!(stage.act(Action::Enter), Response::Ignored, "the frame may have a use for it");
}

#[test]
fn jumps_stop_at_what_is_free_and_held_refaulted_or_swapped() {
    for zoom in [false, true] {
        let mut stage = stage(80, 20);
        if zoom {
            stage.act(Action::Enter);
        }
        let mut seen = Vec::new();
        for _ in 0..7 {
            stage.act(Action::Next);
            let picture = picture(&stage);
            let state = picture.regions[picture.cell.region].state(picture.cursor.block).unwrap();
            seen.push((picture.cell.region, CellKind::of(state)));
        }
        let kinds = [CellKind::Swapped, CellKind::FreeHeld, CellKind::Refaulted];
        let expected =
            [(0, kinds[0]), (0, kinds[1]), (0, kinds[2]), (1, kinds[0]), (1, kinds[1]), (1, kinds[2])];
        assert_eq!(seen[..6], expected);
        assert_eq!(seen[6], expected[0], "and around");
        stage.act(Action::Previous);
        assert_eq!(picture(&stage).cell.region, 1);
    }
}

#[test]
fn clicks_place_the_cursor_where_they_are() {
    let mut stage = stage(80, 20);
    stage.area = Rect::new(7, 3, 80, 20);
    stage.act(Action::Home);
    let (map, gutter) = {
        let picture = picture(&stage);
        (picture.map, picture.grid.gutter() as u16)
    };
    for (x, y) in [(5, 1), (63, 1), (17, 4)] {
        let at = Position::new(map.x + gutter + x, map.y + y);
        assert!(matches!(stage.act(Action::Click(at)), Response::Inspect(..)));
        assert_eq!(marked(&stage), [at]);
    }
    // The address before a row is its first cell, a label the first of its region.
    stage.act(Action::Click(Position::new(map.x, map.y + 2)));
    assert_eq!(marked(&stage), [Position::new(map.x + gutter, map.y + 2)]);
    stage.act(Action::Click(Position::new(map.x + 30, map.y)));
    assert_eq!(stage.block(), Some(0));
    for outside in [Position::new(0, 0), Position::new(map.x, map.bottom()), Position::new(300, map.y)] {
        assert_eq!(stage.act(Action::Click(outside)), Response::Ignored);
    }
}

#[test]
fn each_vm_keeps_its_cursor_until_it_ends() {
    let mut stage = stage(80, 20);
    stage.snapshot = snapshot(vec![storied(1, 8192), storied(2, 500)]);
    stage.act(Action::End);
    let last = stage.block();
    stage.selected = 1;
    assert_eq!(stage.block(), Some(0));
    stage.act(Action::Right);
    assert_eq!(stage.state.cursors.len(), 2);
    stage.selected = 0;
    assert_eq!(stage.block(), last);
    stage.snapshot.vms.remove(1);
    stage.act(Action::Left);
    assert_eq!(stage.state.cursors.keys().copied().collect::<Vec<_>>(), [VmId::new(1)]);
}

#[test]
fn memory_may_come_and_go_under_the_cursor() {
    let mut stage = stage(80, 20);
    stage.act(Action::End);
    let last = stage.block().unwrap();
    let whole = stage.snapshot.vms[0].slots.clone();
    stage.snapshot.vms[0].slots.pop();
    assert_eq!(stage.block(), Some(8191), "the nearest that is left");
    stage.screen();
    stage.snapshot.vms[0].slots = whole;
    assert_eq!(stage.block(), Some(last), "nobody has moved it meanwhile");
    stage.snapshot.vms[0].slots.pop();
    let per_cell = picture(&stage).grid.per_cell();
    let expected = BlockId::new((8191 / per_cell - 1) * per_cell);
    assert_eq!(stage.act(Action::Left), Response::Inspect(VmId::new(1), expected));
}

#[test]
fn colours_and_the_cursor_on_every_kind() {
    let states = every_state(50);
    for palette in [Palette::Mono, Palette::Ansi16, Palette::Indexed256] {
        for symbols in [Symbols::Unicode, Symbols::Ascii] {
            let theme = Theme { palette, symbols };
            let mut stage = Stage::new(with_slots(1, vec![slot(0, 0, &states)]), 80, 20);
            stage.theme = theme;
            for block in 0..50_u16 {
                let kind = CellKind::of(states[usize::from(block)]);
                let marked = marked(&stage);
                assert_eq!(marked.len(), 2, "a cell is two columns wide");
                let buffer = stage.buffer();
                for at in &marked {
                    assert_eq!(buffer[*at].symbol(), theme.cursor_cell(kind).0.to_string());
                    assert_eq!(buffer[*at].fg, theme.cell(kind).1.fg.unwrap_or(Color::Reset));
                }
                // Left of it is the block before, as it is without a cursor.
                if block % 32 != 0 {
                    let kind = CellKind::of(states[usize::from(block - 1)]);
                    let cell = &buffer[(marked[0].x - 1, marked[0].y)];
                    assert_eq!(cell.symbol(), theme.cell(kind).0.to_string());
                    assert_eq!(cell.fg, theme.cell(kind).1.fg.unwrap_or(Color::Reset));
                }
                stage.act(Action::Right);
            }
            let plain = |cell: &Cell| (cell.fg, cell.bg) == (Color::Reset, Color::Reset);
            assert_eq!(stage.buffer().content().iter().all(plain), palette == Palette::Mono);
        }
    }
}

#[test]
fn every_kind_is_in_the_legend_where_there_is_room() {
    for (columns, rows) in [(80, 20), (200, 46), (100, 14)] {
        let screen = stage(columns, rows).screen();
        for kind in CellKind::ALL {
            assert!(screen.contains(kind.name()), "{kind:?} at {columns}x{rows}:\n{screen}");
        }
    }
}

#[test]
fn names_of_other_processes_reach_no_cell_raw() {
    let mut stage = stage(120, 30);
    stage.snapshot.vms[0].name = "\x1b[2Jx\u{202e}".to_owned();
    for slot in &mut stage.snapshot.vms[0].slots {
        slot.backing = "file /a\x07\u{200b}b".to_owned();
    }
    let buffer = stage.buffer();
    let raw = |c: char| c.is_control() || matches!(c, '\u{202e}' | '\u{200b}');
    assert!(!buffer.content().iter().any(|cell| cell.symbol().contains(raw)));
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        proptest::sample::select(vec![
            Action::Up,
            Action::Down,
            Action::Left,
            Action::Right,
            Action::PageUp,
            Action::PageDown,
            Action::Home,
            Action::End,
            Action::Enter,
            Action::ZoomIn,
            Action::ZoomOut,
            Action::Next,
            Action::Previous,
            Action::Wheel(3),
            Action::Wheel(i16::MIN),
        ]),
        (0..90_u16, 0..30_u16).prop_map(|(x, y)| Action::Click(Position::new(x, y))),
    ]
}

/// VMs of every kind of layout: whole, with holes, with slots that overlap or end the address space, without any.
fn layouts() -> Vec<Vec<SlotSnapshot>> {
    let huge = u64::MAX / BLOCK_SIZE - 40;
    vec![
        storied(1, 3000).slots,
        storied(1, 100).slots,
        vec![slot(0, 0, &every_state(40)), slot(1, 20, &every_state(100)), slot(2, 39, &every_state(1))],
        vec![slot(0, 5, &every_state(3)), slot(1, u64::MAX / 512 - 1, &every_state(90))],
        (0..40).map(|id| slot(id, u64::try_from(id).unwrap() * 7, &every_state(5))).collect(),
        vec![slot(0, huge, &every_state(700))],
        Vec::new(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn the_cursor_is_always_visible_and_on_memory(
        columns in 1..90_u16,
        rows in 1..30_u16,
        steps in proptest::collection::vec((action(), proptest::option::weighted(0.1, 0..7_usize)), 1..25),
    ) {
        let layouts = layouts();
        let mut stage = Stage::new(with_slots(1, layouts[0].clone()), columns, rows);
        for (action, change) in steps {
            if let Some(change) = change {
                stage.snapshot.vms[0] = with_slots(1, layouts[change].clone());
            }
            stage.act(action);
            let buffer = stage.buffer();
            prop_assert_eq!(buffer.area, stage.area);
            let Some(block) = stage.block() else {
                prop_assert!(stage.snapshot.vms[0].slots.is_empty());
                continue;
            };
            let picture = picture(&stage);
            prop_assert!(picture.regions[picture.cell.region].state(block).is_some());
            let marked = marked(&stage);
            prop_assert_eq!(marked.len(), picture.grid.cell_columns, "the cursor is on the screen");
            prop_assert!(marked.iter().all(|at| picture.map.contains(*at)));
            prop_assert_eq!(picture.at(marked[0]), Some(picture.cell), "a click there leads there");
            prop_assert_eq!(rows < 2 || picture.facts.height > 0, true);
        }
    }
}

#[test]
fn any_area_will_do() {
    for layout in layouts() {
        for columns in 1..27 {
            for rows in 1..12 {
                let mut stage = Stage::new(with_slots(1, layout.clone()), columns, rows);
                stage.screen();
                stage.act(Action::Enter);
                stage.act(Action::End);
                stage.screen();
            }
        }
        let mut none = Stage::new(with_slots(1, layout), 0, 0);
        none.act(Action::PageDown);
        assert_eq!(none.screen(), "");
    }
}
