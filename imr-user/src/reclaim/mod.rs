//! Effects: gives the memory behind the ranges of a [`Plan`](crate::policy::plan::Plan) back to the host.
//!
//! Input: a plan and what is known of the VM ([`guards::VmFacts`]). Output: [`outcome::Outcome`], facts only.
//! Nothing here decides what should be reclaimed, writes a log line, looks at a clock or touches the guest's
//! control page. Order of a batch: [`guards`] -> [`backend`] opened -> [`executor`] calls -> measured.

pub mod backend;
pub mod by_mapping;
pub mod choose;
pub mod executor;
pub mod guards;
pub mod inject;
pub mod outcome;
pub mod pageout;
pub mod punch;
pub mod still_there;

#[cfg(test)]
mod testing;
