//! The state of all tensors, wherever it lies.

use std::path::Path;

use super::{Paged, Part, Update, layout::Kept};
use crate::{TrainError, TrainingArguments, memory};

// A checkpoint's numbers are little-endian, and are read and written here as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"));

/// A tensor that a step is taken of.
pub(crate) struct Trained<'a> {
    pub params: &'a mut [f32],
    pub grads: &'a [f32],
    pub decays: bool,
}

/// What the optimizer keeps from step to step.
pub(crate) enum States {
    /// One stretch for each tensor, all of it.
    Resident(Vec<(Kept, Words)>),
    Paged(Box<Paged>),
}

/// Bytes that may be read as f32.
pub(crate) struct Words(Vec<f32>);

impl Words {
    fn zeros(bytes: usize) -> Self {
        Words(vec![0.0; bytes.div_ceil(size_of::<f32>())])
    }

    fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

impl States {
    /// Before the first step, of tensors of these sizes. What fits the budget is not paged, whatever the optimizer's name; what
    /// does not goes to `folder`, where the arguments name none.
    ///
    /// # Errors
    /// It is to be paged, and there is no folder; or it takes more than this machine has.
    pub fn new(
        arguments: &TrainingArguments,
        folder: Option<&Path>,
        elements: impl Iterator<Item = usize>,
    ) -> Result<Self, TrainError> {
        let kept: Vec<Kept> = elements.map(|elements| Kept::of(arguments.optim, elements)).collect();
        let bytes: usize = kept.iter().map(|kept| kept.bytes(kept.elements)).sum();
        if arguments.optim.is_paged() && bytes as u64 > arguments.optim_memory_budget {
            let Some(folder) = arguments.offload_folder.as_deref().or(folder) else {
                return Err(TrainError::Argument {
                    what: "offload_folder",
                    expected: "a folder on a disk, which a paged optimizer's state goes to".into(),
                    got: "none".into(),
                });
            };
            let paged = Paged::new(kept, arguments.optim_memory_budget, folder);
            return Ok(States::Paged(Box::new(paged)));
        }
        let next = "an 8-bit or a paged --optim takes less";
        memory::require("the optimizer's moments", bytes as u64, next)?;
        let states = kept.into_iter().map(|kept| (kept, Words::zeros(kept.bytes(kept.elements))));
        Ok(States::Resident(states.collect()))
    }

    fn kept(&self) -> Vec<Kept> {
        match self {
            States::Resident(states) => states.iter().map(|(kept, _)| *kept).collect(),
            States::Paged(paged) => paged.kept().to_vec(),
        }
    }

    /// Bytes of all of it.
    pub fn bytes(&self) -> u64 {
        self.kept().iter().map(|kept| kept.bytes(kept.elements) as u64).sum()
    }

    /// What a checkpoint holds of it.
    pub fn parts(&self) -> Vec<Part> {
        self.kept().iter().enumerate().flat_map(|(tensor, kept)| kept.parts(tensor)).collect()
    }

    /// One step of the tensor with this number. They are best stepped in the order in which they were given at first.
    ///
    /// # Errors
    /// A setting that cannot be, or a disk that fails: some of the tensor is stepped then, and some not.
    pub fn step(&mut self, tensor: usize, update: &Update<'_>, trained: Trained<'_>) -> Result<(), TrainError> {
        match self {
            States::Resident(states) => {
                let (kept, words) = &mut states[tensor];
                let mut moments = kept.moments(kept.elements, words.bytes_mut());
                update.run(trained.decays, trained.params, trained.grads, &mut moments)
            }
            States::Paged(paged) => paged.step(tensor, update, trained),
        }
    }

    /// Hands on the bytes of a part, in order and in pieces.
    ///
    /// # Errors
    /// The disk's, or those of `take`.
    pub fn read<E: From<TrainError>>(
        &mut self,
        part: &Part,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            States::Resident(states) => {
                let (kept, words) = &states[part.tensor];
                take(&words.bytes()[kept.range(kept.elements, part.field, part.moment)])
            }
            States::Paged(paged) => paged.read(part, take),
        }
    }

    /// Fills everything: `fill` is given a part, a place in it in bytes, and what to fill from there.
    ///
    /// # Errors
    /// The disk's, or those of `fill`.
    pub fn fill(
        &mut self,
        mut fill: impl FnMut(&Part, usize, &mut [u8]) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let states = match self {
            States::Resident(states) => states,
            States::Paged(paged) => return paged.fill(fill),
        };
        for (tensor, (kept, words)) in states.iter_mut().enumerate() {
            for part in kept.parts(tensor) {
                let range = kept.range(kept.elements, part.field, part.moment);
                fill(&part, 0, &mut words.bytes_mut()[range])?;
            }
        }
        Ok(())
    }
}
