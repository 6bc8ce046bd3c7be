//! The default configuration as a documented file, made from the same tables that files are checked against.

use std::fmt::Write;
use std::time::Duration;

use super::run::{NEVER, POLICIES};
use super::top::{COLORS, FOUND, PALETTES, SYMBOLS};
use super::{FileConfig, RunSection, TopSection};
use crate::cli::size;
use crate::pipeline::ctl::{DEFAULT_PATH, Listen, OFF};
use crate::view::columns::COLUMNS;
use crate::view::tabs::View;
use crate::view::verb::VERBS;

/// Every value as it is built in, with what it means. Reading it back changes nothing.
#[must_use]
pub fn default_text() -> String {
    text_of(&FileConfig::default())
}

/// The configuration as a file. Reading it back gives the same configuration.
#[must_use]
pub fn text_of(config: &FileConfig) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_run(&mut out, &config.run).and_then(|()| write(&mut out, &config.top));
    out
}

fn write_run(out: &mut String, run: &RunSection) -> std::fmt::Result {
    out.push_str(
        "# Configuration of IMR. Everything here is as it is built in: keep the lines to change, leave out the rest.\n\
         # Looked for in $XDG_CONFIG_HOME/imr/config.toml (or ~/.config/imr/config.toml), else /etc/imr/config.toml;\n\
         # `--config FILE` takes another. The command line wins. `imr config check` says what is wrong with it.\n\
         \n\
         [run]\n",
    );
    writeln!(
        out,
        "# What is done with what guests offer: observe (nothing), immediate (it is taken), or pressure: it is"
    )?;
    writeln!(out, "# taken, and guests are asked for it, only while the host is short of memory.")?;
    writeln!(out, "policy = \"{}\"", word(POLICIES, run.policy))?;
    writeln!(out, "# Take private guest memory, too, by running calls inside the VMM (ptrace).")?;
    writeln!(out, "inject = {}", run.inject)?;
    writeln!(out, "# Push idle memory of guests without the module out to the host's swap.")?;
    writeln!(out, "pageout = {}", run.pageout)?;
    writeln!(out, "# Take nothing, and say what would be taken.")?;
    writeln!(out, "dry_run = {}", run.dry_run)?;
    writeln!(
        out,
        "# The Unix socket to listen on for `imr ctl`; \"{OFF}\": none. Where another imr has the built-in one, this"
    )?;
    writeln!(out, "# one goes on without; any other path has to be had.")?;
    let ctl = match &run.ctl {
        Listen::Default => DEFAULT_PATH.to_owned(),
        Listen::At(path) => path.display().to_string(),
        Listen::Off => OFF.to_owned(),
    };
    writeln!(out, "ctl = {ctl:?}\n")?;
    let compact = &run.compact;
    writeln!(
        out,
        "# A guest is asked to compact when more of its free memory than this is stranded in blocks too small to offer:"
    )?;
    writeln!(out, "# a size, or a share of its RAM; \"{NEVER}\": never. And how often at most.")?;
    writeln!(out, "compact_over = \"{}\"", compact.over.map_or(NEVER.to_owned(), size::write_amount))?;
    writeln!(out, "compact_every = \"{}\"\n", delay(compact.every))?;
    let pressure = &run.pressure;
    writeln!(
        out,
        "# The rest is policy pressure's. The host is short of memory as soon as tasks wait for memory so much"
    )?;
    writeln!(out, "# of the time (PSI, some avg10), and no more when they wait at most so much.")?;
    writeln!(out, "psi_above = \"{}\"", size::write_percent(pressure.psi_above))?;
    writeln!(out, "psi_below = \"{}\"", size::write_percent(pressure.psi_below))?;
    writeln!(
        out,
        "# It is, too, as soon as MemAvailable is below the low mark, and no more from the high mark on:"
    )?;
    writeln!(out, "# a size such as 8G, or a share of MemTotal.")?;
    writeln!(out, "available_low = \"{}\"", size::write_amount(pressure.available_low))?;
    writeln!(out, "available_high = \"{}\"", size::write_amount(pressure.available_high))?;
    writeln!(out, "# Free memory that every guest keeps at hand: a size, or a share of its RAM.")?;
    writeln!(out, "floor = \"{}\"", size::write_amount(pressure.floor))?;
    writeln!(out, "# What is taken of one VM in a second at most.")?;
    writeln!(out, "rate = \"{}\"", size::write_bytes(pressure.rate))?;
    writeln!(
        out,
        "# A VM is left alone when more than this share of what was taken from it lately came back so soon,"
    )?;
    writeln!(out, "# for so long the first time, and twice as long each time soon after, up to 16 times.")?;
    writeln!(out, "regret_limit = \"{}\"", size::write_percent(pressure.regret_limit))?;
    writeln!(out, "regret_within = \"{}\"", delay(pressure.regret_within))?;
    writeln!(out, "left_alone = \"{}\"\n", delay(pressure.left_alone))
}

