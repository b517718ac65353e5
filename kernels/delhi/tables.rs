//! The best piecewise-constant derivative of a given number of bits: borders and levels, computed exactly.
//!
//! Minimise, over borders and levels, E(f'(x) - level(x))^2 under a weighting of x (Novikov et al., "Few-bit backward:
//! quantized gradients of activation functions for memory footprint reduction", 2022). For fixed borders the best level is the
//! weighted mean of f' between them, so the programme is over borders alone: cost(i, j) of one piece comes from prefix sums
//! of w f' and w, and best(k, j) = min_i best(k - 1, i) + cost(i, j). A first run over a uniform grid finds the pieces;
//! further runs, over candidates around each border, narrow the borders to 2e-9.
//!
//! f'(-x) = 1 - f'(x) for SiLU and both GELUs, and weightings are taken as even, so half the line is enough: the codes of
//! x < 0 have the levels 1 - l.
//!
//! No table comes from anywhere but this programme: its tests hold the published constants, the code does not. All is in
//! f64; nothing here is called per element. Input: a weighting chosen by name, or a histogram read from a calibration file by
//! someone else.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::Activation;
use crate::KernelError;

/// Borders lie before this: beyond it all three derivatives are within 2e-6 of their limit. Also where the named weightings
/// end; a histogram may go on, and what lies beyond counts for the outermost level.
const LAST_BORDER: f64 = 16.0;
/// From here on f' is 1 in f64, so one cell is enough.
const FLAT: f64 = 48.0;
/// Width of the first grid's cells. f' turns within about 0.3, ten of them.
const CELL: f64 = 1.0 / 32.0;
/// Candidates on each side of a border in a narrowing run, and how many runs: each divides the spacing by `NARROW`.
const NARROW: usize = 16;
const RUNS: usize = 6;
/// The share of a histogram's weight that is spread evenly, so that pieces the data never visited have sane levels.
const FLOOR: f64 = 1e-6;

/// How often each x is expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Weighting {
    /// Every x in \[-16, 16\] alike.
    Uniform,
    /// The standard normal distribution.
    Normal,
    /// As counted on data.
    Histogram(Histogram),
}

/// Counts of a layer's inputs in equal bins from `min` to `max`: a calibration file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    pub min: f64,
    pub max: f64,
    pub counts: Vec<u64>,
}

impl Histogram {
    /// Bins at most; a file that has more lies or was not made for this.
    pub const MAX_BINS: usize = 1 << 16;

    /// Bins narrower than this are below the resolution of the programme.
    pub const MIN_WIDTH: f64 = 1e-9;

    fn check(&self) -> Result<(), KernelError> {
        let error = |reason: String| Err(KernelError::Histogram { reason });
        if !(self.min.is_finite() && self.max.is_finite() && self.min < self.max) {
            return error(format!("min {} and max {} are not a range", self.min, self.max));
        }
        if self.counts.is_empty() || self.counts.len() > Self::MAX_BINS {
            return error(format!("{} bins, expected 1 to {}", self.counts.len(), Self::MAX_BINS));
        }
        let width = (self.max - self.min) / self.counts.len() as f64;
        if !(Self::MIN_WIDTH..f64::INFINITY).contains(&width) {
            return error(format!("bins of width {width}, expected at least {}", Self::MIN_WIDTH));
        }
        if self.counts.iter().all(|count| *count == 0) {
            return error("every count is 0".into());
        }
        Ok(())
    }
}

/// Borders and levels of one activation at 1 to 4 bits: code(x) is the number of borders at or below x.
#[derive(Clone, Debug, PartialEq)]
pub struct CodeTable {
    activation: Activation,
    bits: u32,
    borders: Vec<f32>,
    levels: Vec<f32>,
    rms_error: f64,
}

impl CodeTable {
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Bits per code, 1 to 4.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// The 2^bits - 1 borders, ascending, even about 0.
    pub fn borders(&self) -> &[f32] {
        &self.borders
    }

