//! Graphs of every model family that the host builds, small, as the host writes them: what `rewrite` is tried on.

use unswag_abi::doc::Graph;

macro_rules! samples {
    ($($family:literal),+ $(,)?) => {
        /// Every family that has a sample: transformers' `model_type`.
        pub static FAMILIES: &[&str] = &[$($family),+];

        static DOCUMENTS: &[&str] = &[$(include_str!(concat!("../../samples/", $family, ".json"))),+];
    };
}

samples!("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "gemma3_text", "opt", "gpt2");

/// The sample graph of a family: two layers, hidden size 64 or so, bf16.
///
/// # Panics
/// There is no sample of this family: [`FAMILIES`] lists them.
pub fn sample(family: &str) -> Graph {
    let index = FAMILIES.iter().position(|name| *name == family);
    let index = index.unwrap_or_else(|| panic!("no sample of family {family:?}; there are {FAMILIES:?}"));
    serde_json::from_str(DOCUMENTS[index]).expect("samples are graph documents; a test reads each")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_on_disk_is_offered_and_is_of_its_family() {
        let mut names = Vec::from_iter(
            std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/samples"))
                .unwrap()
                .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()),
        );
        names.sort();
        let mut offered = FAMILIES.to_vec();
        offered.sort();
        assert_eq!(names, offered);
        for family in FAMILIES {
            let graph = sample(family);
            assert_eq!(graph.arch.model_type, *family);
            assert_eq!(graph.version, Graph::VERSION);
        }
    }
}
