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
    if let Some(adapter) = &args.adapter {
        model.adapter_notes(adapter)?.iter().for_each(|note| term::note(output, &format!("note: {note}")));
    }
    let model = model.for_inference(args.adapter.as_deref())?;
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    // A token may be a part of a character: the stream holds it back until the character is whole.
    let mut stream = tokenizer.as_inner().decode_stream(true);
    let mut failed = None;
    let mut on_token = |id: u32| {
        if !output.json {
            let piece = stream.step(id).map_err(|error| -> Box<dyn Error> { error.to_string().into() });
            let shown = piece.and_then(|piece| Ok(term::stream(&piece.unwrap_or_default())?));
            failed = shown.err();
        }
        failed.is_none() && !term::interrupted()
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
        term::stream("\n")?;
    }
    Ok(if term::interrupted() { Done::Stopped } else { Done::Ok })
}
