//! transformers' names of activation functions (`hidden_act`), as node kinds.

use serde_json::json;
use unswag_abi::doc::Attrs;

/// The functions that a graph can express.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    Silu,
    /// x * Phi(x).
    Gelu,
    /// Hendrycks & Gimpel's tanh form of it.
    GeluTanh,
    Relu,
    /// relu(x)^2.
    Relu2,
}

/// Every name that [`Activation::of`] knows, for errors.
pub(super) const NAMES: &str = "silu, swish, gelu, gelu_python, gelu_new, gelu_pytorch_tanh, gelu_python_tanh, gelu_fast, \
                                gelu_accurate, relu, relu2";

impl Activation {
    /// transformers has several implementations of one formula under different names; a graph names the formula.
    pub fn of(name: &str) -> Option<Self> {
        Some(match name {
            "silu" | "swish" => Activation::Silu,
            "gelu" | "gelu_python" => Activation::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_python_tanh" | "gelu_fast" | "gelu_accurate" => {
                Activation::GeluTanh
            }
            "relu" => Activation::Relu,
            "relu2" => Activation::Relu2,
            _ => return None,
        })
    }

    /// The kind that computes f(x).
    pub fn kind(self) -> &'static str {
        match self {
            Activation::Silu => "silu",
            Activation::Gelu | Activation::GeluTanh => "gelu",
            Activation::Relu => "relu",
            Activation::Relu2 => "relu2",
        }
    }

    /// The kind that computes f(gate) * up, where there is one.
    pub fn gated_kind(self) -> Option<&'static str> {
        match self {
            Activation::Silu => Some("swiglu"),
            Activation::Gelu | Activation::GeluTanh => Some("geglu"),
            Activation::Relu => Some("reglu"),
            Activation::Relu2 => None,
        }
    }

    pub fn attrs(self) -> Attrs {
        match self {
            Activation::Gelu => Attrs::from([("approximate".to_owned(), json!("none"))]),
            Activation::GeluTanh => Attrs::from([("approximate".to_owned(), json!("tanh"))]),
            _ => Attrs::new(),
        }
    }
}
