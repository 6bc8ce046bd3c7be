//! Files right and wrong.

use std::time::Duration;

use super::*;
use crate::cli::top::ColorWhen;
use crate::model::snapshot::PolicyName;
use crate::pipeline::ctl::Listen;
use crate::pipeline::settings::{Amount, CompactSettings, Percent, Settings};
use crate::view::columns::Column;
use crate::view::tabs::View;
use crate::view::theme::{Palette, Symbols};
use crate::view::verb::{VERBS, Verb};

fn parse(text: &str) -> Result<FileConfig, String> {
    FileConfig::parse(Path::new("/x/c.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn the_default_text_is_what_is_built_in() {
    let text = default_text();
    assert_eq!(parse(&text), Ok(FileConfig::default()));
    assert_eq!(parse(""), Ok(FileConfig::default()));
    assert_eq!(parse("[top]\n"), Ok(FileConfig::default()));
    for entry in VERBS {
        assert!(text.contains(&format!("\n# {}\n{} = [", entry.text, entry.name)), "{}", entry.name);
    }
    assert!(text.lines().all(|line| line.len() <= 120), "{text}");
    // Each value is read, not only skipped: changed, it makes a difference.
    let raw: toml::Table = toml::from_str(&text).unwrap();
    let top = raw["top"].as_table().unwrap();
    for name in
        ["delay", "columns", "sort", "reverse", "colors", "palette", "symbols", "view", "mouse", "keys"]
    {
        assert!(top.contains_key(name), "{name}");
    }
    assert_eq!(top.len(), 10);
    let run = raw["run"].as_table().unwrap();
    for name in [
        "policy",
        "inject",
        "pageout",
        "dry_run",
        "ctl",
        "psi_above",
        "psi_below",
        "available_low",
        "available_high",
    ] {
        assert!(run.contains_key(name), "{name}");
    }
    for name in
        ["floor", "rate", "regret_limit", "regret_within", "left_alone", "compact_over", "compact_every"]
    {
        assert!(run.contains_key(name), "{name}");
    }
    assert_eq!(run.len(), 16);
}

#[test]
fn every_value_is_taken() {
    let config = parse(
        "[top]\ndelay = \"250ms\"\ncolumns = [\"name\", \"freeheld\"]\nsort = \"freeheld\"\nreverse = true\n\
         colors = \"never\"\npalette = \"16\"\nsymbols = \"ascii\"\nview = \"cross\"\nmouse = false\n\
         [top.keys]\nquit = [\"Q\"]\npause = [\"p\", \"q\"]\nsave = []\n",
    )
    .unwrap()
    .top;
    assert_eq!(config.delay, Duration::from_millis(250));
    assert_eq!(config.columns, [Column::Name, Column::Freeheld]);
    assert_eq!((config.sort, config.reverse), (Some(Column::Freeheld), true));
    assert_eq!(config.colors, ColorWhen::Never);
    assert_eq!((config.palette, config.symbols), (Some(Palette::Ansi16), Some(Symbols::Ascii)));
    assert_eq!((config.view, config.mouse), (View::Cross, false));
    let does = |name: &str| config.keys.verb(name.parse().unwrap());
    assert_eq!((does("Q"), does("Ctrl-C"), does("q")), (Some(Verb::Quit), None, Some(Verb::Pause)));
    assert_eq!((does("w"), does("?")), (None, Some(Verb::Help)));
}

#[test]
fn every_value_of_run_is_taken() {
    let config = parse(
        "[run]\npolicy = \"pressure\"\ninject = true\npageout = true\ndry_run = true\n\
         compact_over = \"64M\"\ncompact_every = \"5m\"\npsi_above = \"30%\"\n\
         psi_below = \"3.5%\"\navailable_low = \"600M\"\navailable_high = \"20%\"\nfloor = \"64M\"\nrate = \"1G/s\"\n\
         regret_limit = \"50%\"\nregret_within = \"10s\"\nleft_alone = \"5m\"\n",
    )
    .unwrap()
    .run;
    assert_eq!(
        (config.policy, config.inject, config.pageout, config.dry_run),
        (PolicyName::Pressure, true, true, true)
    );
    let settings = Settings {
        psi_above: Percent::new(30.0),
        psi_below: Percent::new(3.5),
        available_low: Amount::Bytes(600 << 20),
        available_high: Amount::Share(Percent::new(20.0)),
        floor: Amount::Bytes(64 << 20),
        rate: 1 << 30,
        regret_limit: Percent::new(50.0),
        regret_within: Duration::from_secs(10),
        left_alone: Duration::from_secs(300),
    };
    assert_eq!(config.pressure, settings);
    let compact = CompactSettings { over: Some(Amount::Bytes(64 << 20)), every: Duration::from_secs(300) };
    assert_eq!(config.compact, compact);
    assert_eq!(parse("[run]\ncompact_over = \"off\"\n").unwrap().run.compact.over, None);
}

#[test]
fn what_is_wrong_is_said_with_its_line_and_what_is_allowed() {
    for (text, line, says) in [
        ("[top\n", 1, ""),
        ("[top]\ndelay = \n", 2, ""),
        ("\n[botom]\n", 2, "`run` or `top`"),
        ("[run]\npolicy = \"greedy\"\n", 2, "observe, immediate, pressure"),
        ("[run]\ninject = \"yes\"\n", 2, "boolean"),
        ("[run]\n\nflor = \"1G\"\n", 3, "`floor`"),
        ("[run]\nfloor = \"much\"\n", 2, "floor: \"much\" is no size; write one such as 512M"),
        ("[run]\ncompact_over = \"often\"\n", 2, "compact_over: \"often\" is no size"),
        ("[run]\nrate = \"1M\"\n", 2, "rate: \"1M\" is less than 4M"),
        ("[run]\npsi_above = \"200%\"\n", 2, "between 0% and 100%"),
        ("[run]\npsi_below = \"20%\"\n", 2, "psi_below (20 %) is over psi_above (10 %)"),
        ("[run]\n\navailable_low = \"20%\"\n", 3, "available_low (20%) is over available_high (15%)"),
        ("[run]\nleft_alone = \"0s\"\n", 2, "left_alone: \"0s\" is not between 1s and 24h"),
        ("[top]\nmouse = true\ncolour = \"auto\"\n", 3, "`colors`"),
        ("[top]\nmouse = 1\n", 2, "boolean"),
        ("[top]\ndelay = 5\n", 2, "string"),
        ("[top]\ndelay = \"soon\"\n", 2, "500ms"),
        ("[top]\ndelay = \"1ms\"\n", 2, "between 100ms and 60m"),
        ("[top]\ncolumns = [\n  \"name\",\n  \"size\",\n]\n", 4, "\"size\"; allowed: name, pid, ram"),
        ("[top]\ncolumns = [\"name\",\n\"name\"]\n", 3, "twice"),
        ("[top]\ncolumns = []\n", 2, "at least one"),
        ("[top]\nsort = \"size\"\n", 2, "allowed: found, name, pid"),
        ("[top]\ncolors = \"pink\"\n", 2, "auto, always, never"),
        ("[top]\npalette = \"24\"\n", 2, "auto, mono, 16, 256"),
        ("[top]\nsymbols = \"emoji\"\n", 2, "auto, unicode, ascii"),
        ("[top]\nview = \"8\"\n", 2, "vms, blocks, cross, timeline, stages, decisions, health"),
        (
            "[top.keys]\nhelp = [\"h\"]\nleft = []\nquti = [\"q\"]\n",
            4,
            "unknown action \"quti\"; allowed: quit, help",
        ),
        ("[top.keys]\n\nhelp = [\"Hyper-h\"]\n", 3, "unknown key \"Hyper-h\"; allowed: a single character"),
        ("[top.keys]\nhelp = \"h\"\n", 2, "sequence"),
        ("[top.keys]\nquit = []\n", 2, "at least one key"),
        ("[top.keys]\n# a comment\npause = [\n\"p\",\n\"q\"]\n", 5, "key \"q\" for two actions: quit has it"),
        (
            "[top.keys]\nhelp = [\"x\"]\npause = [\"x\"]\n",
            3,
            "key \"x\" for two actions: help has it, and pause",
        ),
        ("[top]\nmouse = true\nmouse = false\n", 3, "duplicate"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(&format!("/x/c.toml:{line}: ")), "{text}: {error}");
        assert!(error.contains(says), "{text}: {error}");
    }
}

#[test]
fn the_first_file_that_is_there_counts_and_one_asked_for_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let places = Places { paths: vec![path("none.toml"), path("own.toml"), path("system.toml")] };
    assert_eq!(FileConfig::load(None, &places).unwrap(), FileConfig::default());
    std::fs::write(path("system.toml"), "[top]\nmouse = false\n").unwrap();
    assert!(!FileConfig::load(None, &places).unwrap().top.mouse);
    std::fs::write(path("own.toml"), "[top]\nreverse = true\n").unwrap();
    let own = FileConfig::load(None, &places).unwrap().top;
    assert!(own.mouse && own.reverse, "the other file counts for nothing then");
    assert!(!FileConfig::load(Some(&path("system.toml")), &places).unwrap().top.mouse);
    let error = FileConfig::load(Some(&path("none.toml")), &places).unwrap_err().to_string();
    assert!(error.contains("none.toml") && error.contains("No such file"), "{error}");
    // A folder is there, and no file: that is said, not passed over.
    std::fs::remove_file(path("own.toml")).unwrap();
    std::fs::create_dir(path("own.toml")).unwrap();
    assert!(matches!(FileConfig::load(None, &places), Err(ConfigError::Read { .. })));
}

#[test]
fn places_follow_the_xdg_variables() {
    let places = |xdg: Option<&str>, home: Option<&str>| {
        let places = Places::from_variables(xdg.map(Into::into), home.map(Into::into));
        places.paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>()
    };
    let system = "/etc/imr/config.toml";
    assert_eq!(places(Some("/a"), Some("/b")), ["/a/imr/config.toml", system]);
    assert_eq!(places(Some("a"), Some("/b")), ["/b/.config/imr/config.toml", system]);
    assert_eq!(places(Some(""), Some("")), [system]);
    assert_eq!(places(None, None), [system]);
}

#[test]
fn a_control_socket_is_a_path_or_off() {
    let ctl = |text: &str| parse(&format!("[run]\nctl = \"{text}\"\n")).map(|file| file.run.ctl);
    assert_eq!(ctl("/run/imr/ctl.sock"), Ok(Listen::Default));
    assert_eq!(ctl("/x/y"), Ok(Listen::At("/x/y".into())));
    assert_eq!(ctl("off"), Ok(Listen::Off));
    assert!(ctl("").unwrap_err().contains("off"));
}
