//! Options of transformers, TRL, axolotl, Unsloth and LLaMA-Factory that have other names here, or are not needed.
//!
//! An option that means the same is an alias. Here are the options that have no direct counterpart.

use std::{env, ffi::OsString};

use clap::{
    Command, CommandFactory as _, FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Cli, flags};
use crate::term;

/// An option's names elsewhere, and what to write here.
const FOREIGN: &[(&[&str], &str)] = &[
    (
        &["model", "model-name", "model-name-or-path", "base-model", "model-id"],
        "the model has no option: `unswag train MODEL --data FILE -o DIR`, or `model:` at the top of a recipe",
    ),
    (
        &["bf16", "fp16"],
        "--dtype bfloat16 or --dtype float32 sets the dtype to compute in; without it, the checkpoint's is used",
    ),
    (&["load-in-8bit"], "--load-in-4bit holds the base in 4 bits; there is no 8-bit form"),
    (&["eval-strategy", "evaluation-strategy"], "--eval-steps N measures the validation loss every N steps"),
    (&["save-strategy"], "--save-steps N writes a checkpoint every N steps"),
    (&["logging-strategy"], "--logging-steps N prints a line every N steps"),
    (&["logging-dir"], "--report-to tensorboard writes into runs/ of the output folder"),
    (
        &["per-device-eval-batch-size", "eval-batch-size"],
        "validation uses --per-device-train-batch-size; `unswag eval` has --batch-size",
    ),
    (&["do-train", "do-eval"], "`unswag train` trains and `unswag eval` measures; leave it out"),
    (
        &["overwrite-output-dir"],
        "--force replaces what an earlier run left, and --resume-from-checkpoint auto continues it",
    ),
    (&["greater-is-better"], "the best validation loss is the lowest; leave it out"),
    (
        &["use-lora", "peft", "use-peft", "finetuning-type"],
        "LoRA is trained unless --full-finetuning is given; leave it out",
    ),
    (
        &["adapter-name-or-path", "lora-model-dir", "resume-adapter"],
        "--adapter DIR starts from the weights of an adapter",
    ),
    (
        &["train-on-inputs", "train-on-prompt", "completion-only-loss", "assistant-only-loss"],
        "the loss is taken on the completion or the assistant's turns; to learn prompts too, write both into one text column",
    ),
    (&["template", "chat-template"], "--chat uses the chat template in the model's folder"),
    (&["gpus", "num-processes", "nproc-per-node"], "training runs in one process; --device names the device"),
];

/// What to write here instead of another tool's option, by its name without dashes before it; `_` stands for `-`.
pub fn advice(name: &str) -> Option<&'static str> {
    let name = name.trim_start_matches('-').replace('_', "-");
    FOREIGN.iter().find(|(names, _)| names.contains(&name.as_str())).map(|(_, advice)| *advice)
}

/// The command line, with `-` for each `_` in the names of long options: transformers takes both.
pub fn command_line() -> impl Iterator<Item = OsString> {
    flags::without_values(&Cli::command(), dashed(env::args_os()).collect()).into_iter()
}

fn dashed(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut has_ended = false;
    args.map(move |arg| {
        has_ended |= arg == "--";
        let Some(text) = arg.to_str().filter(|text| !has_ended && text.starts_with("--")) else { return arg };
        let name = text.split('=').next().unwrap_or(text);
        format!("{}{}", name.replace('_', "-"), &text[name.len()..]).into()
    })
}

/// Reads the command line; ends the program where clap would, with the advice where an option is another tool's.
pub fn parse() -> Cli {
    read(command_line()).unwrap_or_else(|error| {
        // clap shows arguments as they are, and a shell's pattern fills in names of files. So what is wrong is said of escaped ones.
        let shown = command_line().map(|argument| term::value(argument.to_string_lossy()).into());
        let error = advised(read(shown).err().unwrap_or(error));
        if error.exit_code() != 0 && command_line().take_while(|arg| arg != "--").any(|arg| arg == "--json") {
            let _ = term::print(&format!("{}\n", serde_json::json!({ "error": first_line(&error) })));
        }
        error.exit()
    })
}

/// A negative number is a value, so that an option says what it expects instead.
fn read(args: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut matches = with_negative_numbers(Cli::command()).try_get_matches_from(args)?;
    let cli = Cli::from_arg_matches_mut(&mut matches)?;
    match cli.command.form_without_json() {
        Some(form) if cli.output.json => {
            let what = format!("the argument '--json' cannot be used with this command, whose answer is {form}");
            Err(Cli::command().error(ErrorKind::ArgumentConflict, what))
        }
        _ => Ok(cli),
    }
}

