//! Thirty equal layers in one line: names that differ only in their numbers, told as `model.layers.{0..29}.mlp`.

use std::collections::{BTreeMap, BTreeSet};

use indexmap::IndexMap;

/// The number that a segment of a path is, if it is written as numbers are.
pub(crate) fn number(segment: &str) -> Option<u64> {
    let plain = segment == "0" || (!segment.starts_with('0') && segment.bytes().all(|byte| byte.is_ascii_digit()));
    segment.parse().ok().filter(|_| plain && !segment.is_empty())
}

/// `{0..29}`, `{0,3,5..9}`, or `4` alone.
pub(crate) fn ranges(numbers: &BTreeSet<u64>) -> String {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, end)) if end.checked_add(1) == Some(number) => *end = number,
            _ => runs.push((number, number)),
        }
    }
    let shown: Vec<String> = runs
        .iter()
        .map(|&(start, end)| match end - start {
            0 => start.to_string(),
            1 => format!("{start},{end}"),
            _ => format!("{start}..{end}"),
        })
        .collect();
    match (numbers.len(), shown.join(",")) {
        (1, alone) => alone,
        (_, several) => format!("{{{several}}}"),
    }
}

/// Numbers in a path beyond these are told as they are. Real paths have two: a layer's and an expert's.
const MOST_NUMBERS: usize = 8;

/// A path's numbers.
pub(crate) fn numbers(path: &str) -> Vec<u64> {
    path.split('.').filter_map(number).take(MOST_NUMBERS).collect()
}

/// `path` with each of `numbers` that it holds as a segment, in order, written `{}`: the same text for every layer.
pub(crate) fn relative(path: &str, numbers: &[u64]) -> String {
    let mut expected = numbers.iter().peekable();
    let segments = path.split('.').map(|segment| {
        // An output's name carries its index behind a colon: `model.layers.3.rope:1`.
        let (stem, rest) = segment.split_once(':').map_or((segment, None), |(stem, rest)| (stem, Some(rest)));
        match (number(stem), expected.peek()) {
            (Some(found), Some(&&number)) if found == number => {
                expected.next();
                rest.map_or("{}".to_owned(), |rest| format!("{{}}:{rest}"))
            }
            _ => segment.to_owned(),
        }
    });
    segments.collect::<Vec<_>>().join(".")
}

/// One line for all entries that differ only in their numbers: the name with ranges, the text, and how many they are.
/// A line stands where its first entry stood.
pub(crate) fn grouped(entries: impl IntoIterator<Item = (String, String)>) -> Vec<(String, String, usize)> {
    let mut groups: IndexMap<(String, String), Vec<Vec<u64>>> = IndexMap::new();
    for (name, text) in entries {
        let numbers = numbers(&name);
        groups.entry((relative(&name, &numbers), text)).or_default().push(numbers);
    }
    let mut lines = Vec::new();
    for ((template, text), tuples) in groups {
        let tuples: Vec<&[u64]> = tuples.iter().map(Vec::as_slice).collect();
        for block in blocks(&tuples) {
            let count = block.iter().map(BTreeSet::len).product();
            let mut sets = block.iter();
            let segments = template.split('.').map(|segment| match segment {
                "{}" => sets.next().map(ranges).unwrap_or_default(),
                _ => segment.to_owned(),
            });
            lines.push((segments.collect::<Vec<_>>().join("."), text.clone(), count));
        }
    }
    lines
}

/// Covers tuples of one length, each once, by products of sets: all experts of all layers are one block.
fn blocks(tuples: &[&[u64]]) -> Vec<Vec<BTreeSet<u64>>> {
    if tuples.first().is_none_or(|tuple| tuple.is_empty()) {
        return vec![Vec::new()];
    }
    let mut by_first: BTreeMap<u64, Vec<&[u64]>> = BTreeMap::new();
    for tuple in tuples {
        by_first.entry(tuple[0]).or_default().push(&tuple[1..]);
    }
    let mut alike: IndexMap<Vec<Vec<BTreeSet<u64>>>, BTreeSet<u64>> = IndexMap::new();
    for (first, rest) in by_first {
        alike.entry(blocks(&rest)).or_default().insert(first);
    }
    let join = |(rest, firsts): (Vec<Vec<BTreeSet<u64>>>, BTreeSet<u64>)| {
        rest.into_iter().map(move |block| std::iter::once(firsts.clone()).chain(block).collect())
    };
    alike.into_iter().flat_map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(names: &[&str]) -> Vec<String> {
        grouped(names.iter().map(|name| ((*name).to_owned(), String::new()))).into_iter().map(|line| line.0).collect()
    }

    #[test]
    fn equal_layers_become_a_range() {
        assert_eq!(lines(&["m.0.a", "m.1.a", "m.2.a", "m.4.a", "m.4.b"]), ["m.{0..2,4}.a", "m.4.b"]);
    }

    #[test]
    fn experts_of_some_layers_are_covered_exactly_once() {
        let names = ["m.0.e.0", "m.0.e.1", "m.1.e.0", "m.1.e.1", "m.2.e.1"];
        assert_eq!(lines(&names), ["m.{0,1}.e.{0,1}", "m.2.e.1"]);
    }

    #[test]
    fn what_only_looks_like_a_number_is_a_name() {
        assert_eq!(lines(&["m.00", "m.01", "m.+1", "m.99999999999999999999"]).len(), 4);
    }

    #[test]
    fn references_are_told_relative_to_the_layer() {
        assert_eq!(relative("model.layers.12.rope:1", &[12]), "model.layers.{}.rope:1");
        assert_eq!(relative("model.layers.11.add", &[12]), "model.layers.11.add");
    }
}
