//! The view "guest x host": how much memory is in blocks of each guest claim and host fact, and what the host holds
//! of it, for the selected VM and for all of them.
//!
//! Input: [`CrossTable`]s. Output: cells. The headline, what is free in the guest and still held, is shown at any size.

mod grid;
#[cfg(test)]
mod tests;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use self::grid::{Grid, Unit};
use super::context::{Action, Context, Response};
use super::format;
use super::layout::{draw, split};
use super::page::{self, Scope, Scroll};
use super::theme::{Role, Theme};
use crate::model::block::GuestClaim;
use crate::model::snapshot::{GuestStatus, VmSnapshot};
use crate::model::sums::CrossTable;

/// Columns between two tables side by side.
const GAP: u16 = 2;
/// Rows of a table in full: title, heading, four rows of three lines, and the sentences.
const FULL_ROWS: u16 = 18;

/// Its state.
#[derive(Debug, Clone, Default)]
pub(crate) struct CrossState {
    scope: Scope,
    scroll: Scroll,
}

/// One table and what belongs to it.
struct Subject {
    name: String,
    ram: u64,
    cross: CrossTable,
    reclaimed: u64,
    refaulted: u64,
    /// VMs, and those of them whose guest says what is free.
    vms: usize,
    telling: usize,
}

/// Where the tables go.
enum Places {
    One(Rect),
    /// The selected VM and all of them.
    Two(Rect, Rect),
}

pub(crate) fn paint(state: &CrossState, context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    match places(context, area) {
        Places::One(area) => table(state.scope.vm(context), state.scroll, context, buffer, area),
        Places::Two(one, all) => {
            table(context.vm, state.scroll, context, buffer, one);
            table(None, state.scroll, context, buffer, all);
        }
    }
}

pub(crate) fn act(state: &mut CrossState, action: Action, context: &Context<'_>, area: Rect) -> Response {
    let places = places(context, area);
    if let (Places::One(_), Action::Left | Action::Right | Action::Enter) = (&places, action) {
        state.scope.toggle();
        return Response::Done;
    }
    let (Places::One(area) | Places::Two(area, _)) = places;
    let subject = subject(state.scope.vm(context), context);
    let laid = lay_out(&subject, context.theme, area);
    let moves = laid.body_rows < laid.grid.body.len()
        && state.scroll.act(action, laid.grid.body.len(), laid.body_rows);
    if moves { Response::Done } else { Response::Ignored }
}

fn places(context: &Context<'_>, area: Rect) -> Places {
    if context.vm.is_none() {
        return Places::One(area);
    }
    if area.width >= 2 * grid::WIDE + GAP {
        let width = (area.width - GAP) / 2;
        let right = Rect { x: area.x + width + GAP, width, ..area };
        return Places::Two(Rect { width, ..area }, right);
    }
    if area.width >= grid::WIDE && area.height >= 2 * FULL_ROWS {
        let (above, below) = split(area, area.height / 2);
        return Places::Two(above, below);
    }
    Places::One(area)
}

fn subject(vm: Option<&VmSnapshot>, context: &Context<'_>) -> Subject {
    let mut subject = Subject {
        name: page::subject(context, vm),
        ram: 0,
        cross: CrossTable::default(),
        reclaimed: 0,
        refaulted: 0,
        vms: 0,
        telling: 0,
    };
    let vms = vm.map_or(context.snapshot.vms.as_slice(), std::slice::from_ref);
    for vm in vms {
        subject.ram += vm.ram_bytes;
        subject.cross.add(&vm.cross);
        subject.reclaimed += vm.reclaimed_bytes;
        subject.refaulted += vm.refaulted_bytes;
        subject.vms += 1;
        subject.telling += usize::from(matches!(vm.guest, GuestStatus::Attached { .. }));
    }
    subject
}

/// What is shown, top to bottom.
struct Laid {
    title: bool,
    grid: Grid,
    /// Lines of the grid's body for which there is room.
    body_rows: usize,
    headline: Vec<String>,
    taken_back: Vec<String>,
    notes: Vec<String>,
}

fn lay_out(subject: &Subject, theme: Theme, area: Rect) -> Laid {
    let (columns, rows) = (usize::from(area.width), usize::from(area.height));
    let headline =
        choose(&headline(subject, theme), columns, if rows < 6 { rows } else { (rows / 4).max(2) });
    let mut left = rows.saturating_sub(headline.len());
    let title = left >= 4;
    left -= usize::from(title);
    let mut taken_back = Vec::new();
    if left >= 6 {
        taken_back = choose(&came_again(subject), columns, left / 6);
        left -= taken_back.len();
    }
    let unit = Unit::of(subject.ram);
    let grid = Grid::new(theme, &subject.cross, subject.ram, unit, columns, left);
    let wanted = grid.rows();
    let mut notes = Vec::new();
    for note in notes_of(subject) {
        let note = page::words(&note, columns);
        if wanted + notes.len() + note.len() <= left {
            notes.extend(note);
        }
    }
    let body_rows = grid.body.len().min((left - notes.len()).saturating_sub(1));
    Laid { title, grid, body_rows, headline, taken_back, notes }
}

