//! `unswag generate`.

use std::{error::Error, sync::Arc};

use serde_json::{Map, json};
use unswag_console::{
    Done,
    args::{Generate, Output},
    term,
};
use unswag_data::{ChatDataLoader, ChatTemplate, Message, Tokenizer};
use unswag_train::{Sampling, generate};

use crate::model;

pub fn run(args: &Generate, output: &Output) -> Result<Done, Box<dyn Error>> {
    let model = model::open(&args.model, args.compute, output)?;
    let tokenizer = Arc::new(Tokenizer::load(model.root())?);
    let mut stops = tokenizer.eos_ids().to_vec();
    let prompt = if args.chat {
        let template = Arc::new(ChatTemplate::load(model.root(), &tokenizer, None)?);
        // A turn may end otherwise than a text, and few folders say so.
        stops.extend(ChatDataLoader::end_of_turn_ids(&tokenizer, &template));
        let turn = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let system = args.system.iter().map(|content| turn("system", content));
        let messages: Vec<Message> = system.chain([turn("user", &args.prompt)]).collect();
        // The template writes the special tokens itself.
        tokenizer.encode(&template.render(&messages, true, &Map::new())?, false)?
    } else {
        tokenizer.encode(&args.prompt, true)?
    };
    let limits = model::limits(&model);
    limits.check_ids(&tokenizer)?;
    // The last token that is drawn is not read.
    let read = (prompt.len() + args.max_new_tokens).saturating_sub(1) as u64;
    limits.check_positions(read, "the prompt and --max-new-tokens", |rows| next(prompt.len() as u64, rows))?;
    model::note_length(Some(read), limits, output);
    if let Some(adapter) = &args.adapter {
        model.adapter_notes(adapter)?.iter().for_each(|note| term::note(output, &format!("note: {note}")));
    }
    let model = model.for_inference(args.adapter.as_deref())?;
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    let mut stream = tokenizer.text_stream();
    let mut failed: Option<Box<dyn Error>> = None;
    let mut is_read = true;
    let mut on_token = |id: u32| {
        if !output.json {
            match stream.push(id).map_err(Box::<dyn Error>::from).and_then(|text| Ok(term::stream(&text)?)) {
                Ok(read) => is_read = read,
                Err(error) => failed = Some(error),
            }
        }
        is_read && failed.is_none() && !term::interrupted()
    };
    let generated = generate(&model, &prompt, args.max_new_tokens, &stops, &sampling, &mut on_token)?;
    if let Some(error) = failed {
        return Err(error);
    }
    if output.json {
        let text = tokenizer.decode(&generated.ids, true)?;
        let page = json!({
            "text": text, "ids": generated.ids, "prompt_tokens": prompt.len(), "ended": generated.ended,
        });
        term::print(&format!("{page:#}\n"))?;
    } else {
        term::stream(&format!("{}\n", stream.finish()?))?;
    }
    Ok(if term::interrupted() { Done::Stopped } else { Done::Ok })
}

/// What helps where the position embedding is too short.
fn next(prompt: u64, rows: u64) -> String {
    match (rows + 1).checked_sub(prompt) {
        None | Some(0) => format!("the prompt alone has {prompt}: shorten it"),
        Some(most) => format!("give --max-new-tokens {most}, or a shorter prompt"),
    }
}
