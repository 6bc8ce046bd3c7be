//! The default configuration as a documented file, made from the same tables that files are checked against.

use std::fmt::Write;

use super::TopSection;
use super::top::{COLORS, FOUND, PALETTES, SYMBOLS};
use crate::view::columns::COLUMNS;
use crate::view::format;
use crate::view::tabs::View;
use crate::view::verb::VERBS;

/// Every value as it is built in, with what it means. Reading it back changes nothing.
#[must_use]
pub fn default_text() -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, &TopSection::default());
    out
}

fn write(out: &mut String, top: &TopSection) -> std::fmt::Result {
    out.push_str(
        "# Configuration of IMR. Everything here is as it is built in: keep the lines to change, leave out the rest.\n\
         # Looked for in $XDG_CONFIG_HOME/imr/config.toml (or ~/.config/imr/config.toml), else /etc/imr/config.toml;\n\
         # `imr-top --config FILE` takes another. The command line wins. `imr config check` says what is wrong with it.\n\
         \n\
         [top]\n",
    );
    writeln!(out, "# Time between two samples, from 100ms to 60m.")?;
    writeln!(out, "delay = \"{}\"\n", format::delay(top.delay))?;
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

fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    // Every value has its word; a test reads them all back.
    words.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
}
