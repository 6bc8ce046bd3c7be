//! The screen as a whole, drawn into memory: snapshots of each state, and every size without a panic.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::layout::Size;

use super::columns::Column;
use super::keys::KeyMap;
use super::testing::{THEME, forbidden_vm, lived_in, slot, snapshot, two, vm};
use super::theme::{Palette, Symbols, Theme};
use super::verb::Verb;
use super::{App, Settings, batch};
use crate::model::block::{GuestClaim, HostFact};
use crate::model::ids::Pid;
use crate::model::snapshot::{GuestStatus, PolicyName, ProbeState, ProbeStatus, Snapshot};

/// The screen of `columns` x `rows` after these keys.
fn screen_with(app: App, snapshot: &Snapshot, columns: u16, rows: u16, keys: &[KeyCode]) -> TestBackend {
    let mut app = app;
    app.set_size(Size::new(columns, rows));
    app.note(snapshot);
    app.accept(snapshot);
    for code in keys {
        app.handle(&Event::Key(KeyEvent::new(*code, KeyModifiers::NONE)), snapshot);
    }
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|frame| app.render(frame, snapshot)).unwrap();
    terminal.backend().clone()
}

fn screen(snapshot: &Snapshot, columns: u16, rows: u16, keys: &[KeyCode]) -> TestBackend {
    screen_with(App::new(Settings::new(THEME), Vec::new()), snapshot, columns, rows, keys)
}

fn failed_probe() -> ProbeStatus {
    ProbeStatus {
        hook: "kprobe kvm_mmu_notifier_invalidate_range_start".to_owned(),
        state: ProbeState::Failed("this kernel has no kprobes".to_owned()),
    }
}

#[test]
fn before_the_first_sample() {
    let mut empty = snapshot(Vec::new());
    empty.sequence = 0;
    insta::assert_snapshot!(screen(&empty, 80, 24, &[]));
}

#[test]
fn no_vms() {
    insta::assert_snapshot!(screen(&snapshot(Vec::new()), 80, 24, &[]));
}

#[test]
fn no_vms_with_a_failed_probe_and_a_pid_waited_for() {
    let mut snapshot = snapshot(Vec::new());
    snapshot.host.probes.push(failed_probe());
    let app = App::new(Settings::new(THEME), vec![Pid::new(4711)]);
    insta::assert_snapshot!(screen_with(app, &snapshot, 80, 24, &[]));
}

#[test]
fn two_vms_80x24() {
    insta::assert_snapshot!(screen(&two(), 80, 24, &[]));
}

#[test]
fn two_vms_200x50() {
    insta::assert_snapshot!(screen(&two(), 200, 50, &[]));
}

#[test]
fn guard_forbids_80x24() {
    insta::assert_snapshot!(screen(&two(), 80, 24, &[KeyCode::Down]));
}

#[test]
fn guard_forbids_200x50() {
    insta::assert_snapshot!(screen(&two(), 200, 50, &[KeyCode::Down]));
}

#[test]
fn help_80x24() {
    insta::assert_snapshot!(screen(&two(), 80, 24, &[KeyCode::Char('?')]));
}

#[test]
fn help_200x50() {
    insta::assert_snapshot!(screen(&two(), 200, 50, &[KeyCode::Char('?')]));
}

#[test]
fn help_40x12() {
    insta::assert_snapshot!(screen(&two(), 40, 12, &[KeyCode::Char('?'), KeyCode::PageDown]));
}

#[test]
fn help_20x5() {
    insta::assert_snapshot!(screen(&two(), 20, 5, &[KeyCode::Char('?')]));
}

#[test]
fn facts_40x12() {
    insta::assert_snapshot!(screen(&two(), 40, 12, &[KeyCode::Char('i')]));
}

