//! How close a plugin's outputs come to what the engine computes.

use std::fmt;

use unswag_abi::doc::{Dtype, Meta};

use crate::{Arithmetic, Output, Tensor};

/// Units in the last place of the output's element type: the rounding of the result, and of one intermediate of that type.
const NARROW_UNITS: f64 = 2.0;
/// Units in the last place of f32, of the largest term on the way.
const WIDE_UNITS: f64 = 4.0;

/// What was compared and agrees.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Agreement {
    pub elements: u64,
    /// Elements with other bits than the reference's.
    pub differing: u64,
    /// The largest difference of those, in units in the last place of the element type.
    pub units: f64,
}

impl Agreement {
    pub fn is_exact(&self) -> bool {
        self.differing == 0
    }

    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            elements: self.elements + other.elements,
            differing: self.differing + other.differing,
            units: self.units.max(other.units),
        }
    }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.differing {
            0 => write!(f, "bit for bit at {} elements", self.elements),
            differing => write!(
                f,
                "up to rounding: {differing} of {} elements differ, by at most {:.1} units in the last place",
                self.elements, self.units
            ),
        }
    }
}

/// The first element that is wrong.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Difference {
    #[error("expected {expected} outputs, got {got}")]
    Count { expected: usize, got: usize },
    #[error("output {output}: expected {} {:?}, got {} {:?}", expected.dtype, expected.shape, got.dtype, got.shape)]
    Type { output: usize, expected: Meta, got: Meta },
    #[error(
        "output {output} ({} {:?}): element {element}: expected {expected:e}, got {got:e}{}",
        meta.dtype, meta.shape, allowed(*limit)
    )]
    Element { output: usize, meta: Meta, element: usize, expected: f32, got: f32, limit: f64 },
}

fn allowed(limit: f64) -> String {
    match limit {
        0.0 => "; this kind is exact".to_owned(),
        limit => format!("; at most {limit:.1e} off is allowed"),
    }
}

/// Compares every element.
///
/// # Errors
/// The first difference that rounding does not explain.
pub fn compare(expected: &[Output], found: &[Tensor]) -> Result<Agreement, Difference> {
    if expected.len() != found.len() {
        return Err(Difference::Count { expected: expected.len(), got: found.len() });
    }
    let mut agreement = Agreement::default();
    for (output, (expected, found)) in expected.iter().zip(found).enumerate() {
        let misfit = || Difference::Type { output, expected: expected.meta.clone(), got: found.meta.clone() };
        let values = found.to_f32().ok().filter(|_| found.meta == expected.meta).ok_or_else(misfit)?;
        agreement = agreement.and(elements(output, expected, &values)?);
    }
    Ok(agreement)
}

fn elements(output: usize, expected: &Output, found: &[f32]) -> Result<Agreement, Difference> {
    let meta = &expected.meta;
    let precision = Precision::of(meta.dtype);
    let mut agreement = Agreement { elements: found.len() as u64, ..Agreement::default() };
    for (element, (of, &got)) in expected.elements.iter().zip(found).enumerate() {
        // Zeros of either sign are equal, and so are all NaNs.
        if of.value == got || (of.value.is_nan() && got.is_nan()) {
            continue;
        }
        let limit = match expected.arithmetic {
            Arithmetic::Exact => 0.0,
            Arithmetic::Rounding => {
                let narrow = f64::from(of.value.abs()).max(of.narrow);
                // Where a term overflows there is one right answer.
                let wide = if of.wide.is_finite() { WIDE_UNITS * f64::from(f32::EPSILON) * of.wide } else { 0.0 };
                NARROW_UNITS * precision.epsilon * precision.finite(narrow) + wide + precision.least
            }
        };
        let off = (precision.finite(of.value.into()) - precision.finite(got.into())).abs();
        // NaN on one side alone makes `off` NaN, which no limit allows.
        if off.is_nan() || off > limit {
            let expected = of.value;
            return Err(Difference::Element { output, meta: meta.clone(), element, expected, got, limit });
        }
        agreement.differing += 1;
        let unit = (precision.epsilon * f64::from(of.value.abs())).max(precision.least);
        agreement.units = agreement.units.max(off / precision.finite(unit));
    }
    Ok(agreement)
}

struct Precision {
    /// The distance from 1 to the next number.
    epsilon: f64,
    /// The smallest normal number: below it kernels may flush to zero. f16 is computed in f32, so its smallest step counts.
    least: f64,
    most: f64,
}

impl Precision {
    fn of(dtype: Dtype) -> Self {
        use half::{bf16, f16};
        match dtype {
            Dtype::Bf16 => {
                Self { epsilon: bf16::EPSILON.into(), least: bf16::MIN_POSITIVE.into(), most: bf16::MAX.into() }
            }
            Dtype::F16 => {
                Self { epsilon: f16::EPSILON.into(), least: f16::MIN_POSITIVE_SUBNORMAL.into(), most: f16::MAX.into() }
            }
            _ => Self { epsilon: f32::EPSILON.into(), least: f32::MIN_POSITIVE.into(), most: f32::MAX.into() },
        }
    }

    /// An infinity as the number after the largest: one unit in the last place decides between the two.
    fn finite(&self, value: f64) -> f64 {
        let beyond = self.most * (1.0 + self.epsilon);
        if value.is_nan() { value } else { value.clamp(-beyond, beyond) }
    }
}
