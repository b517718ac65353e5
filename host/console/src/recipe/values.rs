//! From text to a YAML document of bounded size.
//!
//! An alias repeats what its anchor names, and nine lines of aliases are 10^9 values. So values are counted as they are built, aliases
//! expanded, and reading stops at a limit far above real recipes.

use std::{cell::Cell, fmt};

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde_yaml::{
    Mapping, Value,
    value::{Tag, TaggedValue},
};
use unswag_loader::yaml::{self, YamlError};

/// Most values and keys of a recipe, aliases expanded.
const MAX_VALUES: usize = 100_000;

/// Reads one document.
///
/// # Errors
/// Text that is no YAML, that opens too many brackets at once, or whose document has more than 100,000 values.
pub fn document(text: &str) -> Result<Value, YamlError> {
    yaml::check_depth(text)?;
    let left = Cell::new(MAX_VALUES);
    Ok(Bounded { left: &left, before: None }.deserialize(serde_yaml::Deserializer::from_str(text))?)
}

/// Builds a value where there is room for one more.
#[derive(Clone, Copy)]
struct Bounded<'a> {
    left: &'a Cell<usize>,
    /// What a mapping has already, where this is its next key. The parser's error has the line of the text that is refused.
    before: Option<&'a Mapping>,
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let Some(left) = self.left.get().checked_sub(1) else {
            let limit = format!("more than {MAX_VALUES} values with aliases expanded; a recipe has far fewer");
            return Err(D::Error::custom(limit));
        };
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        match self.before {
            Some(before) if before.contains_key(value) => Err(E::custom(format!("the key {value:?} stands twice"))),
            _ => Ok(value.into()),
        }
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Bounded { before: None, ..self })? {
            list.push(item);
        }
        Ok(Value::Sequence(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut mapping = Mapping::new();
        while let Some(key) = entries.next_key_seed(Bounded { before: Some(&mapping), ..self })? {
            if mapping.contains_key(&key) {
                return Err(A::Error::custom("a key that is no text stands twice"));
            }
            let value = entries.next_value_seed(Bounded { before: None, ..self })?;
            mapping.insert(key, value);
        }
        Ok(Value::Mapping(mapping))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (Name(tag), contents) = tagged.variant()?;
        // The library's own type takes no empty tag.
        if tag.trim_start_matches('!').is_empty() {
            return Err(A::Error::custom("a tag without a name"));
        }
        let value = contents.newtype_variant_seed(Bounded { before: None, ..self })?;
        Ok(Value::Tagged(Box::new(TaggedValue { tag: Tag::new(tag), value })))
    }
}

/// A tag's name, whatever it is.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Name)
    }
}

#[cfg(test)]
mod tests {
    use super::document;

    #[test]
    fn a_document_is_what_the_library_reads() {
        for text in [
            "a: [1, -2, 1e-2, .nan, true, null, ~, '3']\nb: &x {c: [x, y]}\nd: *x\n? e\n: !tag {f: 1}\n",
            "",
            "- - - 1\n",
            "just text",
            "a: |\n  two\n  lines\n",
        ] {
            let ours = document(text).unwrap();
            let theirs: serde_yaml::Value = serde_yaml::from_str(text).unwrap();
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{text}");
        }
    }

    #[test]
    fn what_aliases_multiply_stops_at_a_limit() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
        for level in 1..9 {
            let item = format!("*a{}, ", level - 1).repeat(9);
            bomb.push_str(&format!("a{level}: &a{level} [{item}]\n"));
        }
        let list = format!("a: [{}]", "1, ".repeat(150_000));
        let deep = "- ".repeat(5_000);
        let own = "&a [*a]";
        for (text, says) in [
            (&*bomb, ""),
            (&list, "100000 values"),
            (&deep, ""),
            (own, ""),
            ("a: 1\na: 2", "\"a\" stands twice"),
            ("! x", ""),
        ] {
            let error = document(text).map(|_| ());
            assert!(text == "! x" || error.as_ref().is_err_and(|error| error.to_string().contains(says)), "{error:?}");
        }
    }
}
