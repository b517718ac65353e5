//! The host's element-wise primitives in f64: what an op that `stands_for` one is held against.
//!
//! Bit equality with the host's own kernel cannot be asked here, since that kernel is not part of the SDK; a few units in
//! the last place of an independent f64 computation can.

use unswag_abi::doc::Attrs;

/// An element-wise primitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    function: Function,
    /// It takes (gate, up) and gives f(gate) * up.
    gated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Silu,
    Gelu,
    GeluTanh,
    Relu,
    Relu2,
    Tanh,
    Sigmoid,
}

impl Plain {
    /// The primitive of this kind, if it is one of those known here.
    pub fn of(kind: &str, attrs: &Attrs) -> Option<Self> {
        let gelu = match attrs.get("approximate").and_then(serde_json::Value::as_str) {
            Some("tanh") => Function::GeluTanh,
            _ => Function::Gelu,
        };
        let (function, gated) = match kind {
            "silu" => (Function::Silu, false),
            "gelu" => (gelu, false),
            "relu" => (Function::Relu, false),
            "relu2" => (Function::Relu2, false),
            "tanh" => (Function::Tanh, false),
            "sigmoid" => (Function::Sigmoid, false),
            "swiglu" => (Function::Silu, true),
            "geglu" => (gelu, true),
            "reglu" => (Function::Relu, true),
            _ => return None,
        };
        Some(Self { function, gated })
    }

    pub fn inputs(self) -> usize {
        if self.gated { 2 } else { 1 }
    }

    pub fn value(self, x: &[f64]) -> f64 {
        let y = self.function.value(x[0]);
        if self.gated { y * x[1] } else { y }
    }

    /// The size of the largest term whose rounding shows in the result: the value itself, but for GELU, whose usual
    /// formula adds 1 to something close to -1, x.
    pub fn magnitude(self, x: &[f64]) -> f64 {
        match self.function {
            Function::Gelu | Function::GeluTanh => x.iter().product::<f64>().abs(),
            _ => self.value(x).abs(),
        }
    }

    /// d value / d x[index], by central differences. The step's square and f64's rounding leave about 1e-10.
    pub fn derivative(self, x: &[f64], index: usize) -> f64 {
        let step = 1e-5 * x[index].abs().max(1.0);
        let mut at = x.to_vec();
        at[index] = x[index] + step;
        let above = self.value(&at);
        at[index] = x[index] - step;
        (above - self.value(&at)) / (2.0 * step)
    }
}

impl Function {
    fn value(self, x: f64) -> f64 {
        match self {
            Function::Silu => x / (1.0 + (-x).exp()),
            Function::Gelu => 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
            // Hendrycks & Gimpel 2016: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), with 1 + tanh(z) = 2 sigmoid(2 z).
            Function::GeluTanh => {
                let z = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                x / (1.0 + (-2.0 * z).exp())
            }
            // Written so that NaN stays NaN and -0 becomes 0, as in PyTorch.
            Function::Relu => {
                if x <= 0.0 {
                    0.0
                } else {
                    x
                }
            }
            Function::Relu2 => {
                if x <= 0.0 {
                    0.0
                } else {
                    x * x
                }
            }
            Function::Tanh => x.tanh(),
            Function::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Expected values from Python's math.exp and math.erfc.
    #[test]
    fn functions_have_their_known_values() {
        for (kind, x, expected) in [
            ("silu", 1.0, 0.7310585786300049),
            ("gelu", 1.0, 0.8413447460685429),
            ("gelu", -3.0, -0.004049694094890287),
            ("relu", -2.0, 0.0),
            ("relu2", 3.0, 9.0),
        ] {
            let value = Plain::of(kind, &Attrs::new()).unwrap().value(&[x]);
            assert!((value - expected).abs() < 1e-13, "{kind}({x}) = {value}, expected {expected}");
        }
    }

    #[test]
    fn derivatives_are_good_to_nine_digits() {
        let silu = Plain::of("silu", &Attrs::new()).unwrap();
        for x in [-20.0, -1.5, 0.0, 0.3, 7.0] {
            let s = 1.0 / (1.0 + f64::exp(-x));
            let exact = s * (1.0 + x * (1.0 - s));
            assert!((silu.derivative(&[x], 0) - exact).abs() < 1e-9);
        }
    }
}
