//! Grouped quantisation of the gated ops: sizes, the parameters of a group, and codes to values.
//!
//! A row of g (or u) is cut into groups of `group` columns, the last one shorter where the row ends; no group crosses a row. A
//! group has a least value and a step, both bf16, chosen outwards so that every value lies between codes (`reference.rs` has
//! the formulas). bf16 and not f32: at group 64 it is half a bit per element in place of one, while the wider range it
//! rounds out to adds 2 % to the error of 8-bit codes and less to 4 and 2 (`tests/fidelity.rs`).

use half::bf16;

use super::{Mode, Shape, reference};
use crate::{Element, KernelError, simd::Simd};

/// Columns per group where nobody says otherwise.
pub const DEFAULT_GROUP: usize = 64;
/// Groups end on word boundaries at 32 columns, whatever the bits.
const GROUP_STEP: usize = 32;
const GROUP_MAX: usize = 1024;

/// What the backward of a gated op keeps beyond nothing: sizes of the four saved tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedSizes {
    /// u32 words per row of `g_codes`, and of `u_codes`.
    pub words_per_row: usize,
    /// bf16 numbers per row of `g_params`, and of `u_params`: min and step of each group in turn.
    pub params_per_row: usize,
    /// All four tensors together, for all rows. In mode `exact` both inputs are kept as they are, which is not counted here.
    pub bytes: usize,
}

/// Exact sizes of what a gated op saves. In mode `exact` all are 0: the op keeps its inputs.
///
/// # Errors
/// Where the group size is not a multiple of 32 up to 1024, or a size overflows.
///
/// ```
/// use unswag_kernels::delhi::{Mode, saved_sizes};
/// // 4 bits and two bf16 per 64 columns: 4.5 bits for each of g and u.
/// assert_eq!(saved_sizes(10, 1536, Mode::Bits4, 64)?.bytes, 10 * 1536 * 9 / 8);
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn saved_sizes(rows: usize, cols: usize, mode: Mode, group: usize) -> Result<SavedSizes, KernelError> {
    const OP: &str = "delhi gated saved sizes";
    if !group.is_multiple_of(GROUP_STEP) || !(GROUP_STEP..=GROUP_MAX).contains(&group) {
        return Err(KernelError::Group { op: OP, got: group });
    }
    let Some(bits) = mode.bits() else {
        return Ok(SavedSizes { words_per_row: 0, params_per_row: 0, bytes: 0 });
    };
    let sizes = || {
        let words_per_row = cols.checked_mul(bits as usize)?.div_ceil(32);
        let params_per_row = cols.div_ceil(group).checked_mul(2)?;
        let row_bytes = words_per_row.checked_mul(4)?.checked_add(params_per_row.checked_mul(2)?)?;
        let bytes = row_bytes.checked_mul(2)?.checked_mul(rows)?;
        Some(SavedSizes { words_per_row, params_per_row, bytes })
    };
    sizes().ok_or_else(|| KernelError::Overflow { op: OP, what: format!("{rows} rows of {cols} columns") })
}

impl Shape {
    /// rows cols.
    ///
    /// # Errors
    /// Where it overflows.
    pub(super) fn elements(self, op: &'static str) -> Result<usize, KernelError> {
        self.rows
            .checked_mul(self.cols)
            .ok_or_else(|| KernelError::Overflow { op, what: format!("{} rows of {} columns", self.rows, self.cols) })
    }
}

/// A group's parameters as the vector bodies use them.
#[derive(Clone, Copy)]
pub(super) struct Encoder {
    pub stored: [bf16; 2],
    pub min: f32,
    pub inverse: f32,
}

/// Running least, greatest and NaN of the values of a group.
pub(super) struct Extent<S: Simd> {
    least: S::F,
    most: S::F,
    /// Sum of 0 v: NaN as soon as a v is NaN or infinite.
    poison: S::F,
}

impl<S: Simd> Extent<S> {
    #[inline(always)]
    pub fn new(s: S) -> Self {
        Self { least: s.splat(f32::INFINITY), most: s.splat(f32::NEG_INFINITY), poison: s.splat(0.0) }
    }

    #[inline(always)]
    pub fn add(&mut self, s: S, value: S::F) {
        self.least = s.min(value, self.least);
        self.most = s.max(value, self.most);
        self.poison = s.add(self.poison, s.mul(value, s.splat(0.0)));
    }

    /// As `reference::group_parameters` and the first lines of `reference::group_code`.
    #[inline(always)]
    pub fn finish(self, s: S, bits: u32) -> Encoder {
        let finite = s.bits(s.ge(self.poison, s.splat(0.0))) == 0xffff;
        let (least, most) = (s.reduce_min(self.least), s.reduce_max(self.most));
        let in_range = least > -reference::GROUP_LIMIT && most < reference::GROUP_LIMIT;
        if !(finite && in_range) {
            return Encoder { stored: [bf16::NAN; 2], min: 0.0, inverse: 0.0 };
        }
        let min = reference::bf16_at_or_below(least + 0.0);
        let steps = ((1u32 << bits) - 1) as f32;
        let exact = (most - min.to_f32()) * (1.0 / steps);
        let (step, inverse) = if exact < f32::MIN_POSITIVE {
            (bf16::ZERO, 0.0)
        } else {
            let step = reference::bf16_at_or_above(exact);
            (step, 1.0 / Element::to_f32(step))
        };
        Encoder { stored: [min, step], min: Element::to_f32(min), inverse }
    }
}

impl Encoder {
    /// The codes of sixteen values; r = 1/2 rounds to nearest.
    #[inline(always)]
    pub fn codes<S: Simd>(self, s: S, value: S::F, r: S::F, most: f32) -> S::I {
        let scaled = s.fma(s.sub(value, s.splat(self.min)), s.splat(self.inverse), r);
        s.truncate(s.min(scaled, s.splat(most)))
    }
}
