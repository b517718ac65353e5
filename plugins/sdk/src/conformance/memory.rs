//! What a kernel must survive: tensors in other places than usual, and values that are no ordinary numbers.

use unswag_abi::doc::Dtype;

use super::{
    Checks, Verdict,
    calls::Use,
    forward::{plain_of, same_tensors},
    not_a_panic,
    numbers::{Random, inputs, is_computed, tensors},
};
use crate::{
    error::Error,
    tensor::TensorBuf,
    test::{Forward, KernelTest, OpTest, ProtocolTest, Settings},
};

/// Rows that are looked at when one of them is poisoned, and their length: a multiple of any group that a kernel packs.
const ROWS: u64 = 4;
const ROW_LEN: u64 = 1024;

pub(super) fn check(protocol: &ProtocolTest, used: &Use, subject: &str, checks: &mut Checks<'_>) {
    let Ok(op) = protocol.op(&used.kind) else { return };
    checks.run(
        subject,
        "refuses tensors that are strided, misaligned, absent or of another type, or is right on them",
        || misfits(&op, used),
    );
    checks.run(subject, "keeps NaN, infinities and denormals to their own row", || poisoned(&op, used));
}

fn misfits(op: &OpTest, used: &Use) -> Result<Verdict, Error> {
    let call = used.call(2, 5);
    let kernel = op.cpu(&call)?;
    let sound = inputs(&call, 8)?;
    let settings = Settings::default();
    let expected = kernel.forward(&settings, &sound)?;
    let mut notes = Vec::new();
    for index in 0..sound.len() {
        let with = |changed: TensorBuf| {
            let mut inputs = sound.clone();
            inputs[index] = changed;
            inputs
        };
        if let Some(strided) = strided(&sound[index])? {
            notes.push(right_or_refused("strided", &kernel.forward(&settings, &with(strided)), &expected)?);
        }
        if !sound[index].bytes().is_empty() && sound[index].meta().dtype.bytes() > 1 {
            let moved = sound[index].clone().misaligned(1);
            notes.push(right_or_refused("misaligned", &kernel.forward(&settings, &with(moved)), &expected)?);
        }
        refused("absent", &kernel.forward(&settings, &with(sound[index].clone().unwanted())))?;
        let other = if sound[index].meta().dtype == Dtype::I16 { Dtype::U8 } else { Dtype::I16 };
        let meta = unswag_abi::doc::Meta { dtype: other, shape: sound[index].meta().shape };
        refused("of another type", &kernel.forward(&settings, &with(TensorBuf::zeros(&meta)?)))?;
    }
    refused("missing", &kernel.forward(&settings, &sound[..sound.len().saturating_sub(1)]))?;
    notes.sort();
    notes.dedup();
    Ok(Verdict::Measured(notes.join(", ")))
}

/// The same elements in the same order, laid out column by column; none where that is no other layout.
fn strided(tensor: &TensorBuf) -> Result<Option<TensorBuf>, Error> {
    let meta = tensor.meta();
    let &[.., rows, columns] = meta.shape.as_slice() else { return Ok(None) };
    if rows < 2 || columns < 2 || !is_computed(meta.dtype) {
        return Ok(None);
    }
    let values = tensor.to_f64()?;
    let (rows, columns) = (rows as usize, columns as usize);
    let mut by_column = vec![0.0; values.len()];
    for (from, to) in values.chunks(rows * columns).zip(by_column.chunks_mut(rows * columns)) {
        for row in 0..rows {
            for column in 0..columns {
                to[column * rows + row] = from[row * columns + column];
            }
        }
    }
    let mut shape = meta.shape.clone();
    let rank = shape.len();
    shape.swap(rank - 1, rank - 2);
    TensorBuf::from_f64(meta.dtype, &by_column, &shape)?.transposed().map(Some)
}

fn right_or_refused(what: &str, outcome: &Result<Forward, Error>, expected: &Forward) -> Result<String, Error> {
    not_a_panic(outcome).map_err(|error| error.at(what))?;
    match outcome {
        Err(_) => Ok(format!("{what}: refused")),
        Ok(forward) => {
            same_tensors("outputs", &forward.outputs, &expected.outputs)
                .map_err(|error| error.at(format!("{what} input: taken without an error, but")))?;
            Ok(format!("{what}: right"))
        }
    }
}

