//! The checkpoint's tensors by name: each is claimed once, with the shape that the architecture expects of it, and what
//! nobody claims is listed.
//!
//! It knows names, dtypes and shapes only. Names come from a file and may be hostile: they are compared and counted, and
//! made printable before they enter an error.

use indexmap::{IndexMap, map::Entry};
use unswag_abi::doc::Dtype;

use super::{
    TensorInfo,
    error::{BuildError, printable},
};

/// Where a family's tensors stand in a file: before the decoder's own names, and before `lm_head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub body: &'static str,
    pub head: &'static str,
}

pub(super) struct Tensors<'a> {
    source: Source<'a>,
    pub prefix: Prefix,
}

enum Source<'a> {
    /// What a file has.
    File(IndexMap<&'a str, Known<'a>>),
    /// No file: whatever is asked for is there, in this dtype. This is how the list of expected tensors is made.
    Imagined(Dtype),
}

struct Known<'a> {
    dtype: Dtype,
    shape: &'a [u64],
    claimed: bool,
}

/// Layers that a config may state where there is no file to hold against it; the deepest published models have a few hundred.
const MOST_IMAGINED_LAYERS: u64 = 4096;

impl<'a> Tensors<'a> {
    pub fn of_file(tensors: impl IntoIterator<Item = TensorInfo<'a>>) -> Result<Self, BuildError> {
        let tensors = tensors.into_iter();
        // The hint is what the caller holds already; a wrong one must not cost memory.
        let mut known = IndexMap::with_capacity(tensors.size_hint().0.min(1 << 20));
        for TensorInfo { name, dtype, shape } in tensors {
            match known.entry(name) {
                Entry::Vacant(slot) => slot.insert(Known { dtype, shape, claimed: false }),
                Entry::Occupied(_) => return Err(BuildError::DuplicateTensor { name: printable(name) }),
            };
        }
        Ok(Tensors { source: Source::File(known), prefix: Prefix { body: "", head: "" } })
    }

    pub fn imagined(dtype: Dtype) -> Self {
        Tensors { source: Source::Imagined(dtype), prefix: Prefix { body: "", head: "" } }
    }

    /// Takes the first of `candidates` under which one of `anchors` (names without prefix) stands in the file; the first
    /// candidate where none does, so that the error for the missing tensor shows the usual name.
    pub fn find_prefix(&mut self, candidates: &[Prefix], anchors: &[&str]) {
        let found =
            candidates.iter().find(|prefix| anchors.iter().any(|anchor| self.has(&format!("{}{anchor}", prefix.body))));
        if let Some(&prefix) = found.or(candidates.first()) {
            self.prefix = prefix;
        }
    }

    /// Whether a file has this tensor. Where there is no file nothing is there beyond what is claimed.
    pub fn has(&self, name: &str) -> bool {
        match &self.source {
            Source::File(known) => known.contains_key(name),
            Source::Imagined(_) => false,
        }
    }

    /// Refuses a layer count that the file cannot hold, before anything is allocated for the layers.
    pub fn check_layers(&self, field: String, layers: u64) -> Result<(), BuildError> {
        let most = match &self.source {
            Source::File(known) => known.len() as u64,
            Source::Imagined(_) => MOST_IMAGINED_LAYERS,
        };
        if layers > most {
            return Err(BuildError::TooManyLayers { field, stated: layers, tensors: most });
        }
        Ok(())
    }

    /// Marks the tensor as used by `node` and gives its dtype.
    pub fn claim(&mut self, name: &str, node: &str, expected: &[u64]) -> Result<Dtype, BuildError> {
        let known = match &mut self.source {
            Source::Imagined(dtype) => return Ok(*dtype),
            Source::File(known) => known,
        };
        let Some(tensor) = known.get_mut(name) else {
            return Err(self.missing(name, node, expected));
        };
        if tensor.shape != expected {
            return Err(BuildError::Shape {
                name: printable(name),
                node: node.to_owned(),
                expected: expected.to_vec(),
                // A rank is only worth repeating while it can be read.
                found: tensor.shape.iter().copied().take(64).collect(),
            });
        }
        if !matches!(tensor.dtype, Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
            return Err(BuildError::TensorDtype { name: printable(name), found: tensor.dtype });
        }
        tensor.claimed = true;
        Ok(tensor.dtype)
    }

    /// Splits what is left into buffers that the model recomputes and tensors that nothing uses; both in file order.
    pub fn leftovers(&self, is_buffer: fn(&str) -> bool) -> (Vec<String>, Vec<String>) {
        let Source::File(known) = &self.source else {
            return (Vec::new(), Vec::new());
        };
        let unclaimed = known.iter().filter(|(_, tensor)| !tensor.claimed).map(|(name, _)| (*name).to_owned());
        unclaimed.partition(|name| is_buffer(name))
    }

    fn missing(&self, name: &str, node: &str, expected: &[u64]) -> BuildError {
        BuildError::MissingTensor {
            name: name.to_owned(),
            node: node.to_owned(),
            expected: expected.to_vec(),
            nearest: self.nearest(name).map(printable),
            hint: self.hint(name),
        }
    }

    /// The next step for a missing tensor: which of the usual reasons it is.
    fn hint(&self, name: &str) -> String {
        let Source::File(known) = &self.source else {
            return String::new();
        };
        if known.is_empty() {
            return "the file has no tensors at all".to_owned();
        }
        if name.ends_with("lm_head.weight") {
            return "set tie_word_embeddings to true in config.json if the output matrix is the embedding".to_owned();
        }
        let stated = name.split('.').find_map(|part| part.parse::<u64>().ok());
        let last = known.keys().filter_map(|name| layer_of(name, self.prefix.body)).max();
        match (stated, last) {
            (Some(stated), Some(last)) if stated > last => {
                format!("the file's last layer is {last}: a shard is missing, or the config states too many layers")
            }
            (_, None) => format!(
                "no tensor of the file stands under {:?}: is this another architecture, or an adapter?",
                self.prefix.body
            ),
            _ => "the file is incomplete, or the config belongs to another model".to_owned(),
        }
    }

    /// The unclaimed name most like `name`, where one is near enough to be meant.
    fn nearest(&self, name: &str) -> Option<&'a str> {
        // Edit distance costs length times length, so a hostile file must not choose how often it is computed.
        const MOST_COMPARED: usize = 5_000;
        const MOST_LONGER: usize = 24;
        let Source::File(known) = &self.source else {
            return None;
        };
        let layer = name.split('.').find(|part| part.parse::<u64>().is_ok());
        let in_same_layer = |other: &str| layer.is_none_or(|layer| other.split('.').any(|part| part == layer));
        known
            .iter()
            .filter(|(other, tensor)| {
                !tensor.claimed && other.len().abs_diff(name.len()) <= MOST_LONGER && in_same_layer(other)
            })
            .take(MOST_COMPARED)
            .map(|(other, _)| (strsim::levenshtein(name, other), *other))
            .min()
            .filter(|(distance, _)| *distance <= name.len() / 2)
            .map(|(_, other)| other)
    }
}

/// The number in `{body}layers.3.…` or `{body}h.3.…`.
pub(super) fn layer_of(name: &str, body: &str) -> Option<u64> {
    let rest = name.strip_prefix(body)?;
    let rest = rest.strip_prefix("layers.").or_else(|| rest.strip_prefix("h."))?;
    rest.split('.').next()?.parse().ok()
}
