//! The seven views, and the line that names them.
//!
//! Input: which is shown, and the width. Output: a line, and which view a click on it means.

use ratatui::text::{Line, Span};

use super::format;
use super::theme::{Role, Theme};

/// A view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// All VMs in a table, a preview of the selected one, the newest decisions.
    Vms,
    /// The blocks of the selected VM.
    Blocks,
    /// Guest claim x host fact.
    Cross,
    /// Memory over time.
    Timeline,
    /// Latency of each stage of an offer.
    Stages,
    /// The decision log.
    Decisions,
    /// Probes, lost events, drift.
    Health,
}

impl View {
    /// All, in the order of their digits.
    pub const ALL: [Self; 7] =
        [Self::Vms, Self::Blocks, Self::Cross, Self::Timeline, Self::Stages, Self::Decisions, Self::Health];

    /// Its name on the screen.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Vms => "VMs",
            Self::Blocks => "blocks",
            Self::Cross => "cross",
            Self::Timeline => "timeline",
            Self::Stages => "stages",
            Self::Decisions => "decisions",
            Self::Health => "health",
        }
    }

    /// Its name in the configuration file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vms => "vms",
            other => other.title(),
        }
    }

    /// The view of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|view| view.name() == name)
    }

    /// Its digit.
    pub(crate) const fn digit(self) -> usize {
        self as usize + 1
    }

    /// The view so many further, around the end.
    pub(crate) fn step(self, by: usize) -> Self {
        Self::ALL[(self as usize + by) % Self::ALL.len()]
    }
}

/// How much of each title there is room for.
#[derive(Debug, Clone, Copy)]
enum Fit {
    /// All of it.
    Full,
    /// So many letters; that of the view on the screen in full.
    Letters(usize),
    /// Only the digit; the view on the screen in full.
    Digits,
    /// Only the view on the screen.
    One,
}

/// The views by name, the one on the screen in brackets, in at most `columns`.
pub(crate) fn line(theme: Theme, current: View, columns: usize) -> Line<'static> {
    let spans = parts(current, columns).into_iter().map(|(view, text)| {
        let role = if view == current { Role::Heading } else { Role::Dim };
        Span::styled(text, theme.style(role))
    });
    Line::from(spans.collect::<Vec<_>>())
}

/// The view whose name is at this column of the line.
pub(crate) fn at(current: View, columns: usize, column: usize) -> Option<View> {
    let mut end = 0;
    parts(current, columns)
        .into_iter()
        .find(|(_, text)| {
            end += format::width(text);
            column < end
        })
        .map(|(view, _)| view)
}

fn parts(current: View, columns: usize) -> Vec<(View, String)> {
    let fits = [Fit::Full, Fit::Letters(5), Fit::Letters(3), Fit::Digits, Fit::One];
    let all = fits.map(|fit| texts(current, fit));
    let width = |parts: &[(View, String)]| parts.iter().map(|(_, text)| format::width(text)).sum::<usize>();
    let [.., one] = &all;
    all.iter().find(|parts| width(parts) <= columns).unwrap_or(one).clone()
}

fn texts(current: View, fit: Fit) -> Vec<(View, String)> {
    let text = |view: View| {
        let (digit, title) = (view.digit(), view.title());
        if view == current {
            return Some(format!("[{digit} {title}]"));
        }
        match fit {
            Fit::Full => Some(format!(" {digit} {title} ")),
            Fit::Letters(most) => Some(format!(" {digit} {} ", title.get(..most).unwrap_or(title))),
            Fit::Digits => Some(format!(" {digit} ")),
            Fit::One => None,
        }
    };
    View::ALL.into_iter().filter_map(|view| Some((view, text(view)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::THEME;

    #[test]
    fn titles_shrink_and_the_view_on_the_screen_is_always_named() {
        for view in View::ALL {
            assert_eq!(View::named(view.name()), Some(view));
            for columns in 0..120 {
                let line = line(THEME, view, columns);
                assert!(line.to_string().contains(view.title()), "{columns}: {line}");
                assert!(columns < 13 || line.width() <= columns, "{columns}: {line}");
            }
        }
        assert_eq!(
            line(THEME, View::Blocks, 80).to_string(),
            " 1 VMs [2 blocks] 3 cross  4 timeline  5 stages  6 decisions  7 health "
        );
        assert_eq!(line(THEME, View::Cross, 30).to_string(), " 1  2 [3 cross] 4  5  6  7 ");
    }

    #[test]
    fn a_click_means_the_title_under_it() {
        for (column, view) in
            [(0, Some(View::Vms)), (7, Some(View::Blocks)), (70, Some(View::Health)), (71, None)]
        {
            assert_eq!(at(View::Vms, 80, column), view, "{column}");
        }
        for columns in 0..100 {
            let shown = (0..columns).filter_map(|column| at(View::Vms, columns, column)).count();
            assert!(shown <= columns);
        }
    }
}
