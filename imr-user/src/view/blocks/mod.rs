//! The view "blocks of a VM".

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::context::{Action, Context, Response};
use super::layout::draw;

/// Its state.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlocksState {}

pub(crate) fn paint(_state: &BlocksState, _context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    draw(buffer, area, &[Line::from("blocks")]);
}

pub(crate) fn act(
    _state: &mut BlocksState,
    _action: Action,
    _context: &Context<'_>,
    _area: Rect,
) -> Response {
    Response::Ignored
}
