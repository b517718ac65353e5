//! Tensor data on its way out: read in pieces, dequantised, put in Hugging Face's order, rounded, handed on.
//!
//! Holds at most a few MiB at a time, or one head's rows where rows are permuted; a tensor that must be transposed
//! (GPT-2's) is held whole, once, as f32. Never the model.

use half::{bf16, f16};
use rayon::prelude::*;

use super::arch::{Change, Weight};
use super::dequant::dequantize;
use super::error::{GgufError, Problem};
use super::file::GgufFile;
use super::import::ImportDtype;
use super::reader::{TensorInfo, shown};

/// Elements handled at a time; a multiple of every block.
const PIECE: usize = 1 << 20;
/// Elements handled by one thread at a time; divides `PIECE`, and is a multiple of every block.
const SLICE: usize = 1 << 14;

/// What rounding did to a tensor, beyond losing digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rounding {
    /// Finite values too large for the output's type, written as infinities.
    pub overflowed: u64,
}

/// Hands the tensor's bytes, in the output's type and order, to `emit`, piece by piece.
pub(super) fn stream<E: From<GgufError>>(
    file: &GgufFile,
    weight: &Weight<'_>,
    dtype: ImportDtype,
    emit: &mut dyn FnMut(&[u8]) -> Result<(), E>,
) -> Result<Rounding, E> {
    let total = in_memory(weight.source.elements());
    let mut reader = Reader { file, tensor: &weight.source, raw: Vec::new() };
    let mut rounding = Rounding::default();
    let mut out = Vec::new();
    let mut send = |values: &[f32]| {
        rounding.overflowed += encode(values, dtype, &mut out);
        emit(&out)
    };

    let mut values = Vec::new();
    match weight.change {
        Change::None | Change::MinusOne => {
            for start in (0..total).step_by(PIECE) {
                reader.fill(&mut values, start, PIECE.min(total - start))?;
                if weight.change == Change::MinusOne {
                    // In f32, before rounding.
                    values.iter_mut().for_each(|value| *value -= 1.0);
                }
                send(&values)?;
            }
        }
        Change::Unpermute { heads } => {
            let heads = in_memory(heads);
            let row = if weight.shape.len() == 1 { 1 } else { in_memory(weight.shape[1]) };
            let head = total / heads;
            // A bias in blocks may have several heads in one: it is small, and taken at once.
            let whole_heads = (head as u64).is_multiple_of(weight.source.dtype.block_elements());
            let piece = if whole_heads { head * (PIECE / head).clamp(1, heads) } else { total };
            let mut ordered = Vec::new();
            for start in (0..total).step_by(piece) {
                reader.fill(&mut values, start, piece.min(total - start))?;
                ordered.resize(values.len(), 0.0);
                for (from, to) in values.chunks_exact(head).zip(ordered.chunks_exact_mut(head)) {
                    unpermute(from, to, row);
                }
                send(&ordered)?;
            }
        }
        Change::Transpose => {
            // Stored [rows, columns], wanted [columns, rows].
            let (columns, rows) = (in_memory(weight.shape[0]), in_memory(weight.shape[1]));
            reader.fill(&mut values, 0, total)?;
            let mut ordered = Vec::new();
            let columns_at_once = (PIECE / rows.max(1)).max(1);
            for first in (0..columns).step_by(columns_at_once) {
                let last = columns.min(first + columns_at_once);
                ordered.clear();
                ordered.extend((first..last).flat_map(|column| values[column..].iter().step_by(columns).copied()));
                send(&ordered)?;
            }
        }
    }
    Ok(rounding)
}

/// The values of a small tensor.
pub(super) fn read_small(file: &GgufFile, tensor: &TensorInfo<'_>) -> Result<Vec<f32>, GgufError> {
    let mut values = Vec::new();
    Reader { file, tensor, raw: Vec::new() }.fill(&mut values, 0, in_memory(tensor.elements()))?;
    Ok(values)
}

/// Sizes come from tensors that lie in a file; on a 64-bit machine they are sizes in memory too.
fn in_memory(size: u64) -> usize {
    usize::try_from(size).expect("unswag runs on 64-bit machines")
}

