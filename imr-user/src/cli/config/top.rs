//! The section `[top]`: how imr-top looks and what its keys do.
//!
//! Input: the section as it is written, with the place of each value. Output: [`TopSection`], or the first fault and
//! its place.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use super::Fault;
use crate::cli::duration;
use crate::cli::top::{ColorWhen, DELAY_LEAST, DELAY_MOST};
use crate::view::columns::{COLUMNS, Column};
use crate::view::keys::{Key, KeyMap};
use crate::view::tabs::View;
use crate::view::theme::{Palette, Symbols};
use crate::view::verb::{VERBS, Verb};

/// What imr-top is told by a file, and what is built in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopSection {
    /// Time between two samples.
    pub delay: Duration,
    /// Columns of the table of VMs.
    pub columns: Vec<Column>,
    /// What VMs are sorted by; none: in order of discovery.
    pub sort: Option<Column>,
    /// The other way round.
    pub reverse: bool,
    /// When to use colours.
    pub colors: ColorWhen,
    /// Which colours; none: those that the terminal seems to have.
    pub palette: Option<Palette>,
    /// Which characters; none: those of the locale.
    pub symbols: Option<Symbols>,
    /// The first view.
    pub view: View,
    /// Listen to the mouse.
    pub mouse: bool,
    /// Keys.
    pub keys: KeyMap,
}

