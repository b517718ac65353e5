//! `unswag import`.

use std::error::Error;

use unswag_checkpoint::{
    RealDisk,
    gguf::{self, GgufFile, ImportOptions},
};

use crate::{
    Done,
    args::{Import, ImportDtype, Output},
    term::{self, GOOD, WARN, paint},
};

pub fn run(args: &Import, output: &Output) -> Result<Done, Box<dyn Error>> {
    let (dtype, bytes_per_parameter) = match args.dtype {
        ImportDtype::Bfloat16 => (gguf::ImportDtype::Bf16, 2),
        ImportDtype::Float16 => (gguf::ImportDtype::F16, 2),
        ImportDtype::Float32 => (gguf::ImportDtype::F32, 4),
    };
    let file = GgufFile::open(&args.path)?;
    let bar = term::byte_bar(output, file.info().parameters.saturating_mul(bytes_per_parameter));
    bar.set_message("writing weights");
    let options = ImportOptions { dtype, tokenizer: !args.no_tokenizer };
    let report = gguf::import_file(&file, &args.output, options, &RealDisk, &term::advance(&bar))?;
    bar.finish_and_clear();
    if output.json {
        term::print(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
        return Ok(Done::Ok);
    }
    for line in &report.notes {
        term::note(output, &format!("{} {line}", paint(WARN, "note:")));
    }
    if !output.quiet {
        term::print(&format!(
            "{} {} ({}, {} tensors, {} parameters as {}, {})\n",
            paint(GOOD, "wrote"),
            term::value(report.path.display()),
            report.model_type,
            report.tensors,
            term::count(report.parameters),
            report.dtype,
            term::bytes(report.bytes_written),
        ))?;
    }
    Ok(Done::Ok)
}
