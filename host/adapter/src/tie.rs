//! A head that shares the embedding's matrix, and adapters that give the two different values.
//!
//! In a graph such a head's node uses the embedding's parameter. An adapter that replaces one of the two (PEFT trains a copy of each
//! module of `modules_to_save`), or a merge of a LoRA on the head, unties them: the head has a separate parameter then, and
//! `config.json` says `tie_word_embeddings: false`.

use unswag_abi::doc::Graph;

use crate::{AdapterError, layers::linear_layers, spec::ReplacedParam};

/// What becomes of a tied head under an adapter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HeadTie {
    /// The model's head is not tied.
    None,
    /// Head and embedding stay one matrix. `head` is the head's path, for a merge that must cut it.
    Shared { head: String, embedding: String },
    /// The head has this separate parameter; its values are the embedding's of the base unless the adapter has them.
    Cut { head: String, embedding: String, param: String },
}

impl HeadTie {
    /// `holds_the_same` compares two of the adapter's tensors.
    ///
    /// # Errors
    /// What `holds_the_same` says.
    pub fn of(
        graph: &Graph,
        replaced: &[ReplacedParam],
        holds_the_same: impl Fn(&str, &str) -> Result<bool, AdapterError>,
    ) -> Result<Self, AdapterError> {
        let Some(head) = linear_layers(graph).pop().filter(|layer| layer.is_head && layer.is_tied) else {
            return Ok(HeadTie::None);
        };
        let (path, embedding) = (head.path, head.weight);
        let shared: Vec<&ReplacedParam> = replaced.iter().filter(|replaced| replaced.param == embedding).collect();
        let stays = match shared.as_slice() {
            [] => true,
            [a, b] => holds_the_same(&a.tensor, &b.tensor)?,
            _ => false,
        };
        let shared = HeadTie::Shared { head: path, embedding };
        Ok(if stays { shared } else { shared.cut_always() })
    }

    /// The same with the head cut off, where there is a tie.
    pub fn cut_always(self) -> Self {
        match self {
            HeadTie::Shared { head, embedding } => {
                // A multimodal file has its head under the decoder's own prefix.
                let root = if embedding.starts_with("language_model.model.") { "language_model." } else { "" };
                let param = format!("{root}{head}.weight");
                HeadTie::Cut { head, embedding, param }
            }
            other => other,
        }
    }

    /// Gives replaced parameters the names that the cut graph has for them; of a tie that stays, one of the two goes.
    pub fn rename(&self, replaced: &mut Vec<ReplacedParam>) {
        match self {
            HeadTie::None => {}
            HeadTie::Shared { embedding, .. } => {
                let mut seen = false;
                replaced.retain(|one| one.param != *embedding || !std::mem::replace(&mut seen, true));
            }
            HeadTie::Cut { head, param, .. } => {
                let of_head = replaced.iter_mut().filter(|one| one.module == *head);
                of_head.for_each(|one| one.param.clone_from(param));
            }
        }
    }

    /// The graph with the head's own parameter.
    pub fn cut(&self, graph: &Graph) -> Graph {
        let mut graph = graph.clone();
        if let HeadTie::Cut { head, embedding, param } = self
            && let Some(shared) = graph.params.get(embedding).cloned()
            && let Some(node) = graph.nodes.iter_mut().find(|node| node.path == *head)
        {
            graph.params.insert(param.clone(), shared);
            node.params.insert("weight".to_owned(), param.clone());
        }
        graph
    }

    /// The base's tensor that a parameter which is not in the base begins as.
    pub fn copied(&self, name: &str) -> Option<&str> {
        match self {
            HeadTie::Cut { embedding, param, .. } if param == name => Some(embedding),
            _ => None,
        }
    }
}
