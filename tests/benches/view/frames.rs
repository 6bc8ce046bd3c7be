//! How long a frame takes: every view, drawn after each sample and each key, in memory.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use imr_user::ingest::tables::Tables;
use imr_user::view::theme::{Palette, Symbols, Theme};
use imr_user::view::{App, Settings};
use ratatui::Terminal;
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{TerminalOptions, Viewport};

use crate::{host, p99};

const COLUMNS: u16 = 200;
const ROWS: u16 = 60;

/// Where the bytes of a frame go.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.clear();
        Ok(())
    }
}

/// 99th percentile, ms: from the state to the bytes for the terminal.
pub(crate) fn p99_ms(tables: &Tables, time: Duration) -> f64 {
    let mut vms = host::guests();
    let theme = Theme { palette: Palette::Indexed256, symbols: Symbols::Unicode };
    let mut app = App::new(Settings::new(theme), Vec::new());
    let area = Rect::new(0, 0, COLUMNS, ROWS);
    let options = TerminalOptions { viewport: Viewport::Fixed(area) };
    let mut terminal = Terminal::with_options(CrosstermBackend::new(Bytes::default()), options).unwrap();
    app.set_size(area.as_size());
    let mut samples = Vec::new();
    let until = Instant::now() + time;
    let mut sequence = 0;
    while Instant::now() < until {
        sequence += 1;
        let snapshot = host::sample(&mut vms, tables, sequence, Duration::from_secs(sequence));
        app.note(&snapshot);
        app.accept(&snapshot);
        for view in '1'..='7' {
            for key in [KeyCode::Char(view), KeyCode::Down, KeyCode::Right, KeyCode::PageDown] {
                let began = Instant::now();
                app.handle(&Event::Key(KeyEvent::new(key, KeyModifiers::NONE)), &snapshot);
                terminal.draw(|frame| app.render(frame, &snapshot)).unwrap();
                samples.push(began.elapsed().as_secs_f64() * 1000.0);
            }
        }
    }
    p99(samples)
}