fn write(out: &mut String, top: &TopSection) -> std::fmt::Result {
    out.push_str("[top]\n");
    writeln!(out, "# Time between two samples, from 100ms to 60m.")?;
    writeln!(out, "delay = \"{}\"\n", delay(top.delay))?;
    writeln!(
        out,
        "# Columns of the table of VMs, from left to right. Where the screen is too narrow, some leave."
    )?;
    writeln!(out, "# There are:")?;
    for column in COLUMNS {
        writeln!(out, "#   {:<9} {}", column.name, column.text)?;
    }
    writeln!(out, "columns = [")?;
    for part in top.columns.chunks(8) {
        let names: Vec<String> = part.iter().map(|column| format!("\"{}\"", column.entry().name)).collect();
        writeln!(out, "  {},", names.join(", "))?;
    }
    writeln!(out, "]\n")?;
    writeln!(
        out,
        "# What VMs are sorted by: one of the columns, or \"{FOUND}\" for the order of discovery."
    )?;
    let sort = top.sort.map_or(FOUND, |column| column.entry().name);
    writeln!(out, "sort = \"{sort}\"")?;
    writeln!(out, "# Numbers start with the largest, names with the first; true: the other way round.")?;
    writeln!(out, "reverse = {}\n", top.reverse)?;
    writeln!(out, "# Colours: auto (as TERM, COLORTERM and NO_COLOR say), always or never.")?;
    writeln!(out, "colors = \"{}\"", word(COLORS, top.colors))?;
    writeln!(out, "# Which ones: auto (as many as the terminal seems to have), mono, 16 or 256.")?;
    writeln!(out, "palette = \"{}\"", word(PALETTES, top.palette))?;
    writeln!(out, "# Characters: auto (as the locale says), unicode or ascii.")?;
    writeln!(out, "symbols = \"{}\"\n", word(SYMBOLS, top.symbols))?;
    writeln!(out, "# The first view: {}.", View::ALL.map(View::name).join(", "))?;
    writeln!(out, "view = \"{}\"\n", top.view.name())?;
    writeln!(out, "# Listen to the mouse. Without it the terminal marks text as it always does.")?;
    writeln!(out, "mouse = {}\n", top.mouse)?;
    out.push_str(
        "# Keys of each action; an action that is named has these keys and no others, [] takes them all.\n\
         # A key is a character, F1 to F12, Space, Enter, Esc, Tab, BackTab, Backspace, Insert, Delete, Up, Down, Left,\n\
         # Right, PgUp, PgDn, Home or End, each also with Ctrl- or Alt- before it. No key can do two things.\n\
         [top.keys]\n",
    );
    for entry in VERBS {
        let keys: Vec<String> =
            top.keys.keys(entry.verb).iter().map(|key| format!("{:?}", key.to_string())).collect();
        writeln!(out, "# {}", entry.text)?;
        writeln!(out, "{} = [{}]", entry.name, keys.join(", "))?;
    }
    Ok(())
}

/// To the nanosecond: what people see elsewhere is rounded.
fn delay(value: Duration) -> String {
    let (ms, ns) = (value.as_millis(), value.subsec_nanos() % 1_000_000);
    match (ms % 1000, ns) {
        (0, 0) => format!("{}s", value.as_secs()),
        (_, 0) => format!("{ms}ms"),
        (_, ns) => format!("{ms}.{ns:06}ms"),
    }
}

fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    // Every value has its word; a test reads them all back.
    words.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
}
