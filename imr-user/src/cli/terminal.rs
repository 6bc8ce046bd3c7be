//! The terminal while imr-top owns it: raw mode, alternate screen, mouse; and all of it undone on every way out.
//!
//! Output: a [`Screen`] to draw on. Leaving happens on drop, in the panic hook (of any thread) and before the
//! process stops itself. Must not decide what is drawn, nor when.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::event::{DisableBracketedPaste, EnableBracketedPaste};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use crossterm::{Command, cursor, execute, style};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Size;
use ratatui::{Frame, Terminal};
use rustix::process::{Signal, getpid, kill_process};

/// Whether the terminal is ours; whoever takes it down to `false` gives the terminal back.
static ENTERED: AtomicBool = AtomicBool::new(false);
static PANIC_HOOK: Once = Once::new();

/// Room for a whole frame, so that it reaches the terminal in one write.
const FRAME_BYTES: usize = 64 << 10;

type Term = Terminal<CrosstermBackend<BufWriter<Stdout>>>;

/// Buttons and wheel only: crossterm's own command asks for every move of the pointer as well, and a pointer that
/// crosses the screen would then cost hundreds of events.
struct EnableButtons;
struct DisableButtons;

impl Command for EnableButtons {
    fn write_ansi(&self, f: &mut impl std::fmt::Write) -> std::fmt::Result {
        f.write_str("\x1b[?1000h\x1b[?1006h")
    }
}

impl Command for DisableButtons {
    fn write_ansi(&self, f: &mut impl std::fmt::Write) -> std::fmt::Result {
        f.write_str("\x1b[?1006l\x1b[?1000l")
    }
}

/// The terminal, taken over. There is at most one at a time.
#[derive(Debug)]
pub struct Screen {
    terminal: Term,
    mouse: bool,
}

impl Screen {
    /// Takes the terminal over, with its mouse if that is wanted. `colours` overrides what the environment says of
    /// colours: whether there are any was decided before.
    ///
    /// # Errors
    /// There is no terminal, or it went away.
    pub fn enter(colours: bool, mouse: bool) -> io::Result<Self> {
        PANIC_HOOK.call_once(|| {
            let report = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                leave();
                report(info);
            }));
        });
        style::force_color_output(colours);
        take(mouse)?;
        Ok(Self { mouse, terminal: open().inspect_err(|_| leave())? })
    }

    /// Columns and rows of the terminal.
    ///
    /// # Errors
    /// The terminal went away.
    pub fn size(&self) -> io::Result<Size> {
        self.terminal.size()
    }

    /// Draws a frame, as far as it differs from the one before. Nothing is drawn on a terminal that was given back
    /// because another thread panicked.
    ///
    /// # Errors
    /// The terminal went away.
    pub fn draw(&mut self, render: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        if ENTERED.load(Ordering::SeqCst) {
            self.terminal.draw(render)?;
        }
        Ok(())
    }

    /// Makes the next [`Screen::draw`] write every cell, and sets up the terminal again: something else may have
    /// used it meanwhile.
    ///
    /// # Errors
    /// The terminal went away.
    pub fn repaint(&mut self) -> io::Result<()> {
        leave();
        take(self.mouse)?;
        // Not Terminal::clear(): it asks the terminal for the cursor's position, and the thread that reads keys
        // would swallow the answer.
        execute!(io::stdout(), Clear(ClearType::All))?;
        self.terminal = open()?;
        Ok(())
    }

    /// Gives the terminal back and stops this process until SIGCONT; then takes the terminal over again.
    ///
    /// # Errors
    /// The terminal went away.
    pub fn suspend(&mut self) -> io::Result<()> {
        leave();
        kill_process(getpid(), Signal::STOP)?;
        self.repaint()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

fn open() -> io::Result<Term> {
    Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(FRAME_BYTES, io::stdout())))
}

fn take(mouse: bool) -> io::Result<()> {
    enable_raw_mode()?;
    ENTERED.store(true, Ordering::SeqCst);
    // Pasted text comes as text then: as keys, a stray "oy" would change a VM.
    let taken = execute!(io::stdout(), EnterAlternateScreen, EnableBracketedPaste, cursor::Hide);
    let taken = if mouse { taken.and_then(|()| execute!(io::stdout(), EnableButtons)) } else { taken };
    taken.inspect_err(|_| leave())
}

/// Gives the terminal back if it is ours. Errors are of no use here: the terminal may be gone.
fn leave() {
    if ENTERED.swap(false, Ordering::SeqCst) {
        let _ = execute!(
            io::stdout(),
            DisableButtons,
            DisableBracketedPaste,
            style::ResetColor,
            LeaveAlternateScreen,
            cursor::Show
        );
        let _ = io::stdout().flush();
        let _ = disable_raw_mode();
    }
}
