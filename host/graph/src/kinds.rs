//! The one table of host primitives: what each kind computes, takes, returns, and saves for its backward.
//!
//! Builders write graphs in these words, plugins may use them in composites, and everything that asks what a node means
//! (validation, planning, `inspect`) asks here. A kind with a dot in its name (`delhi.swiglu`) is a plugin's op and never
//! in this table. The table must stay free of tensors: a kind is known by its types alone.

mod call;
mod infer;
mod saves;
mod table;

use std::{collections::HashMap, sync::LazyLock};

use unswag_abi::doc::{Attrs, Dtype, Param, Value};

pub(crate) use call::{Call, clipped, clipped_at};
pub use call::{KindError, show_shape, show_value};

/// One host primitive.
#[derive(Debug)]
pub struct Kind {
    pub name: &'static str,
    /// What it computes, in one sentence or formula.
    pub doc: &'static str,
    pub inputs: Inputs,
    /// Names of the outputs; a kind with [`Kind::variadic`] outputs (`split`) has as many as its attributes say.
    pub outputs: &'static [&'static str],
    pub params: &'static [Role],
    pub attrs: &'static [Attr],
    /// What PyTorch saves for the backward, with fused norms and SDPA, in words; [`Kind::saves`] returns it in bytes.
    pub saves_doc: &'static str,
    infer: fn(&Call<'_>) -> Result<Vec<Value>, KindError>,
    saves: fn(&Call<'_>) -> Vec<Save>,
}

/// How many inputs a kind takes, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    Exactly(&'static [&'static str]),
    /// At least this many, all of one sort.
    AtLeast(usize),
}

/// A parameter of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Role {
    pub name: &'static str,
    /// As documentation writes it: `[out, in]`.
    pub shape: &'static str,
    pub required: bool,
}

/// An attribute of a kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attr {
    pub name: &'static str,
    pub of: AttrType,
    pub required: bool,
    /// What it means, and what its absence means where it is optional.
    pub doc: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AttrType {
    /// A whole number of at least this.
    Integer(u64),
    /// A finite number.
    Number,
    /// A finite number above zero.
    Positive,
    Boolean,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Whole numbers above zero, at least one.
    Sizes,
    /// Finite numbers above zero, at least one.
    Numbers,
    /// An element type as safetensors spells it; floating point.
    Float,
}

/// One tensor kept for the backward.
#[derive(Clone, Debug, PartialEq)]
pub enum Save {
    /// The input of this index, as it is.
    Input(usize),
    /// The output of this index, as it is.
    Output(usize),
    /// A tensor that nothing but the backward reads: `rstd`, `silu(gate)`.
    Made { label: &'static str, value: Value },
}

/// Every kind, in the table's order.
pub fn all() -> &'static [Kind] {
    table::TABLE
}

/// The kind of this name.
pub fn find(name: &str) -> Option<&'static Kind> {
    static BY_NAME: LazyLock<HashMap<&str, &Kind>> =
        LazyLock::new(|| table::TABLE.iter().map(|kind| (kind.name, kind)).collect());
    BY_NAME.get(name).copied()
}

/// Whether the name is a plugin op's: it holds a dot.
pub fn is_plugin_op(kind: &str) -> bool {
    kind.contains('.')
}

/// The types of a host primitive's outputs.
///
/// `params` pairs roles with what they point to; order is free.
///
/// # Errors
/// An unknown kind, or inputs, parameters and attributes that do not fit it; the error says what was expected.
pub fn infer(kind: &str, inputs: &[&Value], params: &[(&str, &Param)], attrs: &Attrs) -> Result<Vec<Value>, KindError> {
    let found = find(kind).ok_or_else(|| KindError::Unknown(crate::names::quoted(kind)))?;
    found.infer(inputs, params, attrs)
}

/// The element type that a parameter-free kind (`rotary_embedding`) gives when its `dtype` attribute is absent.
pub const DEFAULT_FLOAT: Dtype = Dtype::F32;

impl Kind {
    /// Whether the number of outputs depends on the attributes.
    pub fn variadic(&self) -> bool {
        self.outputs.is_empty()
    }

    /// The types of the outputs, after checking that inputs, parameters and attributes fit.
    ///
    /// # Errors
    /// What does not fit, what was expected and what was found.
    pub fn infer(&self, inputs: &[&Value], params: &[(&str, &Param)], attrs: &Attrs) -> Result<Vec<Value>, KindError> {
        let call = Call { kind: self, inputs, params, attrs };
        call.check_signature()?;
        (self.infer)(&call)
    }

    /// What PyTorch saves for the backward, with fused norms and SDPA, where every linear layer is trained or has LoRA and
    /// every input needs a gradient. Empty for a call that [`Kind::infer`] refuses.
    pub fn saves(&self, inputs: &[&Value], params: &[(&str, &Param)], attrs: &Attrs) -> Vec<Save> {
        match self.infer(inputs, params, attrs) {
            Ok(_) => (self.saves)(&Call { kind: self, inputs, params, attrs }),
            Err(_) => Vec::new(),
        }
    }
}
