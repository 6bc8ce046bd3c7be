//! What a machine must have to be measured, and lacks: an error of its own, because it ends with exit code 3.

use std::fmt;

/// Something that this machine lacks, and what to do about it.
#[derive(Debug)]
pub(crate) struct Missing(pub(crate) String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a prerequisite is missing: {}", self.0)
    }
}

impl std::error::Error for Missing {}
