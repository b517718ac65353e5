//! Flags with a value: transformers' scripts write `--gradient_checkpointing true`, and a flag here has none.
//!
//! What is typed is rewritten before clap reads it: `true` is the flag alone, `false` leaves it out. Otherwise the word behind a flag
//! would be taken for the model.

use std::ffi::OsString;

use clap::{Arg, Command};

/// The command that a command line names, or the program itself.
pub(super) fn named<'c>(root: &'c Command, args: &[OsString]) -> &'c Command {
    let names = args.iter().skip(1).filter_map(|arg| arg.to_str());
    names.fold(root, |command, name| command.find_subcommand(name).unwrap_or(command))
}

/// All names of an option, without dashes before them.
pub(super) fn names(arg: &Arg) -> impl Iterator<Item = &str> {
    arg.get_long().into_iter().chain(arg.get_all_aliases().unwrap_or_default())
}

/// The command line with each flag that has a value written as a flag alone, or left out.
pub(super) fn without_values(root: &Command, args: Vec<OsString>) -> Vec<OsString> {
    let command = named(root, &args);
    let options = || root.get_arguments().chain(command.get_arguments());
    let is_flag =
        |name: &str| options().any(|arg| !arg.get_action().takes_values() && names(arg).any(|known| known == name));
    let mut read = Vec::with_capacity(args.len());
    let mut rest = args.into_iter().peekable();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            read.push(arg);
            break;
        }
        let (name, own) = match arg.to_str().and_then(|text| text.strip_prefix("--")) {
            Some(text) => text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value))),
            None => ("", None),
        };
        if !is_flag(name) {
            read.push(arg);
            continue;
        }
        let value = match own {
            Some(own) => boolean(own),
            None => rest.peek().and_then(|next| boolean(next.to_str()?)),
        };
        if own.is_none() && value.is_some() {
            rest.next();
        }
        match value {
            Some(true) => read.push(format!("--{name}").into()),
            Some(false) => {}
            None => read.push(arg),
        }
    }
    read.extend(rest);
    read
}

/// Whether an argument may be a flag's value, or have one.
pub(super) fn may_be_value(arg: &OsString) -> bool {
    let text = arg.to_str().unwrap_or_default();
    boolean(text.split_once('=').map_or(text, |(_, value)| value)).is_some()
}

/// As Python and as YAML write it.
fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" => Some(true),
        "false" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn a_flag_takes_true_or_false_and_the_model_stays_the_model() {
        let read = |args: &str| {
            let args = format!("unswag {args}").split(' ').map(OsString::from).collect();
            let read = without_values(&Cli::command(), args).into_iter().map(|arg| arg.into_string().unwrap());
            read.skip(1).collect::<Vec<_>>().join(" ")
        };
        for (typed, expected) in [
            ("train --packing true m --data x", "train --packing m --data x"),
            ("train m --packing False --gradient-checkpointing=True", "train m --gradient-checkpointing"),
            ("train m --sample-packing=false -o o", "train m -o o"),
            // Of an option with a value, of a flag without, and behind `--`, a word stays what it is.
            ("train --resume-from-checkpoint true m --packing", "train --resume-from-checkpoint true m --packing"),
            ("train --packing m true", "train --packing m true"),
            ("train -- --packing true", "train -- --packing true"),
            ("train m --packing=1", "train m --packing=1"),
            ("run r.yaml --chat true --json true", "run r.yaml --chat --json"),
            ("plugin add --replace true l.so", "plugin add --replace l.so"),
        ] {
            assert_eq!(read(typed), expected, "{typed}");
        }
    }
}
