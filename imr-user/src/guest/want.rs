//! What the host asks of a guest by itself: to offer free memory again.
//!
//! In: requests, and which load of the module is being answered. Out: what the control page has to say. A request is
//! for the module that is there when it is made; one that is loaded later, or after a reboot, is not asked.

/// A request: offer again, at most so much, what is free and was offered before and not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Want {
    /// Its number. Never 0, and never the number of an earlier one of this host process for this VM, which the
    /// guest would take for that one.
    pub seq: u64,
    /// 4 KiB pages; 0: nothing, and what is being served ends.
    pub pages: u64,
}

/// The newest request, and who has been told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Request {
    want: Want,
    told: Option<u64>,
}

impl Request {
    /// A new request takes the place of the one before.
    pub fn ask(&mut self, want: Want) {
        *self = Self { want, told: None };
    }

    /// What the page of the module with this cookie has to say.
    #[must_use]
    pub fn for_module(&self, cookie: u64) -> Want {
        match self.told {
            // The number stays: going back to an old one would look like a new request.
            Some(told) if told != cookie => Want { pages: 0, ..self.want },
            _ => self.want,
        }
    }

    /// From now on another `attach_id` goes with it: what a guest was told of before is over, or it would serve it again.
    pub fn renew(&mut self) {
        if self.told.is_some() {
            self.want.pages = 0;
        }
    }

    /// The module with this cookie has been answered.
    pub fn told(&mut self, cookie: u64) {
        *self = Self { want: self.for_module(cookie), told: Some(cookie) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANT: Want = Want { seq: 3, pages: 512 };

    #[test]
    fn a_request_is_for_the_first_module_that_is_told() {
        let mut request = Request::default();
        assert_eq!(request.for_module(1), Want::default());
        request.told(1);
        request.ask(WANT);
        assert_eq!(request.for_module(1), WANT);
        request.told(1);
        assert_eq!(request.for_module(1), WANT, "it stays in the page");
        request.told(2);
        assert_eq!(request.for_module(2), Want { seq: 3, pages: 0 });
        assert_eq!(request.for_module(1), Want { seq: 3, pages: 0 }, "it is over");
    }

    #[test]
    fn a_request_that_nobody_was_told_of_waits() {
        let mut request = Request::default();
        request.told(1);
        request.ask(WANT);
        assert_eq!(request.for_module(2), WANT, "the guest was rebooted in between");
    }

    #[test]
    fn another_session_does_not_ask_again() {
        let mut request = Request::default();
        request.ask(WANT);
        request.renew();
        assert_eq!(request.for_module(1), WANT, "nobody was told of it yet");
        request.told(1);
        request.renew();
        assert_eq!(request.for_module(1), Want { seq: 3, pages: 0 });
    }

    #[test]
    fn a_module_that_is_not_answered_changes_nothing() {
        let mut request = Request::default();
        request.ask(WANT);
        request.told(1);
        assert_eq!(request.for_module(9).pages, 0);
        assert_eq!(request.for_module(1), WANT);
    }
}
