//! What every view is given, and what it may be told: the one contract between the frame around the views and each of
//! them.
//!
//! A view is a module with a state (`Default`, `Clone`), `paint(&state, &context, buffer, area)` and
//! `act(&mut state, action, &context, area) -> Response`. It performs nothing itself and reads no clock.

use ratatui::layout::Position;

use super::history::History;
use super::theme::Theme;
use crate::model::ids::{BlockId, VmId};
use crate::model::snapshot::{BlockDetail, Snapshot, VmSnapshot};

/// What a view may look at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Colours and symbols.
    pub(crate) theme: Theme,
    /// The picture on the screen.
    pub(crate) snapshot: &'a Snapshot,
    /// The selected VM, where there is one.
    pub(crate) vm: Option<&'a VmSnapshot>,
    /// Earlier samples.
    pub(crate) history: &'a History,
    /// The newest answer to [`Response::Inspect`], perhaps of another block than the cursor's.
    pub(crate) detail: Option<&'a BlockDetail>,
}

/// What somebody wants a view to do, whatever key or button it came from. Positions are of the whole screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// One up, down, left or right.
    Up,
    /// See above.
    Down,
    /// See above.
    Left,
    /// See above.
    Right,
    /// A screenful up or down.
    PageUp,
    /// See above.
    PageDown,
    /// To the first or the last.
    Home,
    /// See above.
    End,
    /// Enter: in, or open.
    Enter,
    /// Closer, and farther.
    ZoomIn,
    /// See above.
    ZoomOut,
    /// To the next thing worth a look, and the one before.
    Next,
    /// See above.
    Previous,
    /// The left button, at this cell of the screen.
    Click(Position),
    /// The wheel, by so many rows; positive is down.
    Wheel(i16),
}

/// What became of an [`Action`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Response {
    /// The view has no use for it; the frame may have one.
    Ignored,
    /// The state has changed.
    Done,
    /// The state has changed, and the view wants to know all of this block.
    Inspect(VmId, BlockId),
}
