//! The date with which a saved run's chat template was rendered. It is read before the data is opened, which is before a run
//! can be resumed.

use std::{io::Read, path::Path};

use serde::Deserialize;
use unswag_checkpoint::regular_file;
use unswag_data::Position;

use crate::{
    Resume,
    checkpoint::{self, MAX_STATE_BYTES, STATE},
};

/// The date with which a saved run's chat template was rendered; pass it to [`unswag_data::ChatTemplate`] when resuming. `None`
/// if there is no checkpoint or the template uses no date.
pub fn saved_template_date(from: &Resume, folder: &Path) -> Option<String> {
    let paths = match from {
        Resume::From(path) => vec![path.clone()],
        Resume::Auto => checkpoint::list(folder).into_iter().rev().map(|(_, path)| path).collect(),
    };
    paths.iter().find_map(|path| position(path))?.template_date
}

fn position(checkpoint: &Path) -> Option<Position> {
    #[derive(Deserialize)]
    struct State {
        position: Position,
    }
    let (file, _) = regular_file(&checkpoint.join(STATE)).ok()?;
    let mut text = Vec::new();
    file.take(MAX_STATE_BYTES).read_to_end(&mut text).ok()?;
    serde_json::from_slice::<State>(&text).ok().map(|state| state.position)
}
