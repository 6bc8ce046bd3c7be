//! Arguments and environment to configuration.

use super::*;
use crate::cli::config::TopSection;
use crate::model::snapshot::PolicyName;

fn terminal() -> Environment {
    Environment {
        stdout_terminal: true,
        stderr_terminal: true,
        term: "xterm-256color".to_owned(),
        locale: "en_US.UTF-8".to_owned(),
        ..Environment::default()
    }
}

/// The configuration by these arguments, without a file.
fn config(arguments: &str, environment: &Environment) -> Result<TopConfig, String> {
    let words = std::iter::once("imr-top").chain(arguments.split_whitespace());
    TopArgs::try_parse_from(words)
        .map_err(|error| error.to_string())?
        .validate(environment, FileConfig::default())
}

#[test]
fn the_command_line_is_well_formed() {
    TopArgs::command().debug_assert();
}

#[test]
fn defaults() {
    let config = config("", &terminal()).unwrap();
    assert_eq!(config.delay, Duration::from_secs(1));
    assert_eq!((config.iterations, config.output), (None, Output::Screen));
    assert!(config.run == RunSection::default() && !config.debug_bpf && config.pids.is_empty());
    assert_eq!(config.settings.theme, Theme { palette: Palette::Indexed256, symbols: Symbols::Unicode });
}

#[test]
fn all_arguments() {
    let config = config("-d 500ms -n 2 --json --observe -p 12 -p 34 --debug-bpf", &terminal()).unwrap();
    assert_eq!(config.delay, Duration::from_millis(500));
    assert_eq!(config.iterations.map(NonZeroU64::get), Some(2));
    assert_eq!(config.output, Output::Json);
    assert_eq!(config.pids, [Pid::new(12), Pid::new(34)]);
    assert_eq!(config.run.policy, PolicyName::Observe);
    assert!(config.debug_bpf);
}

#[test]
fn wrong_usage_says_what_is_wrong() {
    let pipe = Environment { stdout_terminal: false, ..terminal() };
    let dumb = Environment { term: "dumb".to_owned(), ..terminal() };
    let cases = [
        ("", &pipe, "use -b"),
        ("", &dumb, "use -b"),
        ("--debug-bpf", &terminal(), "2>FILE"),
        ("-d 99ms", &terminal(), "between 100ms"),
        ("-d 2h", &terminal(), "between 100ms"),
        ("-d soon", &terminal(), "soon"),
        ("-n 0", &terminal(), "--iterations"),
        ("-p 0", &terminal(), "no process"),
        ("-p x", &terminal(), "--pid"),
        ("--color pink", &terminal(), "pink"),
        ("extra", &terminal(), "extra"),
    ];
    for (arguments, environment, says) in cases {
        let error = config(arguments, environment).unwrap_err();
        assert!(error.contains(says), "{arguments}: {error}");
    }
}

#[test]
fn batch_needs_no_terminal() {
    let pipe = Environment { stdout_terminal: false, ..Environment::default() };
    assert_eq!(config("-b", &pipe).unwrap().output, Output::Text);
    assert_eq!(config("-b --json", &pipe).unwrap().output, Output::Json);
}

#[test]
fn colours_follow_the_terminal_unless_told_otherwise() {
    let palette = |arguments: &str, term: &str, no_color: bool| {
        let environment = Environment { term: term.to_owned(), no_color, ..terminal() };
        config(arguments, &environment).unwrap().settings.theme.palette
    };
    assert_eq!(palette("", "tmux-256color", false), Palette::Indexed256);
    assert_eq!(palette("", "tmux-256color", true), Palette::Mono);
    assert_eq!(palette("--color always", "tmux-256color", true), Palette::Indexed256);
    assert_eq!(palette("--color never", "tmux-256color", false), Palette::Mono);
    assert_eq!(palette("", "linux", false), Palette::Ansi16);
    assert_eq!(palette("", "vt220", false), Palette::Mono);
    assert_eq!(palette("--color always", "vt220", false), Palette::Ansi16);
}

#[test]
fn characters_follow_the_locale() {
    for (locale, symbols) in [
        ("C.UTF-8", Symbols::Unicode),
        ("de_DE.utf8", Symbols::Unicode),
        ("C", Symbols::Ascii),
        ("", Symbols::Ascii),
        ("en_US.ISO-8859-1", Symbols::Ascii),
    ] {
        let environment = Environment { locale: locale.to_owned(), ..terminal() };
        assert_eq!(config("", &environment).unwrap().settings.theme.symbols, symbols, "{locale}");
    }
}

#[test]
fn the_command_line_wins_over_the_file() {
    let top = TopSection {
        delay: Duration::from_secs(5),
        colors: ColorWhen::Always,
        palette: Some(Palette::Ansi16),
        symbols: Some(Symbols::Ascii),
        mouse: false,
        ..TopSection::default()
    };
    let run = RunSection { policy: PolicyName::Pressure, dry_run: true, ..RunSection::default() };
    let file = FileConfig { run: run.clone(), top };
    let with = |arguments: &str, environment: &Environment| {
        let words = std::iter::once("imr-top").chain(arguments.split_whitespace());
        TopArgs::try_parse_from(words).unwrap().validate(environment, file.clone()).unwrap()
    };
    let quiet = Environment { no_color: true, ..terminal() };
    let config = with("", &quiet);
    assert_eq!((config.delay, config.settings.delay), (Duration::from_secs(5), Duration::from_secs(5)));
    assert_eq!(config.settings.theme, Theme { palette: Palette::Ansi16, symbols: Symbols::Ascii });
    assert!(!config.mouse);
    assert_eq!(config.run, run);
    let config = with("-d 2s --color never --observe", &terminal());
    assert_eq!((config.run.policy, config.run.dry_run), (PolicyName::Observe, true));
    assert_eq!((config.delay, config.settings.theme.palette), (Duration::from_secs(2), Palette::Mono));
}
