//! Inputs on which formulas break: ordinary numbers, and among them zeros of both signs, the very small, the saturated, and where
//! the kind keeps them to their own elements, infinities and NaN.

use unswag_abi::doc::Meta;

use crate::{NoReference, Primitive, Tensor, tensor::rounded};

/// The most that the inputs of one call may take.
pub(crate) const MAX_BYTES: u64 = 256 << 20;

const FINITE: [f32; 14] = [0.0, -0.0, 1e-42, -1e-42, 1e-38, -1e-38, 1e-6, -1e-6, 1.0, -1.0, 9.0, -9.0, 30.0, -30.0];
const EXTREME: [f32; 5] = [88.5, -104.5, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];

impl Primitive {
    /// A tensor for each input of a call with these types, by `seed`.
    ///
    /// # Errors
    /// They are not those of a call of this kind, or too large.
    pub fn sample(&self, metas: &[Meta], seed: u64) -> Result<Vec<Tensor>, NoReference> {
        self.types(metas.iter())?;
        let bytes = metas.iter().try_fold(0u64, |sum, meta| sum.checked_add(meta.bytes()?)).unwrap_or(u64::MAX);
        if bytes > MAX_BYTES {
            return Err(NoReference::Size { bytes });
        }
        let mut random = Random(seed);
        let activations = metas.len() - self.roles.len();
        let tensor = |(index, meta): (usize, &Meta)| {
            let elements = meta.elements().unwrap_or(0) as usize;
            let mut values: Vec<f32> = match meta.dtype.is_float() {
                true => (0..elements).map(|_| random.normal()).collect(),
                false => (0..elements).map(|_| (random.next() % self.ids(metas)) as f32).collect(),
            };
            if meta.dtype.is_float() && index < activations {
                // Odd steps, so that special values of one input meet ordinary ones of another, and each other.
                let special = FINITE.iter().chain(if self.is_local() { EXTREME.as_slice() } else { &[] });
                for (position, value) in special.enumerate() {
                    if let Some(place) = values.get_mut(position * 37 * (index + 1) + seed as usize % 7) {
                        *place = rounded(meta.dtype, *value);
                    }
                }
            }
            Tensor::from_f32(meta, &values).map_err(|problem| self.misfit(problem))
        };
        metas.iter().enumerate().map(tensor).collect()
    }

    /// Whether an element of the output depends on few elements of the inputs, so that a NaN does not reach all of it.
    fn is_local(&self) -> bool {
        !matches!(self.kind(), "attention" | "linear" | "rms_norm" | "layer_norm" | "softmax" | "rope")
    }

    /// Whole numbers are below this: a table's rows, or the positions of a short text.
    fn ids(&self, metas: &[Meta]) -> u64 {
        let table = metas.last().filter(|_| self.kind() == "embedding").and_then(|table| table.shape.first());
        let offset = self.attrs.get("offset").and_then(serde_json::Value::as_u64).unwrap_or(0);
        table.map_or(4096, |rows| rows.saturating_sub(offset)).clamp(1, 1 << 20)
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// About normal with mean 0 and variance 1: the sum of four uniform numbers has no tail beyond 3.5, which `FINITE` has.
    fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum: f32 = (0..4).map(|part| (bits >> (16 * part) & 0xffff) as f32 / 65536.0).sum();
        // The variance of a uniform number is 1/12.
        (sum - 2.0) * 3f32.sqrt()
    }
}