fn table(vm: Option<&VmSnapshot>, scroll: Scroll, context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    let theme = context.theme;
    let columns = usize::from(area.width);
    let subject = subject(vm, context);
    let laid = lay_out(&subject, theme, area);
    let mut lines = Vec::new();
    if laid.title {
        let position = scroll.position(laid.grid.body.len(), laid.body_rows);
        let unit = Unit::of(subject.ram).name;
        let mut rest = vec![format!("in {unit}"), format!("RAM {}", format::bytes(subject.ram))];
        if !position.is_empty() {
            rest.insert(0, position);
        }
        lines.push(page::title(theme, subject.name.clone(), rest, columns));
    }
    let Laid { grid, body_rows, headline, taken_back, notes, .. } = laid;
    if body_rows > 0 {
        lines.push(grid.heading);
        let first = scroll.first(grid.body.len(), body_rows);
        lines.extend(grid.body.into_iter().skip(first).take(body_rows));
    }
    let held = held(&subject.cross);
    for (texts, role) in [
        (headline, if held > 0 { Role::Warn } else { Role::Text }),
        (taken_back, Role::Text),
        (notes, Role::Dim),
    ] {
        lines.extend(texts.iter().flat_map(|text| page::paragraph(theme, role, text, 0, columns)));
    }
    draw(buffer, area, &lines);
}

/// Bytes that are free in the guest and still held by the host.
fn held(cross: &CrossTable) -> u64 {
    cross.sum(|claim, _| claim == GuestClaim::Free).resident_bytes()
}

/// The headline, the longest form first.
fn headline(subject: &Subject, theme: Theme) -> Vec<String> {
    let held = held(&subject.cross);
    if subject.vms == 0 {
        return vec!["no KVM guest runs on this host".to_owned(), "no guest".to_owned()];
    }
    if subject.cross.total().blocks == 0 {
        return vec!["no block is followed yet".to_owned(), "no block yet".to_owned()];
    }
    if subject.telling == 0 && held == 0 {
        return vec![
            "what is free in the guest is not known: no guest module is attached".to_owned(),
            "free in the guest: not known, no module".to_owned(),
            "free: not known".to_owned(),
        ];
    }
    if held == 0 {
        return vec![
            "nothing that is free in the guest is held by the host".to_owned(),
            "no free guest memory is held".to_owned(),
            "free, held: 0".to_owned(),
        ];
    }
    let mark = grid::MARK;
    let amount = format!("{} ({})", format::bytes(held), grid::share(held, subject.ram));
    let silent = match subject.vms - subject.telling {
        0 => String::new(),
        silent if subject.vms > 1 => format!("{}no word from {silent} of {} VMs", theme.dot(), subject.vms),
        _ => String::new(),
    };
    vec![
        format!("{mark} {amount} is free in the guest and still held by the host{silent}"),
        format!("{mark} {amount} is free in the guest and still held by the host"),
        format!("{mark} {amount} free in the guest, held by the host"),
        format!("{mark} {amount} free, still held"),
        format!("{mark} {amount} free, held"),
        format!("{mark}{}", format::bytes_short(held)),
    ]
}

fn came_again(subject: &Subject) -> Vec<String> {
    if subject.reclaimed == 0 {
        return vec!["nothing was taken back since the start".to_owned()];
    }
    let (taken, again) = (format::bytes(subject.reclaimed), format::bytes(subject.refaulted));
    vec![
        format!("{taken} was taken back since the start; {again} of it came again"),
        format!("{taken} taken back, {again} came again"),
    ]
}

fn notes_of(subject: &Subject) -> Vec<String> {
    let total = subject.cross.total();
    let mut notes = vec![
        "A cell: guest memory in blocks (2 MiB) of that claim and that fact; its share of the RAM; held: what the \
         host has behind it now, swap and shared pages not counted."
            .to_owned(),
    ];
    if total.swapped_frames + total.merged_frames > 0 {
        notes.push(format!(
            "Besides, in swap: {}; shared with equal pages (KSM): {}.",
            format::bytes(total.swapped_bytes()),
            format::bytes(total.merged_bytes())
        ));
    }
    notes
}

/// The first text that fits into so many lines; the last where none does.
fn choose(texts: &[String], columns: usize, rows: usize) -> Vec<String> {
    let broken = texts.iter().map(|text| page::words(text, columns));
    let mut last = Vec::new();
    for lines in broken {
        if lines.len() <= rows {
            return lines;
        }
        last = lines;
    }
    last.truncate(rows.max(1));
    last
}