    /// The 2^bits levels, by code.
    pub fn levels(&self) -> &[f32] {
        &self.levels
    }

    /// The root of the weighted mean of (f' - level)^2, under the weighting that the table was made for.
    pub fn rms_error(&self) -> f64 {
        self.rms_error
    }

    /// Borders padded to sixteen for the vector bodies, which never read the padding.
    pub(super) fn padded_borders(&self) -> [f32; 16] {
        std::array::from_fn(|i| self.borders.get(i).copied().unwrap_or(f32::INFINITY))
    }

    /// Levels repeated to sixteen.
    pub(super) fn repeated_levels(&self) -> [f32; 16] {
        std::array::from_fn(|i| self.levels[i % self.levels.len()])
    }
}

/// The best table. Uniform and normal tables are made once per process, in milliseconds.
///
/// # Errors
/// Where `bits` is not 1 to 4, or the histogram describes no distribution.
///
/// ```
/// use unswag_kernels::delhi::{Activation, Weighting, tables};
/// let table = tables::table(Activation::Silu, 2, &Weighting::Normal)?;
/// let near = |x: f32, y: f32| (x - y).abs() < 1e-4;
/// assert!(near(table.borders()[2], 0.6685) && near(table.levels()[0], 0.0336));
/// # Ok::<(), unswag_kernels::KernelError>(())
/// ```
pub fn table(activation: Activation, bits: u32, weighting: &Weighting) -> Result<Arc<CodeTable>, KernelError> {
    static MADE: [OnceLock<Arc<CodeTable>>; 24] = [const { OnceLock::new() }; 24];
    if !(1..=4).contains(&bits) {
        return Err(KernelError::Bits { op: "delhi.tables", got: bits });
    }
    let named = match weighting {
        Weighting::Uniform => 0,
        Weighting::Normal => 1,
        Weighting::Histogram(histogram) => {
            histogram.check()?;
            return Ok(Arc::new(make(activation, bits, weighting)));
        }
    };
    let slot = (named * 3 + activation as usize) * 4 + bits as usize - 1;
    Ok(MADE[slot].get_or_init(|| Arc::new(make(activation, bits, weighting))).clone())
}

fn make(activation: Activation, bits: u32, weighting: &Weighting) -> CodeTable {
    let pieces = 1usize << (bits - 1);
    let density = Density::new(weighting);
    let end = density.end();
    let mut grid: Vec<f64> = (0..=(LAST_BORDER / CELL) as u32).map(|i| f64::from(i) * CELL).collect();
    grid.push(end);
    grid.dedup();
    let mut spacing = CELL;
    let mut borders = Sums::new(activation, &density, &grid).best(pieces, &grid);
    for _ in 0..RUNS {
        let next = spacing / NARROW as f64;
        grid = vec![0.0, end];
        for border in &borders {
            let around = -(NARROW as i32)..=NARROW as i32;
            grid.extend(around.map(|k| border + f64::from(k) * next).filter(|x| 0.0 < *x && *x < end));
        }
        grid.sort_by(f64::total_cmp);
        grid.dedup();
        borders = Sums::new(activation, &density, &grid).best(pieces, &grid);
        spacing = next;
    }
    let mut ends = vec![0.0];
    ends.extend(&borders);
    ends.push(end);
    let sums = Sums::new(activation, &density, &ends);
    // Upper half, from 0 outwards; the lower half mirrors it.
    let upper: Vec<f64> = (0..pieces).map(|k| sums.level(k, k + 1)).collect();
    let cost: f64 = (0..pieces).map(|k| sums.cost(k, k + 1)).sum::<f64>() + sums.square;
    let mut all_borders: Vec<f32> = borders.iter().rev().map(|b| -*b as f32).collect();
    all_borders.push(0.0);
    all_borders.extend(borders.iter().map(|b| *b as f32));
    let mut levels: Vec<f32> = upper.iter().rev().map(|level| (1.0 - level) as f32).collect();
    levels.extend(upper.iter().map(|level| *level as f32));
    CodeTable {
        activation,
        bits,
        borders: all_borders,
        levels,
        rms_error: (cost.max(0.0) / sums.weight[pieces]).sqrt(),
    }
}

