//! The view "events and health".

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::Line;

use super::context::{Action, Context, Response};
use super::layout::draw;

/// Its state.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthState {}

pub(crate) fn paint(_state: &HealthState, _context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    draw(buffer, area, &[Line::from("events and health")]);
}

pub(crate) fn act(
    _state: &mut HealthState,
    _action: Action,
    _context: &Context<'_>,
    _area: Rect,
) -> Response {
    Response::Ignored
}
