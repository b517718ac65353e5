//! The host's primitives as plain loops: what a plugin's op that `stands_for` one of them is compared with.
//!
//! A [`Primitive`] gives the outputs for given inputs, [`Primitive::sample`] gives inputs on which formulas break, and
//! [`compare`] says how close a plugin's outputs come. There is no libtorch here and no plugin: the caller runs the op.
//! `docs/kinds.md` states the same arithmetic for plugin authors.
//!
//! Precision: inputs are read exactly, arithmetic is f32 (f64 for sums that the engine leaves to libtorch), and results are rounded
//! where the engine rounds them. [`Arithmetic::Exact`] kinds have one correct result, bit for bit. The others go through an
//! exponential, a root or a sum, whose last bit depends on the order of operations: there a stated number of units in the last
//! place is allowed, and what was found is reported.

mod compare;
mod elementwise;
mod heads;
mod page;
mod rows;
mod sample;
mod tensor;

pub use compare::{Agreement, Difference, compare};
pub use page::kinds_page;
pub use tensor::Tensor;

use unswag_abi::doc::{Attrs, Dim, Dtype, Meta, Param, Value};
use unswag_graph::kinds::{self, Kind};

/// What two implementations of a kind may differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// IEEE operations in one order: every right implementation has the same bits. Zeros of either sign count as equal, and so do
    /// NaNs of any payload.
    Exact,
    /// An exponential, a root or a sum is in it: a few units in the last place.
    Rounding,
}

/// Why a claim cannot be verified.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoReference {
    #[error("there is no plain reference of {kind}")]
    Kind { kind: String },
    #[error("its call is not one of {kind}: {problem}")]
    Call { kind: String, problem: String },
    #[error("its inputs take {bytes} bytes; at most {} are sampled", sample::MAX_BYTES)]
    Size { bytes: u64 },
}

/// One use of a host primitive: its kind, its attributes, and the roles of its parameters.
#[derive(Clone, Debug)]
pub struct Primitive {
    kind: &'static Kind,
    attrs: Attrs,
    roles: Vec<String>,
}

/// An output as the engine computes it, and what a right implementation may be off by.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    pub meta: Meta,
    pub arithmetic: Arithmetic,
    pub(crate) elements: Vec<Element>,
}

/// One element of an output.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Element {
    /// Rounded to the output's element type.
    pub value: f32,
    /// The largest term that is rounded to f32 on the way.
    pub wide: f64,
    /// The largest term that is rounded to the output's element type on the way, beside the value itself.
    pub narrow: f64,
}

impl Output {
    /// The values, each rounded to the output's element type.
    pub fn values(&self) -> impl Iterator<Item = f32> + '_ {
        self.elements.iter().map(|element| element.value)
    }

    /// As a plugin that computes the very same would give it.
    pub fn tensor(&self) -> Tensor {
        let values: Vec<f32> = self.values().collect();
        Tensor::from_f32(&self.meta, &values).expect("an output is of a type that the engine computes in")
    }
}

