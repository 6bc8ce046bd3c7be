//! The view "decision log".

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::context::{Action, Context, Response};
use super::layout::draw;

/// Its state.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogState {}

pub(crate) fn paint(_state: &LogState, _context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    draw(buffer, area, &[Line::from("decision log")]);
}

pub(crate) fn act(_state: &mut LogState, _action: Action, _context: &Context<'_>, _area: Rect) -> Response {
    Response::Ignored
}