fn with_negative_numbers(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let command = command.mut_args(|arg| match arg.is_positional() || !arg.get_action().takes_values() {
        true => arg,
        false => arg.allow_negative_numbers(true),
    });
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_negative_numbers))
}

/// What is wrong, without the tips and the usage that clap writes for people.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn advised(mut error: clap::Error) -> clap::Error {
    let unknown = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(arg))) => arg.clone(),
        _ => return error,
    };
    if let Some(advice) = advice(unknown.split('=').next().unwrap_or(&unknown)) {
        // The nearest of our own names would mislead.
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice.into()]));
    } else if unknown.starts_with("--") {
        // clap would say how to pass it as a value, which nobody means by an option's name.
        error.remove(ContextKind::Suggested);
    }
    error
}

#[cfg(test)]
mod tests {
    use clap::{Args, Parser as _};

    use super::*;
    use crate::args::{Eval, Plan, Train};

    #[test]
    fn long_options_may_be_written_with_underscores() {
        let args = ["unswag", "train", "a_b", "--num_train_epochs=1", "--lora_alpha", "3_2", "-o", "--", "--x_y"];
        let read: Vec<_> = dashed(args.into_iter().map(OsString::from)).collect();
        assert_eq!(
            read,
            ["unswag", "train", "a_b", "--num-train-epochs=1", "--lora-alpha", "3_2", "-o", "--", "--x_y"]
        );
        let args = ["unswag", "eval", "m", "--data", "d", "--block_size=64"];
        let read = Cli::try_parse_from(dashed(args.into_iter().map(OsString::from)));
        assert!(read.is_ok(), "{:?}", read.err());
    }

    #[test]
    fn common_names_of_other_tools_are_taken_or_answered_with_what_to_write() {
        let read = |args: &[&str]| {
            let args = ["unswag", "train", "m", "--data", "f", "-o", "o"].iter().chain(args);
            Cli::try_parse_from(args).map_err(|error| advised(error).to_string())
        };
        let lora = read(&[
            "--lr=2e-4",
            "--epochs=2",
            "--micro-batch-size=4",
            "--grad-accum=8",
            "--lora-rank=16",
            "--cutoff-len=512",
            "--target-modules",
            "q_proj",
            "--random-state=3407",
        ]);
        let Ok(Cli { command: crate::args::Command::Train(train), .. }) = lora else { panic!("{lora:?}") };
        assert_eq!((train.optimizer.learning_rate, train.length.num_epochs), (2e-4, 2.0));
        assert_eq!((train.length.per_device_train_batch_size, train.length.gradient_accumulation_steps), (4, 8));
        assert_eq!((train.lora.lora_r, train.data.block_size, train.seed), (16, Some(512), 3407));
        for (arg, says) in [
            ("--bf16", "--dtype bfloat16"),
            ("--model_name_or_path=x", "has no option"),
            ("--eval-strategy", "--eval-steps N"),
        ] {
            let said = read(&[arg]).expect_err("no such option");
            assert!(said.contains(says) && said.contains("unexpected argument"), "{arg}: {said}");
        }
        // A misspelt name of ours still gets the nearest one.
        assert!(read(&["--learnin-rate=1"]).expect_err("misspelt").contains("--learning-rate"));
    }

    #[test]
    fn a_negative_number_is_a_value_and_an_unknown_option_is_none() {
        let read = |args: &[&str]| {
            let args = ["unswag", "train", "m", "--data", "f", "-o", "o"].iter().chain(args);
            read(args.map(OsString::from)).map_err(|error| advised(error).to_string())
        };
        assert!(read(&["--warmup-ratio", "-0.5", "--learning-rate", "-0.001"]).is_ok());
        let said = read(&["--max-steps", "-1"]).expect_err("no such number of steps");
        assert!(said.starts_with("error: invalid value '-1' for '--max-steps"), "{said}");
        let said = read(&["--no-such-option=1"]).expect_err("no such option");
        assert!(said.contains("unexpected argument '--no-such-option'") && !said.contains("as a value"), "{said}");
    }

    #[test]
    fn no_name_is_both_an_option_and_advice() {
        let commands = [
            Train::augment_args(Command::new("train")),
            Plan::augment_args(Command::new("plan")),
            Eval::augment_args(Command::new("eval")),
        ];
        for command in &commands {
            for arg in command.get_arguments() {
                let names = arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default());
                for name in names {
                    assert!(advice(name).is_none(), "--{name}");
                }
            }
        }
        // clap checks that no name is given twice.
        Cli::command().debug_assert();
    }
}
