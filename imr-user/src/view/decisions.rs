//! The newest lines of the decision log: what was decided, and why, refusals included.
//!
//! Input: a snapshot and the room there is. Output: lines, the newest last.

use ratatui::text::{Line, Span};

use super::format;
use super::layout::rule;
use super::theme::{Role, Theme};
use crate::model::decision::{Decision, DecisionKind};
use crate::model::ids::VmId;
use crate::model::snapshot::Snapshot;

/// The newest decisions in at most `rows` lines, the title included; only those about `vm` where one is given.
pub(crate) fn lines(
    theme: Theme,
    snapshot: &Snapshot,
    vm: Option<VmId>,
    columns: usize,
    rows: usize,
) -> Vec<Line<'static>> {
    let title = Span::styled("newest decisions", theme.style(Role::Title));
    let mut lines = vec![rule(theme, vec![title], columns)];
    let mut newest: Vec<&Decision> = snapshot
        .decisions
        .iter()
        .rev()
        .filter(|decision| vm.is_none_or(|id| decision.vm == id))
        .take(rows.saturating_sub(1))
        .collect();
    newest.reverse();
    if newest.is_empty() {
        let text = "none yet: a decision follows each offer of a guest";
        lines.push(Line::from(Span::styled(text, theme.style(Role::Dim))));
    }
    lines.extend(newest.into_iter().map(|decision| line(theme, snapshot, decision, columns)));
    lines
}

/// Name of a decision, as shown.
pub(crate) fn name(kind: DecisionKind) -> &'static str {
    match kind {
        DecisionKind::Attached => "attached",
        DecisionKind::Detached => "detached",
        DecisionKind::Reclaimed => "reclaimed",
        DecisionKind::Kept => "kept",
        DecisionKind::PagedOut => "paged out",
        DecisionKind::Refused => "refused",
        DecisionKind::Abandoned => "abandoned",
        DecisionKind::Operator => "operator",
        DecisionKind::Pressure => "pressure",
        DecisionKind::Asked => "asked",
        DecisionKind::LeftAlone => "alone",
    }
}

/// Every kind, in the order in which kinds are summed up.
pub(crate) const KINDS: [DecisionKind; 11] = [
    DecisionKind::Reclaimed,
    DecisionKind::Kept,
    DecisionKind::PagedOut,
    DecisionKind::Refused,
    DecisionKind::Abandoned,
    DecisionKind::Attached,
    DecisionKind::Detached,
    DecisionKind::Operator,
    DecisionKind::Pressure,
    DecisionKind::Asked,
    DecisionKind::LeftAlone,
];

/// What a decision looks like.
pub(crate) fn role(kind: DecisionKind) -> Role {
    match kind {
        DecisionKind::Reclaimed | DecisionKind::PagedOut | DecisionKind::Attached => Role::Good,
        DecisionKind::Kept | DecisionKind::Operator | DecisionKind::Asked => Role::Text,
        DecisionKind::Refused | DecisionKind::Abandoned | DecisionKind::Detached => Role::Warn,
        DecisionKind::Pressure | DecisionKind::LeftAlone => Role::Warn,
    }
}

/// Name of the VM a decision is about; its pid where it has left the table.
pub(crate) fn vm_name(snapshot: &Snapshot, decision: &Decision) -> String {
    if decision.vm == VmId::HOST {
        return "host".to_owned();
    }
    match snapshot.vms.iter().find(|vm| vm.id == decision.vm) {
        Some(vm) => vm.name.clone(),
        None => format!("pid {}", decision.pid),
    }
}

fn line(theme: Theme, snapshot: &Snapshot, decision: &Decision, columns: usize) -> Line<'static> {
    let vm = format::printable(&vm_name(snapshot, decision), theme.ascii());
    let amount = if decision.bytes > 0 { format::bytes_short(decision.bytes) } else { String::new() };
    let mut spans = vec![
        Span::styled(format!("{} ", format::clock_utc(decision.unix_ms)), theme.style(Role::Dim)),
        Span::raw(format!("{} ", format::left(&vm, 10, theme.ellipsis()))),
        Span::styled(format!("{:<9} ", name(decision.kind)), theme.style(role(decision.kind))),
        Span::raw(format!("{amount:>5} ")),
    ];
    let mut why = String::new();
    if decision.offer_seq > 0 {
        why.push_str(&format!("offer {}: ", decision.offer_seq));
    }
    why.push_str(&format::printable(&decision.why, theme.ascii()));
    let taken: usize = spans.iter().map(Span::width).sum();
    spans.push(Span::raw(format::cut(&why, columns.saturating_sub(taken), theme.ellipsis())));
    Line::from(spans)
}
