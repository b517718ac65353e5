//! The items of a value, one after the other, without a copy of them all.

use std::sync::Arc;

use super::{
    budget::{Budget, Error},
    eval::Run,
    object::{Object, Range, View},
    ops::type_name,
    value::{Dict, List, Value},
};

/// What is iterated over, and how far.
#[derive(Default)]
pub(crate) struct Items {
    source: Source,
    at: usize,
}

#[derive(Default)]
enum Source {
    #[default]
    Empty,
    List(Arc<List>),
    View(View, Arc<Dict>),
    Range(Range),
    Text(Arc<str>),
    Generator(usize),
}

impl Items {
    /// # Errors
    /// The value has no items.
    pub fn of(budget: &mut Budget, value: &Value) -> Result<Self, Error> {
        let source = match value {
            Value::Undefined(_) => Source::Empty,
            Value::List(list) | Value::Tuple(list) => Source::List(list.clone()),
            Value::Dict(dict) => Source::View(View::Keys, dict.clone()),
            Value::Str(text) | Value::Markup(text) => {
                budget.read(text.len())?;
                Source::Text(text.clone())
            }
            Value::Object(Object::View(view, dict)) => Source::View(*view, dict.clone()),
            Value::Object(Object::Range(range)) => Source::Range(*range),
            Value::Object(Object::Generator(number)) => Source::Generator(*number),
            _ => return Err(Error::new(format!("'{}' object is not iterable", type_name(value)))),
        };
        Ok(Items { source, at: 0 })
    }

    /// How many there are in all; `None` of a generator, as in Python.
    pub fn len(&self) -> Option<usize> {
        match &self.source {
            Source::Empty => Some(0),
            Source::List(list) => Some(list.items().len()),
            Source::View(_, dict) => Some(dict.len()),
            Source::Range(range) => Some(range.len),
            Source::Text(text) => Some(text.chars().count()),
            Source::Generator(_) => None,
        }
    }

    pub fn next(&mut self, run: &mut Run) -> Result<Option<Value>, Error> {
        let at = self.at;
        let item = match &self.source {
            Source::Empty => None,
            Source::List(list) => list.items().get(at).cloned(),
            Source::View(view, dict) => match (view, dict.map().get_index(at)) {
                (_, None) => None,
                (View::Keys, Some((key, _))) => Some(key.clone()),
                (View::Values, Some((_, value))) => Some(value.clone()),
                (View::Items, Some((key, value))) => {
                    run.budget.items(2)?;
                    Some(Value::tuple(vec![key.clone(), value.clone()])?)
                }
            },
            Source::Range(range) => range.get(at).map(Value::Int),
            Source::Text(text) => match text[at..].chars().next() {
                None => None,
                Some(character) => {
                    self.at += character.len_utf8();
                    run.budget.take(size_of::<Value>())?;
                    return Ok(Some(Value::from(&*character.encode_utf8(&mut [0; 4]))));
                }
            },
            Source::Generator(number) => run.generators[*number].pop_front(),
        };
        self.at += usize::from(item.is_some());
        Ok(item)
    }
}
