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
    (&["bf16"], "--dtype bfloat16 sets the dtype to compute in; without it, the checkpoint's is used"),
    (&["fp16"], "float16 is not supported: use --dtype bfloat16 or float32"),
    (
        &["config", "config-file"],
        "settings in a file are a recipe: `unswag run RECIPE.yaml` (`unswag schema --markdown` has every key)",
    ),
    (&["train-file", "dataset-name", "dataset-path", "train-dataset"], "--data FILE reads local files"),
    (&["r"], "--lora-r R is the rank of the adapters"),
    (&["lora-bias"], "biases are not trained, as with PEFT's bias=none; leave it out"),
    (&["neftune-noise-alpha"], "there is no noise on embeddings; leave it out"),
    (
        &[
            "use-flash-attention",
            "use-flash-attn",
            "flash-attn",
            "flash-attention",
            "attn-implementation",
            "use-xformers",
        ],
        "attention is computed in tiles, without a matrix of scores; leave it out",
    ),
    (
        &["group-by-length", "length-column-name"],
        "rows of a batch are not chosen by their length; --packing puts short rows together",
    ),
    (
        &["dataloader-num-workers", "dataset-num-proc", "preprocessing-num-workers", "dataloader-pin-memory"],
        "data is read as training goes, in one thread; leave it out",
    ),
    (&["remove-unused-columns"], "columns without a meaning are passed over; leave it out"),
    (
        &["push-to-hub", "hub-model-id", "hub-token", "hub-strategy"],
        "nothing is uploaded; `hf upload` takes the folder that was written",
    ),
    (
        &["deepspeed", "fsdp", "fsdp-config", "ddp-find-unused-parameters", "ddp-timeout", "ddp-backend", "local-rank"],
        "training runs in one process; --memory-budget and --offload-folder make a step smaller",
    ),
    (
        &["tf32", "torch-compile", "compile", "use-cpu", "no-cuda"],
        "--dtype and --device say how steps are computed; leave it out",
    ),
    (&["bnb-4bit-compute-dtype"], "--dtype is what products with 4-bit weights are computed in"),
    (&["do-sample"], "--temperature 0 always takes the most likely token; without it, tokens are sampled"),
    (
        &["repetition-penalty", "num-beams", "no-repeat-ngram-size", "length-penalty"],
        "tokens are sampled by --temperature, --top-k and --top-p; leave it out",
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

/// Values of other tools that have no counterpart, by the option that they are given to.
const FOREIGN_VALUES: &[(&str, &[&str], &str)] = &[
    (
        "optim",
        &[
            "sgd",
            "adafactor",
            "adagrad",
            "rmsprop",
            "adam",
            "adamw",
            "adamw_hf",
            "galore_adamw",
            "apollo_adamw",
            "muon",
        ],
        "the optimizers are AdamW (adamw_torch, adamw_8bit, paged_adamw_32bit, paged_adamw_8bit) and Lion",
    ),
    ("dtype", &["float16", "fp16", "f16", "half"], "float16 is not computed in: use bfloat16 or float32"),
    ("max-steps", &["-1", "0"], "leave it out, and the number of epochs decides"),
];

/// What to write instead of a value, by the name of its option.
pub fn value_advice(option: &str, value: &str) -> Option<&'static str> {
    let option = option.replace('_', "-");
    let found = FOREIGN_VALUES.iter().find(|(name, values, _)| *name == option && values.contains(&value));
    found.map(|(_, _, advice)| *advice)
}

/// The command line as clap reads it: with `-` for each `_` in the names of long options, because transformers takes both, and
/// without values of flags.
pub fn command_line() -> impl Iterator<Item = OsString> {
    let args: Vec<OsString> = dashed(env::args_os()).collect();
    // The options of all commands are a millisecond's work to list.
    match args.iter().any(flags::may_be_value) {
        true => flags::without_values(&Cli::command(), args).into_iter(),
        false => args.into_iter(),
    }
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
        let root = Cli::command();
        let command = flags::named(&root, &command_line().collect::<Vec<_>>());
        let error = advised(read(shown).err().unwrap_or(error), &root, command);
        if error.exit_code() != 0 && command_line().take_while(|arg| arg != "--").any(|arg| arg == "--json") {
            let _ = term::print(&format!("{}\n", serde_json::json!({ "error": first_line(&error) })));
        }
        error.exit()
    })
}

/// A negative number is a value, so that an option says what it expects instead.
fn read(args: impl Iterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let args: Vec<OsString> = args.collect();
    let command = match args.iter().any(may_be_negative) {
        true => with_negative_numbers(Cli::command()),
        false => Cli::command(),
    };
    let mut matches = command.try_get_matches_from(args)?;
    let cli = Cli::from_arg_matches_mut(&mut matches)?;
    match cli.command.form_without_json() {
        Some(form) if cli.output.json => {
            let what = format!("the argument '--json' cannot be used with this command, whose answer is {form}");
            Err(Cli::command().error(ErrorKind::ArgumentConflict, what))
        }
        _ => Ok(cli),
    }
}

fn may_be_negative(arg: &OsString) -> bool {
    let bytes = arg.as_encoded_bytes();
    bytes.len() > 1 && bytes[0] == b'-' && bytes[1..].iter().any(u8::is_ascii_digit)
}

fn with_negative_numbers(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|inner| inner.get_name().to_owned()).collect();
    let command = command.mut_args(|arg| match !arg.is_positional() && arg.get_action().takes_values() {
        true => arg.allow_negative_numbers(true),
        false => arg,
    });
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_negative_numbers))
}

