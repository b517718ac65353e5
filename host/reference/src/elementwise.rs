//! Element-wise kinds.

use unswag_abi::doc::Dtype;
use unswag_kernels::math;

use crate::{Call, Element, tensor::rounded};

/// The result of f32 arithmetic, rounded once.
fn once(dtype: Dtype, value: f32, wide: f32) -> Element {
    Element { value: rounded(dtype, value), wide: f64::from(wide.abs()), narrow: 0.0 }
}

fn relu(x: f32) -> f32 {
    if x <= 0.0 { 0.0 } else { x }
}

/// f(x), and the largest term of it that is rounded to f32: what an implementation by another formula may be off by.
fn activation(kind: &str, call: &Call<'_>) -> fn(f32) -> (f32, f32) {
    let is_tanh = call.attrs.get("approximate").and_then(serde_json::Value::as_str) == Some("tanh");
    match kind {
        "silu" | "swiglu" => |x| grows_with_x(math::silu(x), x),
        // 1 + erf(x) cancels where x is negative: what is left is off by units of x.
        "gelu" | "geglu" if is_tanh => |x| (math::gelu_tanh(x), x),
        "gelu" | "geglu" => |x| (math::gelu(x), x),
        "tanh" => |x| (math::tanh(x), 1.0),
        "sigmoid" => |x| grows_with_x(math::sigmoid(x), x),
        "relu" | "reglu" => |x| (relu(x), 0.0),
        "relu2" => |x| (relu(x) * relu(x), 0.0),
        // Dropout without training.
        _ => |x| (x, 0.0),
    }
}

/// The argument of the exponential may be rounded: a relative error that grows with |x|.
fn grows_with_x(y: f32, x: f32) -> (f32, f32) {
    (y, y * (1.0 + x.abs()))
}

pub(crate) fn unary(kind: &str, call: &Call<'_>) -> Vec<Element> {
    let (dtype, x) = (call.dtype(), &call.values[0]);
    match kind {
        "scale" => {
            let by = call.number("by").unwrap_or(1.0) as f32;
            x.iter().map(|x| once(dtype, x * by, 0.0)).collect()
        }
        "softcap" => {
            let cap = call.number("cap").unwrap_or(1.0) as f32;
            let capped = |x: &f32| {
                let t = rounded(dtype, math::tanh(rounded(dtype, x / cap)));
                let value = rounded(dtype, t * cap);
                Element { value, wide: f64::from(cap), narrow: 2.0 * f64::from(value.abs()) }
            };
            x.iter().map(capped).collect()
        }
        _ => {
            let f = activation(kind, call);
            x.iter().map(|&x| f(x)).map(|(value, wide)| once(dtype, value, wide)).collect()
        }
    }
}

/// f(gate) * up, rounded once.
pub(crate) fn gated(kind: &str, call: &Call<'_>) -> Vec<Element> {
    let f = activation(kind, call);
    let pairs = call.values[0].iter().zip(&call.values[1]);
    pairs.map(|(&gate, &up)| (f(gate), up)).map(|((y, wide), up)| once(call.dtype(), y * up, wide * up)).collect()
}

pub(crate) fn binary(kind: &str, call: &Call<'_>) -> Vec<Element> {
    let f: fn(f32, f32) -> f32 = match kind {
        "add" => |a, b| a + b,
        "sub" => |a, b| a - b,
        _ => |a, b| a * b,
    };
    let shape = &call.outputs[0].shape;
    let [a, b] = [0, 1].map(|index| Broadcast::new(&call.metas[index].shape, shape));
    let elements = shape.iter().product::<u64>() as usize;
    let value = |at: usize| f(call.values[0][a.index(at)], call.values[1][b.index(at)]);
    (0..elements).map(|at| once(call.dtype(), value(at), 0.0)).collect()
}

/// Where an element of a broadcast result comes from.
struct Broadcast {
    /// Of each dimension of the result, the last first: its size, and the step in the input; 0 where it is repeated.
    steps: Vec<(usize, usize)>,
}

impl Broadcast {
    fn new(from: &[u64], to: &[u64]) -> Self {
        let mut step = 1;
        let sizes = from.iter().rev().map(Some).chain(std::iter::repeat(None));
        let steps = to.iter().rev().zip(sizes).map(|(&size, from)| {
            let own = match from {
                Some(&own) if own == size => step,
                _ => 0,
            };
            step *= from.map_or(1, |&own| own as usize);
            (size as usize, own)
        });
        Self { steps: steps.collect() }
    }

    fn index(&self, mut at: usize) -> usize {
        let mut index = 0;
        for &(size, step) in &self.steps {
            index += at % size.max(1) * step;
            at /= size.max(1);
        }
        index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_input_is_repeated_as_numpy_repeats_it() {
        // [2, 1, 3] to [2, 2, 3].
        let row = Broadcast::new(&[2, 1, 3], &[2, 2, 3]);
        assert_eq!(Vec::from_iter((0..12).map(|at| row.index(at))), [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]);
        let vector = Broadcast::new(&[3], &[2, 3]);
        assert_eq!(Vec::from_iter((0..6).map(|at| vector.index(at))), [0, 1, 2, 0, 1, 2]);
    }
}
