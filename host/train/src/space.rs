//! Whether there is room on the disk for all that a run will write: asked before its first step, not met after hours.

use std::{ops::Range, path::Path};

use unswag_checkpoint::{Disk, human_bytes};

use crate::{TrainError, TrainingArguments, folder::is_one_disk};

/// The most that the checkpoints of a run's remaining steps and its result take at once.
pub(crate) fn run_bytes(
    checkpoint_bytes: u64,
    steps: Range<u64>,
    arguments: &TrainingArguments,
    finished_bytes: u64,
) -> u64 {
    let through = |step: u64| step.checked_div(arguments.save_steps);
    let written = match (through(steps.start), through(steps.end)) {
        (Some(before), Some(after)) => {
            after.saturating_sub(before) + u64::from(!steps.end.is_multiple_of(arguments.save_steps))
        }
        // Without an interval there is one where the run is stopped.
        _ => 1,
    };
    // One is written before the oldest goes.
    let count = arguments.save_total_limit.map_or(written, |limit| written.min(limit.saturating_add(1)));
    checkpoint_bytes.saturating_mul(count.max(1)).saturating_add(finished_bytes)
}

/// What a run takes on the disk.
pub(crate) struct Needed<'a> {
    pub run_bytes: u64,
    /// Bytes that come free in the output folder before anything is written.
    pub freed_bytes: u64,
    /// The file of the optimizer's paged state and its folder, until it is open: it takes its room at once.
    pub paged: Option<(&'a Path, u64)>,
}

impl Needed<'_> {
    /// The output folder need not exist yet.
    ///
    /// # Errors
    /// Too little is free, or the disk does not say how much.
    pub fn require(&self, folder: &Path, disk: &dyn Disk) -> Result<(), TrainError> {
        let output = existing(folder);
        let fits = |path: &Path, needed: u64, freed: u64, what, next| {
            let failed = |source| TrainError::Io { path: path.to_owned(), action: "query the free disk space", source };
            let free = disk.free_bytes(existing(path)).map_err(failed)?.saturating_add(freed);
            if free >= needed {
                return Ok(());
            }
            let [needed, free] = [needed, free].map(human_bytes);
            Err(TrainError::DiskSpace { path: path.to_owned(), what, needed, free, next })
        };
        let checkpoints = "the checkpoints of this run";
        let fewer = "free some space, or set save_total_limit";
        match self.paged {
            None => fits(folder, self.run_bytes, self.freed_bytes, checkpoints, fewer),
            Some((of_state, bytes)) if is_one_disk(existing(of_state), output) => {
                let needed = self.run_bytes.saturating_add(bytes);
                let what = "the checkpoints of this run and its optimizer's paged state";
                fits(folder, needed, self.freed_bytes, what, fewer)
            }
            Some((of_state, bytes)) => {
                let next = "free some space, or name another folder";
                fits(of_state, bytes, 0, "the optimizer's paged state", next)?;
                fits(folder, self.run_bytes, self.freed_bytes, checkpoints, fewer)
            }
        }
    }
}

/// The folder, or the nearest one above it that exists.
fn existing(folder: &Path) -> &Path {
    let found = folder.ancestors().find(|path| path.exists());
    // Above a relative path is the working directory.
    found.unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_writes_a_checkpoint_at_each_interval_and_one_after_its_last_step() {
        let written = |steps: Range<u64>, save_steps, save_total_limit| {
            let arguments = TrainingArguments { save_steps, save_total_limit, ..TrainingArguments::default() };
            (run_bytes(100, steps, &arguments, 7) - 7) / 100
        };
        // After 3, 6, 9 and 10; of a resumed run after 5, 10 and 11.
        for (steps, save_steps, count) in
            [(0..10, 3, 4), (3..11, 5, 3), (0..10, 5, 2), (0..4, 500, 1), (0..10, 0, 1), (10..10, 5, 1)]
        {
            assert_eq!(written(steps.clone(), save_steps, None), count, "{steps:?} {save_steps}");
        }
        // The new one stands before the oldest goes.
        assert_eq!((written(0..10, 1, Some(2)), written(0..10, 5, Some(9))), (3, 2));
    }
}
