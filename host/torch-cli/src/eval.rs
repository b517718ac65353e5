//! `unswag eval`.

use std::{error::Error, path::Path};

use serde_json::json;
use unswag_console::{
    Done, Failed,
    args::{Eval, Output},
    data::{self, Order},
    term,
};
use unswag_data::{DataLoader, IGNORED, Tokenizer};
use unswag_train::evaluate;

use crate::{model, rows::Rows};

pub fn run(args: &Eval, output: &Output) -> Result<Done, Box<dyn Error>> {
    let model = model::open(&args.model, args.compute, output)?;
    let root = model.root().to_owned();
    let limits = model::limits(&model);
    let order = Order { mask_overlap: true, ..Order::default() };
    let mut loader = data::open(&args.data, &root, limits, order)?;
    model::note_length(args.data.given_row_tokens(), limits, output);
    if let Some(adapter) = &args.adapter {
        model.adapter_notes(adapter)?.iter().for_each(|note| term::note(output, &format!("note: {note}")));
    }
    let rows = Rows::total(output, || Ok(loader.epoch_size()?.rows))?;
    let model = model.for_inference(args.adapter.as_deref())?;
    let mut rows = Rows::new(output, rows);
    let measured = evaluate(&model, loader.as_mut(), args.batch_size as usize, &mut rows);
    rows.clear();
    let report = match measured {
        Ok(Some(report)) => report,
        Ok(None) => return Ok(Done::Stopped),
        Err(error) if error.is_not_finite() => {
            return Err(Failed::without(&["loss", "perplexity", "bits_per_byte"], error).into());
        }
        Err(error) => return Err(error.into()),
    };
    // A conversation's template is no text of the user's, and of packed documents each has a first token that nothing predicts.
    let is_plain = !args.data.chat && !args.data.packing;
    let bytes = if is_plain { Some(supervised_bytes(loader.as_mut(), &root)?) } else { None };
    let bits = report.loss * report.tokens as f64 / std::f64::consts::LN_2;
    let bits_per_byte = bytes.filter(|bytes| *bytes > 0).map(|bytes| bits / bytes as f64);
    if output.json {
        let page = json!({
            "loss": report.loss, "perplexity": report.perplexity, "bits_per_byte": bits_per_byte, "tokens": report.tokens,
            "rows": report.rows, "bytes": bytes,
        });
        term::print(&format!("{page:#}\n"))?;
        return Ok(Done::Ok);
    }
    let bits = bits_per_byte.map_or(String::new(), |bits| format!("bits per byte  {bits:.4}\n"));
    term::print(&format!(
        "loss           {:.4}\nperplexity     {:.3}\n{bits}tokens         {} in {}\n",
        report.loss,
        report.perplexity,
        term::thousands(report.tokens),
        term::counted(report.rows, "row"),
    ))?;
    Ok(Done::Ok)
}

/// Bytes of the text that a loss was taken on: of each row all from the first token that counts, and no token that stands for no text. Where
/// a row's border cuts a character, its bytes are counted as three, as U+FFFD's: a byte or two in a row.
fn supervised_bytes(loader: &mut dyn DataLoader, model: &Path) -> Result<u64, Box<dyn Error>> {
    let tokenizer = Tokenizer::load(model)?;
    let mut bytes = 0;
    loader.start_epoch(0);
    while let Some(row) = loader.next_row()? {
        let text = |ids: &[u32]| tokenizer.decode(ids, true).map(|text| text.len() as u64);
        // What nothing predicts, or the row before it counted, stands at the start.
        let first = row.labels.iter().skip(1).position(|label| *label != IGNORED).map_or(row.len(), |at| at + 1);
        bytes += text(&row.ids)?.saturating_sub(text(&row.ids[..first])?);
    }
    Ok(bytes)
}
