//! `unswag completions`, `unswag man` and `unswag schema`: what clap knows, in other forms.

use std::{error::Error, path::Path};

use clap::CommandFactory;
use unswag_checkpoint::{RealDisk, atomic_write_file};
use unswag_console::recipe;

use crate::{Done, args::Cli, term};

pub fn completions(shell: clap_complete::Shell) -> Result<Done, Box<dyn Error>> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "unswag", &mut script);
    term::print(&String::from_utf8_lossy(&script))?;
    Ok(Done::Ok)
}

/// The JSON Schema of recipes, or a page with every key.
pub fn schema(markdown: bool) -> Result<Done, Box<dyn Error>> {
    let text = if markdown { recipe::page() } else { format!("{:#}\n", recipe::schema()) };
    term::print(&text)?;
    Ok(Done::Ok)
}

/// The main page to stdout, or every command's page into a folder.
pub fn man(dir: Option<&Path>) -> Result<Done, Box<dyn Error>> {
    let mut root = Cli::command();
    root.build();
    let page = |command: &clap::Command| -> Result<Vec<u8>, Box<dyn Error>> {
        let mut text = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut text)?;
        Ok(text)
    };
    let Some(dir) = dir else {
        term::print(&String::from_utf8_lossy(&page(&root)?))?;
        return Ok(Done::Ok);
    };
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: cannot create this folder: {error}", dir.display()))?;
    let mut todo = vec![root];
    while let Some(command) = todo.pop() {
        let name = command.get_display_name().unwrap_or_else(|| command.get_name()).replace(' ', "-");
        atomic_write_file(&dir.join(format!("{name}.1")), &page(&command)?, &RealDisk)?;
        // clap's own `help`, and its copy of every command, are no commands of ours.
        let is_shown = |command: &&clap::Command| !command.is_hide_set() && command.get_name() != "help";
        todo.extend(command.get_subcommands().filter(is_shown).cloned());
    }
    Ok(Done::Ok)
}
