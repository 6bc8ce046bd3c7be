//! Both sides under loom: every order in which their steps can happen and every value that a load can see.
//!
//! In: a scenario, and what is changed to see it fail. Out: how many executions there were, or the first one that
//! goes wrong.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc as StdArc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed as Unordered};

use imr_user::guest::session::Session;
use imr_user::model::ids::Gpa;
use loom::sync::{Arc, mpsc};
use loom::thread;

use crate::guest::Guest;
use crate::host;
use crate::page::{COOKIE, PAGE};
use crate::world::{Call, Line, Mutant, World};

/// Runs to its end.
const ALL: u32 = 1000;

/// What happens besides the batches.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Event {
    Nothing,
    /// imr is killed before its n-th write to the page or to a block, and another one comes.
    Killed(u32),
    /// The VM is reset after so many steps of the guest.
    Reset(u32),
    /// It is saved after so many steps, and the saved state loaded after so many more.
    RolledBack(u32, u32),
}

/// One model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scenario {
    pub(crate) offers: u32,
    /// Rings before the guest withdraws an offer.
    pub(crate) patience: u32,
    /// The first two rings are on their way together.
    pub(crate) late: bool,
    pub(crate) event: Event,
    pub(crate) mutant: Mutant,
    /// Preemptions, at most; `None`: any number.
    pub(crate) preemptions: Option<usize>,
}

impl Scenario {
    /// Goes through all executions and counts them; panics at the first that goes wrong.
    pub(crate) fn check(self) -> u64 {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = self.preemptions;
        builder.max_branches = 10_000;
        let count = StdArc::new(AtomicU64::new(0));
        let counted = StdArc::clone(&count);
        builder.check(move || {
            counted.fetch_add(1, Unordered);
            self.once();
        });
        count.load(Unordered)
    }

    /// What goes wrong, for a mutant; `None` when nothing does.
    pub(crate) fn fails_with(self) -> Option<String> {
        // It is meant to; its message is looked at, not shown.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(|_| {}));
        let result = panic::catch_unwind(AssertUnwindSafe(|| self.check()));
        panic::set_hook(hook);
        let failed = result.err()?;
        let text = failed.downcast_ref::<String>().cloned();
        text.or_else(|| failed.downcast_ref::<&str>().map(|text| (*text).to_owned()))
    }

    fn once(self) {
        let world = Arc::new(World::new(self.mutant));
        let (calls, queue) = mpsc::channel();
        let (told, heard) = mpsc::channel();
        let (session, ..) = Session::hello(None, &world.page, Gpa::new(PAGE), COOKIE, host::identity(1))
            .expect("a good page");
        if let Event::Killed(writes) = self.event {
            world.page.kill_after(writes);
        }
        let side = {
            let world = Arc::clone(&world);
            thread::spawn(move || host::run(&world, &queue, &told, session))
        };
        let mut line = Line { calls, heard, under_way: 0 };
        let mut guest = Guest::new(self.offers, self.patience);
        guest.late = self.late;
        match self.event {
            Event::Nothing | Event::Killed(_) => guest.run(&world, &mut line, ALL),
            Event::Reset(steps) => {
                guest.run(&world, &mut line, steps);
                world.reset();
                let generation = world.generation();
                line.say(Call { hello: false, seq: 0, rung_ns: world.now_ns(), generation });
            }
            Event::RolledBack(steps, more) => {
                guest.exact = false;
                guest.run(&world, &mut line, steps);
                let saved = (guest.clone(), world.page.save(), [world.is_owned(0), world.is_owned(1)]);
                guest.run(&world, &mut line, more);
                world.roll_back(&saved.1, saved.2);
                guest = saved.0;
                guest.run(&world, &mut line, ALL);
            }
        }
        line.calls.send(None).expect("the host listens");
        side.join().expect("the host ends");
        world.check_blocks();
    }
}
