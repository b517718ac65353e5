//! `unswag inspect`.

use std::{error::Error, fs::File, io::Read, path::Path};

use serde_json::json;
use unswag_checkpoint::gguf::GgufFile;
use unswag_graph::tree::{self, Part, Style, TreeOptions};
use unswag_surgery::Model;

use crate::{
    Done,
    args::{Inspect, Output},
    commands::plural,
    term::{self, BOLD, DIM, GOOD, NAME, Table, WARN, paint},
};

/// Names shown of a list that may be long.
const LISTED: usize = 5;

pub fn run(args: &Inspect, output: &Output) -> Result<Done, Box<dyn Error>> {
    if is_gguf(&args.model.path) {
        return gguf(&args.model.path, output);
    }
    let model = Model::open(&args.model.path, args.model.config.as_deref())?;
    if args.graph {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&model.graph)?))?;
        return Ok(Done::Ok);
    }
    let options = TreeOptions { layer: args.layer, collapse: args.layer.is_none() };
    let tree = tree::tree(&model.graph, options);
    if tree.rows.is_empty() {
        let layer = args.layer.unwrap_or_default();
        return Err(
            format!("{}: no layer {layer}; leave out --layer to see them all", args.model.path.display()).into()
        );
    }
    let steps: Vec<_> = model.record.iter().flat_map(|record| &record.steps).collect();
    if output.json {
        let page = json!({
            "model": model.checkpoint.root(),
            "model_type": model.graph.arch.model_type,
            "files": model.checkpoint.files().iter().map(|file| json!({"name": file.name, "bytes": file.bytes})).collect::<Vec<_>>(),
            "surgery": steps.iter().map(|step| json!({"protocol": step.protocol, "version": step.version,
                "options": step.options, "lossy": step.patch.lossy})).collect::<Vec<_>>(),
            "rows": tree.rows,
            "totals": {"parameters": tree.params, "bytes": tree.param_bytes,
                "saved_bytes_per_token": tree.saved_bytes_per_token},
            "unclaimed": model.unclaimed,
            "notes": model.notes,
        });
        term::print(&format!("{page:#}\n"))?;
        return Ok(Done::Ok);
    }
    let mut page = format!(
        "{}  {}, {} parameters, {} in {} {}\n",
        paint(BOLD, model.name()),
        term::value(&model.graph.arch.model_type),
        term::count(tree.params),
        term::bytes(model.checkpoint.files().iter().map(|file| file.bytes).sum()),
        model.checkpoint.files().len(),
        plural(model.checkpoint.files().len(), "file", "files"),
    );
    for step in steps {
        page.push_str(&format!("operated on by {} {}", paint(NAME, &step.protocol), term::value(&step.version)));
        if let Some(lossy) = &step.patch.lossy {
            page.push_str(&format!("; {} {}", paint(WARN, "lossy:"), term::value(lossy)));
        }
        page.push('\n');
    }
    page.push('\n');
    page.push_str(&tree.render(&Colours));
    page.push_str(&paint(
        DIM,
        "saved: what PyTorch saves for the backward with fused norms and SDPA, where every linear layer is trained or has LoRA; \
         without optimizer, gradients and workspaces",
    ));
    page.push('\n');
    let lists = [("unclaimed tensors (no node uses them)", &model.unclaimed), ("notes", &model.notes)];
    for (title, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
        page.push_str(&format!("{}: {}", paint(WARN, title), term::value(list[..list.len().min(LISTED)].join(", "))));
        if list.len() > LISTED {
            page.push_str(&format!(" and {} more (--json lists all)", list.len() - LISTED));
        }
        page.push('\n');
    }
    term::print(&page)?;
    Ok(Done::Ok)
}

struct Colours;

impl Style for Colours {
    fn paint(&self, part: Part, text: &str) -> String {
        match part {
            Part::Header => paint(DIM, text),
            Part::Block | Part::Total => paint(BOLD, text),
            Part::Kind => paint(GOOD, text),
            Part::PluginKind => paint(NAME, text),
            _ => term::value(text),
        }
    }
}

fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    path.is_file() && File::open(path).and_then(|mut file| file.read_exact(&mut magic)).is_ok() && &magic == b"GGUF"
}

fn gguf(path: &Path, output: &Output) -> Result<Done, Box<dyn Error>> {
    let file = GgufFile::open(path)?;
    let info = file.info();
    if output.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(info)?))?;
        return Ok(Done::Ok);
    }
    let mut page = format!(
        "{}  GGUF version {}, {}, {} parameters in {} tensors, {}\n\n",
        paint(BOLD, info.name.as_deref().unwrap_or("(no name)")),
        info.version,
        term::value(info.architecture.as_deref().unwrap_or("no architecture")),
        term::count(info.parameters),
        info.tensors,
        term::bytes(info.file_bytes),
    );
    let mut types = Table::new(&["type", ">tensors", ">bytes", "import"]);
    for count in &info.types {
        let readable = if count.supported { "yes" } else { "no" };
        types.row([count.dtype.to_owned(), count.tensors.to_string(), term::bytes(count.bytes), readable.to_owned()]);
    }
    page.push_str(&types.render());
    page.push('\n');
    let mut keys = Table::new(&["key", "type", "value"]);
    for entry in &info.metadata {
        keys.row([entry.key.clone(), entry.value_type.to_owned(), entry.value.clone()]);
    }
    page.push_str(&keys.render());
    page.push_str(&format!("\nTo operate on it: unswag import {} -o DIR\n", term::value(path.display())));
    term::print(&page)?;
    Ok(Done::Ok)
}
