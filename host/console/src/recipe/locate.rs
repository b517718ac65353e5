//! On which line of a recipe something stands.
//!
//! A document that was read has no lines; the YAML parser tells them with its errors only. So the text is read a second time, by a
//! visitor that goes to the place in question and fails there. It must be asked only for text that was read once.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::shown;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Key(String),
    Index(usize),
}

/// A value in a document, or the key before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    steps: Vec<Step>,
    is_key: bool,
}

impl Place {
    pub fn key(keys: &[&str]) -> Self {
        Place { steps: keys.iter().map(|key| Step::Key((*key).to_owned())).collect(), is_key: true }
    }

    /// The value behind a key of this mapping.
    pub fn at(&self, key: &str) -> Self {
        self.then(Step::Key(key.to_owned()))
    }

    pub fn item(&self, index: usize) -> Self {
        self.then(Step::Index(index))
    }

    fn then(&self, step: Step) -> Self {
        let mut steps = self.steps.clone();
        steps.push(step);
        Place { steps, is_key: false }
    }

    /// The key itself.
    pub fn itself(mut self) -> Self {
        self.is_key = true;
        self
    }
}

/// `train.max_steps`, `surgery[0]`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            match step {
                Step::Key(key) if index == 0 => f.write_str(&shown(key))?,
                Step::Key(key) => write!(f, ".{}", shown(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub place: Place,
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place.steps.is_empty() {
            true => f.write_str(&self.what),
            false => write!(f, "{}: {}", self.place, self.what),
        }
    }
}

/// The line, from 1, of a place in this text; of what is around it where it is not there.
pub fn line_of(text: &str, place: &Place) -> usize {
    let seek = Seek { steps: &place.steps, is_key: place.is_key };
    let failed = seek.deserialize(serde_yaml::Deserializer::from_str(text)).err();
    failed.and_then(|error| error.location()).map_or(1, |location| location.line())
}

/// Fails where it was sent to.
#[derive(Clone, Copy)]
struct Seek<'a> {
    steps: &'a [Step],
    is_key: bool,
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

fn here<T, E: Error>() -> Result<T, E> {
    Err(E::custom("here"))
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        here()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        here()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        here()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        here()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        here()
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        here()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((Step::Index(wanted), steps)) = self.steps.split_first() else { return here() };
        for _ in 0..*wanted {
            items.next_element::<IgnoredAny>()?;
        }
        items.next_element_seed(Seek { steps, ..self })?;
        here()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        let Some((Step::Key(wanted), steps)) = self.steps.split_first() else { return here() };
        let key = WantedKey { name: wanted, fails: self.is_key && steps.is_empty() };
        while let Some(is_wanted) = entries.next_key_seed(key)? {
            if is_wanted {
                entries.next_value_seed(Seek { steps, ..self })?;
            } else {
                entries.next_value::<IgnoredAny>()?;
            }
        }
        here()
    }
}

/// Says whether a key is the wanted one, or fails at it.
#[derive(Clone, Copy)]
struct WantedKey<'a> {
    name: &'a str,
    fails: bool,
}

impl<'de> DeserializeSeed<'de> for WantedKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for WantedKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<bool, E> {
        match key == self.name {
            true if self.fails => here(),
            is_wanted => Ok(is_wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Place, line_of};

    const TEXT: &str = "a: 1\nb:\n  - c: x\n    d: [1,\n      2]\n  - {e: 5,\n     f: 6}\ng: null\n";

    #[test]
    fn every_place_has_its_line() {
        let root = Place::default();
        let b = root.at("b");
        for (place, line) in [
            (root.at("a"), 1),
            (Place::key(&["b"]), 2),
            (b.item(0).at("c"), 3),
            (b.item(0).at("d").item(1), 5),
            (b.item(0).at("d").itself(), 4),
            (b.item(1).at("f"), 7),
            (root.at("g"), 8),
            (b.item(1), 6),
        ] {
            assert_eq!(line_of(TEXT, &place), line, "{place}");
        }
    }

    #[test]
    fn what_is_not_there_is_at_what_is_around_it() {
        assert_eq!(line_of(TEXT, &Place::default().at("b").item(1).at("x")), 6);
        assert_eq!(line_of("", &Place::default().at("x")), 1);
    }
}
