//! Every key of a recipe on one page of Markdown, from the options that the keys stand for: `unswag schema --markdown`.
//!
//! The page in `docs/recipes.md` is this one, and a test compares them.

use std::fmt::Write as _;

use super::keys::{Key, Keys, Kind};

const HEAD: &str = "\
# Recipes: every key

A recipe is a YAML file for `unswag run RECIPE.yaml`: surgery and training in one file. `unswag plan RECIPE.yaml` plans
the same run, and options of `unswag train` on the command line replace the recipe's. Paths are relative to the working
directory. An unknown key, a duplicate key, or a value of the wrong type is an error that names its line.
`unswag schema` prints the JSON Schema, for editors.

This page is printed by `unswag schema --markdown`.

| key | value | meaning |
|---|---|---|
| `model` | path, required | a `.safetensors` file, a folder with `config.json` and weights, or a hub cache snapshot |
| `surgery` | list | protocol plugins, in the order in which they run; the result is written to `OUTPUT/patched` |
| `surgery[].plugin` | text, required | the name of a locked protocol (`unswag plugin list`) |
| `surgery[].options` | map | the plugin's options (`unswag plugin info NAME`) |
| `train` | map, required | the keys below: the options of `unswag train`, with underscores |
| `output` | path, required | the folder to write |
";

/// The page. Headings are those of `unswag train --help`, in its order.
pub fn page() -> String {
    let keys = Keys::of_train();
    let mut page = HEAD.to_owned();
    let mut headings: Vec<&str> = Vec::new();
    for key in keys.iter() {
        if !headings.contains(&heading(key)) {
            headings.push(heading(key));
        }
    }
    for title in headings {
        write!(page, "\n## {title}\n\n| key | value | default | meaning |\n|---|---|---|---|\n")
            .expect("a String takes all");
        for key in keys.iter().filter(|key| heading(key) == title) {
            row(&mut page, &keys, key);
        }
    }
    page
}

fn heading(key: &Key) -> &str {
    key.heading().unwrap_or("General")
}

fn row(page: &mut String, keys: &Keys, key: &Key) {
    let names: Vec<String> = key.names().map(|name| format!("`{name}`")).collect();
    let default = match key.defaults().as_slice() {
        [] if key.is_required() => "required".to_owned(),
        // A flag that is not written is false.
        [] if key.kind() == Kind::Flag => "`false`".to_owned(),
        [] => String::new(),
        _ if key.kind() == Kind::Flag => "`false`".to_owned(),
        defaults => format!("`{}`", defaults.join(", ")),
    };
    let mut excluded: Vec<String> =
        keys.conflicts(key.long()).map(|long| format!("`{}`", long.replace('-', "_"))).collect();
    excluded.sort();
    let mut meaning = key.help();
    if !excluded.is_empty() {
        if !meaning.is_empty() && !meaning.ends_with(['.', ']']) {
            meaning.push('.');
        }
        write!(meaning, " Not together with {}.", excluded.join(", ")).expect("a String takes all");
    }
    let cells = [names.join(", "), value(key), default, meaning.trim().to_owned()];
    let cells: Vec<String> = cells.into_iter().map(|cell| cell.replace('\n', " ").replace('|', "\\|")).collect();
    writeln!(page, "| {} |", cells.join(" | ")).expect("a String takes all");
}

fn value(key: &Key) -> String {
    let one = match key.kind() {
        Kind::Flag => "`true` or `false`".to_owned(),
        Kind::Integer => "integer".to_owned(),
        Kind::Number => "number".to_owned(),
        Kind::Size => "bytes, or text such as `2GiB`".to_owned(),
        Kind::Text => "text".to_owned(),
        Kind::Pairs => return "a map of names to numbers; text such as `q_proj=16`, or a list of such".to_owned(),
        Kind::Choice { names, .. } => names.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "),
    };
    if key.is_list() { format!("{one}, or a list of them") } else { one }
}
