//! `unswag generate`.

use std::{error::Error, io::Write};

use serde_json::{Map, json};
use unswag_console::{
    Done,
    args::{Generate, Output},
    term,
};
use unswag_data::{ChatTemplate, Message, Tokenizer};
use unswag_train::{Sampling, generate};

use crate::model;

pub fn run(args: &Generate, output: &Output) -> Result<Done, Box<dyn Error>> {
    let model = model::open(&args.model, args.compute, output)?;
    let tokenizer = Tokenizer::load(model.root())?;
    let prompt = if args.chat {
        let template = ChatTemplate::load(model.root(), &tokenizer, None)?;
        let turn = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
        let system = args.system.iter().map(|content| turn("system", content));
        let messages: Vec<Message> = system.chain([turn("user", &args.prompt)]).collect();
        // The template writes the special tokens itself.
        tokenizer.encode(&template.render(&messages, true, &Map::new())?, false)?
    } else {
        tokenizer.encode(&args.prompt, true)?
    };
    let model = model.for_inference(args.adapter.as_deref())?;
    let sampling = Sampling { temperature: args.temperature, top_k: args.top_k, top_p: args.top_p, seed: args.seed };
    // A token may be a part of a character: the stream holds it back until the character is whole.
    let mut stream = tokenizer.as_inner().decode_stream(true);
    let mut failed = None;
    let mut on_token = |id: u32| {
        if !output.json {
            let piece = stream.step(id).map_err(|error| -> Box<dyn Error> { error.to_string().into() });
            let shown = piece.and_then(|piece| show(&piece.unwrap_or_default()));
            failed = shown.err();
        }
        failed.is_none() && !term::interrupted()
    };
    let generated = generate(&model, &prompt, args.max_new_tokens, tokenizer.eos_ids(), &sampling, &mut on_token)?;
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
        show("\n")?;
    }
    Ok(if term::interrupted() { Done::Stopped } else { Done::Ok })
}

/// Writes at once: what is generated is read as it comes.
fn show(text: &str) -> Result<(), Box<dyn Error>> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}
