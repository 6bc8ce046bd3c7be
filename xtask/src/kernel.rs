//! The Debian kernels the testbed and the guest module are built for.

use std::fmt;
use std::str::FromStr;

/// A Debian kernel line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum KernelLine {
    /// Debian 12's own.
    V6_1,
    /// From the release's backports.
    V6_12,
}

impl KernelLine {
    /// Every line, oldest first.
    pub(crate) const ALL: [Self; 2] = [Self::V6_1, Self::V6_12];

    /// The version as people type it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
        }
    }
}

impl fmt::Display for KernelLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for KernelLine {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|line| line.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not one of 6.1, 6.12"))
    }
}
