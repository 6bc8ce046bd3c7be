//! The section `[run]`: what `imr run` and imr-top do with memory.
//!
//! Input: the section as it is written, with the place of each value. Output: [`RunSection`], or the first fault and its
//! place.

use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::Fault;
use super::top::{Words, fault, word};
use crate::cli::{duration, size};
use crate::model::snapshot::PolicyName;
use crate::pipeline::ctl::{DEFAULT_PATH, Listen};
use crate::pipeline::settings::{Amount, CompactSettings, RATE_LEAST, Settings};
use crate::pipeline::{Allowed, Config};

/// The longest time of a setting: what is longer was a slip of the pen.
const LONGEST: Duration = Duration::from_secs(86_400);

/// What is done with memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunSection {
    /// What is done with offers.
    pub policy: PolicyName,
    /// Take private memory by running calls inside the VMM.
    pub inject: bool,
    /// Push idle memory of guests without the module out to swap.
    pub pageout: bool,
    /// Take nothing, and say what would be taken.
    pub dry_run: bool,
    /// Where to listen for `imr ctl`.
    pub ctl: Listen,
    /// When guests are asked to compact.
    pub compact: CompactSettings,
    /// What policy pressure goes by.
    pub pressure: Settings,
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            policy: PolicyName::Immediate,
            inject: false,
            pageout: false,
            dry_run: false,
            ctl: Listen::default(),
            compact: CompactSettings::default(),
            pressure: Settings::default(),
        }
    }
}

impl From<RunSection> for Config {
    fn from(run: RunSection) -> Self {
        let RunSection { policy, inject, pageout, dry_run, compact, pressure, ctl: _ } = run;
        Self { policy, allowed: Allowed { inject, dry_run }, pageout, compact, pressure, ..Self::default() }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRun {
    policy: Option<Spanned<String>>,
    inject: Option<bool>,
    pageout: Option<bool>,
    dry_run: Option<bool>,
    ctl: Option<Spanned<String>>,
    compact_over: Option<Spanned<String>>,
    compact_every: Option<Spanned<String>>,
    psi_above: Option<Spanned<String>>,
    psi_below: Option<Spanned<String>>,
    available_low: Option<Spanned<String>>,
    available_high: Option<Spanned<String>>,
    floor: Option<Spanned<String>>,
    rate: Option<Spanned<String>>,
    regret_limit: Option<Spanned<String>>,
    regret_within: Option<Spanned<String>>,
    left_alone: Option<Spanned<String>>,
}

/// `compact_over`: never.
pub(super) const NEVER: &str = "off";

pub(super) const POLICIES: Words<PolicyName> = &[
    ("observe", PolicyName::Observe),
    ("immediate", PolicyName::Immediate),
    ("pressure", PolicyName::Pressure),
];

impl RawRun {
    pub(super) fn check(self) -> Result<RunSection, Fault> {
        let built_in = RunSection::default();
        let was = built_in.pressure;
        let psi_above = read("psi_above", self.psi_above.as_ref(), was.psi_above, size::percent)?;
        let psi_below = read("psi_below", self.psi_below.as_ref(), was.psi_below, size::percent)?;
        if let Some(place) = self.psi_below.as_ref().or(self.psi_above.as_ref())
            && psi_below > psi_above
        {
            return Err(fault(place, format!("psi_below ({psi_below}) is over psi_above ({psi_above})")));
        }
        let low = read("available_low", self.available_low.as_ref(), was.available_low, size::amount)?;
        let high = read("available_high", self.available_high.as_ref(), was.available_high, size::amount)?;
        if let Some(place) = self.available_high.as_ref().or(self.available_low.as_ref()) {
            marks(place, low, high)?;
        }
        let pressure = Settings {
            psi_above,
            psi_below,
            available_low: low,
            available_high: high,
            floor: read("floor", self.floor.as_ref(), was.floor, size::amount)?,
            rate: read("rate", self.rate.as_ref(), was.rate, rate)?,
            regret_limit: read("regret_limit", self.regret_limit.as_ref(), was.regret_limit, size::percent)?,
            regret_within: read("regret_within", self.regret_within.as_ref(), was.regret_within, time)?,
            left_alone: read("left_alone", self.left_alone.as_ref(), was.left_alone, time)?,
        };
        let was = built_in.compact;
        let compact = CompactSettings {
            over: read("compact_over", self.compact_over.as_ref(), was.over, over)?,
            every: read("compact_every", self.compact_every.as_ref(), was.every, time)?,
        };
        Ok(RunSection {
            policy: self.policy.map_or(Ok(built_in.policy), |text| word("policy", POLICIES, &text))?,
            inject: self.inject.unwrap_or(built_in.inject),
            pageout: self.pageout.unwrap_or(built_in.pageout),
            dry_run: self.dry_run.unwrap_or(built_in.dry_run),
            ctl: read("ctl", self.ctl.as_ref(), built_in.ctl, listen)?,
            compact,
            pressure,
        })
    }
}

fn read<T>(
    name: &str,
    text: Option<&Spanned<String>>,
    built_in: T,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<T, Fault> {
    text.map_or(Ok(built_in), |text| {
        parse(text.get_ref()).map_err(|wrong| fault(text, format!("{name}: {wrong}")))
    })
}

/// Marks that can be compared without knowing the machine must be the right way round.
fn marks(place: &Spanned<String>, low: Amount, high: Amount) -> Result<(), Fault> {
    let wrong = match (low, high) {
        (Amount::Bytes(low), Amount::Bytes(high)) => low > high,
        (Amount::Share(low), Amount::Share(high)) => low > high,
        _ => false,
    };
    if wrong {
        let (low, high) = (size::write_amount(low), size::write_amount(high));
        return Err(fault(place, format!("available_low ({low}) is over available_high ({high})")));
    }
    Ok(())
}

/// The path that is built in is none that somebody asked for.
fn listen(text: &str) -> Result<Listen, String> {
    if text == DEFAULT_PATH { Ok(Listen::Default) } else { Listen::parse(text) }
}

/// An amount, or never.
fn over(text: &str) -> Result<Option<Amount>, String> {
    if text.trim() == NEVER { Ok(None) } else { size::amount(text).map(Some) }
}

fn rate(text: &str) -> Result<u64, String> {
    let bytes = size::bytes(text.trim().strip_suffix("/s").unwrap_or(text))?;
    if bytes < RATE_LEAST {
        let least = size::write_bytes(RATE_LEAST);
        return Err(format!("{text:?} is less than {least}, the size of what guests offer at once"));
    }
    Ok(bytes)
}

fn time(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text)?;
    if !(Duration::from_secs(1)..=LONGEST).contains(&time) {
        return Err(format!("{text:?} is not between 1s and 24h"));
    }
    Ok(time)
}