/// What is wrong, without the tips and the usage that clap writes for people.
fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// An error of `command` with the advice where a name or a value is another tool's.
fn advised(mut error: clap::Error, root: &Command, command: &Command) -> clap::Error {
    let text = |kind| text_of(&error, kind).unwrap_or_default();
    let (arg, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    // `--name=value` where it is unknown, `--name <VALUE>` where its value is.
    let name = arg.split(['=', ' ']).next().unwrap_or_default().to_owned();
    match error.kind() {
        ErrorKind::UnknownArgument if name.starts_with("--") => {
            // clap would say how to pass it as a value, which no option's name means.
            error.remove(ContextKind::Suggested);
            error.remove(ContextKind::SuggestedArg);
            if let Some(advice) = advice(&name) {
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice.into()]));
            } else if let Some(near) = nearest(&name[2..], [root, command]) {
                error.insert(ContextKind::SuggestedArg, ContextValue::String(format!("--{near}")));
            }
        }
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let option = name.trim_start_matches('-');
            let takes = |value: &str| {
                let arg = command.get_arguments().find(|arg| arg.get_long() == Some(option));
                arg.is_some_and(|arg| arg.get_possible_values().iter().any(|known| known.get_name() == value))
            };
            let suggested = text_of(&error, ContextKind::SuggestedValue);
            let is_near = suggested.is_some_and(|near| is_near(&value, &near));
            // Of a command whose dtype is one of the base's, bfloat16 is no answer.
            let advice = value_advice(option, &value).filter(|_| option != "dtype" || takes("bfloat16"));
            if advice.is_some() || !is_near {
                error.remove(ContextKind::SuggestedValue);
            }
            if let Some(advice) = advice {
                error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice.into()]));
            }
        }
        _ => {}
    }
    error
}

fn text_of(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// The option whose name, or another name of it, is spelt most like this one, by the name that the help shows.
fn nearest<'c>(name: &str, commands: [&'c Command; 2]) -> Option<&'c str> {
    let options = commands.into_iter().flat_map(Command::get_arguments).filter(|arg| !arg.is_hide_set());
    let known = options.flat_map(|arg| flags::names(arg).filter_map(move |known| Some((known, arg.get_long()?))));
    let near = known.filter(|(known, _)| is_near(name, known));
    near.min_by_key(|(known, _)| strsim::damerau_levenshtein(name, known)).map(|(_, long)| long)
}

/// Whether one may be the other, misspelt. What is further away is another word.
fn is_near(name: &str, known: &str) -> bool {
    name.len() <= 64 && strsim::damerau_levenshtein(name, known) <= name.chars().count().max(3) / 3
}

#[cfg(test)]
mod tests {
    use clap::{Args, Parser as _};

    use super::*;
    use crate::args::{Eval, Plan, Train};

    fn said(error: clap::Error, command: &str) -> String {
        let root = Cli::command();
        advised(error, &root, root.find_subcommand(command).expect("a command")).to_string()
    }

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
            Cli::try_parse_from(args).map_err(|error| said(error, "train"))
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
        // A misspelt name of ours still gets the nearest one, by the name that the help shows.
        assert!(read(&["--learnin-rate=1"]).expect_err("misspelt").contains("'--learning-rate'"));
        assert!(read(&["--max-seq-lenght=1"]).expect_err("misspelt").contains("'--block-size'"));
        // What is spelt like nothing of ours gets none.
        for arg in ["--use-liger-kernel", "--report-every-day", "--qqq"] {
            let said = read(&[arg]).expect_err("no such option");
            assert!(!said.contains("similar"), "{arg}: {said}");
        }
    }

    #[test]
    fn a_value_of_another_tool_is_taken_or_answered_with_what_to_write() {
        let read = |args: &[&str]| {
            let args = ["unswag", "train", "m", "--data", "f", "-o", "o"].iter().chain(args);
            Cli::try_parse_from(args).map_err(|error| said(error, "train"))
        };
        for args in [["--optim", "adamw_torch_fused"], ["--dtype", "bf16"], ["--dtype", "fp32"]] {
            assert!(read(&args).is_ok(), "{args:?}");
        }
        for (args, says) in [
            (["--optim", "sgd"], "the optimizers are AdamW"),
            (["--optim", "adafactor"], "the optimizers are AdamW"),
            (["--dtype", "fp16"], "float16 is not computed in"),
            (["--max-steps=-1", "--chat"], "leave it out"),
        ] {
            let said = read(&args).expect_err("no such value");
            assert!(said.contains(says) && !said.contains("similar"), "{args:?}: {said}");
        }
        assert!(read(&["--optim", "adamw_torc"]).expect_err("misspelt").contains("'adamw_torch'"));
    }

    #[test]
    fn a_command_without_a_json_answer_refuses_json() {
        for args in [&["plugin", "kinds"][..], &["schema", "--markdown"], &["man"], &["completions", "bash"]] {
            let typed = |more: &[&str]| read([&["unswag"], args, more].concat().into_iter().map(OsString::from));
            assert!(typed(&[]).is_ok(), "{args:?}");
            let said = typed(&["--json"]).expect_err("no JSON").to_string();
            assert!(said.contains("'--json' cannot be used"), "{args:?}: {said}");
        }
        assert!(read(["unswag", "schema", "--json"].map(OsString::from).into_iter()).is_ok());
    }

    #[test]
    fn a_negative_number_is_a_value_and_an_unknown_option_is_none() {
        let read = |args: &[&str]| {
            let args = ["unswag", "train", "m", "--data", "f", "-o", "o"].iter().chain(args);
            read(args.map(OsString::from)).map_err(|error| said(error, "train"))
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
                // Of a plan it is the model's, and of training a user means a recipe.
                for name in names.filter(|name| (command.get_name(), *name) != ("plan", "config")) {
                    assert!(advice(name).is_none(), "--{name}");
                }
            }
        }
        // clap checks that no name is given twice.
        Cli::command().debug_assert();
    }
}