impl Default for TopSection {
    fn default() -> Self {
        Self {
            delay: Duration::from_secs(1),
            columns: Column::DEFAULT.to_vec(),
            sort: None,
            reverse: false,
            colors: ColorWhen::Auto,
            palette: None,
            symbols: None,
            view: View::Vms,
            mouse: true,
            keys: KeyMap::default(),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTop {
    delay: Option<Spanned<String>>,
    columns: Option<Spanned<Vec<Spanned<String>>>>,
    sort: Option<Spanned<String>>,
    reverse: Option<bool>,
    colors: Option<Spanned<String>>,
    palette: Option<Spanned<String>>,
    symbols: Option<Spanned<String>>,
    view: Option<Spanned<String>>,
    mouse: Option<bool>,
    keys: BTreeMap<Spanned<String>, Spanned<Vec<Spanned<String>>>>,
}

/// The words for a value, and what they mean.
pub(super) type Words<T> = &'static [(&'static str, T)];

pub(super) const COLORS: Words<ColorWhen> =
    &[("auto", ColorWhen::Auto), ("always", ColorWhen::Always), ("never", ColorWhen::Never)];
pub(super) const PALETTES: Words<Option<Palette>> = &[
    ("auto", None),
    ("mono", Some(Palette::Mono)),
    ("16", Some(Palette::Ansi16)),
    ("256", Some(Palette::Indexed256)),
];
pub(super) const SYMBOLS: Words<Option<Symbols>> =
    &[("auto", None), ("unicode", Some(Symbols::Unicode)), ("ascii", Some(Symbols::Ascii))];
/// The word for VMs in order of discovery.
pub(super) const FOUND: &str = "found";

impl RawTop {
    pub(super) fn check(self) -> Result<TopSection, Fault> {
        let built_in = TopSection::default();
        Ok(TopSection {
            delay: self.delay.map_or(Ok(built_in.delay), |text| delay(&text))?,
            columns: self.columns.map_or(Ok(built_in.columns), |names| columns(&names))?,
            sort: self.sort.map_or(Ok(built_in.sort), |name| sort(&name))?,
            reverse: self.reverse.unwrap_or(built_in.reverse),
            colors: self.colors.map_or(Ok(built_in.colors), |text| word("colors", COLORS, &text))?,
            palette: self.palette.map_or(Ok(built_in.palette), |text| word("palette", PALETTES, &text))?,
            symbols: self.symbols.map_or(Ok(built_in.symbols), |text| word("symbols", SYMBOLS, &text))?,
            view: self.view.map_or(Ok(built_in.view), |name| view(&name))?,
            mouse: self.mouse.unwrap_or(built_in.mouse),
            keys: keys(&self.keys)?,
        })
    }
}

pub(super) fn fault<T>(at: &Spanned<T>, what: String) -> Fault {
    Fault { span: at.span(), what }
}

fn delay(text: &Spanned<String>) -> Result<Duration, Fault> {
    let delay = duration::parse(text.get_ref()).map_err(|wrong| fault(text, format!("delay: {wrong}")))?;
    if !(DELAY_LEAST..=DELAY_MOST).contains(&delay) {
        return Err(fault(text, format!("delay: {:?} is not between 100ms and 60m", text.get_ref())));
    }
    Ok(delay)
}

pub(super) fn word<T: Copy>(name: &str, words: Words<T>, text: &Spanned<String>) -> Result<T, Fault> {
    let found = words.iter().find(|(word, _)| word == text.get_ref());
    let allowed = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    found.map(|(_, value)| *value).ok_or_else(|| {
        fault(text, format!("{name}: {:?} is not one of the allowed: {}", text.get_ref(), allowed()))
    })
}

fn column(name: &Spanned<String>, also: &str) -> Result<Column, Fault> {
    Column::named(name.get_ref()).ok_or_else(|| {
        let known: Vec<&str> = COLUMNS.iter().map(|entry| entry.name).collect();
        fault(name, format!("unknown column {:?}; allowed: {also}{}", name.get_ref(), known.join(", ")))
    })
}

fn columns(names: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<Column>, Fault> {
    let mut columns = Vec::new();
    for name in names.get_ref() {
        let column = column(name, "")?;
        if columns.contains(&column) {
            return Err(fault(name, format!("column {:?} twice", name.get_ref())));
        }
        columns.push(column);
    }
    if columns.is_empty() {
        return Err(fault(names, "columns: at least one is needed".to_owned()));
    }
    Ok(columns)
}

fn sort(name: &Spanned<String>) -> Result<Option<Column>, Fault> {
    if name.get_ref() == FOUND {
        return Ok(None);
    }
    column(name, "found, ").map(Some)
}

fn view(name: &Spanned<String>) -> Result<View, Fault> {
    View::named(name.get_ref()).ok_or_else(|| {
        let known = View::ALL.map(View::name).join(", ");
        fault(name, format!("view: {:?} is not one of the allowed: {known}", name.get_ref()))
    })
}

fn keys(raw: &BTreeMap<Spanned<String>, Spanned<Vec<Spanned<String>>>>) -> Result<KeyMap, Fault> {
    let mut changed: Vec<(Verb, Vec<Key>)> = Vec::new();
    let mut places = Vec::new();
    for (name, keys) in raw {
        let verb = Verb::named(name.get_ref()).ok_or_else(|| {
            let known: Vec<&str> = VERBS.iter().map(|entry| entry.name).collect();
            fault(name, format!("unknown action {:?}; allowed: {}", name.get_ref(), known.join(", ")))
        })?;
        if verb == Verb::Quit && keys.get_ref().is_empty() {
            return Err(fault(keys, "quit needs at least one key".to_owned()));
        }
        let mut read = Vec::new();
        for key in keys.get_ref() {
            let parsed: Key = key.get_ref().parse().map_err(|wrong| fault(key, wrong))?;
            places.push((parsed, verb, key.span()));
            read.push(parsed);
        }
        changed.push((verb, read));
    }
    KeyMap::with(&changed).map_err(|clash| {
        let (first, second) = (clash.first.entry().name, clash.second.entry().name);
        let found = places.iter().find(|(key, verb, _)| (*key, *verb) == (clash.key, clash.second));
        Fault {
            span: found.map_or(0..0, |(_, _, span)| span.clone()),
            what: format!(
                "key {:?} for two actions: {first} has it, and {second}; give {first} other keys as well",
                clash.key.to_string()
            ),
        }
    })
}
