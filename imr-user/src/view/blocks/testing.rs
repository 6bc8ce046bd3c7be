//! A synthetic VM in which every fact occurs, and a stage on which the view can be played.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::{BlocksState, act, paint};
use crate::model::block::{BlockState, GuestClaim, HostFact};
use crate::model::ids::{BlockId, Gfn, VmId};
use crate::model::life::LifeStep;
use crate::model::snapshot::{BlockDetail, SlotSnapshot, Snapshot, VmSnapshot};
use crate::view::context::{Action, Context, Response};
use crate::view::history::History;
use crate::view::testing::{block, cross_of, slot, snapshot, vm};
use crate::view::theme::{Palette, Symbols, Theme};

/// `count` blocks that pass through every state, in stretches.
pub(crate) fn every_state(count: usize) -> Vec<BlockState> {
    use GuestClaim::{Free, InUse, Unknown};
    let swapped = BlockState { swapped_frames: 400, ..block(Unknown, HostFact::Swapped, 112) };
    let merged = BlockState { merged_frames: 500, ..block(InUse, HostFact::Merged, 12) };
    (0..count)
        .map(|index| match index * 100 / count {
            0..14 => block(Unknown, HostFact::Resident2m, 512),
            14..28 => block(Unknown, HostFact::Resident4k, 512),
            28..34 => block(InUse, HostFact::Resident4k, 99),
            34..42 => block(Unknown, HostFact::Idle, 480),
            42..48 => swapped,
            48..54 => merged,
            54..62 => block(Free, HostFact::Resident2m, 512),
            62..80 => block(Free, HostFact::Reclaimed, 0),
            80..86 => block(InUse, HostFact::Refaulted, 300),
            _ => block(Unknown, HostFact::Untouched, 0),
        })
        .collect()
}

/// A VM of `blocks` blocks below 4 GiB, the first in two slots, a hole, and a tenth of that on hugetlbfs above.
pub(crate) fn storied(id: u32, blocks: usize) -> VmSnapshot {
    let mut low = slot(0, 0, &[block(GuestClaim::Unknown, HostFact::Resident4k, 160)]);
    low.npages = 160;
    let mut states = every_state(blocks);
    states[0].resident_frames = 256;
    let mut main = slot(3, 0, &states);
    (main.base_gfn, main.npages) = (Gfn::new(256), main.npages - 256);
    let rom = slot(2, 2046, &[]);
    let above = (blocks as u64).max(2048);
    let mut high = slot(4, above + 64, &every_state((blocks / 10).max(1)));
    high.backing = "hugetlbfs 2 MiB".to_owned();
    with_slots(id, vec![low, rom, main, high])
}

/// A VM with these slots.
pub(crate) fn with_slots(id: u32, slots: Vec<SlotSnapshot>) -> VmSnapshot {
    VmSnapshot { cross: cross_of(&slots), slots, ..vm(id, "storied") }
}

/// What the model may know of a block.
pub(crate) fn detail(vm: VmId, block: BlockId) -> BlockDetail {
    let step = |ago_ms, claim, fact| LifeStep { ago_ms, claim, fact };
    BlockDetail {
        vm,
        block,
        slot: 3,
        frames: 512,
        state: BlockState::default(),
        life: vec![
            step(2_140, GuestClaim::InUse, HostFact::Refaulted),
            step(75_000, GuestClaim::Free, HostFact::Reclaimed),
            step(75_100, GuestClaim::Free, HostFact::Resident2m),
            step(7_200_000, GuestClaim::Unknown, HostFact::Resident2m),
        ],
    }
}

/// The view with all that it needs.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) snapshot: Snapshot,
    pub(crate) selected: usize,
    pub(crate) detail: Option<BlockDetail>,
    pub(crate) theme: Theme,
    pub(crate) area: Rect,
    pub(crate) state: BlocksState,
    history: History,
}

impl Stage {
    pub(crate) fn new(vm: VmSnapshot, columns: u16, rows: u16) -> Self {
        Self {
            snapshot: snapshot(vec![vm]),
            selected: 0,
            detail: None,
            theme: Theme { palette: Palette::Mono, symbols: Symbols::Unicode },
            area: Rect::new(0, 0, columns, rows),
            state: BlocksState::default(),
            history: History::default(),
        }
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context {
            theme: self.theme,
            snapshot: &self.snapshot,
            vm: self.snapshot.vms.get(self.selected),
            history: &self.history,
            detail: self.detail.as_ref(),
        }
    }

    /// Does this, and answers what the view asks for as the frame does.
    pub(crate) fn act(&mut self, action: Action) -> Response {
        let mut state = std::mem::take(&mut self.state);
        let response = act(&mut state, action, &self.context(), self.area);
        self.state = state;
        if let Response::Inspect(vm, block) = response {
            self.detail = Some(detail(vm, block));
        }
        response
    }

    /// The cell on the screen.
    pub(crate) fn buffer(&self) -> Buffer {
        let mut buffer = Buffer::empty(self.area);
        paint(&self.state, &self.context(), &mut buffer, self.area);
        buffer
    }

    /// The screen as text, a line a row.
    pub(crate) fn screen(&self) -> String {
        let buffer = self.buffer();
        let row = |y| (self.area.left()..self.area.right()).map(move |x| (x, y));
        (self.area.top()..self.area.bottom())
            .map(|y| {
                let text: String = row(y).map(|at| buffer[at].symbol().to_owned()).collect();
                format!("|{}\n", text.trim_end())
            })
            .collect()
    }

    /// The number of the block under the cursor.
    pub(crate) fn block(&self) -> Option<u64> {
        super::inspect_target(&self.state, &self.context(), self.area).map(|(_, block)| block.get())
    }
}
