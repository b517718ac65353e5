//! The page table: where each page is, which goes when another must come, and which are fetched ahead.
//!
//! A frame is at every moment in one place: spare, under a page, or with the thread. There are never more of them than the
//! budget has room for, which is all that keeps memory within it.

use std::collections::BTreeSet;

use crate::{
    Backing, PagerError,
    frame::Frame,
    worker::{Done, Fault, Job, Worker},
};

/// The most pages that are fetched ahead: enough to hide one behind another, few enough that most frames keep their page from
/// one round to the next.
const MOST_AHEAD: usize = 4;

/// Pages of bytes, zero at first, of which some are in memory.
pub struct Pager {
    pages: Vec<Page>,
    /// Those that are in memory, by number.
    resident: BTreeSet<usize>,
    spare: Vec<Frame>,
    /// Frames that were made, and that may be.
    frames: usize,
    most_frames: usize,
    page_bytes: usize,
    ahead: usize,
    worker: Worker,
    transfers: Transfers,
}

struct Page {
    place: Place,
    /// Whether the backing has it; else it is zeros, unless it is in memory.
    is_stored: bool,
}

enum Place {
    Out,
    Resident {
        frame: Frame,
        is_dirty: bool,
    },
    /// With the thread, on its way in or out.
    Moving,
}

/// What was moved so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transfers {
    pub pages_stored: u64,
    pub pages_loaded: u64,
}

impl Pager {
    /// `pages` pages of zeros. `page_bytes`: a multiple of 8. No more than `budget_bytes` of them are in memory at once.
    ///
    /// # Errors
    /// A budget below one page, or no thread.
    pub fn new(
        pages: usize,
        page_bytes: usize,
        budget_bytes: usize,
        backing: Box<dyn Backing>,
    ) -> Result<Self, PagerError> {
        if page_bytes == 0 || !page_bytes.is_multiple_of(8) {
            return Err(PagerError::PageSize { page_bytes: page_bytes as u64 });
        }
        let most_frames = (budget_bytes / page_bytes).min(pages);
        if most_frames == 0 && pages > 0 {
            let (budget_bytes, page_bytes) = (budget_bytes as u64, page_bytes as u64);
            return Err(PagerError::Budget { budget_bytes, page_bytes });
        }
        let ahead = (most_frames / 4).clamp(usize::from(most_frames > 1), MOST_AHEAD);
        Ok(Pager {
            pages: (0..pages).map(|_| Page { place: Place::Out, is_stored: false }).collect(),
            resident: BTreeSet::new(),
            spare: Vec::new(),
            frames: 0,
            most_frames,
            page_bytes,
            ahead,
            worker: Worker::start(backing).map_err(|source| PagerError::Thread { source })?,
            transfers: Transfers::default(),
        })
    }

    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Memory that frames take: those under pages, the spare ones and those on their way.
    pub fn resident_bytes(&self) -> usize {
        self.frames * self.page_bytes
    }

    pub fn transfers(&self) -> Transfers {
        self.transfers
    }

    /// The bytes of a page. Its start is at a multiple of 8 bytes.
    ///
    /// # Errors
    /// The backing fails. Every page keeps its bytes, and the next call tries again.
    ///
    /// # Panics
    /// There is no such page.
    pub fn read(&mut self, page: usize) -> Result<&[u8], PagerError> {
        self.bring(page)?;
        match &self.pages[page].place {
            Place::Resident { frame, .. } => Ok(frame.bytes()),
            _ => unreachable!("it was brought in, and nothing pushes it out"),
        }
    }

    /// The bytes of a page, to be changed.
    ///
    /// # Errors
    /// As [`Pager::read`].
    ///
    /// # Panics
    /// There is no such page.
    pub fn write(&mut self, page: usize) -> Result<&mut [u8], PagerError> {
        self.bring(page)?;
        match &mut self.pages[page].place {
            Place::Resident { frame, is_dirty } => {
                *is_dirty = true;
                Ok(frame.bytes_mut())
            }
            _ => unreachable!("it was brought in, and nothing pushes it out"),
        }
    }

