//! A thread that runs the tokenizers library, so that a damaged file ends in an error: a panic there is caught and says
//! nothing on stderr, and work that does not end in time is abandoned.
//!
//! A thread cannot be stopped from outside. An abandoned one runs until the process ends, and its worker takes no
//! further work. What memory the library takes is bounded before, by what [`super::file`] accepts.

use std::{
    any::Any,
    cell::Cell,
    panic::{self, AssertUnwindSafe},
    sync::{Mutex, Once, PoisonError, mpsc},
    thread,
    time::Duration,
};

/// The library recurses at most as deep as a file nests; this is what a main thread has.
const STACK_BYTES: usize = 8 << 20;

type Task = Box<dyn FnOnce() + Send>;

/// Why a task has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    #[error("the tokenizers library fails on it: {0}")]
    Panicked(String),
    #[error(
        "the tokenizers library took longer than {} s and was abandoned; a regular expression in the file is too slow on this text",
        .0.as_secs()
    )]
    TooSlow(Duration),
    #[error("the tokenizer is disabled after an earlier timeout")]
    GivenUp,
    #[error("no thread can be started for it: {0}")]
    NoThread(String),
}

/// One thread, which does one task after the other.
pub(super) struct Worker {
    /// `None` after a task that was abandoned.
    tasks: Mutex<Option<mpsc::Sender<Task>>>,
}

thread_local! {
    static IS_CONTAINED: Cell<bool> = const { Cell::new(false) };
}

/// Panics of workers reach their caller as an error and are not printed; all others go to the hook that was there.
fn silence_contained_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_CONTAINED.get() {
                previous(info);
            }
        }));
    });
}

impl Worker {
    /// # Errors
    /// The system starts no thread.
    pub fn start() -> Result<Self, Fault> {
        silence_contained_panics();
        let (sender, tasks) = mpsc::channel::<Task>();
        let run = move || {
            IS_CONTAINED.set(true);
            tasks.into_iter().for_each(|task| task());
        };
        let thread = thread::Builder::new().name("tokenizer".to_owned()).stack_size(STACK_BYTES).spawn(run);
        thread.map_err(|error| Fault::NoThread(error.to_string()))?;
        Ok(Worker { tasks: Mutex::new(Some(sender)) })
    }

    /// Runs a task and waits for its result.
    ///
    /// # Errors
    /// The task panics, or is not done within the limit.
    pub fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        task: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Fault> {
        let (reply, result) = mpsc::sync_channel(1);
        let contained = move || {
            let done = panic::catch_unwind(AssertUnwindSafe(task)).map_err(|panic| Fault::Panicked(said(&*panic)));
            // No receiver is left once the limit has passed.
            let _ = reply.send(done);
        };
        // Held until the task is done: callers of one worker wait for each other, each with its own limit.
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = tasks.as_ref().ok_or(Fault::GivenUp)?;
        sender.send(Box::new(contained)).map_err(|_| Fault::GivenUp)?;
        result.recv_timeout(limit).unwrap_or_else(|_| {
            *tasks = None;
            Err(Fault::TooSlow(limit))
        })
    }
}

/// The message of a panic.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    crate::error::cut(text.unwrap_or("a panic without a message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_and_the_worker_goes_on() {
        let worker = Worker::start().unwrap();
        let limit = Duration::from_secs(60);
        let panicked = worker.run(limit, || -> u32 { panic!("index {} of 3", 7) });
        assert_eq!(panicked, Err(Fault::Panicked("index 7 of 3".to_owned())));
        assert_eq!(worker.run(limit, || 5), Ok(5));
    }

    #[test]
    fn work_that_does_not_end_is_given_up_and_none_is_started_after_it() {
        let worker = Worker::start().unwrap();
        let (_never, wait) = mpsc::channel::<()>();
        let limit = Duration::from_millis(20);
        assert_eq!(worker.run(limit, move || wait.recv().is_ok()), Err(Fault::TooSlow(limit)));
        assert_eq!(worker.run(limit, || true), Err(Fault::GivenUp));
    }
}
