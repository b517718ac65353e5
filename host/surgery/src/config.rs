//! What surgery writes into `config.json` where other tools must not open the output as if nothing had changed.
//!
//! transformers chooses its class by `model_type`. A patched model of a known type with other weights would be opened all
//! the same, and the missing weights drawn at random under a warning. An unknown type is refused.

use serde_json::Value;
use unswag_abi::doc::Attrs;
use unswag_checkpoint::OWN_MODEL_TYPE;

/// Holds what the mark replaced.
const KEPT: &str = "unswag";

/// `config` with a `model_type` that other tools refuse.
pub fn marked(config: &Attrs) -> Attrs {
    let mut marked = unmarked(config);
    let mut kept = serde_json::Map::new();
    for field in ["model_type", "architectures"] {
        if let Some(value) = marked.remove(field) {
            kept.insert(field.to_owned(), value);
        }
    }
    let model_type = kept.get("model_type").and_then(Value::as_str).unwrap_or_default();
    marked.insert("model_type".to_owned(), Value::String(format!("{OWN_MODEL_TYPE}{model_type}")));
    marked.insert(KEPT.to_owned(), Value::Object(kept));
    marked
}

/// `config` as it was before [`marked`]; one without a mark is returned as it is.
pub fn unmarked(config: &Attrs) -> Attrs {
    let mut unmarked = config.clone();
    let is_marked =
        config.get("model_type").and_then(Value::as_str).is_some_and(|name| name.starts_with(OWN_MODEL_TYPE));
    if is_marked && let Some(Value::Object(kept)) = unmarked.remove(KEPT) {
        unmarked.remove("model_type");
        unmarked.extend(kept);
    }
    unmarked
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mark_comes_off_as_it_went_on() {
        let Value::Object(config) =
            json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 576})
        else {
            unreachable!("an object was written");
        };
        let config: Attrs = config.into_iter().collect();
        let once = marked(&config);
        assert_eq!(once["model_type"], "unswag_llama");
        assert!(!once.contains_key("architectures"), "transformers would choose its class by it");
        assert_eq!(marked(&once), once);
        assert_eq!(unmarked(&once), config);
        assert_eq!(unmarked(&config), config);
    }
}
