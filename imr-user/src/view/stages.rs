//! The view "latencies of each stage".

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::context::{Action, Context, Response};
use super::layout::draw;

/// Its state.
#[derive(Debug, Clone, Default)]
pub(crate) struct StagesState {}

pub(crate) fn paint(_state: &StagesState, _context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    draw(buffer, area, &[Line::from("latencies of each stage")]);
}

pub(crate) fn act(
    _state: &mut StagesState,
    _action: Action,
    _context: &Context<'_>,
    _area: Rect,
) -> Response {
    Response::Ignored
}
