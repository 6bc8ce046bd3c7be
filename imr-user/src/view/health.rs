//! The view "events and health": whether anything is lost, missing or misused, and every number behind that.
//!
//! Input: a snapshot. Output: cells; one line that says how it stands, then what is wrong, the worst first, then all of it.

mod findings;
mod parts;
#[cfg(test)]
mod tests;

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use self::findings::{Finding, Severity, findings};
use super::context::{Action, Context, Response};
use super::layout::{Piece, draw, fit};
use super::page::{self, Scroll};
use super::theme::{Role, Theme};

/// Rows from which the parts are set apart.
const ROOMY: u16 = 24;

/// Its state.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthState {
    scroll: Scroll,
}

/// A page with its parts.
struct Page {
    verdict: Line<'static>,
    lines: Vec<Line<'static>>,
    /// Where parts begin.
    parts: Vec<usize>,
}

pub(crate) fn paint(state: &HealthState, context: &Context<'_>, buffer: &mut Buffer, area: Rect) {
    if area.is_empty() {
        return;
    }
    let page = page(state.scroll, context, area);
    let rows = rows(area);
    let first = state.scroll.first(page.lines.len(), rows);
    let mut lines = vec![page.verdict];
    lines.extend(page.lines.into_iter().skip(first).take(rows));
    draw(buffer, area, &lines);
}

pub(crate) fn act(state: &mut HealthState, action: Action, context: &Context<'_>, area: Rect) -> Response {
    let page = page(state.scroll, context, area);
    let (len, rows) = (page.lines.len(), rows(area));
    let first = state.scroll.first(len, rows);
    let to = match action {
        Action::Next => page.parts.iter().find(|part| **part > first),
        Action::Previous => page.parts.iter().rfind(|part| **part < first),
        _ if state.scroll.act(action, len, rows) => return Response::Done,
        _ => return Response::Ignored,
    };
    if let Some(to) = to {
        state.scroll.to(*to);
    }
    Response::Done
}

/// Rows of what scrolls: all but the verdict.
fn rows(area: Rect) -> usize {
    usize::from(area.height).saturating_sub(1)
}

fn page(scroll: Scroll, context: &Context<'_>, area: Rect) -> Page {
    let theme = context.theme;
    let columns = usize::from(area.width);
    let found = findings(context.snapshot, theme);
    let mut lines = Vec::new();
    for finding in &found {
        lines.extend(finding_lines(theme, finding, columns));
    }
    let mut parts = vec![0];
    for part in parts::all(context, columns) {
        if area.height >= ROOMY && !lines.is_empty() {
            lines.push(Line::default());
        }
        parts.push(lines.len());
        lines.extend(part);
    }
    let position = scroll.position(lines.len(), rows(area));
    Page { verdict: verdict(theme, &found, context, position, columns), lines, parts }
}

/// How it stands, in one line.
fn verdict(
    theme: Theme,
    found: &[Finding],
    context: &Context<'_>,
    position: String,
    columns: usize,
) -> Line<'static> {
    let count = |severity: Severity| found.iter().filter(|finding| finding.severity == severity).count();
    let (bad, warn) = (count(Severity::Bad), count(Severity::Warn));
    let dim = theme.style(Role::Dim);
    let mut pieces = Vec::new();
    if context.snapshot.sequence == 0 {
        pieces.push(Piece::new(99, vec![Span::styled("nothing is known yet", dim)]));
    } else if bad + warn == 0 {
        let text = "All is well";
        pieces.push(Piece::new(99, vec![Span::styled(text, theme.style(Role::Good))]));
        let why = "nothing lost, every probe in its place";
        pieces.push(Piece::new(50, vec![Span::raw(why)]));
    } else {
        let text = |count: usize, what: &str| match count {
            1 => format!("1 {what}"),
            many => format!("{many} {what}s"),
        };
        if bad > 0 {
            let text = format!(" {} ", text(bad, "failure"));
            pieces.push(Piece::new(99, vec![Span::styled(text, theme.style(Role::Bad))]));
        }
        if warn > 0 {
            let text = text(warn, "warning");
            pieces.push(Piece::new(98, vec![Span::styled(text, theme.style(Role::Warn))]));
        }
    }
    if !position.is_empty() {
        pieces.push(Piece::new(60, vec![Span::styled(position, dim)]));
    }
    fit(pieces, columns, "  ")
}

fn finding_lines(theme: Theme, finding: &Finding, columns: usize) -> Vec<Line<'static>> {
    let (word, role) = match finding.severity {
        Severity::Bad => ("FAIL ", Role::Bad),
        Severity::Warn => ("WARN ", Role::Warn),
        Severity::Note => ("note ", Role::Dim),
    };
    // Where words have no room the first letter has to do.
    let word = if columns >= 30 { word } else { &word[..1] };
    let word_columns = word.len().max(2);
    let text = page::paragraph(theme, Role::Text, &finding.text, 0, columns.saturating_sub(word_columns));
    let lines = text.into_iter().enumerate().map(|(at, mut line)| {
        let before = if at == 0 { word.trim_end() } else { "" };
        let gap = " ".repeat(word_columns - before.len());
        line.spans.splice(0..0, [Span::styled(before.to_owned(), theme.style(role)), Span::raw(gap)]);
        line
    });
    lines.collect()
}
