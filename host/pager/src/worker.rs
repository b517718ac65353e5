//! The thread that moves pages. Frames are handed to it and come back: nothing is shared, and who holds a frame owns it.

use std::{
    io,
    sync::mpsc::{Receiver, Sender, channel},
    thread::{self, JoinHandle},
};

use crate::{Backing, PagerError, frame::Frame};

/// Work on one frame: first what is in it is stored, then the page that it is for is loaded.
pub(crate) struct Job {
    pub frame: Frame,
    /// The page whose bytes are in the frame, where they must be kept.
    pub store: Option<usize>,
    /// The page that the frame is for.
    pub page: usize,
    /// Whether that page was ever stored; else it is zeros.
    pub is_stored: bool,
}

/// A job that is done, or was given up.
pub(crate) struct Done {
    pub job: Job,
    pub outcome: Result<(), Fault>,
}

pub(crate) enum Fault {
    /// The frame is as it was.
    Store(PagerError),
    /// What was in the frame is stored; what is in it now is nothing.
    Load(PagerError),
}

pub(crate) struct Worker {
    /// `None` once it is to end.
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub fn start(mut backing: Box<dyn Backing>) -> io::Result<Self> {
        let (jobs, jobs_in) = channel::<Job>();
        let (done_out, done) = channel();
        let work = move || {
            for mut job in jobs_in {
                let outcome = run(backing.as_mut(), &mut job);
                if done_out.send(Done { job, outcome }).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("pager".into()).spawn(work)?;
        Ok(Worker { jobs: Some(jobs), done, thread: Some(thread) })
    }

    pub fn submit(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("it ends only when it is dropped");
        jobs.send(job).expect("the thread ends only when its jobs do");
    }

    /// The next job that is done, waited for.
    pub fn wait(&self) -> Done {
        self.done.recv().expect("the thread ends only when its jobs do")
    }

    /// The next job that is done already.
    pub fn poll(&self) -> Option<Done> {
        self.done.try_recv().ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        // A backing that panicked has said so already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn run(backing: &mut dyn Backing, job: &mut Job) -> Result<(), Fault> {
    if let Some(page) = job.store {
        backing.store(page, job.frame.bytes()).map_err(Fault::Store)?;
    }
    match job.is_stored {
        true => backing.load(job.page, job.frame.bytes_mut()).map_err(Fault::Load),
        false => {
            job.frame.bytes_mut().fill(0);
            Ok(())
        }
    }
}