/// One head's rows, `[pair, half]` in the file, to `[half, pair]`: row `2 i + j` becomes row `j n + i` of `2 n`.
fn unpermute(from: &[f32], to: &mut [f32], row: usize) {
    let pairs = from.len() / row / 2;
    for (index, to) in to.chunks_exact_mut(row).enumerate() {
        let (half, pair) = (index / pairs, index % pairs);
        to.copy_from_slice(&from[(2 * pair + half) * row..][..row]);
    }
}

struct Reader<'f, 'a> {
    file: &'f GgufFile,
    tensor: &'f TensorInfo<'a>,
    raw: Vec<u8>,
}

impl Reader<'_, '_> {
    /// Makes `values` the elements `start..start + len`, which are whole blocks.
    fn fill(&mut self, values: &mut Vec<f32>, start: usize, len: usize) -> Result<(), GgufError> {
        let dtype = self.tensor.dtype;
        let bytes_of = |elements: usize| in_memory(dtype.bytes_of(elements as u64).expect("whole blocks of a file"));
        // A sparse file can state more than there is memory for.
        values.try_reserve(len.saturating_sub(values.len())).map_err(|_| self.too_large(len))?;
        values.resize(len, 0.0);
        for (index, piece) in values.chunks_mut(PIECE).enumerate() {
            self.raw.resize(bytes_of(piece.len()), 0);
            let at = bytes_of(start + index * PIECE);
            self.file.read_tensor(self.tensor, at as u64, &mut self.raw)?;
            piece.par_chunks_mut(SLICE).zip(self.raw.par_chunks(bytes_of(SLICE))).for_each(|(values, blocks)| {
                let read = dequantize(dtype, blocks, values);
                debug_assert!(read, "the type was checked when the plan was made");
            });
        }
        Ok(())
    }

    fn too_large(&self, elements: usize) -> GgufError {
        let what = format!("{elements} elements at once");
        let next = "there is not so much memory; the file is damaged or needs a larger machine".to_owned();
        let field = format!("tensor {}", shown(self.tensor.name));
        GgufError::new(self.tensor.listed_at, field, Problem::Unsupported { what, next })
    }
}

/// Rounds to nearest, ties to even, into little-endian bytes; returns how many finite values became infinite.
fn encode(values: &[f32], dtype: ImportDtype, out: &mut Vec<u8>) -> u64 {
    fn each<const N: usize>(values: &[f32], out: &mut Vec<u8>, round: impl Fn(f32) -> ([u8; N], bool) + Sync) -> u64 {
        out.resize(values.len() * N, 0);
        let slices = out.par_chunks_mut(SLICE * N).zip(values.par_chunks(SLICE));
        slices
            .map(|(out, values)| {
                let mut overflowed = 0;
                for (out, &value) in out.as_chunks_mut::<N>().0.iter_mut().zip(values) {
                    let (bytes, is_infinite) = round(value);
                    *out = bytes;
                    overflowed += u64::from(is_infinite && value.is_finite());
                }
                overflowed
            })
            .sum()
    }
    match dtype {
        ImportDtype::F32 => each(values, out, |value| (value.to_le_bytes(), false)),
        ImportDtype::Bf16 => each(values, out, |value| {
            let rounded = bf16::from_f32(value);
            (rounded.to_le_bytes(), rounded.is_infinite())
        }),
        ImportDtype::F16 => each(values, out, |value| {
            let rounded = f16::from_f32(value);
            (rounded.to_le_bytes(), rounded.is_infinite())
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_head_come_out_half_by_half() {
        let from: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let mut to = vec![0.0; 12];
        unpermute(&from, &mut to, 2);
        assert_eq!(to, [0.0, 1.0, 4.0, 5.0, 8.0, 9.0, 2.0, 3.0, 6.0, 7.0, 10.0, 11.0]);
    }

    #[test]
    fn values_too_large_for_f16_are_counted() {
        let values = [1.0, 65504.0, 65519.9, 65520.0, -1e30, f32::INFINITY, f32::NAN];
        let mut out = Vec::new();
        assert_eq!(encode(&values, ImportDtype::F16, &mut out), 2);
        assert_eq!(encode(&values, ImportDtype::Bf16, &mut out), 0);
        assert_eq!(encode(&values, ImportDtype::F32, &mut out), 0);
        assert_eq!(out.len(), 28);
    }
}
