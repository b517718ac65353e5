//! The training API on one page: adapters on a checkpoint, trained on a text, measured, and read again.
//!
//!     cargo run --release -p unswag-train --example finetune -- MODEL TEXT OUTPUT
//!
//! MODEL: a folder with config.json, weights and tokenizer.json; TEXT: a file or a glob pattern.

use std::{error::Error, path::Path};

use unswag_data::{StreamingContextDataLoader, TextOptions, Tokenizer};
use unswag_train::{LoraConfig, Observer, StepMetrics, TrainingArguments, UnswagModel, UnswagTrainer, evaluate};

/// Prints each step's loss.
struct Losses;

impl Observer for Losses {
    fn stepped(&mut self, metrics: &StepMetrics) {
        println!("step {}: loss {:.4}", metrics.step, metrics.loss);
    }
}

/// Trains, and gives the loss of the text before and after.
pub fn finetune(model: &Path, text: &str, output: &Path) -> Result<[f64; 2], Box<dyn Error>> {
    let open = || -> Result<StreamingContextDataLoader, Box<dyn Error>> {
        let options = TextOptions { block_size: 64, ..TextOptions::default() };
        Ok(StreamingContextDataLoader::open(&[text.to_owned()], Tokenizer::load(model)?.into(), &options)?)
    };
    let config = LoraConfig { r: 8, lora_alpha: 16.0, use_rslora: true, ..LoraConfig::default() };
    let arguments = TrainingArguments { max_steps: Some(20), learning_rate: 1e-2, ..TrainingArguments::default() };
    let trained = UnswagModel::from_pretrained(model)?.for_training(config)?;
    UnswagTrainer::new(trained, arguments, Box::new(open()?), output)?.train(&mut Losses)?;

    let loss = |adapter: Option<&Path>| -> Result<f64, Box<dyn Error>> {
        let model = UnswagModel::from_pretrained(model)?.for_inference(adapter)?;
        let report = evaluate(&model, &mut open()?, 4, &mut ())?;
        Ok(report.ok_or("nothing asks it to stop")?.loss)
    };
    Ok([loss(None)?, loss(Some(&output.join("adapter")))?])
}

#[allow(dead_code, reason = "a test calls the function above")]
fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, text, output] = &args[..] else { return Err("usage: finetune MODEL TEXT OUTPUT".into()) };
    let [before, after] = finetune(Path::new(model), text, Path::new(output))?;
    println!("loss {before:.4} before, {after:.4} after");
    Ok(())
}