/// Integrals of w, w f' and w f'^2 from 0 to each point of a grid.
struct Sums {
    weight: Vec<f64>,
    first: Vec<f64>,
    square: f64,
}

impl Sums {
    fn new(activation: Activation, density: &Density, grid: &[f64]) -> Sums {
        let mut sums = Sums { weight: vec![0.0; grid.len()], first: vec![0.0; grid.len()], square: 0.0 };
        for at in 1..grid.len() {
            let [weight, first, square] = density.integrate(activation, grid[at - 1], grid[at]);
            sums.weight[at] = sums.weight[at - 1] + weight;
            sums.first[at] = sums.first[at - 1] + first;
            sums.square += square;
        }
        sums
    }

    /// What a piece from point `from` to point `to` adds to the error, less the constant integral of w f'^2.
    fn cost(&self, from: usize, to: usize) -> f64 {
        let weight = self.weight[to] - self.weight[from];
        let first = self.first[to] - self.first[from];
        if weight > 0.0 { -first * first / weight } else { 0.0 }
    }

    fn level(&self, from: usize, to: usize) -> f64 {
        let weight = self.weight[to] - self.weight[from];
        // A piece without weight is never read; 1 is the derivative's limit.
        if weight > 0.0 { (self.first[to] - self.first[from]) / weight } else { 1.0 }
    }

    /// The inner borders of the best split into `pieces`. O(pieces points^2).
    fn best(&self, pieces: usize, grid: &[f64]) -> Vec<f64> {
        let points = grid.len();
        let mut best: Vec<f64> = (0..points).map(|to| self.cost(0, to)).collect();
        // No piece is empty: borders are distinct.
        best[0] = f64::INFINITY;
        let mut from = vec![vec![0; points]];
        for _ in 1..pieces {
            let (mut next, mut arg) = (vec![f64::INFINITY; points], vec![0; points]);
            for to in 1..points {
                for (middle, before) in best.iter().enumerate().take(to) {
                    let cost = before + self.cost(middle, to);
                    if cost < next[to] {
                        (next[to], arg[to]) = (cost, middle);
                    }
                }
            }
            best = next;
            from.push(arg);
        }
        let mut at = points - 1;
        let mut borders: Vec<f64> = (1..pieces)
            .rev()
            .map(|piece| {
                at = from[piece][at];
                grid[at]
            })
            .collect();
        borders.reverse();
        borders
    }
}

/// A weighting folded onto x >= 0: what is counted at -x counts at x.
enum Density {
    Uniform,
    Normal,
    /// From each point (first) to the next the density is constant (second). Ascending from 0.
    Steps(Vec<(f64, f64)>),
}