    /// Sees to it that the page is in memory, and that the next ones come while it is used.
    fn bring(&mut self, page: usize) -> Result<(), PagerError> {
        while let Some(done) = self.worker.poll() {
            // What was fetched ahead and failed is asked for again when its turn comes, and fails then.
            let _ = self.take_back(done);
        }
        let mut is_demanded = false;
        while !matches!(self.pages[page].place, Place::Resident { .. }) {
            if matches!(self.pages[page].place, Place::Out) && self.fetch(page, page) {
                is_demanded = true;
                continue;
            }
            let done = self.worker.wait();
            let is_this = done.job.page == page;
            let outcome = self.take_back(done);
            if is_this && is_demanded {
                outcome?;
            }
        }
        self.fetch_ahead(page);
        Ok(())
    }

    fn fetch_ahead(&mut self, page: usize) {
        let count = self.pages.len();
        for distance in 1..=self.ahead.min(count - 1) {
            let next = (page + distance) % count;
            if matches!(self.pages[next].place, Place::Out) && !self.fetch(next, page) {
                return;
            }
        }
    }

    /// Sends for a page that is out, as seen from the one in use; `false` where no frame can be had for it now.
    fn fetch(&mut self, page: usize, from: usize) -> bool {
        let (frame, store) = match self.spare_frame() {
            Some(frame) => (frame, None),
            None => match self.furthest(from) {
                Some(victim) if self.distance(from, victim) > self.distance(from, page) => self.evict(victim),
                _ => return false,
            },
        };
        let entry = &mut self.pages[page];
        entry.place = Place::Moving;
        self.worker.submit(Job { frame, store, page, is_stored: entry.is_stored });
        true
    }

    fn spare_frame(&mut self) -> Option<Frame> {
        self.spare.pop().or_else(|| {
            let frame = (self.frames < self.most_frames).then(|| Frame::zeros(self.page_bytes))?;
            self.frames += 1;
            Some(frame)
        })
    }

    /// Pages until a page's turn comes, from the one in use.
    fn distance(&self, from: usize, page: usize) -> usize {
        (page + self.pages.len() - from) % self.pages.len()
    }

    /// The page in memory whose turn is furthest (Belady 1966), the one in use aside.
    fn furthest(&self, from: usize) -> Option<usize> {
        let before = self.resident.range(..from).next_back();
        before.or_else(|| self.resident.range(from + 1..).next_back()).copied()
    }

    /// Takes the frame of a page, and says whether its bytes must be stored first.
    fn evict(&mut self, page: usize) -> (Frame, Option<usize>) {
        self.resident.remove(&page);
        let entry = &mut self.pages[page];
        match std::mem::replace(&mut entry.place, Place::Out) {
            Place::Resident { frame, is_dirty: false } => (frame, None),
            Place::Resident { frame, is_dirty: true } => {
                entry.place = Place::Moving;
                (frame, Some(page))
            }
            _ => unreachable!("what is in the set of residents is resident"),
        }
    }

    /// Puts what the thread gives back where it belongs.
    fn take_back(&mut self, done: Done) -> Result<(), PagerError> {
        let Done { job: Job { frame, store, page, is_stored }, outcome } = done;
        if let Err(Fault::Store(error)) = outcome {
            self.pages[page].place = Place::Out;
            let kept = store.expect("only what is to be stored fails to be");
            self.settle(kept, frame, true);
            return Err(error);
        }
        if let Some(stored) = store {
            self.pages[stored] = Page { place: Place::Out, is_stored: true };
            self.transfers.pages_stored += 1;
        }
        if let Err(Fault::Load(error)) = outcome {
            self.pages[page].place = Place::Out;
            self.spare.push(frame);
            return Err(error);
        }
        self.transfers.pages_loaded += u64::from(is_stored);
        self.settle(page, frame, false);
        Ok(())
    }

    fn settle(&mut self, page: usize, frame: Frame, is_dirty: bool) {
        self.pages[page].place = Place::Resident { frame, is_dirty };
        self.resident.insert(page);
    }
}
