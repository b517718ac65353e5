//! Whether there is room on the disk for all that a run will write: checked before its first step.

use std::path::Path;

use unswag_checkpoint::{Disk, human_bytes};

use crate::{RunPlan, TrainError, folder::is_one_disk, optimizer::States};

/// Paged state takes its own room as soon as its file is created.
///
/// # Errors
/// Too little is free, or the disk does not say how much.
pub(crate) fn require(plan: &RunPlan, states: &States, folder: &Path, disk: &dyn Disk) -> Result<(), TrainError> {
    let fits = |path: &Path, needed: u64, what, next| {
        let failed = |source| TrainError::Io { path: path.to_owned(), action: "ask for free space", source };
        let free = disk.free_bytes(path).map_err(failed)?;
        if free >= needed {
            return Ok(());
        }
        let [needed, free] = [needed, free].map(human_bytes);
        Err(TrainError::DiskSpace { path: path.to_owned(), what, needed, free, next })
    };
    let checkpoints = "the checkpoints of this run";
    let fewer = "free some space, or set save_total_limit";
    let state = match states {
        States::Paged(paged) if !paged.is_open() => Some(paged.folder()),
        _ => None,
    };
    match state {
        None => fits(folder, plan.disk_bytes, checkpoints, fewer),
        Some(of_state) if is_one_disk(of_state, folder) => {
            let needed = plan.disk_bytes.saturating_add(plan.paged_bytes);
            fits(folder, needed, "the checkpoints of this run and its optimizer's paged state", fewer)
        }
        Some(of_state) => {
            let next = "free some space, or name another folder";
            fits(of_state, plan.paged_bytes, "the optimizer's paged state", next)?;
            fits(folder, plan.disk_bytes, checkpoints, fewer)
        }
    }
}
