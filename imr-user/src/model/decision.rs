//! One line of the decision log: what was decided about a VM or an offer, and why.

use schemars::JsonSchema;
use serde::Serialize;

use super::ids::{Pid, VmId};

/// One decision, refusals included.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Decision {
    /// Wall-clock time, milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// The VM; 0: the host as a whole.
    pub vm: VmId,
    /// Its VMM process; 0: none.
    pub pid: Pid,
    /// What was decided.
    pub kind: DecisionKind,
    /// Name of the guard or the policy that decided, such as `private-mapping` or `policy-observe`; none for what
    /// the guest or the operator did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    /// Why, for people: one clause, no full stop.
    pub why: String,
    /// Offer it is about; 0: none.
    pub offer_seq: u64,
    /// Bytes it is about.
    pub bytes: u64,
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecisionKind {
    /// The guest module was accepted.
    Attached,
    /// The guest module left, or what it said counts for nothing any more.
    Detached,
    /// An offer was taken.
    Reclaimed,
    /// An offer was valid and left as it was.
    Kept,
    /// Idle memory was swapped out.
    PagedOut,
    /// Something the guest said was not acceptable.
    Refused,
    /// An offer was given back untouched.
    Abandoned,
    /// The operator changed what is done with this VM, or asked for its memory.
    Operator,
    /// The host became short of memory, or is so no more.
    Pressure,
    /// A guest is asked for free memory because the host is short of it, or no longer.
    Asked,
    /// A VM is left alone because what was taken from it came back too soon, or no longer.
    LeftAlone,
}
