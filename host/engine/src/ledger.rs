//! The books behind `Meta`: who holds the bytes that are alive, and what each node's run took.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use crate::{Charge, Held, Meter, Place, Point, Work};

/// Accounts, by position. Two for each segment come after the last of these.
pub(crate) mod account {
    /// Nobody in particular: it lives while nodes run.
    pub const WORKING: usize = 0;
    /// The same, in the head.
    pub const HEAD: usize = 1;
    pub const FROZEN: usize = 2;
    pub const TRAINABLE: usize = 3;
    pub const OPTIMIZER: usize = 4;
    pub const GRADIENT: usize = 5;
    const SEGMENTS: usize = 6;

    pub fn saved(segment: usize) -> usize {
        SEGMENTS + 2 * segment
    }

    pub fn input(segment: usize) -> usize {
        SEGMENTS + 2 * segment + 1
    }
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    meter: Meter,
    by_account: RefCell<Vec<u64>>,
    at_peak: RefCell<Vec<u64>>,
    peak: Cell<u64>,
    /// The most that was alive with what an operation took within its call.
    working_peak: Cell<u64>,
    /// The segment that is the head: what is made there is its own.
    head: Cell<Option<usize>>,
    /// Where points are wanted.
    points: RefCell<Option<Vec<Point>>>,
}

impl Ledger {
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Starts to note down every node's run. The peak starts anew.
    pub fn trace(&self, head: usize) {
        self.head.set(Some(head));
        *self.points.borrow_mut() = Some(Vec::new());
        self.meter.reset_peak();
        self.peak.set(0);
        self.working_peak.set(0);
        self.note_peak();
    }

    pub fn points(&self) -> Vec<Point> {
        self.points.borrow_mut().take().unwrap_or_default()
    }

    /// What an account held when the most was alive.
    pub fn at_peak(&self, account: usize) -> u64 {
        self.at_peak.borrow().get(account).copied().unwrap_or(0)
    }

    pub fn enter(&self, place: Place) {
        let live = self.meter.live();
        if let Some(points) = self.points.borrow_mut().as_mut() {
            points.push(Point { place, live_bytes: live, peak_bytes: live, work: Work::default() });
        }
    }

    /// An operation takes so much beside what is alive, and gives it back.
    pub fn takes(&self, bytes: u64) {
        self.working_peak.set(self.working_peak.get().max(self.meter.live() + bytes));
    }

    /// The most that was alive since the trace began, with what operations took within a call.
    pub fn working_peak(&self) -> u64 {
        self.working_peak.get().max(self.meter.peak())
    }

    pub fn work(&self, work: Work) {
        if let Some(point) = self.points.borrow_mut().as_mut().and_then(|points| points.last_mut()) {
            point.work += work.times(point.place.times);
        }
    }

    pub fn charge(self: &Rc<Self>, bytes: u64) -> Entry {
        let charge = self.meter.charge(bytes);
        let is_in_head = match (self.points.borrow().as_ref().and_then(|points| points.last()), self.head.get()) {
            (Some(point), Some(head)) => point.place.segment == head,
            _ => false,
        };
        let account = if is_in_head { account::HEAD } else { account::WORKING };
        self.book(account, |sum| sum + bytes);
        let live = self.meter.live();
        if let Some(point) = self.points.borrow_mut().as_mut().and_then(|points| points.last_mut()) {
            point.peak_bytes = point.peak_bytes.max(live);
        }
        if live > self.peak.get() {
            self.note_peak();
        }
        Entry { charge, account: Cell::new(account), ledger: self.clone() }
    }

    fn note_peak(&self) {
        self.peak.set(self.meter.live());
        self.at_peak.borrow_mut().clone_from(&self.by_account.borrow());
    }

    fn book(&self, account: usize, change: impl FnOnce(u64) -> u64) {
        let mut accounts = self.by_account.borrow_mut();
        if accounts.len() <= account {
            accounts.resize(account + 1, 0);
        }
        accounts[account] = change(accounts[account]);
    }
}

/// Bytes in an account, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Entry {
    charge: Charge,
    account: Cell<usize>,
    ledger: Rc<Ledger>,
}

impl Entry {
    /// Moves the bytes to their holder's account. Whoever holds them first has them: two blocks that keep one tensor do not
    /// count it twice.
    pub fn hold(&self, held: Held) {
        if ![account::WORKING, account::HEAD].contains(&self.account.get()) {
            return;
        }
        let to = match held {
            Held::FrozenParameter => account::FROZEN,
            Held::TrainableParameter => account::TRAINABLE,
            Held::Optimizer => account::OPTIMIZER,
            Held::Gradient => account::GRADIENT,
            Held::Saved { segment } => account::saved(segment),
            Held::Input { segment } => account::input(segment),
        };
        let bytes = self.charge.bytes();
        self.ledger.book(self.account.replace(to), |sum| sum - bytes);
        self.ledger.book(to, |sum| sum + bytes);
        // What is held was made a moment ago: where it made the peak, the peak is told by holders.
        if self.ledger.meter.live() == self.ledger.peak.get() {
            self.ledger.note_peak();
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.ledger.book(self.account.get(), |sum| sum - self.charge.bytes());
    }
}