#[test]
fn other_keys_and_columns_80x24() {
    let key = |name: &str| name.parse().unwrap();
    let keys = [
        (Verb::Quit, vec![key("F10")]),
        (Verb::Enter, vec![key("o")]),
        (Verb::Mode, vec![key("m")]),
        (Verb::Palette, Vec::new()),
    ];
    let settings = Settings {
        keys: KeyMap::with(&keys).unwrap(),
        columns: vec![Column::Mode, Column::Name, Column::Freeheld, Column::Gfree],
        sort: Some(Column::Gfree),
        ..Settings::new(THEME)
    };
    insta::assert_snapshot!(screen_with(App::new(settings, Vec::new()), &two(), 80, 24, &[]));
}

/// All views but the first, one below the other.
fn every_view(columns: u16, rows: u16) -> String {
    let shown = |digit: char| screen(&two(), columns, rows, &[KeyCode::Char(digit)]).to_string();
    ('2'..='7').map(shown).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_view_200x50() {
    insta::assert_snapshot!(every_view(200, 50));
}

#[test]
fn every_view_80x24() {
    insta::assert_snapshot!(every_view(80, 24));
}

#[test]
fn every_view_40x12() {
    insta::assert_snapshot!(every_view(40, 12));
}

#[test]
fn every_view_20x5() {
    insta::assert_snapshot!(every_view(20, 5));
}

#[test]
fn facts_80x24() {
    insta::assert_snapshot!(screen(&two(), 80, 24, &[KeyCode::Char('i')]));
}

#[test]
fn facts_200x50() {
    insta::assert_snapshot!(screen(&two(), 200, 50, &[KeyCode::Char('i')]));
}

#[test]
fn facts_of_a_forbidden_vm_80x24() {
    insta::assert_snapshot!(screen(&two(), 80, 24, &[KeyCode::Char('.'), KeyCode::Char('i')]));
}

/// The rows around the view: the host, the names of the views, the hints.
fn around(shown: &TestBackend) -> String {
    let buffer = shown.buffer();
    let row = |y: u16| -> String { (0..buffer.area.width).map(|x| buffer[(x, y)].symbol()).collect() };
    let rows = [0, 1, 2, buffer.area.height - 1].map(row);
    rows.iter().map(|row| row.trim_end()).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_view_is_named_at_every_width() {
    let mut rows = Vec::new();
    for digit in '2'..='7' {
        rows.push(around(&screen(&two(), 80, 24, &[KeyCode::Char(digit)])));
    }
    for columns in [200, 60, 40, 20] {
        rows.push(around(&screen(&two(), columns, 24, &[KeyCode::Char('4')])));
    }
    insta::assert_snapshot!(rows.join("\n\n"));
}

#[test]
fn prompts_have_the_last_line() {
    let typed = |keys: &[KeyCode], columns: u16, rows: u16| {
        let shown = screen(&two(), columns, rows, keys);
        let buffer = shown.buffer();
        let last: String = (0..columns).map(|x| buffer[(x, rows - 1)].symbol()).collect();
        last.trim_end().to_owned()
    };
    let keys = |text: &str| text.chars().map(KeyCode::Char).collect::<Vec<_>>();
    let mut lines = Vec::new();
    for (columns, rows) in [(80, 24), (40, 12), (20, 5)] {
        for text in ["/alp", "/al(", "o", ".o", "R", ".R", "w"] {
            lines.push(format!("{columns:>3} {text:<5}|{}", typed(&keys(text), columns, rows)));
        }
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn filtered_and_sorted_80x24() {
    let many = snapshot((1..=30).map(|id| vm(id, &format!("web-{id}"))).collect());
    let mut keys: Vec<KeyCode> = "/1$".chars().map(KeyCode::Char).collect();
    keys.extend([KeyCode::Enter, KeyCode::Char('s'), KeyCode::Char('r')]);
    insta::assert_snapshot!(screen(&many, 80, 24, &keys));
}

#[test]
fn a_filter_that_matches_nothing() {
    let keys: Vec<KeyCode> = "/xyz".chars().map(KeyCode::Char).collect();
    insta::assert_snapshot!(screen(&two(), 80, 24, &keys));
}

#[test]
fn palette_80x24() {
    insta::assert_snapshot!(screen(&two(), 80, 24, &[KeyCode::Char(':'), KeyCode::Down]));
}

#[test]
fn palette_200x50() {
    let keys: Vec<KeyCode> = ":sort".chars().map(KeyCode::Char).collect();
    insta::assert_snapshot!(screen(&two(), 200, 50, &keys));
}

#[test]
fn palette_40x12() {
    let keys: Vec<KeyCode> = ":view".chars().map(KeyCode::Char).collect();
    insta::assert_snapshot!(screen(&two(), 40, 12, &keys));
}

#[test]
fn palette_20x5() {
    insta::assert_snapshot!(screen(&two(), 20, 5, &[KeyCode::Char(':')]));
}

#[test]
fn paused() {
    insta::assert_snapshot!(screen(&two(), 80, 24, &[KeyCode::Char(' ')]));
}

#[test]
fn losses_stale_and_observe() {
    let mut snapshot = two();
    snapshot.policy = PolicyName::Observe;
    snapshot.host.counters.lost = 12;
    snapshot.host.counters.undecodable = 3;
    snapshot.host.counters.unattributed = 4567;
    snapshot.host.counters.table_full = 1;
    snapshot.host.probes.push(failed_probe());
    snapshot.host.swap_used = 1 << 29;
    snapshot.vms[0].guest = GuestStatus::Detached { why: "BYE".to_owned() };
    let mut app = App::new(Settings::new(THEME), Vec::new());
    app.set_stale(Some(7));
    insta::assert_snapshot!(screen_with(app, &snapshot, 80, 24, &[]));
}

#[test]
fn ascii_80x24() {
    let theme = Theme { palette: Palette::Mono, symbols: Symbols::Ascii };
    let shown = screen_with(App::new(Settings::new(theme), Vec::new()), &two(), 80, 24, &[]);
    // The borders around a snapshot are not part of the screen; the cells are.
    for cell in shown.buffer().content() {
        assert!(cell.symbol().is_ascii(), "{:?}", cell.symbol());
    }
    insta::assert_snapshot!(shown);
}

#[test]
fn many_vms_scroll() {
    let many = snapshot((1..=100).map(|id| vm(id, &format!("vm-{id}"))).collect());
    insta::assert_snapshot!(screen(&many, 80, 24, &[KeyCode::PageDown, KeyCode::PageDown]));
}

#[test]
fn small_40x12() {
    insta::assert_snapshot!(screen(&two(), 40, 12, &[]));
}

#[test]
fn smallest_20x5() {
    insta::assert_snapshot!(screen(&two(), 20, 5, &[]));
}

#[test]
fn batch_text() {
    let mut two = two();
    two.host.probes.push(failed_probe());
    two.vms[1].name = "evil\x1b[31m\nname".to_owned();
    insta::assert_snapshot!(batch::text(&two));
}

#[test]
fn batch_text_without_vms() {
    let text = batch::text(&snapshot(Vec::new()));
    assert!(text.contains("no VMs"));
    assert!(!text.contains("\n\n") && text.ends_with('\n'), "empty lines part the samples: {text}");
}

#[test]
fn names_of_other_processes_reach_no_cell_raw() {
    let mut snapshot = two();
    snapshot.vms[0].name = "\x1b[2Jx\u{202e}\r".to_owned();
    snapshot.decisions[0].why = "a\x07b".to_owned();
    for keys in [&[][..], &[KeyCode::Enter][..]] {
        let shown = screen(&snapshot, 120, 40, keys);
        for cell in shown.buffer().content() {
            assert!(!cell.symbol().chars().any(|c| c.is_control() || c == '\u{202e}'));
        }
    }
}

#[test]
fn no_size_and_no_state_panics() {
    let mut huge = forbidden_vm(3, "huge");
    huge.slots =
        vec![slot(0, 0, &lived_in(10_000)), slot(1, 50_000, &lived_in(3)), slot(2, 1 << 50, &lived_in(9))];
    let mut odd = two();
    odd.host.probes.push(failed_probe());
    odd.vms[0].name = "漢字漢字漢字".to_owned();
    odd.vms[0].faults_per_s = f64::NAN;
    odd.vms[1].slots.clear();
    odd.decisions.clear();
    let snapshots = [
        snapshot(Vec::new()),
        two(),
        odd,
        snapshot(vec![huge]),
        snapshot((1..=100).map(|id| vm(id, "many")).collect()),
    ];
    let text = |text: &str| text.chars().map(KeyCode::Char).collect::<Vec<_>>();
    let mut presses: Vec<Vec<KeyCode>> = (1..=7).map(|digit| text(&digit.to_string())).collect();
    presses.extend(["i", "?", ":", ":view", ":nothing", "/a", "/a(", "o", "R", "w", ".2", " 4"].map(text));
    let travel = [KeyCode::Down, KeyCode::Right, KeyCode::Char('z'), KeyCode::Char('n'), KeyCode::Enter];
    presses.extend((2..=7).map(|digit| [text(&digit.to_string()), travel.to_vec()].concat()));
    for last in [KeyCode::End, KeyCode::PageDown] {
        presses.extend(["", "?", "i", ":", "2", "6"].map(|before| [text(before), vec![last]].concat()));
    }
    let small =
        (1..=26u16).step_by(5).flat_map(|columns| [1, 2, 3, 4, 5, 6, 8, 11].map(|rows| (columns, rows)));
    let large = [(79, 23), (80, 24), (81, 25), (119, 30), (120, 30), (200, 50), (300, 3), (3, 100)];
    for (columns, rows) in small.chain(large) {
        for snapshot in &snapshots {
            for keys in &presses {
                screen(snapshot, columns, rows, keys);
            }
        }
    }
}

#[test]
fn a_state_older_than_the_snapshot_does_not_panic() {
    let mut app = App::new(Settings::new(THEME), Vec::new());
    app.set_size(Size::new(80, 24));
    app.accept(&two());
    let other = snapshot(vec![vm(9, "other")]);
    let mut terminal = Terminal::new(TestBackend::new(30, 10)).unwrap();
    terminal.draw(|frame| app.render(frame, &other)).unwrap();
}

#[test]
fn colours_are_set_only_where_they_are_wanted() {
    let snapshot = two();
    for (palette, colourful) in [(Palette::Mono, false), (Palette::Ansi16, true), (Palette::Indexed256, true)]
    {
        let theme = Theme { palette, symbols: Symbols::Unicode };
        let shown = screen_with(App::new(Settings::new(theme), Vec::new()), &snapshot, 80, 24, &[]);
        let colour = |cell: &ratatui::buffer::Cell| {
            cell.fg != ratatui::style::Color::Reset || cell.bg != ratatui::style::Color::Reset
        };
        assert_eq!(shown.buffer().content().iter().any(colour), colourful, "{palette:?}");
    }
}

#[test]
fn the_manual_names_every_column_state_cell_and_view() {
    let manual = include_str!("../../../docs/imr-top.md");
    let says = |text: &str| assert!(manual.contains(text), "docs/imr-top.md does not say {text:?}");
    for column in &super::columns::COLUMNS {
        says(&format!("| `{}` ", column.name));
    }
    for fact in HostFact::ALL {
        says(&format!("| {} |", fact.name()));
    }
    for claim in GuestClaim::ALL {
        says(&format!("| {} |", claim.name()));
    }
    for kind in super::CellKind::ALL {
        let cell = |symbols| Theme { palette: Palette::Mono, symbols }.cell(kind).0;
        says(&format!("| `{}` | `{}` | {}", cell(Symbols::Unicode), cell(Symbols::Ascii), kind.name()));
    }
    for view in ["1 VMs", "2 blocks", "3 cross", "4 timeline", "5 stages", "6 decisions", "7 health"] {
        says(&format!("### {view}\n"));
    }
}
