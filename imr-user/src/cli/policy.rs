//! What is done with memory: the switches of `imr run` and `imr-top`, over the section `[run]` of the file.

use clap::{Args, ValueEnum};

use super::config::RunSection;
use crate::model::snapshot::PolicyName;

/// The switches. What is not given is as configured.
#[derive(Debug, Clone, Default, Args)]
pub struct PolicyArgs {
    /// What is done with offers [default: as configured, else immediate]
    #[arg(long, value_enum, value_name = "POLICY", conflicts_with = "observe")]
    policy: Option<PolicyWord>,

    /// Take nothing: answer every offer with "kept" (short for --policy observe)
    #[arg(long)]
    observe: bool,

    /// Take private guest memory, too, by running calls inside the VMM (--inject=false: not, whatever is configured)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    inject: Option<bool>,

    /// Push idle memory of guests without the module out to the host's swap (--pageout=false: not)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pageout: Option<bool>,

    /// Take nothing, and say what would be taken (--dry-run=false: not)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    dry_run: Option<bool>,
}

/// A policy on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PolicyWord {
    /// Take nothing: answer every offer with "kept"
    Observe,
    /// Take every offered range that no guard forbids, at once
    Immediate,
    /// Take, and ask guests, only while the host is short of memory
    Pressure,
}

impl PolicyArgs {
    /// The file's word, where these do not say otherwise.
    #[must_use]
    pub fn over(&self, file: RunSection) -> RunSection {
        let asked = match (self.policy, self.observe) {
            (_, true) | (Some(PolicyWord::Observe), _) => Some(PolicyName::Observe),
            (Some(PolicyWord::Immediate), _) => Some(PolicyName::Immediate),
            (Some(PolicyWord::Pressure), _) => Some(PolicyName::Pressure),
            (None, false) => None,
        };
        RunSection {
            policy: asked.unwrap_or(file.policy),
            inject: self.inject.unwrap_or(file.inject),
            pageout: self.pageout.unwrap_or(file.pageout),
            dry_run: self.dry_run.unwrap_or(file.dry_run),
            ctl: file.ctl,
            compact: file.compact,
            pressure: file.pressure,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        policy: PolicyArgs,
    }

    fn over(arguments: &str, file: &RunSection) -> Result<RunSection, String> {
        let words = std::iter::once("x").chain(arguments.split_whitespace());
        Ok(Words::try_parse_from(words).map_err(|error| error.to_string())?.policy.over(file.clone()))
    }

    #[test]
    fn the_command_line_wins() {
        let file = RunSection { policy: PolicyName::Pressure, inject: true, ..RunSection::default() };
        assert_eq!(over("", &file).as_ref(), Ok(&file));
        for policy in PolicyName::ALL {
            assert_eq!(over(&format!("--policy {}", policy.name()), &file).unwrap().policy, policy);
        }
        assert_eq!(over("--observe", &file).unwrap().policy, PolicyName::Observe);
        let all = over("--inject=false --pageout --dry-run", &file).unwrap();
        assert_eq!((all.inject, all.pageout, all.dry_run), (false, true, true));
        assert!(over("--observe --policy immediate", &file).unwrap_err().contains("cannot be used with"));
        assert!(over("--policy greedy", &file).unwrap_err().contains("observe, immediate, pressure"));
        assert!(over("--inject false", &file).is_err());
    }
}
