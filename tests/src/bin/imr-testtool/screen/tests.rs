//! The driver on real programs on a real pseudo-terminal.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::session::Settings;
use super::{drive, failed_name, script};
use crate::Failure;
use imr_tests::terminal::Size;

/// A folder for one test's captures, gone afterwards.
struct Out(PathBuf);

impl Out {
    fn new(name: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("imr-screen-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap()
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `script` on `sh -c program`.
fn run(out: &Out, program: &str, text: &str) -> Result<(), String> {
    let settings = Settings {
        size: Size { columns: 40, rows: 6 },
        environment: vec![("TERM".to_owned(), "xterm-256color".to_owned())],
        out: Some(out.0.clone()),
        failed: failed_name("/some/where/name.two.screen"),
        limit: Duration::from_secs(20),
    };
    let command = ["/bin/sh", "-c", program].map(str::to_owned);
    drive("test", &script::parse(text).unwrap(), &command, settings).map_err(|failure| match failure {
        Failure::Failed(why) => why,
        Failure::Usage(why) => panic!("{why}"),
    })
}

#[test]
fn a_program_is_driven_from_start_to_end() {
    let out = Out::new("whole");
    let program = "printf '\\033[1mname\\033[m? '; read x; printf '\\033[2J\\033[Hhello \\033[31m%s\\033[m\\n' \"$x\"; exit 3";
    run(
        &out,
        program,
        "wait name?\nrefuse hello\ntype wor ld\nkey Enter\nwait hello wor ld\ncapture end\nexit 3",
    )
    .unwrap();
    assert_eq!(out.read("end.txt"), format!("hello wor ld\n{}", "\n".repeat(5)));
    assert!(out.read("end.ansi").contains("\x1b[31mwor ld"));
    assert!(out.read("end.svg").contains("fill=\"#cc0000\">wor</text>"));
}

#[test]
fn a_failed_command_shows_its_line_and_the_screen() {
    let out = Out::new("failed");
    let begun = Instant::now();
    let why = run(&out, "echo there; sleep 1000", "# one\nwait there\nwait/0.1 nowhere").unwrap_err();
    assert!(
        why.starts_with("test:3: `wait/0.1 nowhere`: not within 0.1 s\n--- the screen, 40x6 ---\nthere\n"),
        "{why}"
    );
    assert!(out.read("name-failed.txt").starts_with("there\n"));
    assert!(begun.elapsed() < Duration::from_secs(10), "the program was waited for");
    let why = run(&out, "echo there; sleep 1000", "wait there\nrefuse there").unwrap_err();
    assert!(why.starts_with("test:2: `refuse there`: it is there"), "{why}");
}

#[test]
fn an_end_ends_the_waiting_and_its_status_is_told() {
    let out = Out::new("ended");
    let begun = Instant::now();
    let why = run(&out, "echo last words; exit 7", "wait never").unwrap_err();
    assert!(why.contains("cannot happen any more (the program ended with status 7)"), "{why}");
    assert!(why.contains("last words"), "{why}");
    let why = run(&out, "kill -9 $$", "exit 0").unwrap_err();
    assert!(why.contains("it ended otherwise (the program ended with status 137)"), "{why}");
    let why = run(&out, "exit 0", "exit 0\nkey q").unwrap_err();
    assert!(why.contains("nobody is there to read it"), "{why}");
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn the_program_is_dead_afterwards_even_if_it_hears_nothing() {
    let out = Out::new("dead");
    for (program, kind) in [
        ("echo up; exec sleep 1000", "mild"),
        ("trap '' TERM HUP; echo up; while :; do sleep 1; done", "deaf"),
    ] {
        let pid_file = out.0.join(kind);
        let program = format!("echo $$ >{}; {program}", pid_file.display());
        run(&out, &program, "wait up").unwrap();
        let pid = fs::read_to_string(&pid_file).unwrap();
        assert!(!PathBuf::from(format!("/proc/{}", pid.trim())).exists(), "{kind}");
    }
}

#[test]
fn a_resize_reaches_the_program() {
    let out = Out::new("resize");
    let program = "trap 'stty size' WINCH; echo ready $(stty size); while :; do read x && echo got; done";
    run(&out, program, "wait ready 6 40\nresize 20x5\nwait 5 20\nresize 100x30\nwait 30 100").unwrap();
}

#[test]
fn the_mouse_speaks_only_when_asked() {
    let out = Out::new("mouse");
    let program = |modes: &str| {
        format!(
            "stty raw opost -echo; printf '{modes}ready'; dd bs=1 count=9 2>/dev/null | od -c -w3; sleep 1000"
        )
    };
    let why = run(&out, &program(""), "wait ready\nclick 3 4").unwrap_err();
    assert!(why.contains("not asked the terminal for SGR mouse reports"), "{why}");
    let sgr = program("\\033[?1000h\\033[?1006h");
    run(&out, &sgr, "wait ready\nwheel down 3 4\nwait 033   [   <\nwait 6   5   ;\nwait 3   ;   4").unwrap();
    let why = run(&out, &sgr, "wait ready\nclick 41 1").unwrap_err();
    assert!(why.contains("40 columns"), "{why}");
}

#[test]
fn escape_is_a_key_of_its_own() {
    let out = Out::new("escape");
    // A read of up to ten bytes gets Esc alone.
    let program = "stty raw opost -echo; echo ready; for i in 1 2; do dd bs=10 count=1 2>/dev/null | od -An -c; done; sleep 1000";
    run(&out, program, "wait ready\nkey Esc q\nwait 033\nwait q\nsettle\nrefuse 033   q").unwrap();
}

#[test]
fn settling_needs_silence() {
    let out = Out::new("settle");
    run(
        &out,
        "for i in 1 2 3; do echo $i; sleep 0.1; done; echo done; sleep 1000",
        "wait 1\nsettle\nexpect done",
    )
    .unwrap();
}