/// Gauss-Legendre with 4 points on \[-1, 1\]: exact to degree 7, below f64's noise on a cell.
const GAUSS: [(f64, f64); 4] = [
    (-0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
    (-0.339_981_043_584_856_26, 0.652_145_154_862_546_1),
    (0.339_981_043_584_856_26, 0.652_145_154_862_546_1),
    (0.861_136_311_594_052_6, 0.347_854_845_137_453_85),
];

impl Density {
    fn new(weighting: &Weighting) -> Density {
        match weighting {
            Weighting::Uniform => Density::Uniform,
            Weighting::Normal => Density::Normal,
            Weighting::Histogram(histogram) => Density::Steps(fold(histogram)),
        }
    }

    /// Where the weight ends, at `LAST_BORDER` or later.
    fn end(&self) -> f64 {
        match self {
            Density::Uniform | Density::Normal => LAST_BORDER,
            Density::Steps(steps) => steps.last().map_or(LAST_BORDER, |(x, _)| x.max(LAST_BORDER)),
        }
    }

    /// Integrals of w, w f', w f'^2 over \[from, to\].
    fn integrate(&self, activation: Activation, from: f64, to: f64) -> [f64; 3] {
        let mut sums = [0.0; 3];
        match self {
            Density::Uniform => add_integrals(activation, from, to, &|_| 1.0, &mut sums),
            Density::Normal => add_integrals(activation, from, to, &|x| (-0.5 * x * x).exp(), &mut sums),
            Density::Steps(steps) => {
                let mut at = steps.partition_point(|(x, _)| *x <= from).saturating_sub(1);
                let mut low = from;
                while low < to {
                    let high = steps.get(at + 1).map_or(to, |(x, _)| x.min(to));
                    let density = steps[at].1;
                    add_integrals(activation, low, high, &|_| density, &mut sums);
                    low = high;
                    at += 1;
                }
            }
        }
        sums
    }
}

/// The histogram's density, folded, with the even floor.
fn fold(histogram: &Histogram) -> Vec<(f64, f64)> {
    let total: f64 = histogram.counts.iter().map(|count| *count as f64).sum();
    let width = (histogram.max - histogram.min) / histogram.counts.len() as f64;
    let mut changes = vec![(0.0, FLOOR / LAST_BORDER)];
    for (bin, count) in histogram.counts.iter().enumerate() {
        let density = *count as f64 / total / width;
        let low = histogram.min + bin as f64 * width;
        let high = low + width;
        for (low, high) in [(low, high), (-high, -low)] {
            if high > 0.0 {
                changes.push((low.max(0.0), density));
                changes.push((high, -density));
            }
        }
    }
    changes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut steps: Vec<(f64, f64)> = Vec::with_capacity(changes.len());
    let mut density: f64 = 0.0;
    for (x, change) in changes {
        density += change;
        // What additions and subtractions leave of a bin that has ended is rounding: the floor is below all of it.
        let value = density.max(FLOOR / LAST_BORDER);
        match steps.last_mut() {
            Some(last) if last.0 == x => last.1 = value,
            _ => steps.push((x, value)),
        }
    }
    steps
}

fn add_integrals(activation: Activation, from: f64, to: f64, weight: &dyn Fn(f64) -> f64, sums: &mut [f64; 3]) {
    if from < FLAT && FLAT < to {
        add_integrals(activation, from, FLAT, weight, sums);
        return add_integrals(activation, FLAT, to, weight, sums);
    }
    let cells = if from < FLAT { ((to - from) / CELL).ceil().max(1.0) } else { 1.0 };
    let half = (to - from) / cells / 2.0;
    for cell in 0..cells as usize {
        let middle = from + (2 * cell + 1) as f64 * half;
        for (at, share) in GAUSS {
            let x = middle + half * at;
            let (w, f) = (weight(x) * share * half, derivative(activation, x));
            sums[0] += w;
            sums[1] += w * f;
            sums[2] += w * f * f;
        }
    }
}

/// act'(x) in f64, for x >= 0.
fn derivative(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => {
            let s = 1.0 / (1.0 + (-x).exp());
            s * (1.0 + x * (1.0 - s))
        }
        Activation::Gelu => {
            let density = (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
            // Phi(x) = 1/2 + phi(x) (x + x^3/3 + x^5/(3 5) + ..): all terms positive (Marsaglia 2004).
            let (mut term, mut sum, mut odd) = (x, x, 1.0);
            while term > sum * f64::EPSILON && x < 9.0 {
                odd += 2.0;
                term *= x * x / odd;
                sum += term;
            }
            let phi = if x < 9.0 { 0.5 + density * sum } else { 1.0 };
            phi + x * density
        }
        Activation::GeluTanh => {
            let outer = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            let s = 1.0 / (1.0 + (-outer * x * (1.0 + 0.044715 * x * x)).exp());
            s + x * s * (1.0 - s) * outer * (1.0 + 3.0 * 0.044715 * x * x)
        }
    }
}