fn refused(what: &str, outcome: &Result<Forward, Error>) -> Result<(), Error> {
    not_a_panic(outcome).map_err(|error| error.at(what))?;
    match outcome {
        Ok(_) => Err(crate::error!("an input that is {what} was taken without an error")),
        Err(_) => Ok(()),
    }
}

fn poisoned(op: &OpTest, used: &Use) -> Result<Verdict, Error> {
    // Without a reference there is no telling whether rows are meant to be independent; that nothing breaks still counts.
    let rows_are_independent = plain_of(used).is_ok();
    let mut notes = Vec::new();
    for dtype in [Dtype::F32, Dtype::Bf16, Dtype::F16] {
        let call =
            if rows_are_independent { used.call_at(dtype, &[ROWS, ROW_LEN]) } else { used.call_as(dtype, 1, ROWS) };
        if op.plan(&call).is_err() {
            continue;
        }
        let kernel = op.cpu(&call)?;
        let clean = inputs(&call, 9)?;
        let grad_outputs = tensors(&kernel.plan.outputs, 10)?;
        let (outputs, grads) = both(&kernel, &clean, &grad_outputs)?;
        for poison in
            [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e-42, f64::from(f32::MAX), f64::from(f32::MIN)]
        {
            let mut inputs = clean.clone();
            for (input, meta) in inputs.iter_mut().zip(&call.inputs).take(used.activations) {
                if is_computed(meta.dtype) {
                    *input = poison_row(input, poison)?;
                }
            }
            let (poisoned_outputs, poisoned_grads) = both(&kernel, &inputs, &grad_outputs)?;
            if rows_are_independent {
                let at = |error: Error| error.at(format!("{dtype}, {poison} in row 1"));
                same_other_rows("outputs", &outputs, &poisoned_outputs).map_err(at)?;
                same_other_rows("gradients", &grads, &poisoned_grads).map_err(at)?;
                if poison.is_nan() && poisoned_outputs[0].to_f64()?.iter().all(|value| !value.is_nan()) {
                    crate::bail!("{dtype}: NaN in the input gives none in the output, which hides it from the user");
                }
            }
        }
        notes.push(dtype.to_string());
    }
    if !rows_are_independent {
        notes.push("only that nothing breaks: the op stands for no element-wise primitive".to_owned());
    }
    Ok(Verdict::Measured(notes.join(", ")))
}

fn both(
    kernel: &KernelTest,
    inputs: &[TensorBuf],
    dy: &[TensorBuf],
) -> Result<(Vec<TensorBuf>, Vec<TensorBuf>), Error> {
    let forward = kernel.forward(&Settings::default(), inputs)?;
    let grads = kernel.backward(&Settings::default(), &kernel.saved(inputs, &forward)?, dy)?;
    Ok((forward.outputs, grads.into_iter().flatten().collect()))
}

/// Puts the value at a few places of the second row.
fn poison_row(input: &TensorBuf, poison: f64) -> Result<TensorBuf, Error> {
    let meta = input.meta();
    let row_len = meta.shape.last().copied().unwrap_or(1) as usize;
    let mut values = input.to_f64()?;
    let mut random = Random::new(11);
    if values.len() >= 2 * row_len && row_len > 0 {
        for _ in 0..5 {
            values[row_len + (random.next() % row_len as u64) as usize] = poison;
        }
    }
    TensorBuf::from_f64(meta.dtype, &values, &meta.shape)
}

fn same_other_rows(what: &str, clean: &[TensorBuf], poisoned: &[TensorBuf]) -> Result<(), Error> {
    for (index, (clean, poisoned)) in clean.iter().zip(poisoned).enumerate() {
        let row_bytes = clean.bytes().len() / ROWS as usize;
        let rows = clean.bytes().chunks(row_bytes.max(1)).zip(poisoned.bytes().chunks(row_bytes.max(1)));
        if let Some((row, _)) = rows.enumerate().find(|(row, (clean, poisoned))| *row != 1 && clean != poisoned) {
            crate::bail!("{what}[{index}]: row {row} changed");
        }
    }
    Ok(())
}
