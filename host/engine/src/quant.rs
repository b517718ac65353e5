//! NF4: which weights are stored quantised, and what they take.
//!
//! A quantised weight is a parameter like any other, but for its bytes. A product takes its elements through
//! [`crate::Backend::dequantize`], and they live as long as that product.

use crate::{EngineError, Program, ops::Op, program::ParamInfo};

/// NF4's settings. Dettmers et al. 2023.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nf4 {
    /// The scales themselves in 8 bits.
    pub double_quant: bool,
}

/// How a parameter's elements lie in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Storage {
    /// One after the other, each in the parameter's element type.
    #[default]
    Plain,
    Nf4(Nf4),
}

/// Elements that share a scale; scales that share one of their own. As in bitsandbytes.
const BLOCK: u64 = 64;
const NESTED_BLOCK: u64 = 256;

impl Nf4 {
    /// Bytes of so many elements: two codes to a byte; a scale in f32 for each block, or in 8 bits with one f32 for each 256 of
    /// them and one beside.
    pub fn bytes(self, elements: u64) -> u64 {
        let blocks = elements.div_ceil(BLOCK);
        let scales = match self.double_quant {
            false => 4 * blocks,
            true => blocks + 4 * blocks.div_ceil(NESTED_BLOCK) + 4,
        };
        elements.div_ceil(2) + scales
    }
}

impl ParamInfo {
    pub fn elements(&self) -> u64 {
        self.shape[0] * self.shape[1]
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> u64 {
        match self.storage {
            Storage::Plain => self.elements() * self.dtype.bytes(),
            Storage::Nf4(nf4) => nf4.bytes(self.elements()),
        }
    }
}

impl Program {
    /// Stores the weight of every linear layer but the head in NF4, as transformers' `load_in_4bit` does: embeddings, norms,
    /// biases, what a head shares with the embedding, and what a plugin's op reads stay plain. Blocks of 64 run over the rows as
    /// the checkpoint has them.
    ///
    /// # Errors
    /// A weight that is trained: what is quantised has no gradient. No such layer.
    pub fn quantize_linears(&mut self, nf4: Nf4) -> Result<(), EngineError> {
        let mut is_plain = vec![false; self.params.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            match &node.op {
                Op::Linear(layer) if !self.head.contains(&index) => {
                    layer
                        .params()
                        .into_iter()
                        .filter(|&param| param != layer.weight)
                        .for_each(|param| is_plain[param] = true);
                }
                op => op.params().into_iter().for_each(|param| is_plain[param] = true),
            }
        }
        let weights = self.nodes.iter().filter_map(|node| match &node.op {
            Op::Linear(layer) => Some(layer.weight),
            _ => None,
        });
        let weights: Vec<usize> = weights.filter(|&weight| !is_plain[weight]).collect();
        if let Some(&trained) = weights.iter().find(|&&weight| self.trainable[weight]) {
            return Err(EngineError::TrainsQuantized { name: self.params[trained].name.clone() });
        }
        if weights.is_empty() {
            return Err(EngineError::NothingToQuantize);
        }
        weights.into_iter().for_each(|weight| self.params[weight].storage = Storage::Nf4(nf4));
        Ok(())
    }
}