impl Primitive {
    /// The primitive `kind` with those of `attrs` that it has; a plugin's node may carry others. `roles` are those of the parameters,
    /// which stand after the activations in a call, in this order.
    ///
    /// # Errors
    /// [`NoReference::Kind`].
    pub fn new<'r>(kind: &str, attrs: &Attrs, roles: impl IntoIterator<Item = &'r str>) -> Result<Self, NoReference> {
        let found = kinds::find(kind).filter(|found| arithmetic(found.name).is_some());
        let found = found.ok_or_else(|| NoReference::Kind { kind: kind.to_owned() })?;
        let own = |name: &String| found.attrs.iter().any(|attr| attr.name == name.as_str());
        let attrs = attrs.iter().filter(|(name, _)| own(name)).map(|(name, value)| (name.clone(), value.clone()));
        Ok(Self { kind: found, attrs: attrs.collect(), roles: roles.into_iter().map(str::to_owned).collect() })
    }

    pub fn kind(&self) -> &'static str {
        self.kind.name
    }

    /// Whether it draws random numbers in training, so that only its forward without training has one right answer.
    pub fn is_random_in_training(&self) -> bool {
        self.kind.name == "dropout"
    }

    pub fn arithmetic(&self) -> Arithmetic {
        arithmetic(self.kind.name).unwrap_or(Arithmetic::Rounding)
    }

    /// What the engine computes from these inputs: activations, then parameters.
    ///
    /// # Errors
    /// The inputs are not those of a call of this kind, or have element types that the engine does not compute in.
    pub fn outputs(&self, inputs: &[Tensor]) -> Result<Vec<Output>, NoReference> {
        let types = self.types(inputs.iter().map(|tensor| &tensor.meta))?;
        let metas: Vec<Meta> = types.iter().map(|value| self.meta(value)).collect::<Result<_, _>>()?;
        let values = inputs.iter().map(|tensor| tensor.to_f32().map_err(|problem| self.misfit(problem)));
        let call = Call {
            attrs: &self.attrs,
            roles: &self.roles,
            metas: inputs.iter().map(|tensor| &tensor.meta).collect(),
            values: values.collect::<Result<_, _>>()?,
            outputs: &metas,
        };
        let computed = self.compute(&call)?;
        let arithmetic = self.arithmetic();
        Ok(metas
            .iter()
            .zip(computed)
            .map(|(meta, elements)| Output { meta: meta.clone(), arithmetic, elements })
            .collect())
    }

    fn compute(&self, call: &Call<'_>) -> Result<Vec<Vec<Element>>, NoReference> {
        Ok(match self.kind.name {
            "embedding" => vec![rows::embedding(call).map_err(|problem| self.misfit(problem))?],
            "linear" => vec![rows::linear(call)],
            "rms_norm" => vec![rows::rms_norm(call)],
            "layer_norm" => vec![rows::layer_norm(call)],
            "softmax" => vec![rows::softmax(call)],
            "split" => rows::split(call),
            "concat" => vec![rows::concat(call)],
            "slice" => vec![rows::slice(call)],
            "rotary_embedding" => heads::rotary(call).map_err(|problem| self.misfit(problem))?,
            "rope" => heads::rope(call),
            "attention" => vec![heads::attention(call)],
            "add" | "sub" | "mul" => vec![elementwise::binary(self.kind.name, call)],
            "swiglu" | "geglu" | "reglu" => vec![elementwise::gated(self.kind.name, call)],
            _ => vec![elementwise::unary(self.kind.name, call)],
        })
    }

    /// The types of the outputs, by the graph's own rules.
    fn types<'m>(&self, metas: impl Iterator<Item = &'m Meta>) -> Result<Vec<Value>, NoReference> {
        let metas: Vec<&Meta> = metas.collect();
        let activations = metas.len().checked_sub(self.roles.len());
        let activations = activations.ok_or_else(|| self.misfit(format!("{} inputs in all", metas.len())))?;
        let values: Vec<Value> = metas[..activations]
            .iter()
            .map(|meta| Value { dtype: meta.dtype, shape: meta.shape.iter().map(|&size| Dim::Fixed(size)).collect() })
            .collect();
        let params: Vec<Param> =
            metas[activations..].iter().map(|meta| Param { dtype: meta.dtype, shape: meta.shape.clone() }).collect();
        let params: Vec<(&str, &Param)> = self.roles.iter().map(String::as_str).zip(&params).collect();
        let found = self.kind.infer(&values.iter().collect::<Vec<_>>(), &params, &self.attrs);
        found.map_err(|error| self.misfit(error.to_string()))
    }

    fn meta(&self, value: &Value) -> Result<Meta, NoReference> {
        let shape = value.shape.iter().map(Dim::fixed).collect::<Option<Vec<u64>>>();
        let shape = shape.ok_or_else(|| self.misfit("an output has no fixed size".to_owned()))?;
        match value.dtype {
            dtype @ (Dtype::F32 | Dtype::Bf16 | Dtype::F16) => Ok(Meta { dtype, shape }),
            other => Err(self.misfit(format!("the engine does not compute in {other}"))),
        }
    }

    fn misfit(&self, problem: String) -> NoReference {
        NoReference::Call { kind: self.kind.name.to_owned(), problem }
    }
}

/// How the outputs of a kind are compared; `None` where there is no reference of it.
pub fn arithmetic(kind: &str) -> Option<Arithmetic> {
    Some(match kind {
        "embedding" | "split" | "concat" | "slice" | "relu" | "relu2" | "reglu" | "add" | "sub" | "mul" | "scale"
        | "dropout" => Arithmetic::Exact,
        "linear" | "rms_norm" | "layer_norm" | "rotary_embedding" | "rope" | "attention" | "silu" | "gelu" | "tanh"
        | "sigmoid" | "swiglu" | "geglu" | "softcap" | "softmax" => Arithmetic::Rounding,
        _ => return None,
    })
}

/// A call with its inputs as f32, which every element type of a float tensor fits into.
pub(crate) struct Call<'a> {
    pub attrs: &'a Attrs,
    roles: &'a [String],
    pub metas: Vec<&'a Meta>,
    pub values: Vec<Vec<f32>>,
    pub outputs: &'a [Meta],
}

impl Call<'_> {
    /// The values of the parameter with this role, where there is one.
    pub fn param(&self, role: &str) -> Option<&[f32]> {
        let at = self.roles.iter().position(|other| other == role)?;
        Some(&self.values[self.values.len() - self.roles.len() + at])
    }

    pub fn number(&self, name: &str) -> Option<f64> {
        self.attrs.get(name).and_then(serde_json::Value::as_f64)
    }

    pub fn size(&self, name: &str) -> Option<usize> {
        self.attrs.get(name).and_then(serde_json::Value::as_u64).and_then(|size| usize::try_from(size).ok())
    }

    pub fn flag(&self, name: &str) -> bool {
        self.attrs.get(name).and_then(serde_json::Value::as_bool).unwrap_or(false)
    }

    /// The element type of output 0.
    pub fn dtype(&self) -> Dtype {
        self.outputs[0].dtype
    }

    /// The last dimension of input `index`, and at least 1.
    pub fn width(&self, index: usize) -> usize {
        self.metas[index].shape.last().map_or(1, |&size| size as usize).max(1)
    }
}
