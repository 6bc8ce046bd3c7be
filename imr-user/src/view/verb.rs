//! Everything that can be done at the screen: its name, its words for people, and the keys it has at first.
//!
//! The one table that the key map, the help, the palette and the configuration file are made from. Says nothing of
//! how a thing is done.

/// A thing that can be done at the screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the table below has a sentence for each")]
pub enum Verb {
    Quit,
    Help,
    Palette,
    NextView,
    PreviousView,
    ViewVms,
    ViewBlocks,
    ViewCross,
    ViewTimeline,
    ViewStages,
    ViewDecisions,
    ViewHealth,
    Back,
    NextVm,
    PreviousVm,
    Facts,
    Up,
    Down,
    Left,
    Right,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    ZoomIn,
    ZoomOut,
    Next,
    Previous,
    Sort,
    Reverse,
    Filter,
    Pause,
    Faster,
    Slower,
    Mode,
    ReclaimNow,
    Save,
    Redraw,
    Suspend,
}

/// What is known of a [`Verb`].
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Which.
    pub verb: Verb,
    /// Its name in the configuration file and the palette.
    pub name: &'static str,
    /// What it does, for people.
    pub text: &'static str,
    /// Its keys where nothing else was configured.
    pub keys: &'static [&'static str],
}

const fn entry(verb: Verb, name: &'static str, keys: &'static [&'static str], text: &'static str) -> Entry {
    Entry { verb, name, text, keys }
}

/// All there are, in the order of the help and of their numbers.
pub const VERBS: [Entry; 40] = [
    entry(Verb::Quit, "quit", &["q", "Ctrl-C"], "quit"),
    entry(Verb::Help, "help", &["?", "F1"], "the help; again, Esc or Enter closes it"),
    entry(Verb::Palette, "palette", &[":"], "find a command by its name and run it"),
    entry(Verb::NextView, "next-view", &["Tab"], "the next view"),
    entry(Verb::PreviousView, "previous-view", &["BackTab"], "the view before"),
    entry(Verb::ViewVms, "view-vms", &["1"], "all VMs in a table"),
    entry(Verb::ViewBlocks, "view-blocks", &["2"], "the blocks of the selected VM"),
    entry(Verb::ViewCross, "view-cross", &["3"], "what guests say against what the host holds"),
    entry(Verb::ViewTimeline, "view-timeline", &["4"], "memory over time"),
    entry(Verb::ViewStages, "view-stages", &["5"], "latency of each stage of an offer"),
    entry(Verb::ViewDecisions, "view-decisions", &["6"], "what was decided, and why"),
    entry(Verb::ViewHealth, "view-health", &["7"], "probes, lost events, drift"),
    entry(Verb::Back, "back", &["Esc"], "back to the VMs; there, drop the filter"),
    entry(Verb::NextVm, "next-vm", &[".", ">"], "select the next VM, in any view"),
    entry(Verb::PreviousVm, "previous-vm", &[",", "<"], "select the VM before, in any view"),
    entry(Verb::Facts, "facts", &["i"], "all facts of the selected VM, in any view"),
    entry(Verb::Up, "up", &["Up", "k"], "up"),
    entry(Verb::Down, "down", &["Down", "j"], "down"),
    entry(Verb::Left, "left", &["Left", "h"], "left"),
    entry(Verb::Right, "right", &["Right", "l"], "right"),
    entry(Verb::PageUp, "page-up", &["PgUp"], "up by a screenful"),
    entry(Verb::PageDown, "page-down", &["PgDn"], "down by a screenful"),
    entry(Verb::Home, "home", &["Home", "g"], "to the first"),
    entry(Verb::End, "end", &["End", "G"], "to the last"),
    entry(Verb::Enter, "enter", &["Enter"], "open; on a VM: its blocks"),
    entry(Verb::ZoomIn, "zoom-in", &["z"], "closer, in the blocks and over time"),
    entry(Verb::ZoomOut, "zoom-out", &["Z"], "farther"),
    entry(Verb::Next, "next", &["n"], "to the next thing worth a look"),
    entry(Verb::Previous, "previous", &["N"], "to the thing before that was worth a look"),
    entry(Verb::Sort, "sort", &["s"], "sort the VMs by the next column"),
    entry(Verb::Reverse, "reverse", &["r", "S"], "the other way round"),
    entry(Verb::Filter, "filter", &["/"], "show only VMs whose name or pid matches a regex"),
    entry(Verb::Pause, "pause", &["Space"], "hold the picture (nothing else); again goes on"),
    entry(Verb::Faster, "faster", &["+"], "more samples a second, down to 100ms apart"),
    entry(Verb::Slower, "slower", &["-"], "fewer, up to 10s apart"),
    entry(Verb::Mode, "mode", &["o"], "the selected VM's next mode; asks first"),
    entry(Verb::ReclaimNow, "reclaim-now", &["R"], "ask the selected VM for its free memory; asks first"),
    entry(Verb::Save, "save", &["w"], "write the sample on the screen to a file, as JSON"),
    entry(Verb::Redraw, "redraw", &["Ctrl-L"], "draw the screen anew"),
    entry(Verb::Suspend, "suspend", &["Ctrl-Z"], "suspend; fg brings it back"),
];

impl Verb {
    /// What is known of it.
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        &VERBS[self as usize]
    }

    /// Whether it only moves within the view on the screen.
    pub(crate) fn moves(self) -> bool {
        (Self::Up as usize..=Self::Enter as usize).contains(&(self as usize))
    }

    /// The verb of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        VERBS.iter().find(|entry| entry.name == name).map(|entry| entry.verb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_the_order_of_the_numbers() {
        for (index, entry) in VERBS.iter().enumerate() {
            assert_eq!(entry.verb as usize, index, "{}", entry.name);
            assert_eq!(Verb::named(entry.name), Some(entry.verb), "names are unique");
        }
    }
}
