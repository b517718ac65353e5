//! The dynamic maps: 256 values in [-1, 1] or [0, 1], dense near zero, made by formula.
//!
//! The magnitudes lie in seven decades, 1e-6 to 1. Decade i (the i-th from below) is cut into 2^i parts of equal width (2^(i + 1)
//! where there is no sign to keep), and the middles of the parts are the values; 0 and 1 are added. All is in f32, in the order
//! of `torch.linspace` and bitsandbytes' `create_dynamic_map`, whose bits these are.
//!
//! **Finding the nearest.** The upper 16 bits of the f32 (sign, exponent, seven bits of mantissa) index a table of 5,890 or
//! 2,945 bytes; no entry's range holds more than one border between values, so one comparison with that border gives the
//! code. Against a binary search of eight dependent steps that is one load, one compare and one add.

use std::sync::LazyLock;

/// A map from codes to values, and the way back.
pub struct DynamicMap {
    values: [f32; 256],
    /// `[code]`: the middle between the values of `code` and `code + 1`; infinity after the last.
    borders: [f32; 256],
    /// For each key the code of the least value that has this key.
    firsts: Vec<u8>,
}

/// Decades of magnitude.
const DECADES: i32 = 7;
/// The upper halves of the f32s 2^-23, below which there is no border, and 1, above which there is none.
const LEAST_KEY: u32 = (127 - 23) << 7;
const MOST_KEY: u32 = 127 << 7;
const KEYS: u32 = MOST_KEY - LEAST_KEY + 1;

impl DynamicMap {
    /// -0.993 to 1: first moments, momentum, NF4's scales less their mean. Made once per process.
    pub fn signed() -> &'static DynamicMap {
        static MAP: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(true));
        &MAP
    }

    /// 0 to 1: second moments. Made once per process.
    pub fn unsigned() -> &'static DynamicMap {
        static MAP: LazyLock<DynamicMap> = LazyLock::new(|| DynamicMap::new(false));
        &MAP
    }

    /// The values of the codes 0 to 255, ascending.
    ///
    /// ```
    /// use unswag_kernels::quant::DynamicMap;
    /// let (signed, unsigned) = (DynamicMap::signed().values(), DynamicMap::unsigned().values());
    /// assert_eq!((signed[127], signed[255], unsigned[0], unsigned[255]), (0.0, 1.0, 0.0, 1.0));
    /// ```
    pub fn values(&self) -> &[f32; 256] {
        &self.values
    }

    /// `[code]`: the border between `code` and `code + 1`, which itself is `code`'s; infinity at 255.
    pub fn borders(&self) -> &[f32; 256] {
        &self.borders
    }

    /// The code of the value nearest to `x`: the number of borders below it. `x` must not be NaN.
    #[inline(always)]
    pub(crate) fn nearest(&self, x: f32) -> u8 {
        let bits = x.to_bits();
        let key = ((bits >> 16) & 0x7fff).clamp(LEAST_KEY, MOST_KEY) - LEAST_KEY;
        let negative = if bits >> 31 == 0 { 0 } else { KEYS };
        let first = self.firsts[(negative + key) as usize];
        // 255 has no border that anything is above, so this cannot overflow.
        first + u8::from(x > self.borders[usize::from(first)])
    }

    fn new(signed: bool) -> DynamicMap {
        let mut values = Vec::with_capacity(256);
        for decade in 0..DECADES {
            let parts = 1usize << if signed { decade } else { decade + 1 };
            let scale = 10f64.powi(decade + 1 - DECADES) as f32;
            for part in 0..parts {
                let middle = (linspace(0.1, 1.0, parts + 1, part) + linspace(0.1, 1.0, parts + 1, part + 1)) / 2.0;
                values.push(scale * middle);
                if signed {
                    values.push(-scale * middle);
                }
            }
        }
        values.extend([0.0, 1.0]);
        values.sort_by(f32::total_cmp);
        let values: [f32; 256] = values.try_into().expect("2^7 - 1 magnitudes, twice or of two parts, and two more");

        let mut borders = [f32::INFINITY; 256];
        for (border, pair) in borders.iter_mut().zip(values.windows(2)) {
            *border = (pair[0] + pair[1]) / 2.0;
        }
        let code = |x: f32| borders.iter().filter(|border| **border < x).count();
        let mut firsts = Vec::with_capacity(2 * KEYS as usize);
        for negative in [false, true] {
            for key in LEAST_KEY..=MOST_KEY {
                let nearer_zero = if key == LEAST_KEY { 0.0 } else { f32::from_bits(key << 16) };
                let farther = if key == MOST_KEY { f32::INFINITY } else { f32::from_bits(key << 16 | 0xffff) };
                let (least, most) = if negative { (-farther, -nearer_zero) } else { (nearer_zero, farther) };
                let first = if least == f32::NEG_INFINITY { 0 } else { code(least) };
                let last = code(most.min(f32::MAX));
                assert!(last <= first + 1, "two borders under one key of the dynamic map");
                firsts.push(first as u8);
            }
        }
        DynamicMap { values, borders, firsts }
    }
}

/// Element `i` of `torch.linspace(start, end, count)`: from the nearer end, with one rounding for product and sum.
pub(super) fn linspace(start: f32, end: f32, count: usize, i: usize) -> f32 {
    let step = (end - start) / (count - 1) as f32;
    if i < count / 2 { step.mul_add(i as f32, start) } else { (-step).mul_add((count - 1 - i) as f32, end) }
}
