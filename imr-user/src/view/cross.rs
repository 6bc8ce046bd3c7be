//! The view "guest x host cross table".

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::context::{Action, Context, Response};
use super::layout::draw;

/// Its state.
#[derive(Debug, Clone, Default)]
pub(crate) struct CrossState {}

pub(crate) fn paint(_state: &CrossState, _context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    draw(buffer, area, &[Line::from("guest x host cross table")]);
}

pub(crate) fn act(_state: &mut CrossState, _action: Action, _context: &Context<'_>, _area: Rect) -> Response {
    Response::Ignored
}
